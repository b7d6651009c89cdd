"""Where users' items are cut: after the last but one, or at two moments that are the same for all."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felid.config import as_tree, validate
from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.data.holdout import HoldoutConfig, split_of
from felid.data.split import LAST_TWO, LastItemsConfig, TimeConfig, cut, read_split
from felid.errors import DataError, RecipeError

DAY = 86_400
START = int(datetime(2014, 1, 1, tzinfo=UTC).timestamp())
TRAIN_ALL = LastItemsConfig(train_target="n-2", validation_share=0.25, seed=3)

days_of_users = st.lists(st.lists(st.integers(0, 60), max_size=8), min_size=1, max_size=10)


def world(rows: list[list[int]], timestamps: bool = True) -> Dataset:
    """Users who take something on these days; every event has an item of its own, numbered by user and then by time."""
    events = [(user, START + day * DAY) for user, days in enumerate(rows) for day in sorted(days)]
    table = pl.DataFrame({"user_id": [u for u, _ in events], "item_id": range(len(events)), "timestamp": [t for _, t in events]})
    items = pl.DataFrame({"item_id": range(len(events) + 1), "title": ["x"] * (len(events) + 1)})
    return Dataset.from_frames("toy", table if timestamps else table.drop("timestamp"), items)


def day_of(data: Dataset, items: np.ndarray) -> np.ndarray:
    """The day on which each item was taken."""
    times = data.interactions.sort("item_id")["timestamp"].to_numpy()
    return (times[items] - START) // DAY


@given(st.lists(st.integers(1, 12), min_size=3, max_size=12))
def test_the_last_but_one_trains_except_of_the_users_kept_for_validation(lengths: list[int]) -> None:
    lengths = [4, 5, *lengths]
    data = world([list(range(length)) for length in lengths], timestamps=False)
    split = split_of(data, HoldoutConfig(), TRAIN_ALL)
    validation, test, train = split.evaluation("validation"), split.evaluation("test"), split.train()
    long = [user for user, length in enumerate(lengths) if length >= 3]
    assert test.histories.user_ids.tolist() == long, "everyone with three items is tested on n-1, whose history has n-2"
    assert all(test.histories[row].tolist() == split.sequences[user].tolist()[:-1] for row, user in enumerate(long))
    kept = validation.histories.user_ids.tolist()
    assert len(kept) == max(1, round(0.25 * len(long)))
    for user, length in enumerate(lengths):
        expected = length if length < 3 else length - 2 if user in kept else length - 1
        assert train[user].tolist() == split.sequences[user].tolist()[:expected]
    assert not set(train.items.tolist()) & {*validation.targets.tolist(), *test.targets.tolist()}
    assert set(split.selection().targets.tolist()) <= set(validation.targets.tolist())


def test_the_users_kept_for_validation_follow_the_seed() -> None:
    data = world([list(range(6))] * 40)
    kept = [
        split_of(data, HoldoutConfig(), TRAIN_ALL.model_copy(update={"seed": seed})).evaluation("validation").histories.user_ids
        for seed in (3, 3, 4)
    ]
    assert np.array_equal(kept[0], kept[1])
    assert not np.array_equal(kept[0], kept[2])


def test_default_settings_cut_off_the_last_two() -> None:
    data = world([[1, 2, 3, 4], [1, 2], [1, 2, 3]])
    assert cut(LAST_TWO, data, data.sequences()) is None
    assert cut(LastItemsConfig(seed=7), data, data.sequences()) is None, "the seed means nothing to n-3"
    assert split_of(data, HoldoutConfig()).train().items.tolist() == LeaveOneOut(data.sequences()).train().items.tolist()


def at(validation: int, test: int) -> TimeConfig:
    """Cuts at the start of two days."""
    moments = [datetime.fromtimestamp(START + day * DAY, UTC) for day in (validation, test)]
    return TimeConfig(validation_from=moments[0], test_from=moments[1])


@given(days_of_users)
def test_nothing_that_trains_is_later_than_any_target(rows: list[list[int]]) -> None:
    rows = [[1, 25, 45], [2, 30, 50], *rows]
    data = world(rows)
    split = split_of(data, HoldoutConfig(), at(20, 40))
    train = split.train()
    assert (day_of(data, train.items) < 20).all()
    assert sorted(train.items.tolist()) == sorted(np.flatnonzero(day_of(data, np.arange(len(data.interactions))) < 20).tolist())
    for part, low, high in (("validation", 20, 40), ("test", 40, 61)):
        found = split.evaluation(part)
        for row, target in enumerate(found.targets.tolist()):
            user = int(found.histories.user_ids[row])
            history = found.histories[row]
            assert low <= day_of(data, np.array([target]))[0] < high
            assert len(history) and (day_of(data, history) < low).all()
            taken = split.sequences[data.interactions["user_id"].unique(maintain_order=True).to_list().index(user)].tolist()
            assert taken[: len(history) + 1] == [*history.tolist(), target], (
                "the first item from the moment on, after all before it"
            )


def test_who_took_nothing_before_or_after_a_moment_is_not_evaluated_there() -> None:
    split = split_of(world([[1, 25, 45], [25, 45], [45, 46], [1, 2], [1, 41, 42]]), HoldoutConfig(), at(20, 40))
    assert split.evaluation("validation").histories.user_ids.tolist() == [0]
    assert split.evaluation("test").histories.user_ids.tolist() == [0, 1, 4]
    assert split.evaluated.tolist() == [0, 1, 4]
    assert split.train().lengths.tolist() == [1, 0, 0, 2, 1]
    moment = split.cuts.rule.rpartition("one from ")[2].removesuffix(" on the test target")
    assert split.left_out == {f"no interaction before {moment}": 1, f"no interaction from {moment} on": 1}


def test_shares_put_the_latest_interactions_after_the_moments() -> None:
    data = world([[day, day + 20, day + 40, day + 60] for day in range(20)])
    config = TimeConfig(test_share=0.2, validation_share=0.1)
    split = split_of(data, HoldoutConfig(), config)
    times = data.interactions["timestamp"].to_numpy()
    train = len(split.train().items) / len(times)
    assert train == pytest.approx(0.7, abs=0.02)
    assert split.cuts.rule == (
        "time: interactions before 2014-02-26 train; a user's first one from then on is the validation target if it is before "
        "2014-03-06, the first one from 2014-03-06 on the test target"
    )


def test_held_out_items_leave_the_training_part_of_a_time_split_too() -> None:
    data = world([[day, day + 20, day + 40, day + 60] for day in range(20)])
    split = split_of(data, HoldoutConfig(rule="newest", share=0.2, validation_share=0.1), TimeConfig())
    assert split.held_out.either.any()
    assert not split.held_out.either[split.train().items].any()


@pytest.mark.parametrize(
    ("data", "config", "says"),
    [
        (world([[1, 2, 3]] * 9, timestamps=False), TimeConfig(), "needs timestamps and the data has none"),
        (
            world([[1, 25, 45]]),
            at(40, 20),
            "validation starts at 2014-02-10, expected a moment before the test's start at 2014-01-21",
        ),
        (world([[1, 25, 45]]), at(20, 50), "leaves no test target"),
        (world([[1, 45]]), at(20, 40), "leaves no validation target"),
        (world([[1, 2], [3]]), TRAIN_ALL, "leaves no validation target"),
    ],
)
def test_splits_that_the_data_does_not_allow_are_refused(data: Dataset, config: LastItemsConfig | TimeConfig, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        split_of(data, HoldoutConfig(), config)
    assert "\n" not in str(caught.value)


def test_an_order_that_is_not_that_of_time_is_refused() -> None:
    table = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 1], "position": [1, 0, 0], "timestamp": [10, 20, 5]})
    data = Dataset.from_frames("toy", table, pl.DataFrame({"item_id": [1, 2], "title": ["a", "b"]}))
    with pytest.raises(DataError, match="the given order of 1 users is another; leave the position out"):
        split_of(data, HoldoutConfig(), TimeConfig())


def test_settings_survive_being_written() -> None:
    for config in (LAST_TWO, TRAIN_ALL, TimeConfig(test_share=0.2), at(20, 40)):
        assert read_split(as_tree(config)) == config
    assert read_split(None) == LAST_TWO
    read = validate(TimeConfig, {"test_from": "2014-02-10", "validation_from": datetime(2014, 1, 21).date()})
    data = world([[1, 25, 45]])
    assert split_of(data, HoldoutConfig(), read).evaluation("test").targets.tolist() == [2]
    with pytest.raises(RecipeError, match="test_from"):
        read_split({"kind": "time", "test_from": "soon"})
