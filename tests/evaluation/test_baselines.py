from __future__ import annotations

import itertools
import math
import os
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felid.data.histories import EvaluationSet, LeaveOneOut, Sequences
from felid.evaluation.baselines import BASELINES, Markov, Popularity, explained, item_knn, text_knn
from felid.evaluation.baselines.item_knn import ItemKnn
from felid.evaluation.baselines.merging import USERS_PER_BATCH
from felid.evaluation.baselines.text_knn import TextKnn
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


def slow_item_knn(train: list[list[int]], history: list[int]) -> list[int]:
    users = [{user for user, row in enumerate(train) if item in row} for item in range(N)]
    popular, scores = slow_popularity(train), [0.0] * N
    for item in range(N):
        for other in set(history) - {item}:
            both = len(users[item] & users[other])
            scores[item] += both / math.sqrt(len(users[item]) * len(users[other])) if both else 0.0
    return sorted(range(N), key=lambda item: (-round(scores[item], 9), popular.index(item)))


def slow_text_knn(vectors: np.ndarray, popular: list[int], history: list[int], recent: int) -> list[int]:
    """The mean of the last texts, its cosine to every other; items without a text last."""
    mean = sum((vectors[item].astype(float) for item in history[-recent:]), np.zeros(vectors.shape[1]))
    length, keys = math.sqrt(sum(x * x for x in mean)), []
    for item in range(len(vectors)):
        product = sum(float(a) * float(b) for a, b in zip(mean, vectors[item], strict=True))
        cosine = product / length if length else 0.0
        keys.append((0 if vectors[item].any() else 1, -round(cosine, 6), popular.index(item)))
    return sorted(range(len(vectors)), key=keys.__getitem__)


def texts(num_items: int, seed: int = 0) -> np.ndarray:
    """Unit vectors; the first item has no text, the last two the same one."""
    vectors = np.random.default_rng(seed).standard_normal((num_items, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0], vectors[-1] = 0, vectors[-2]
    return vectors


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


@settings(max_examples=50, deadline=None)
@given(walks, walks, st.integers(1, N), st.booleans())
def test_item_knn_equals_the_slow_one(train: list[list[int]], histories: list[list[int]], k: int, exclude_seen: bool) -> None:
    got = ItemKnn.fit(sequences(train), N).rank(sequences(histories), k, exclude_seen)
    assert got.tolist() == [cut(slow_item_knn(train, row), row, k, exclude_seen) for row in histories]


@settings(max_examples=50, deadline=None)
@given(walks, walks, st.integers(1, N), st.booleans(), st.integers(1, 4))
def test_text_knn_equals_the_slow_one(
    train: list[list[int]], histories: list[list[int]], k: int, exclude_seen: bool, recent: int
) -> None:
    got = TextKnn.of(texts(N), Popularity.fit(sequences(train), N), recent).rank(sequences(histories), k, exclude_seen)
    popular = slow_popularity(train)
    assert got.tolist() == [cut(slow_text_knn(texts(N), popular, row, recent), row, k, exclude_seen) for row in histories]


def test_item_knn_keeps_the_nearest_neighbours_and_sums_as_implicit_does() -> None:
    from implicit.nearest_neighbours import CosineRecommender

    rng, num_items = np.random.default_rng(1), 30
    train = sequences([rng.choice(num_items - 3, rng.integers(2, 9), replace=False).tolist() for _ in range(200)])
    knn, popularity = ItemKnn.fit(train, num_items, neighbours=4), Popularity.fit(train, num_items)
    assert np.diff(knn.similarity.indptr).max() <= 5
    theirs, taken = CosineRecommender(K=5), item_knn._taken(train, popularity.place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it passes itself another form of matrix than it wants
        theirs.fit(taken, show_progress=False)
    lists = knn.rank(train, 10, exclude_seen=True)
    for user in range(len(train)):
        places, scores = theirs.recommend(user, taken[user], N=num_items)
        order = np.lexsort((places, -scores.round(9)))[: (scores > 0).sum()][:10]
        assert lists[user, : len(order)].tolist() == popularity.order[places[order]].tolist()


def test_cold_items_are_nobodys_neighbours_but_near_by_text() -> None:
    train, cold = sequences([[0, 1, 2], [1, 2, 3], [4, 0]]), [5, 6]
    knn = ItemKnn.fit(train, N)
    places = knn.popularity.place[cold]
    assert knn.similarity[places].nnz == knn.similarity[:, places].nnz == 0
    assert not np.isin(knn.rank(sequences([[0], [5, 1]]), N - 2, exclude_seen=False), cold).any()
    near = TextKnn.of(texts(N), knn.popularity)
    assert near.rank(sequences([[5], [6]]), 1, exclude_seen=True).tolist() == [[6], [5]], "they have the same text"


def test_a_pair_across_two_users_is_no_transition() -> None:
    markov = Markov.fit(sequences([[0, 1], [], [2, 3], [4]]), N)
    assert markov.rank(sequences([[1]]), 1, exclude_seen=True).tolist() == [[0]]
    assert len(markov.successors) == 2


@pytest.mark.parametrize("baseline", [Popularity, Markov, ItemKnn])
def test_baselines_keep_the_contract_of_rankers(baseline) -> None:
    world = toy_world(num_users=20)
    near = TextKnn.of(world.vectors, Popularity.fit(world.split.train(), world.num_items))
    check_ranker(near, world.split.evaluation("test"), world.num_items, 5)
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
    first, second = (ItemKnn.fit(split.train(), world.num_items).similarity for split in (world.split, other))
    assert first.nnz and (first != second).nnz == 0


def test_users_beyond_a_batch_get_the_lists_they_get_alone() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, N, 3) for _ in range(USERS_PER_BATCH + 5)]
    many = Sequences.from_lists(np.arange(len(rows)), rows)
    markov = Markov.fit(many, N)
    tail = np.arange(len(rows) - 10, len(rows))
    assert np.array_equal(markov.rank(many, 3, True)[tail], markov.rank(many.take(tail), 3, True))


