"""Layouts that number items: the ids come back as they were, and IDs of unequal lengths are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from felid.artifacts import write_json
from felid.errors import ArtifactError
from felid.layouts import import_layout
from felid.layouts.folder import save_pickle, save_tensors
from felid.layouts.imported import catalogue_ids, typed
from felid.layouts.sasrec_rqvae_tiger import read
from felid.layouts.source import RunSource
from felid.pipeline import Pipeline
from felid.recipe import load_recipe
from felid.semantic_ids import SemanticIds
from tests.layouts.conftest import histories

VECTORS = np.array([[0, 1], [2, 3], [4, 5]], np.float32)


def write_maps(path: Path, items: list[Any], users: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    maps = {f"id2{kind}": dict(enumerate(ids, 1)) for kind, ids in (("item", items), ("user", users))}
    write_json(path, maps)


def liger(folder: Path, items: list[Any], users: list[Any]) -> Path:
    write_maps(folder / "processed" / "datamaps.json", items, users)
    (folder / "processed" / "steam.txt").write_text("1 1 2 3\n2 3 2 1\n")
    write_json(folder / "processed" / "item_text.json", ["a game", "another", "a third"])
    save_tensors(folder / "processed" / "steam_t5_embeddings.pt", {"embeddings": torch.from_numpy(VECTORS)})
    save_pickle(folder / "ID" / "steam_t5_0.pkl", np.array([[0, 1], [2, 0], [1, 1]]))
    return folder


@pytest.mark.parametrize(
    ("items", "users", "order"),
    [(["440", "70", "10"], ["007", "12"], ["10", "440", "70"]), ([440, 70, 10], [7, 12], [10, 70, 440])],
    ids=["text", "numbers"],
)
def test_text_made_of_digits_stays_text(tmp_path: Path, items: list[Any], users: list[Any], order: list[Any]) -> None:
    found = import_layout(liger(tmp_path / "in", items, users), "liger", tmp_path / "back")
    assert found.item_ids.tolist() == order == found.ids.item_ids.tolist()
    rows = [items.index(item) for item in order]
    np.testing.assert_array_equal(found.vectors, VECTORS[rows])
    expected = {str(users[0]): list(map(str, items)), str(users[1]): list(map(str, items[::-1]))}
    assert found.dataset is not None and histories(found.dataset) == expected
    assert found.dataset.sequences().user_ids.tolist() == users
    assert SemanticIds.load(tmp_path / "back" / "ids").item_ids.tolist() == order
    Pipeline(load_recipe(tmp_path / "back" / "recipe.yaml", []), tmp_path / "run").run("embed")
    run = RunSource.open(tmp_path / "run")
    assert run.item_ids == order and histories(run.dataset) == expected
    np.testing.assert_allclose(run.vectors(normalized=False), VECTORS[rows])


def test_ids_of_two_types_are_text_and_those_of_text_files_are_read_like_csv() -> None:
    assert catalogue_ids([7, "7a", 10]).tolist() == ["10", "7", "7a"]
    assert typed(["10", "9"]) == [10, 9] and typed(["10", "09"]) == ["10", "09"]


def sasrec(folder: Path, tokens: list[list[str]]) -> Path:
    save_pickle(folder / "data" / "final_data_reduced.pkl", VECTORS)
    (folder / "data" / "all_data.txt").write_text("1 1 2 3\n2 3 2 1\n")
    (folder / "checkpoints").mkdir()
    write_json(folder / "checkpoints" / "semantic_ids.json", {str(item): one for item, one in enumerate(tokens)})
    return folder


def test_a_code_for_collisions_only_is_filled_up(tmp_path: Path) -> None:
    found = read(sasrec(tmp_path, [["<a_1>", "<b_2>"], ["<a_3>", "<b_0>", "<c_1>"], ["<a_3>", "<b_0>", "<c_0>"]]))
    assert found.ids.codes.tolist() == [[1, 2, 0], [3, 0, 1], [3, 0, 0]]


def test_ids_of_several_lengths_are_said(tmp_path: Path) -> None:
    folder = sasrec(tmp_path, [["<a_1>"], ["<a_3>", "<b_0>", "<c_1>"], ["<a_3>", "<b_0>"]])
    with pytest.raises(ArtifactError, match=r"holds IDs of \[1, 2, 3\] codes; expected the same number, or one more"):
        read(folder)


def test_ids_of_a_map_lead_to_their_own_codes(tmp_path: Path) -> None:
    folder = sasrec(tmp_path, [["<a_1>"], ["<a_2>"], ["<a_0>"]])
    write_maps(folder / "data" / "datamaps.json", ["c", "a", "b"], ["u", "v"])
    found = read(folder)
    assert dict(zip(found.item_ids.tolist(), found.ids.codes[:, 0].tolist(), strict=True)) == {"c": 1, "a": 2, "b": 0}
