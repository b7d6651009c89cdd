"""LIGER: the pickle of codes, the checkpoints, and the way back."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from felid.errors import ArtifactError, EmbeddingError
from felid.layouts import export_run, import_layout
from felid.layouts.liger import codes_to_number, read
from felid.layouts.source import RunSource, progress_of
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
    assert (state["train_step"], state["global_step"], state["best_ndcg_10"]) == (1, progress["step"], progress["best"])
    assert json.loads((folder / "results" / "metrics.json").read_text())["num_users"] == 120


def test_the_optimiser_goes_along_where_the_run_still_has_it(full: Path, tmp_path: Path) -> None:
    shutil.copytree(full, tmp_path / "run")
    training = RunSource.open(tmp_path / "run").stages["train"].path
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save({"optimizer": optimizer}, training / progress_of(training)["last_checkpoint"] / "state.pt")
    folder = exported(tmp_path / "run", "liger", tmp_path)
    assert torch.load(folder / "ckpt.pt", weights_only=True)["optimizer_state_dict"]["param_groups"] == [
        {"lr": 0.1, "params": [0]}
    ]


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
