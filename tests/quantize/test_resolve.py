from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felid.errors import SemanticIdError
from felid.quantize import CollisionConfig, append_collision_level, collision_statistics
from felid.semantic_ids import SemanticIds

code_rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=60)


@given(code_rows)
def test_ranks_count_up_within_each_group_in_item_order(rows):
    codes, sizes = append_collision_level(np.array(rows, np.int32), (3, 4), CollisionConfig())
    seen: Counter[tuple[int, int]] = Counter()
    for row, code in zip(rows, codes.tolist(), strict=True):
        assert code == [*row, seen[row]]
        seen[row] += 1
    assert codes.dtype == np.int32
    assert sizes == (3, 4, max(seen.values()))


@given(code_rows)
def test_pitfall_collided_items_overwrite_each_other(rows):
    codes, sizes = append_collision_level(np.array(rows, np.int32), (3, 4), CollisionConfig())
    ids = SemanticIds(codes, sizes, np.arange(100, 100 + len(rows)))
    assert {ids.item_id(tuple(code)) for code in codes.tolist()} == set(range(100, 100 + len(rows)))


def test_pitfall_unbounded_collision_digit():
    codes = np.zeros((10, 2), np.int32)
    codes[0] = 1
    full, sizes = append_collision_level(codes, (2, 2), CollisionConfig(max_size=9))
    assert sizes == (2, 2, 9)
    assert full[:, 2].max() == 8
    with pytest.raises(SemanticIdError, match=r"9 items share the codes \(0, 0\), collision\.max_size allows 8; use more"):
        append_collision_level(codes, (2, 2), CollisionConfig(max_size=8))


def test_unique_codes_get_zero_and_one_code():
    full, sizes = append_collision_level(np.array([[0], [1], [2]], np.int32), (3,), CollisionConfig(max_size=1))
    assert full.tolist() == [[0, 0], [1, 0], [2, 0]]
    assert sizes == (3, 1)


def test_codes_outside_their_level_are_refused():
    with pytest.raises(SemanticIdError, match="code 3 of row 1 is outside level 0"):
        append_collision_level(np.array([[0], [3]], np.int32), (3,), CollisionConfig())


def test_statistics_of_a_known_case():
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0]], np.int32)
    found = collision_statistics(codes, (2, 4))
    assert (found["num_items"], found["num_unique"], found["largest_group"]) == (4, 3, 2)
    assert found["collision_rate"] == 0.5
    first, second = found["levels"]
    assert (first["size"], first["used"], first["utilisation"]) == (2, 2, 1.0)
    assert (second["used"], second["utilisation"]) == (2, 0.5)
    assert first["perplexity"] == pytest.approx(4 / 27**0.25)


def test_evenly_used_codes_have_perplexity_of_their_number():
    codes = np.arange(12, dtype=np.int32)[:, None] % 4
    assert collision_statistics(codes, (8,))["levels"][0]["perplexity"] == pytest.approx(4)
