"""LIGER: the pickle of codes, the checkpoints, and the way back."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import felid
from felid.errors import ArtifactError, EmbeddingError, FelidWarning
from felid.layouts import export_run, import_layout
from felid.layouts.liger import _last_epoch, codes_to_number, read, write
from felid.layouts.source import RunSource, progress_of
from felid.pipeline import Pipeline
from felid.recipe import load_recipe
from tests.layouts.conftest import exported, histories


@pytest.fixture(scope="module")
def folder(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(full, "liger", tmp_path_factory.mktemp("out"))


def test_codes_are_one_pickled_array_that_a_reader_numbers(folder: Path, full: Path) -> None:
    run = RunSource.open(full)
    with (folder / "ID" / "synthetic_lsa_0.pkl").open("rb") as stream:
        codes = pickle.load(stream)
    assert (type(codes), codes.dtype, codes.shape) == (np.ndarray, np.int64, (len(run.item_ids), 3))
    counts: dict[tuple, int] = defaultdict(int)
    for row in codes.tolist():
        counts[tuple(row)] += 1
    assert max(counts.values()) == run.ids.sizes[-1]
    np.testing.assert_array_equal(codes, run.ids.codes[:, :-1])


@pytest.mark.parametrize("data", ["Sports_and_Outdoors", "Toys_and_Games"])
def test_files_have_the_published_names_also_of_data_of_several_words(data: str, full: Path, tmp_path: Path) -> None:
    """As LIGER's programs ask for them; the seed is that which the codes were drawn with."""
    run = RunSource.open(full)
    for stage, changes in (
        ("data", {"dataset": {"kind": "amazon-2014", "name": data}}),
        ("embed", {"embedding": {"kind": "sentence-transformers", "model": "sentence-transformers/sentence-t5-xxl"}}),
        ("tokenize", {"quantizer": {**run.settings("tokenize")["quantizer"], "seed": 42}}),
        ("train", {"seed": 7}),
    ):
        manifest = dict(run.stages[stage].manifest)
        object.__setattr__(run.stages[stage], "manifest", {**manifest, "config": {**manifest["config"], **changes}})
    write(run, tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        *(f"ID/{data}_sentence-t5-xxl_42.pkl", "ckpt.pt", "results/ckpt_best.pt", "results/metrics.json"),
        *("results/logged.json", f"processed/{data}.txt", f"processed/{data}_sentence-t5-xxl_embeddings.pt"),
        *("processed/datamaps.json", "processed/item_text.json"),
    }
    vectors = torch.load(tmp_path / "processed" / f"{data}_sentence-t5-xxl_embeddings.pt", weights_only=True)["embeddings"]
    assert (vectors.dtype, tuple(vectors.shape)) == (torch.float32, (len(run.item_ids), 12))
    assert read(tmp_path).item_ids.tolist() == run.item_ids


def test_checkpoints_hold_the_weights(folder: Path, full: Path) -> None:
    training = RunSource.open(full).stages["train"].path
    progress = progress_of(training)
    best = torch.load(folder / "results" / "ckpt_best.pt", weights_only=True)
    expected = load_file(training / progress["best_checkpoint"] / "model.safetensors")
    assert best.keys() == expected.keys() and all(torch.equal(best[name], expected[name]) for name in best)
    state = torch.load(folder / "ckpt.pt", weights_only=True)
    assert set(state) == {
        *("model_state_dict", "optimizer_state_dict", "train_step", "global_step", "best_ndcg_10", "best_epoch"),
    }
    assert (state["train_step"], state["global_step"], state["best_ndcg_10"]) == (0, progress["step"], progress["best"])
    assert state["best_epoch"] == 0, "LIGER counts epochs from 0"
    assert state["optimizer_state_dict"] == {}
    assert "`optimizer_state_dict` is empty: felid drops" in (folder / "README.md").read_text()
    assert json.loads((folder / "results" / "metrics.json").read_text())["num_users"] == 120


