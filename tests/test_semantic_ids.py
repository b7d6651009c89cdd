from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from felid.errors import ArtifactError, SemanticIdError
from felid.semantic_ids import SemanticIds
from felid.testing import CodeTable, code_tables

CODES = np.array([[0, 1, 0], [0, 1, 1], [2, 0, 0]], np.int32)


def make(item_ids: list[object] | None = None) -> SemanticIds:
    ids = np.array([10, 20, 30]) if item_ids is None else np.array(item_ids, object)
    return SemanticIds(CODES, (3, 2, 2), ids)


@given(code_tables())
def test_both_maps_are_inverse(table: CodeTable) -> None:
    codes, sizes = table
    ids = SemanticIds(codes, sizes, np.arange(len(codes)) * 7)
    for item in ids.item_ids.tolist():
        assert ids.item_id(ids.of(item)) == item
    assert len({ids.of(item) for item in ids.item_ids.tolist()}) == ids.num_items


def test_text_ids_come_back_as_they_were() -> None:
    ids = make(["B001", "B002", "B003"])
    assert ids.of("B002") == (0, 1, 1)
    assert ids.item_id((2, 0, 0)) == "B003"
    assert type(make().item_id((0, 1, 0))) is int


def test_items_that_share_an_id_are_refused() -> None:
    """Pitfall: collided items overwrite each other in the ID-to-item map."""
    with pytest.raises(SemanticIdError, match=r"items 0 and 1 share the ID \[0, 1\]"):
        SemanticIds(CODES[:, :2], (3, 2), np.array([10, 20, 30]))


def test_an_item_id_that_occurs_twice_is_refused() -> None:
    with pytest.raises(SemanticIdError, match="every item_id must occur once"):
        make([10, 20, 10])


@pytest.mark.parametrize("wrong", [(1, 1, 0), (0, 0, 0), (-1, 1, 0), (2, 0, 1)])
def test_an_invalid_id_is_an_error_and_never_item_zero(wrong: tuple[int, ...]) -> None:
    """Pitfall: an invalid ID silently becomes item 0."""
    with pytest.raises(SemanticIdError, match="no item has the semantic ID"):
        make().item_id(wrong)


def test_an_id_without_its_collision_level_is_refused() -> None:
    """Pitfall: the collision level is dropped, so that every item sharing the other codes counts as found."""
    with pytest.raises(SemanticIdError, match="2 levels but the trie was built for 3"):
        make().item_id((0, 1))


def test_unknown_items_and_misaligned_tables_are_refused() -> None:
    with pytest.raises(SemanticIdError, match="item 99 is not in this catalogue of 3 items"):
        make().of(99)
    with pytest.raises(SemanticIdError, match="3 rows of codes for 2 items"):
        make([10, 20])


@pytest.mark.parametrize("item_ids", [None, ["B1", "ü2", "B3"]])
def test_saved_ids_come_back(tmp_path: Path, item_ids: list[object] | None) -> None:
    ids = make(item_ids)
    ids.save(tmp_path)
    back = SemanticIds.load(tmp_path)
    assert back.sizes == ids.sizes
    assert np.array_equal(back.codes, ids.codes)
    assert back.codes.dtype == np.int32
    assert back.item_ids.tolist() == ids.item_ids.tolist()
    assert back.item_id((0, 1, 1)) == ids.item_id((0, 1, 1))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        SemanticIds.load(tmp_path)
    make().save(tmp_path)
    (tmp_path / "codes.npy").write_bytes(b"\x93NUMPY broken")
    with pytest.raises(ArtifactError, match=r"codes\.npy cannot be read"):
        SemanticIds.load(tmp_path)
    (tmp_path / "semantic_ids.json").write_text(json.dumps({"sizes": [3, 2, 2]})[:-2])
    with pytest.raises(ArtifactError, match="not valid JSON"):
        SemanticIds.load(tmp_path)
