from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felid.errors import ArtifactError, SemanticIdError
from felid.semantic_ids import IdGroups, SemanticIds
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


def test_items_that_share_an_id_are_all_given() -> None:
    ids = SemanticIds(CODES[:, :2], (3, 2), np.array([10, 20, 30]), shared=True)
    assert ids.items_of((0, 1)) == [10, 20]
    assert ids.items_of((2, 0)) == [30]
    assert (ids.of(10), ids.of(20), ids.item_id((2, 0))) == ((0, 1), (0, 1), 30)
    with pytest.raises(SemanticIdError, match=r"2 items share the semantic ID \(0, 1\); items_of gives all of them"):
        ids.item_id((0, 1))
    with pytest.raises(SemanticIdError, match="no item has the semantic ID"):
        ids.items_of((1, 1))


@given(code_tables(), st.integers(0, 20), st.randoms())
def test_items_of_an_id_are_those_with_its_codes(table: CodeTable, copies: int, random) -> None:
    codes, sizes = table
    rows = np.concatenate([codes, codes[[random.randrange(len(codes)) for _ in range(copies)]]])
    ids = SemanticIds(rows, sizes, np.arange(len(rows)) * 3, shared=True)
    for row in rows.tolist():
        assert ids.items_of(tuple(row)) == [3 * item for item, other in enumerate(rows.tolist()) if other == row]
    assert ids.groups.sizes.sum() == len(rows)
    assert [ids.groups.of(group).tolist() for group in ids.groups.group] == [
        [item for item, other in enumerate(rows.tolist()) if other == row] for row in rows.tolist()
    ]


def test_unique_ids_have_one_item_each() -> None:
    ids = make()
    assert ids.items_of((0, 1, 1)) == [20]
    assert type(ids.items_of((0, 1, 1))[0]) is int
    assert make(["a", "b", "c"]).items_of((2, 0, 0)) == ["c"]
    assert ids.groups.sizes.tolist() == [1, 1, 1]


shared_codes = st.lists(st.integers(0, 5), min_size=1, max_size=20)
some_items = st.lists(st.lists(st.integers(-1, 19), min_size=6, max_size=6), min_size=1, max_size=4)


def groups_of(codes: list[int]) -> IdGroups:
    return SemanticIds(np.array(codes, np.int32)[:, None], (6,), np.arange(len(codes)), shared=True).groups


@given(shared_codes, some_items)
def test_an_id_is_used_up_when_all_its_items_are_seen(codes: list[int], seen: list[list[int]]) -> None:
    rows = [[item if item < len(codes) else -1 for item in row] for row in seen]
    found = groups_of(codes).used_up(np.array(rows))
    for row, kept in zip(rows, found.tolist(), strict=True):
        wanted = {item for item in row if item >= 0 and all(n in row for n, code in enumerate(codes) if code == codes[item])}
        assert {item for item in kept if item >= 0} == wanted


@given(shared_codes, st.integers(1, 8), st.booleans(), some_items, st.randoms())
def test_ids_are_expanded_to_their_unseen_items(codes: list[int], k: int, exclude: bool, seen: list[list[int]], random) -> None:
    rows = [[item if item < len(codes) else -1 for item in row] for row in seen]
    lists = []
    for _ in rows:
        known = sorted(set(codes), key=lambda _: random.random())[: random.randint(0, 6)]
        lists.append([random.choice([item for item, code in enumerate(codes) if code == one]) for one in known])
    items = np.array([[*found, *[-1] * (6 - len(found))] for found in lists])
    scores = np.where(items >= 0, -np.arange(6, dtype=np.float32), -np.inf).astype(np.float32)
    found, found_scores = groups_of(codes).expand(items, scores, k, np.array(rows) if exclude else None)
    assert (found.dtype, found_scores.dtype, found.shape) == (np.int64, np.float32, (len(rows), k))
    for row, ids, out, out_scores in zip(rows, lists, found.tolist(), found_scores.tolist(), strict=True):
        wanted = [(n, -float(place)) for place, one in enumerate(ids) for n, code in enumerate(codes) if code == codes[one]]
        wanted = [pair for pair in wanted if not exclude or pair[0] not in row][:k]
        assert list(zip(out, out_scores, strict=True)) == [*wanted, *[(-1, -np.inf)] * (k - len(wanted))]


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


def test_saved_shared_ids_come_back(tmp_path: Path) -> None:
    """And files from before IDs could be shared still open."""
    ids = SemanticIds(CODES[:, :2], (3, 2), np.array([10, 20, 30]), shared=True)
    ids.save(tmp_path)
    assert SemanticIds.load(tmp_path).shared
    assert SemanticIds.load(tmp_path).items_of((0, 1)) == [10, 20]
    meta = json.loads((tmp_path / "semantic_ids.json").read_text())
    del meta["shared"]
    (tmp_path / "semantic_ids.json").write_text(json.dumps(meta))
    with pytest.raises(SemanticIdError, match="items 0 and 1 share the ID"):
        SemanticIds.load(tmp_path)
    make().save(tmp_path)
    assert not SemanticIds.load(tmp_path).shared


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
