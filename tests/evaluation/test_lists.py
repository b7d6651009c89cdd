from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from felid.errors import RequestError
from felid.evaluation import lists as module
from felid.evaluation.lists import (
    ItemFacts,
    diversity_at_k,
    empty_share_at_k,
    gini_at_k,
    invalid_share_at_k,
    list_statistics,
    mean_over_lists,
    self_information,
)

NUM_ITEMS = 15
COUNTS = np.array([40, 0, 3, 1, 7, 7, 0, 2, 9, 1, 1, 5, 20, 3, 1])


def random_lists(num_users: int = 30, width: int = 6, seed: int = 0) -> np.ndarray:
    """Lists of every length from 0 to `width`, no item twice."""
    rng = np.random.default_rng(seed)
    lists = np.stack([rng.permutation(NUM_ITEMS)[:width] for _ in range(num_users)])
    lists[np.arange(width) >= np.arange(num_users)[:, None] % (width + 1)] = -1
    return lists


def random_vectors(seed: int = 0) -> np.ndarray:
    """Of any length; items 4 and 9 have none."""
    vectors = (np.random.default_rng(seed).standard_normal((NUM_ITEMS, 5)) * np.arange(1, 16)[:, None]).astype(np.float32)
    vectors[[4, 9]] = 0
    return vectors


def real(row: np.ndarray, k: int) -> list[int]:
    return [int(item) for item in row[:k] if item >= 0]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0


def slow_gini(lists: np.ndarray, k: int) -> float:
    """Half the mean absolute difference of all pairs of items, by the mean."""
    counts = [sum(real(row, k).count(item) for row in lists) for item in range(NUM_ITEMS)]
    gaps = sum(abs(a - b) for a in counts for b in counts)
    return gaps / (2 * NUM_ITEMS * sum(counts))


def slow_mean(lists: np.ndarray, values: np.ndarray, k: int) -> float:
    means = [sum(values[item] for item in real(row, k)) / len(real(row, k)) for row in lists if real(row, k)]
    return sum(means) / len(means)


def slow_diversity(lists: np.ndarray, vectors: np.ndarray, k: int) -> float:
    found = []
    for row in lists:
        pairs = [cosine(vectors[a], vectors[b]) for a, b in combinations(real(row, k), 2)]
        if pairs:
            found.append(1 - sum(pairs) / len(pairs))
    return sum(found) / len(found)


@pytest.mark.parametrize("cells", [2**21, 4], ids=["one block", "many blocks"])
@pytest.mark.parametrize("k", [1, 2, 4, 6, 9])
def test_statistics_equal_the_double_loop(k: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELLS_PER_BLOCK", cells)
    lists, vectors = random_lists(), random_vectors()
    values = np.random.default_rng(3).random(NUM_ITEMS)
    assert gini_at_k(lists, NUM_ITEMS, k) == pytest.approx(slow_gini(lists, k))
    assert mean_over_lists(lists, values, k) == pytest.approx(slow_mean(lists, values, k))
    if k > 1:
        assert diversity_at_k(lists, vectors, k) == pytest.approx(slow_diversity(lists, vectors, k), abs=1e-6)
    assert empty_share_at_k(lists, k) == pytest.approx(1 - sum(len(real(row, k)) for row in lists) / (k * len(lists)))


def test_gini_knows_its_ends() -> None:
    same, spread = np.zeros((7, 1), np.int64), np.arange(NUM_ITEMS)[:, None]
    assert gini_at_k(same, NUM_ITEMS, 1) == pytest.approx(1 - 1 / NUM_ITEMS)
    assert gini_at_k(spread, NUM_ITEMS, 1) == pytest.approx(0)


def test_novelty_is_in_bits_and_finite_for_unseen_items() -> None:
    news = self_information(np.array([2, 4, 1, 1, 0]))
    assert news.tolist() == pytest.approx([2, 1, 3, 3, 3])
    assert self_information(np.zeros(3, np.int64)).tolist() == [0, 0, 0]


def test_diversity_of_equal_opposed_and_unrelated_items() -> None:
    vectors = np.array([[1, 0], [5, 0], [-2, 0], [0, 3]], np.float32)
    for pair, wanted in (([0, 1], 0), ([0, 2], 2), ([1, 3], 1)):
        assert diversity_at_k(np.array([pair]), vectors, 2) == pytest.approx(wanted, abs=1e-6)
    assert np.isnan(diversity_at_k(np.array([[0, -1]]), vectors, 2))


def test_items_that_do_not_exist_or_cannot_be_recommended_are_invalid() -> None:
    allowed = np.ones(NUM_ITEMS, bool)
    allowed[7] = False
    lists = np.array([[0, 1, -1], [7, NUM_ITEMS, -2], [14, -1, -1]])
    assert invalid_share_at_k(lists, allowed, 3) == pytest.approx(3 / 9)
    assert invalid_share_at_k(lists, allowed, 1) == pytest.approx(1 / 3)
    assert invalid_share_at_k(random_lists(), np.ones(NUM_ITEMS, bool), 6) == 0


def test_all_statistics_by_name() -> None:
    lists, vectors = random_lists(), random_vectors()
    found = list_statistics(lists, (2, 6), ItemFacts(COUNTS, vectors), np.ones(NUM_ITEMS, bool))
    names = ("gini", "average_popularity", "novelty", "diversity", "invalid", "empty")
    assert set(found) == {f"{name}@{k}" for name in names for k in (2, 6)}
    assert found["average_popularity@6"] == pytest.approx(slow_mean(lists, COUNTS, 6))
    assert found["novelty@2"] == pytest.approx(slow_mean(lists, -np.log2(np.maximum(COUNTS, 1) / 100), 2))
    assert found["diversity@6"] == pytest.approx(slow_diversity(lists, vectors, 6), abs=1e-6)


def test_what_means_nothing_is_left_out() -> None:
    nothing, allowed = np.full((3, 2), -1), np.ones(NUM_ITEMS, bool)
    assert list_statistics(nothing, (2,), ItemFacts(COUNTS, random_vectors()), allowed) == {"invalid@2": 0, "empty@2": 1}
    single = list_statistics(random_lists(), (1,), ItemFacts(COUNTS), allowed)
    assert "diversity@1" not in single and "gini@1" in single


@pytest.mark.parametrize(
    "statistic",
    [lambda lists, k: gini_at_k(lists, NUM_ITEMS, k), empty_share_at_k, lambda lists, k: mean_over_lists(lists, COUNTS, k)],
)
def test_no_places_and_no_lists_are_refused(statistic: Callable[[np.ndarray, int], float]) -> None:
    with pytest.raises(RequestError, match="k is 0"):
        statistic(random_lists(), 0)
    with pytest.raises(RequestError, match="expected one list per user"):
        statistic(np.empty((0, 5), np.int64), 5)


def test_memory_does_not_grow_with_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELLS_PER_BLOCK", 2**16)
    few, many = (peak_bytes(num_users) for num_users in (1400, 5600))
    assert many < 1.3 * few


def peak_bytes(num_users: int) -> int:
    vectors = np.random.default_rng(0).standard_normal((300, 32)).astype(np.float32)
    lists, facts = (np.arange(num_users)[:, None] + np.arange(100)) % 300, ItemFacts(np.ones(300, np.int64), vectors)
    tracemalloc.start()
    found = list_statistics(lists, (100,), facts, np.ones(300, bool))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["novelty@100"] == pytest.approx(np.log2(300))
    return peak
