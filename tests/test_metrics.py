from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felid import metrics
from felid.errors import RequestError

RANKS = np.array([1, 2, 3, 0, 5, 11], np.int64)


def slow(ranks: list[int], k: int) -> tuple[float, float, float]:
    recall = ndcg = mrr = 0.0
    for rank in ranks:
        for place in range(1, k + 1):
            if place == rank:
                recall += 1
                ndcg += 1 / math.log2(place + 1)
                mrr += 1 / place
    return recall / len(ranks), ndcg / len(ranks), mrr / len(ranks)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=50), st.integers(1, 30))
def test_metrics_equal_the_double_loop(ranks: list[int], k: int) -> None:
    array = np.array(ranks, np.int64)
    got = metrics.recall_at_k(array, k), metrics.ndcg_at_k(array, k), metrics.mrr_at_k(array, k)
    assert got == pytest.approx(slow(ranks, k))


def test_known_values() -> None:
    assert metrics.recall_at_k(RANKS, 1) == pytest.approx(1 / 6)
    assert metrics.recall_at_k(RANKS, 10) == pytest.approx(4 / 6)
    assert metrics.ndcg_at_k(RANKS, 3) == pytest.approx((1 + 1 / math.log2(3) + 0.5) / 6)
    assert metrics.mrr_at_k(RANKS, 5) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 5) / 6)


@pytest.mark.parametrize("function", [metrics.recall_per_user, metrics.ndcg_per_user, metrics.mrr_per_user])
def test_rank_zero_is_a_miss_at_every_k(function) -> None:
    values = function(np.array([0, 1], np.int64), 1000)
    assert values.dtype == np.float64
    assert values.tolist() == [0.0, 1.0]


def test_no_users_have_no_mean() -> None:
    none = np.empty(0, np.int64)
    assert math.isnan(metrics.recall_at_k(none, 5))
    assert math.isnan(metrics.ndcg_at_k(none, 5))


def test_k_below_one_is_refused() -> None:
    with pytest.raises(RequestError, match="k is 0, expected at least 1"):
        metrics.recall_at_k(RANKS, 0)


@given(st.lists(st.permutations(range(8)), min_size=1, max_size=10), st.data())
def test_ranks_of_equals_a_search_in_each_list(lists: list[list[int]], data: st.DataObject) -> None:
    length = data.draw(st.integers(0, 8))
    targets = data.draw(st.lists(st.integers(0, 9), min_size=len(lists), max_size=len(lists)))
    cut = [row[:length] for row in lists]
    expected = [row.index(target) + 1 if target in row else 0 for row, target in zip(cut, targets, strict=True)]
    recommended = np.array(cut, np.int64).reshape(len(lists), length)
    assert metrics.ranks_of(np.array(targets, np.int64), recommended).tolist() == expected


def test_an_unknown_target_never_equals_an_empty_place() -> None:
    """Pitfall: an unknown item becomes the padding target and then counts as a hit."""
    assert metrics.ranks_of(np.array([-1]), np.array([[3, -1, -1]])).tolist() == [0]


def test_ranks_of_refuses_lists_of_other_users() -> None:
    with pytest.raises(RequestError, match="one list per target"):
        metrics.ranks_of(np.array([1, 2]), np.array([[1, 2]]))


def test_coverage_counts_items_once_and_skips_empty_places() -> None:
    recommended = np.array([[0, 1, -1], [1, 2, 3]])
    assert metrics.coverage_at_k(recommended, 10, 1) == pytest.approx(0.2)
    assert metrics.coverage_at_k(recommended, 10, 2) == pytest.approx(0.3)
    assert metrics.coverage_at_k(recommended, 10, 99) == pytest.approx(0.4)
    assert metrics.coverage_at_k(np.array([[9, -1], [9, 3]]), 10, 2) == pytest.approx(0.2), "an empty place is no last item"
    assert metrics.coverage_at_k(np.full((2, 2), -1), 10, 2) == 0
