"""TIGER's rule for new items against lists and loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felid.search.cold import ColdRelatives
from felid.semantic_ids import SemanticIds
from felid.testing import CodeTable, code_tables


def dumb_place(
    ids: SemanticIds, warm: np.ndarray, found: list[tuple[int, float]], k: int, tenths: int, seen: set[int]
) -> list[tuple[int, float]]:
    """Place by place: a waiting cold item if the share allows one more, else the next warm one."""
    result: list[tuple[int, float]] = []
    placed, families, waiting, left = 0, set(), list[int](), list(found)
    while len(result) < k:
        if waiting and tenths * (len(result) + 1) // 10 > placed:
            result.append((waiting.pop(0), result[-1][1]))
            placed += 1
        elif left:
            result.append(left.pop(0))
            prefix = tuple(ids.codes[result[-1][0], :-1])
            relatives = [o for o in range(len(warm)) if not warm[o] and o not in seen and tuple(ids.codes[o, :-1]) == prefix]
            waiting += [] if prefix in families else relatives
            families.add(prefix)
        else:
            break
    return result


@settings(max_examples=100, deadline=None)
@given(code_tables(max_levels=3, max_size=3, max_items=20), st.integers(0, 10), st.integers(0, 999))
def test_cold_items_follow_the_first_warm_one_of_their_family(table: CodeTable, tenths: int, seed: int) -> None:
    (codes, sizes), rng = table, np.random.default_rng(seed)
    ids, num_items, k = SemanticIds(codes, sizes, np.arange(len(codes))), len(codes), int(rng.integers(1, len(codes) + 1))
    warm = rng.random(num_items) < 0.5
    seen = [[*rng.integers(num_items, size=2).tolist(), -1] for _ in range(3)]
    pools = [rng.permutation(np.flatnonzero(warm)).tolist() for _ in seen]
    lists = [[item for item in pool if item not in row][:k] for pool, row in zip(pools, seen, strict=True)]
    items = np.array([row + [-1] * (k - len(row)) for row in lists])
    scores = np.where(items >= 0, -np.arange(k, dtype=np.float32), -np.inf)
    relatives = ColdRelatives.of(ids, warm)
    for known in (np.array(seen), None):
        new_items, new_scores = relatives.place(items, scores, tenths / 10, known)
        assert (new_items.dtype, new_scores.dtype) == (items.dtype, scores.dtype)
        for row in range(3):
            banned = set(seen[row]) if known is not None else set()
            found = [(item, -float(place)) for place, item in enumerate(lists[row])]
            wanted = dumb_place(ids, warm, found, k, tenths, banned)
            assert new_items[row].tolist() == [item for item, _ in wanted] + [-1] * (k - len(wanted))
            assert new_scores[row].tolist() == [score for _, score in wanted] + [-np.inf] * (k - len(wanted))


def test_the_limit_is_that_of_the_list_and_not_of_a_family() -> None:
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]], np.int32)
    relatives = ColdRelatives.of(SemanticIds(codes, (2, 3), np.arange(6)), np.array([True, False, False] * 2))
    items, scores = np.array([[3, 0, -1, -1, -1, -1]]), np.array([[-1, -2, *[-np.inf] * 4]], np.float32)
    for share, wanted in ((0.0, [3, 0]), (0.3, [3, 0]), (0.4, [3, 0, 4]), (0.5, [3, 4, 0, 5]), (1.0, [3, 4, 5, 0, 1, 2])):
        assert relatives.place(items, scores, share)[0][0].tolist() == wanted + [-1] * (6 - len(wanted))


def test_a_list_cut_short_is_the_list_of_fewer_items() -> None:
    """So one search serves every cut-off of an evaluation, and the share holds at each."""
    codes = np.array([[0, n] for n in range(3)] + [[1, n] for n in range(9)], np.int32)
    warm = np.arange(12) >= 3
    warm[0] = True
    relatives = ColdRelatives.of(SemanticIds(codes, (2, 9), np.arange(12)), warm)
    items, scores = np.array([[0, *range(3, 12)]]), -np.arange(10, dtype=np.float32)[None]
    for share, cold_places in ((0.2, [4, 9]), (0.1, [9]), (0.5, [1, 3])):
        found = relatives.place(items, scores, share)[0][0]
        assert np.flatnonzero(np.isin(found, [1, 2])).tolist() == cold_places
        for k in range(1, 10):
            assert np.array_equal(relatives.place(items[:, :k], scores[:, :k], share)[0][0], found[:k])


@pytest.mark.parametrize("shared", [False, True])
def test_families_of_a_catalogue(shared: bool) -> None:
    codes = np.array([[0, 1, 0], [0, 0, 1], [0, 1, 2], [2, 1, 0], [0, 1, 1], [2, 1, 0 if shared else 1]], np.int32)
    relatives = ColdRelatives.of(SemanticIds(codes, (3, 2, 3), np.arange(6), shared=shared), np.arange(6) < 3)
    assert relatives.family.tolist() == [1, 0, 1, 2, 1, 2]
    assert relatives.cold.tolist() == [4, 3, 5]
    assert relatives.start.tolist() == [0, 0, 1, 3]
