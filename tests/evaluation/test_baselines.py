from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felid.data.histories import EvaluationSet, LeaveOneOut, Sequences
from felid.evaluation.baselines import USERS_PER_BATCH, Markov, Popularity
from felid.evaluation.protocol import evaluate
from felid.testing import check_ranker, toy_world

N = 7
walks = st.lists(st.lists(st.integers(0, N - 1), max_size=8), min_size=1, max_size=8)


def sequences(rows: list[list[int]]) -> Sequences:
    return Sequences.from_lists(np.arange(len(rows)), [np.array(row, np.int64) for row in rows])


def slow_popularity(train: list[list[int]]) -> list[int]:
    counts = Counter(item for row in train for item in row)
    return sorted(range(N), key=lambda item: (-counts[item], item))


def slow_markov(train: list[list[int]], history: list[int]) -> list[int]:
    popular = slow_popularity(train)
    follows = Counter(b for row in train for a, b in itertools.pairwise(row) if history and a == history[-1])
    return sorted(range(N), key=lambda item: (-follows[item], popular.index(item)))


def cut(order: list[int], history: list[int], k: int, exclude_seen: bool) -> list[int]:
    kept = [item for item in order if not (exclude_seen and item in history)][:k]
    return kept + [-1] * (k - len(kept))


@settings(max_examples=200)
@given(walks, walks, st.integers(1, N), st.booleans())
def test_lists_equal_the_slow_ones(train: list[list[int]], histories: list[list[int]], k: int, exclude_seen: bool) -> None:
    markov, given_histories = Markov.fit(sequences(train), N), sequences(histories)
    got = markov.rank(given_histories, k, exclude_seen)
    assert got.tolist() == [cut(slow_markov(train, row), row, k, exclude_seen) for row in histories]
    got = markov.popularity.rank(given_histories, k, exclude_seen)
    assert got.tolist() == [cut(slow_popularity(train), row, k, exclude_seen) for row in histories]


def test_a_pair_across_two_users_is_no_transition() -> None:
    markov = Markov.fit(sequences([[0, 1], [], [2, 3], [4]]), N)
    assert markov.rank(sequences([[1]]), 1, exclude_seen=True).tolist() == [[0]]
    assert len(markov.successors) == 2


@pytest.mark.parametrize("baseline", [Popularity, Markov])
def test_baselines_keep_the_contract_of_rankers(baseline) -> None:
    world = toy_world(num_users=20)
    for k in (1, 5, world.num_items):
        check_ranker(baseline.fit(world.split.train(), world.num_items), world.split.evaluation("test"), world.num_items, k)


def test_markov_learns_the_toy_world() -> None:
    world = toy_world()
    markov = Markov.fit(world.split.train(), world.num_items)
    assert evaluate(markov, world.split.evaluation("test"), (1,), True, world.num_items).metrics()["recall@1"] == 1


def test_baselines_never_read_the_held_out_items() -> None:
    """Pitfall: trains on the validation or the test target."""
    world = toy_world(num_users=30)
    changed = world.sequences.items.copy()
    ends = world.sequences.offsets[1:]
    changed[ends - 1], changed[ends - 2] = 0, 0
    other = LeaveOneOut(Sequences(world.sequences.user_ids, world.sequences.offsets, changed))
    one, two = Markov.fit(world.split.train(), world.num_items), Markov.fit(other.train(), world.num_items)
    for name in ("offsets", "successors"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert np.array_equal(one.popularity.order, two.popularity.order)


def test_users_beyond_a_batch_get_the_lists_they_get_alone() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, N, 3) for _ in range(USERS_PER_BATCH + 5)]
    many = Sequences.from_lists(np.arange(len(rows)), rows)
    markov = Markov.fit(many, N)
    tail = np.arange(len(rows) - 10, len(rows))
    assert np.array_equal(markov.rank(many, 3, True)[tail], markov.rank(many.take(tail), 3, True))


@pytest.fixture(scope="module")
def beauty() -> tuple[LeaveOneOut, int]:
    folder = Path(os.environ.get("FELID_DATA_HOME", "")) / "amazon-beauty-2014"
    if "FELID_DATA_HOME" not in os.environ or not folder.is_dir():
        pytest.skip("needs FELID_DATA_HOME/amazon-beauty-2014")
    table = pl.read_parquet(folder / "interactions.parquet").sort("user_id", "position")
    items = np.sort(pl.read_parquet(folder / "items.parquet")["item_id"].to_numpy())
    users, counts = np.unique(table["user_id"].to_numpy(), return_counts=True)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    rows = np.searchsorted(items, table["item_id"].to_numpy()).astype(np.int64)
    return LeaveOneOut(Sequences(users, offsets, rows)), len(items)


def beauty_recall(baseline, beauty: tuple[LeaveOneOut, int], part: str, exclude_seen: bool) -> float:
    split, num_items = beauty
    eval_set = split.evaluation(part)
    found = evaluate(baseline.fit(split.train(), num_items), eval_set, (10,), exclude_seen, num_items)
    return float(found.metrics()["recall@10"])


def test_baselines_on_beauty_have_the_known_values(beauty: tuple[LeaveOneOut, int]) -> None:
    start = time.perf_counter()
    assert beauty_recall(Popularity, beauty, "test", True) == pytest.approx(0.0115, abs=0.0005)
    assert beauty_recall(Markov, beauty, "test", True) == pytest.approx(0.0668, abs=0.0005)
    assert beauty_recall(Markov, beauty, "test", False) == pytest.approx(0.0659, abs=0.0005)
    assert beauty_recall(Markov, beauty, "validation", True) == pytest.approx(0.0856, abs=0.0005)
    assert time.perf_counter() - start < 20


def test_the_head_of_the_beauty_users_is_not_a_sample_of_all(beauty: tuple[LeaveOneOut, int]) -> None:
    """Pitfall: subsampling from the head of the file; the first users are much harder than the last."""
    split, num_items = beauty
    everyone = split.evaluation("test")
    markov = Markov.fit(split.train(), num_items)

    def recall(rows: np.ndarray) -> float:
        some = EvaluationSet(everyone.histories.take(rows), everyone.targets[rows])
        return float(evaluate(markov, some, (10,), True, num_items).metrics()["recall@10"])

    assert recall(np.arange(12_000, len(everyone.targets))) > 2 * recall(np.arange(6_000))