def test_lists_do_not_depend_on_how_many_scores_are_kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, num_items = np.random.default_rng(2), 40
    many = sequences([rng.integers(0, num_items, rng.integers(0, 9)).tolist() for _ in range(50)])
    systems = ItemKnn.fit(many, num_items, 5), TextKnn.of(texts(num_items), Popularity.fit(many, num_items), 2)
    whole = [system.rank(many, 6, True) for system in systems]
    for module in (item_knn, text_knn):
        monkeypatch.setattr(module, "MOST_SCORES", 3 * num_items)
    assert all(np.array_equal(system.rank(many, 6, True), lists) for system, lists in zip(systems, whole, strict=True))
    assert all(system.rank(many.take(np.arange(0)), 6, True).shape == (0, 6) for system in systems)


def test_the_policy_says_what_each_baseline_is() -> None:
    text = explained(BASELINES)
    assert all(f"{name} = " in text for name in BASELINES)
    assert explained(("markov", "sasrec, as tuned")).count(" = ") == 2
    assert explained(()) == "none"


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


def test_item_knn_fits_beauty_in_seconds(beauty: tuple[LeaveOneOut, int]) -> None:
    start = time.process_time()
    knn = ItemKnn.fit(beauty[0].train(), beauty[1])
    assert time.process_time() - start < 10, "it takes half a second"
    some = beauty[0].evaluation("validation")
    rows = np.random.default_rng(0).permutation(len(some.targets))[:4000]
    few = EvaluationSet(some.histories.take(rows), some.targets[rows])
    assert evaluate(knn, few, (10,), True, beauty[1]).metrics()["recall@10"] == pytest.approx(0.069, abs=0.005)


def test_the_head_of_the_beauty_users_is_not_a_sample_of_all(beauty: tuple[LeaveOneOut, int]) -> None:
    """Pitfall: subsampling from the head of the file; the first users are much harder than the last."""
    split, num_items = beauty
    everyone = split.evaluation("test")
    markov = Markov.fit(split.train(), num_items)

    def recall(rows: np.ndarray) -> float:
        some = EvaluationSet(everyone.histories.take(rows), everyone.targets[rows])
        return float(evaluate(markov, some, (10,), True, num_items).metrics()["recall@10"])

    assert recall(np.arange(12_000, len(everyone.targets))) > 2 * recall(np.arange(6_000))
