"""Which items are held out, and that training loses every one of their interactions and nothing else."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felid.config import validate
from felid.data.dataset import Dataset
from felid.data.histories import HeldOut, LeaveOneOut, Sequences
from felid.data.holdout import HoldoutConfig, first_seen, hold_out, split_of
from felid.errors import DataError, RecipeError

RANDOM = HoldoutConfig(rule="random", share=0.2, validation_share=0.1)
NEWEST = HoldoutConfig(rule="newest", share=0.2, validation_share=0.1)
NUM_ITEMS = 40

worlds = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=12), min_size=1, max_size=12)


def split_over(rows: list[list[int]]) -> LeaveOneOut:
    return LeaveOneOut(Sequences.from_lists(np.arange(len(rows)), [np.array(row, np.int64) for row in rows]))


def walks(seed: int = 0) -> LeaveOneOut:
    """Users who together take all but the last four items in training."""
    rng = np.random.default_rng(seed)
    return split_over([rng.permutation(NUM_ITEMS - 4).tolist() for _ in range(20)])


def shop(timestamps: bool = True) -> Dataset:
    """Items 100..139; item 100 + i is first taken i days after the first, and again every day from then on."""
    users, items, times = [], [], []
    for user in range(60):
        for step in range(6):
            day = user + step
            users.append(user)
            items.append(100 + (user + 7 * step) % (min(day, NUM_ITEMS - 1) + 1))
            times.append(day * 86_400 + user)
    table = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times})
    catalogue = pl.DataFrame({"item_id": np.arange(100, 145), "title": ["a"] * 45})
    return Dataset.from_frames("shop", table if timestamps else table.drop("timestamp"), catalogue)


@pytest.mark.parametrize("rule", ["random", "newest", "natural"])
def test_groups_share_no_item_and_are_never_trained(rule: str) -> None:
    config = HoldoutConfig(rule=rule, share=0.2, validation_share=0.1)
    split = split_of(shop(), config)
    held = split.held_out
    assert held.validation.any() and held.test.any() and not (held.validation & held.test).any()
    assert not held.either[split.train().items].any()
    assert not (split.warm_items(45) & held.either).any()


def test_natural_holds_out_exactly_the_items_without_training_interactions() -> None:
    split = walks()
    held = hold_out(HoldoutConfig(), split, NUM_ITEMS)
    assert np.array_equal(held.either, ~split.warm_items(NUM_ITEMS))
    assert (held.test.sum(), held.validation.sum()) == (2, 2)
    kept = LeaveOneOut(split.sequences, held).train()
    assert np.array_equal(kept.items, split.train().items) and np.array_equal(kept.offsets, split.train().offsets)


def test_random_shares_are_of_the_warm_items() -> None:
    split = walks()
    held = hold_out(RANDOM, split, NUM_ITEMS)
    assert (held.test.sum(), held.validation.sum()) == (7, 4)  # of 36
    assert split.warm_items(NUM_ITEMS)[held.either].all()


def test_the_seed_decides_the_draw() -> None:
    split = walks()
    draws = [hold_out(RANDOM.model_copy(update={"seed": seed}), split, NUM_ITEMS).test for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
    halves = [hold_out(HoldoutConfig(seed=seed), split_over([[0, 1, 2]]), NUM_ITEMS).test for seed in (0, 1)]
    assert not np.array_equal(halves[0], halves[1])


def test_newest_takes_the_latest_first_interactions_test_before_validation() -> None:
    data = shop()
    split = split_of(data, NEWEST)
    first = {row["item_id"]: row["timestamp"] for row in data.interactions.group_by("item_id").min().iter_rows(named=True)}
    warm = np.flatnonzero(LeaveOneOut(data.sequences()).warm_items(45)) + 100
    newest = sorted(warm.tolist(), key=lambda item: (-first[item], item))
    num_test, num_validation = round(0.2 * len(warm)), round(0.1 * len(warm))
    assert sorted(newest[:num_test]) == (np.flatnonzero(split.held_out.test) + 100).tolist()
    expected = sorted(newest[num_test : num_test + num_validation])
    assert expected == (np.flatnonzero(split.held_out.validation) + 100).tolist()


def test_settings_without_effect_are_told_apart() -> None:
    """What `effective` leaves out changes no group, what it keeps does."""
    for rule, changes in (("natural", {"share": 0.2, "validation_share": 0.3}), ("newest", {"seed": 4})):
        plain, other = HoldoutConfig(rule=rule, seed=0), HoldoutConfig(rule=rule, **changes)
        assert other != plain
        assert other.effective == plain.effective
        groups = [split_of(shop(), config).held_out for config in (plain, other, other.effective)]
        assert all(np.array_equal(one.test, groups[0].test) for one in groups if one and groups[0])
    for rule, changes in (
        ("natural", {"seed": 4}),
        ("random", {"seed": 4}),
        ("random", {"share": 0.1}),
        ("newest", {"share": 0.1}),
    ):
        assert HoldoutConfig(rule=rule, **changes).effective != HoldoutConfig(rule=rule).effective


def test_equal_first_times_go_by_item_index() -> None:
    held = hold_out(NEWEST, walks(), NUM_ITEMS, np.zeros(NUM_ITEMS))
    assert np.flatnonzero(held.test).tolist() == list(range(7))
    assert np.flatnonzero(held.validation).tolist() == [7, 8, 9, 10]


def test_first_seen_is_the_earliest_time_of_each_item() -> None:
    data = shop()
    times = first_seen(data)
    assert times.shape == (45,)
    for item, time in zip(data.item_ids.tolist(), times.tolist(), strict=True):
        taken = data.interactions.filter(item_id=item)["timestamp"].to_list()
        assert np.isnan(time) if not taken else time == min(taken)
    assert first_seen(shop(timestamps=False)) is None


def test_newest_without_timestamps_names_the_remedy() -> None:
    with pytest.raises(DataError, match=r"needs timestamps and the data has none; .* holdout\.rule=random"):
        split_of(shop(timestamps=False), NEWEST)


def test_shares_that_make_an_empty_group_are_refused() -> None:
    with pytest.raises(DataError, match="of 3 items are 0 and 0 items, expected at least one each"):
        hold_out(HoldoutConfig(rule="random"), split_over([[0, 1, 2, 3, 4]]), NUM_ITEMS)


def test_shares_that_leave_too_little_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"share \+ validation_share = 0\.6, expected at most 0\.5"):
        validate(HoldoutConfig, {"rule": "random", "share": 0.4, "validation_share": 0.2})


@given(worlds, st.integers(0, 5))
def test_training_is_the_plain_training_part_without_held_out_items(rows: list[list[int]], seed: int) -> None:
    plain = split_over(rows)
    marks = np.random.default_rng(seed).random((2, NUM_ITEMS)) < 0.3
    split = LeaveOneOut(plain.sequences, HeldOut(marks[0], marks[1] & ~marks[0], "drawn"))
    train, before = split.train(), plain.train()
    assert len(train) == len(before) and np.array_equal(train.user_ids, before.user_ids)
    for row in range(len(before)):  # one by one: users whose items are all held out keep an empty row of their own
        assert train[row].tolist() == [item for item in before[row].tolist() if not marks[:, item].any()]
    for part in ("validation", "test"):
        one, other = split.evaluation(part), plain.evaluation(part)
        assert np.array_equal(one.targets, other.targets)
        assert np.array_equal(one.histories.items, other.histories.items)


@given(worlds, st.integers(0, 5))
def test_groups_and_selection_follow_their_definition(rows: list[list[int]], seed: int) -> None:
    plain = split_over(rows)
    config = HoldoutConfig(seed=seed)
    split = LeaveOneOut(plain.sequences, hold_out(config, plain, NUM_ITEMS))
    warm = set(split.train().items.tolist())
    for part, held in (("validation", split.held_out.validation), ("test", split.held_out.test)):
        targets = split.evaluation(part).targets.tolist()
        expected = ["warm" if t in warm else "cold" if held[t] else "other" for t in targets]
        assert split.groups(part, NUM_ITEMS).tolist() == expected
    chosen, validation = split.selection(), split.evaluation("validation")
    kept = [place for place, item in enumerate(validation.targets.tolist()) if not split.held_out.test[item]]
    assert chosen.targets.tolist() == validation.targets[kept].tolist()
    assert chosen.histories.user_ids.tolist() == validation.histories.user_ids[kept].tolist()
    assert [chosen.histories[i].tolist() for i in range(len(kept))] == [validation.histories[i].tolist() for i in kept]


def test_without_held_out_items_choices_are_made_on_all_of_validation() -> None:
    split = walks()
    assert np.array_equal(split.selection().targets, split.evaluation("validation").targets)
    assert set(split.groups("test", NUM_ITEMS).tolist()) <= {"warm", "other"}