def test_ids_without_a_collision_come_back_as_they_were(tmp_path: Path) -> None:
    """The run has a level for collisions, which is 0 throughout and not in the pickle."""
    root = tmp_path / "run"
    world = "dataset={kind: synthetic, num_users: 60, num_types: 6, num_clusters: 3, items_per_cell: 1, max_length: 6}"
    sizes = ["embedding={kind: lsa, dim: 4}", "quantizer.sizes=[4,18]", "training.epochs=1", "search.num_beams=9"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FelidWarning)
        Pipeline(load_recipe("tiny", [world, "evaluation.ks=[1,2]", *sizes]), root).run("train")
    run = RunSource.open(root)
    assert run.ids.sizes[-1] == 1, "no items collide"
    found = import_layout(exported(root, "liger", tmp_path), "liger", tmp_path / "back")
    np.testing.assert_array_equal(found.ids.codes, run.ids.codes)
    assert found.ids.sizes == run.ids.sizes


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of recipe `liger-short` at a size for tests, and its export."""
    root = tmp_path_factory.mktemp("kept")
    sizes = ["model.width=16", "model.head_width=4", "model.feed_forward=32", "model.text_hidden=[8]"]
    world = "dataset={kind: synthetic, num_users: 120, num_types: 6, num_clusters: 3, items_per_cell: 3, max_length: 6}"
    codes = ["quantizer.sizes=[4,4]", "quantizer.hidden=[16]", "quantizer.latent=8", "quantizer.epochs=3"]
    training = ["training.epochs=3", "training.batch_targets=64", "training.average=0.9", "search.num_beams=10"]
    settings = [world, "embedding={kind: lsa, dim: 8}", *codes, *sizes, *training]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FelidWarning)
        Pipeline(load_recipe("liger-short", settings), root / "run").run("train")
    return root / "run", exported(root / "run", "liger", root)


def test_the_optimiser_goes_along_after_the_training_is_over(kept: tuple[Path, Path]) -> None:
    """Recipe `liger-short` asks for it, as `liger` does: another AdamW goes on from `ckpt.pt` with the weights beside it."""
    root, folder = kept
    training = RunSource.open(root).stages["train"].path
    progress = progress_of(training)
    state = torch.load(folder / "ckpt.pt", weights_only=True)
    model = felid.Recommender.load(root).model
    model.load_state_dict(state["model_state_dict"])
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(state["optimizer_state_dict"])
    moments = [optimizer.state[parameter] for parameter in model.parameters()]
    assert all(one["exp_avg"].shape == weight.shape for one, weight in zip(moments, model.parameters(), strict=True))
    assert {int(one["step"]) for one in moments} == {state["global_step"]} == {progress["step"]}
    assert optimizer.param_groups[0]["weight_decay"] == 0.035
    assert state["train_step"] == 2
    judged = load_file(training / progress["last_checkpoint"] / "model.safetensors")
    assert not all(torch.equal(state["model_state_dict"][name], judged[name]) for name in judged), "not the moving average"
    assert "`optimizer_state_dict` is that of AdamW" in (folder / "README.md").read_text()


@pytest.mark.parametrize(("done", "epoch"), [(0.0, 0), (0.5, 0), (1.0, 0), (1.5, 1), (3.0, 2)])
def test_epochs_are_counted_from_0(done: float, epoch: int) -> None:
    assert _last_epoch(done) == epoch


@pytest.mark.parametrize("name", ["full", "kmeans"])
def test_import_gives_the_same_histories_vectors_and_ids(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root = request.getfixturevalue(name)
    run, folder = RunSource.open(root), exported(root, "liger", tmp_path)
    found = import_layout(folder, "liger", tmp_path / "back")
    assert histories(found.dataset) == histories(run.dataset)
    assert found.item_ids.tolist() == run.item_ids
    np.testing.assert_array_equal(found.vectors, run.vectors(normalized=True))
    np.testing.assert_array_equal(found.ids.codes[:, : run.quantized.shape[1]], run.quantized)
    assert found.ids.trie.num_items == len(run.item_ids)  # every ID is unique again


def test_codes_of_other_resolvers_are_kept_whole(full: Path) -> None:
    run = RunSource.open(full)
    manifest = dict(run.stages["tokenize"].manifest)
    manifest["config"] = {**manifest["config"], "collision": {"kind": "sinkhorn"}}
    object.__setattr__(run.stages["tokenize"], "manifest", manifest)
    np.testing.assert_array_equal(codes_to_number(run), run.ids.codes)


def test_a_pickle_of_something_else_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (codes,) = (tmp_path / "copy" / "ID").iterdir()
    codes.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(EmbeddingError, match=r"names os\.system"):
        read(tmp_path / "copy")
    assert not (tmp_path / "ran").exists()
    codes.write_bytes(pickle.dumps(np.zeros((4, 2), np.float32)))
    with pytest.raises(ArtifactError, match="holds float32 of shape"):
        read(tmp_path / "copy")


def test_a_run_without_a_model_is_refused(encoded: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="needs the stage train"):
        export_run(encoded, "liger", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
