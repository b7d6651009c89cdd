from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.data.holdout import HoldoutConfig, split_of
from felid.evaluation.protocol import Evaluation, EvaluationConfig
from felid.evaluation.slices import (
    AGES,
    DAY_SECONDS,
    POPULARITY,
    Slice,
    by_age,
    by_history_length,
    by_popularity,
    by_warmth,
    measure,
    popularity_groups,
    target_ages,
)
from felid.evaluation.statistics import bootstrap_ci
from felid.metrics import mrr_per_user, ndcg_per_user, recall_per_user

CONFIG = EvaluationConfig(bootstrap=100)


def test_a_third_of_the_interactions_each() -> None:
    counts = np.array([1, 0, 50, 20, 20, 1, 5, 3])  # 100 interactions; 50, then 40, then 10 in rarer and rarer items
    names = [POPULARITY[place] for place in popularity_groups(counts)]
    assert names == ["tail", "cold", "head", "mid", "mid", "tail", "tail", "tail"]
    even = popularity_groups(np.full(9, 4))
    assert [POPULARITY[place] for place in even] == ["head"] * 9


@pytest.mark.parametrize("seed", range(3))
def test_groups_follow_their_definition_whatever_the_ids_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.exponential(4, 60))
    found = popularity_groups(counts)
    for item, count in enumerate(counts.tolist()):
        above = sum(other for other in counts.tolist() if other > count) / counts.sum()
        wanted = "cold" if count == 0 else "head" if above < 1 / 3 else "mid" if above < 2 / 3 else "tail"
        assert POPULARITY[found[item]] == wanted
    order = rng.permutation(60)
    assert np.array_equal(popularity_groups(counts[order]), found[order])


def test_targets_are_cut_by_their_items() -> None:
    cut = by_popularity(np.array([2, 1, 1, 0]), np.array([1, 0, 8]))
    assert [cut.groups[place][0] for place in cut.of_user] == ["head", "cold", "cold", "tail"]
    assert dict(cut.groups)["head"] == "1 items with 8 to 8 training interactions"
    assert dict(cut.groups)["mid"] == "no item"


def test_lengths_and_ages_are_binned() -> None:
    lengths = by_history_length(np.array([1, 4, 5, 19, 20, 99, 100, 5000]))
    names = [lengths.groups[place][0] for place in lengths.of_user]
    assert names == ["1-4", "1-4", "5-9", "10-19", "20-49", "50-99", "100+", "100+"]
    ages = by_age(np.array([0.0, 0.9, 1, 6.9, 7, 30, 89, 90, 364, 365, 4000]) * DAY_SECONDS)
    day, week, month, quarter, year, older = AGES
    assert [ages.groups[place][0] for place in ages.of_user] == [
        *(day, day, week, week, month, quarter, quarter, year, year, older, older)
    ]
    warmth = by_warmth(np.array(["warm", "other", "cold"]))
    assert [warmth.groups[place][0] for place in warmth.of_user] == ["warm", "other", "cold"]


def timed(times: dict[str, list[tuple[str, int]]]) -> Dataset:
    rows = [(user, item, time) for user, taken in times.items() for item, time in taken]
    frame = pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row")
    return dataset(frame)


def dataset(frame: pl.DataFrame) -> Dataset:
    items = frame.select("item_id").unique()
    return Dataset.from_frames("some", frame, items.with_columns(title=pl.col("item_id").cast(pl.String)))


def test_the_age_of_a_target_is_that_when_it_was_taken() -> None:
    """b is first taken at 5 by v; w has too few items to be evaluated."""
    data = timed(
        {
            "u": [("a", 10), ("c", 20), ("b", 30)],
            "v": [("b", 5), ("a", 8), ("d", 50), ("c", 90)],
            "w": [("a", 1), ("b", 99)],
        }
    )
    assert target_ages(data, split_of(data, HoldoutConfig())).tolist() == [30 - 5, 90 - 20]


def test_data_without_timestamps_has_no_ages() -> None:
    frame = pl.DataFrame({"user_id": [1] * 4, "item_id": [1, 2, 3, 4]})
    data = dataset(frame)
    assert target_ages(data, LeaveOneOut(data.sequences())) is None


def evaluation(ranks: np.ndarray, ks: tuple[int, ...]) -> Evaluation:
    users = np.arange(len(ranks))
    return Evaluation(users, users, ranks, ks, {}, np.zeros(len(ranks), bool))


def test_each_group_has_the_metrics_and_intervals_of_its_users() -> None:
    rng = np.random.default_rng(0)
    ranks = {name: rng.integers(0, 14, 50) for name in ("lynx", "popularity")}
    cut = Slice([("small", "a"), ("none", "b"), ("large", "c")], np.where(np.arange(50) < 8, 0, 2))
    results = {name: evaluation(of, (5, 10)) for name, of in ranks.items()}
    found = measure({"size": cut}, results, CONFIG)
    assert [(entry["group"], entry["meaning"], entry["num_users"]) for entry in found["size"]] == [
        ("small", "a", 8),
        ("large", "c", 42),
    ]
    for entry, users in zip(found["size"], (slice(0, 8), slice(8, 50)), strict=True):
        assert list(entry["systems"]) == ["lynx", "popularity"]
        for name, metrics in entry["systems"].items():
            assert list(metrics) == ["recall@10", "ndcg@10", "mrr@10"]
            for metric, function in (("recall", recall_per_user), ("ndcg", ndcg_per_user), ("mrr", mrr_per_user)):
                values = function(ranks[name][users], 10)
                cell = metrics[f"{metric}@10"]
                assert cell["value"] == pytest.approx(values.mean())
                assert (cell["low"], cell["high"]) == pytest.approx(bootstrap_ci(values, 0.95, 100, 0))


@pytest.mark.parametrize(("ks", "shown"), [((5,), (5,)), ((5, 10, 100), (10, 100)), ((20, 50), (20, 50)), ((1, 7), (7,))])
def test_the_largest_k_up_to_ten_and_the_largest_are_shown(ks: tuple[int, ...], shown: tuple[int, ...]) -> None:
    cut = Slice([("a", ""), ("b", "")], np.arange(6) % 2)
    found = measure({"any": cut}, {"lynx": evaluation(np.arange(6), ks)}, CONFIG)
    wanted = {f"{metric}@{k}" for metric in ("recall", "ndcg", "mrr") for k in shown}
    assert set(found["any"][0]["systems"]["lynx"]) == wanted


def test_no_user_is_lost_between_the_groups() -> None:
    with pytest.raises(AssertionError, match="1 users are in no group"):
        by_history_length(np.array([0, 3, 7]))


def test_a_slice_with_all_users_in_one_group_is_left_out() -> None:
    cut = Slice([("a", ""), ("b", "")], np.ones(6, np.int64))
    assert measure({"any": cut}, {"lynx": evaluation(np.arange(6), (5,))}, CONFIG) == {}
