"""The planted world: known best recall, no repeats, reproducible."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from felid.config import validate
from felid.data.histories import LeaveOneOut
from felid.data.sources import FilterConfig, SyntheticConfig, fingerprint, load_dataset
from felid.data.sources.synthetic import World, oracle_recall_at_k
from felid.errors import RecipeError

SMALL = SyntheticConfig(num_users=300, num_types=6, num_clusters=3, items_per_cell=4, max_length=6)


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("config", [SMALL, SyntheticConfig(seed=5), SMALL.model_copy(update={"successors": ()})])
def test_oracle_ranking_reaches_the_computed_recall(config: SyntheticConfig, part: str) -> None:
    world, rng = World.build(config), np.random.default_rng(123)
    walks = world.walk(rng, 10_000)
    lengths = rng.integers(config.min_length, config.max_length + 1, size=len(walks))
    place = lengths - (1 if part == "test" else 2)
    users = np.arange(len(walks))
    probabilities = world.next_probabilities(walks[users, place - 1], world.taste_of(walks[:, 0]))
    ranking = np.argsort(-probabilities, axis=1, kind="stable")[:, :10]
    hits = ranking == walks[users, place][:, None]
    for k in (1, 3, 10):
        expected = oracle_recall_at_k(config, k, part)  # type: ignore[arg-type]
        assert abs(hits[:, :k].any(axis=1).mean() - expected) < 3 * np.sqrt(expected * (1 - expected) / len(walks)) + 1e-12


def test_next_probabilities_are_the_frequencies_of_the_process() -> None:
    world = World.build(SMALL)
    walks = world.walk(np.random.default_rng(9), 100_000)
    chosen = (walks[:, 0] == 0) & (walks[:, 1] == world.successors[0, 0])
    expected = world.next_probabilities(walks[chosen][:1, 1], world.taste_of(walks[chosen][:1, 0]))[0]
    counts = np.bincount(walks[chosen][:, 2], minlength=SMALL.num_items)
    assert counts[expected == 0].sum() == 0
    assert np.abs(counts / counts.sum() - expected).max() < 4 * np.sqrt(0.25 / counts.sum())
    assert world.next_probabilities(np.arange(10), np.zeros(10, np.int64)).sum(axis=1) == pytest.approx(np.ones(10))


@pytest.mark.parametrize("k", [1, 3, 4, 7, 30])
def test_top_mass_equals_sorting_every_probability(k: int) -> None:
    world = World.build(SMALL)
    items = np.arange(SMALL.num_items)
    for taste, got in enumerate(world.top_mass(k)):
        dense = world.next_probabilities(items, np.full_like(items, taste))
        assert got == pytest.approx(-np.sort(-dense, axis=1)[:, :k].sum(axis=1))


def test_last_item_distributions_equal_multiplying_the_dense_matrix() -> None:
    world = World.build(SMALL)
    items = np.arange(SMALL.num_items)
    states = world.last_item_distributions(4)
    for taste in range(SMALL.num_clusters):
        step = world.next_probabilities(items, np.full_like(items, taste))
        for before, after in pairwise(states):
            assert after[taste] == pytest.approx(before[taste] @ step)
    assert [state.sum() for state in states] == pytest.approx([1.0] * 5)


@pytest.mark.parametrize("num", [0, 1, 12])
def test_successors_are_distinct_items_of_the_next_type(num: int) -> None:
    config = SMALL.model_copy(update={"successors": (0.05,) * num})
    world = World.build(config)
    types = np.arange(config.num_items) // 12
    assert world.successors.shape == (72, num)
    assert all(len(set(row)) == num for row in world.successors.tolist())
    assert np.array_equal(world.successors // 12, np.repeat((types[:, None] + 1) % 6, num, axis=1))


def test_known_special_cases_of_the_best_recall() -> None:
    sure = SMALL.model_copy(update={"successors": (1.0,)})
    assert oracle_recall_at_k(sure, 1) == pytest.approx(1.0)
    only_taste = SMALL.model_copy(update={"successors": ()})
    assert oracle_recall_at_k(only_taste, 1) == pytest.approx(1 / 4)
    assert oracle_recall_at_k(only_taste, 4) == pytest.approx(1.0)
    assert oracle_recall_at_k(SMALL, 10_000) == pytest.approx(1.0)


def test_no_item_repeats_within_a_user() -> None:
    dataset = load_dataset(SyntheticConfig())
    assert dataset.statistics()["num_repeated_interactions"] == 0
    assert dataset.notes[0].startswith("best reachable test recall: @1 ")


def test_realised_test_targets_score_near_the_computed_recall() -> None:
    config = SyntheticConfig(num_users=8_000)
    dataset, world = load_dataset(config), World.build(config)
    held = LeaveOneOut(dataset.sequences()).evaluation("test")
    first = held.histories.items[held.histories.offsets[:-1]]
    last = held.histories.items[held.histories.offsets[1:] - 1]
    ranking = np.argsort(-world.next_probabilities(last, world.taste_of(first)), axis=1, kind="stable")[:, :10]
    recall = (ranking == held.targets[:, None]).any(axis=1).mean()
    assert recall == pytest.approx(oracle_recall_at_k(config, 10), abs=0.012)


def test_same_seed_same_data_and_another_seed_other_data() -> None:
    one, again, other = (load_dataset(SMALL.model_copy(update={"seed": seed})) for seed in (1, 1, 2))
    assert one.interactions.equals(again.interactions)
    assert one.items.equals(again.items)
    assert not one.interactions.equals(other.interactions)
    assert fingerprint(SMALL) == {}


def test_attributes_follow_the_clusters() -> None:
    items = load_dataset(SyntheticConfig(brand_purity=1.0)).items
    assert items["title"].n_unique() == len(items)
    assert (
        items.with_columns(material=pl.col("title").str.split(" ").list[1])
        .group_by("material")
        .agg(pl.col("brand").n_unique())["brand"]
        .to_list()
        == [1] * 6
    )
    assert items["title"][0].endswith(" wool jacket by Norva")


def test_hundred_thousand_interactions_take_under_three_seconds() -> None:
    start = time.perf_counter()
    dataset = load_dataset(SyntheticConfig(num_users=8_333, min_length=12), FilterConfig())
    assert len(dataset.interactions) == 8_333 * 12
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_users": 10_000}, "num_users . max_length = 120000, expected at most 100000"),
        ({"items_per_cell": 2_000}, "items_per_cell = 144000, expected at most 100000"),
        ({"max_length": 13}, "expected min <= max <= num_types"),
        ({"min_length": 9, "max_length": 8}, "expected min <= max"),
        ({"successors": [0.7, 0.6]}, "add up to at most 1"),
        ({"successors": [0.1] * 9, "num_clusters": 1, "items_per_cell": 5}, "9 successors"),
    ],
)
def test_impossible_worlds_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        validate(SyntheticConfig, change)


def test_best_recall_needs_users_that_are_evaluated() -> None:
    with pytest.raises(RecipeError, match="at least 3"):
        oracle_recall_at_k(SMALL.model_copy(update={"min_length": 2}), 10)
