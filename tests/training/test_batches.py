"""Examples, batches and the schedule, each against a loop that says what is meant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felid.config import as_tree
from felid.data.histories import LeaveOneOut, Sequences
from felid.training import TrainingConfig
from felid.training.batches import Examples
from felid.training.schedule import Schedule, learning_rate_factor

LENGTHS = st.lists(st.integers(0, 13), min_size=1, max_size=12)


def sequences_of(lengths: list[int]) -> Sequences:
    """Users with items 100 * user + place, so that every item names its place."""
    return Sequences.from_lists(np.arange(len(lengths)), [100 * user + np.arange(n) for user, n in enumerate(lengths)])


def collated(examples: Examples, chosen: np.ndarray) -> list[tuple[list[int], int]]:
    """(history, target) pairs that a model learns from in one batch."""
    histories, targets = examples.collate(chosen, None)
    pairs, flat = [], iter(targets.tolist())
    for row, length in zip(histories.items.tolist(), histories.lengths.tolist(), strict=True):
        assert row[length:] == [0] * (len(row) - length)
        if examples.causal:
            pairs += [(row[: place + 1], next(flat)) for place in range(length)]
        else:
            pairs.append((row[:length], next(flat)))
    assert next(flat, None) is None
    return pairs


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 6), st.booleans(), st.integers(1, 40), st.integers(0, 5))
def test_every_item_but_a_users_first_is_a_target_exactly_once(
    lengths: list[int], history: int, causal: bool, batch_targets: int, epoch: int
) -> None:
    examples = Examples.of(sequences_of(lengths), history, causal=causal)
    batches = examples.batches(batch_targets, (0, epoch))
    assert sorted(np.concatenate([np.empty(0, np.int64), *batches]).tolist()) == list(range(len(examples)))
    assert all(len(batch) for batch in batches) or not len(examples)
    pairs = [pair for batch in batches if len(batch) for pair in collated(examples, batch)]
    wanted = [100 * user + place for user, n in enumerate(lengths) for place in range(1, n)]
    assert sorted(target for _, target in pairs) == wanted
    assert examples.num_targets == len(wanted)
    for items, target in pairs:
        assert items == list(range(target - len(items), target)), "the history is what lies just before the target"
        assert 1 <= len(items) <= history
        if not causal:
            assert len(items) == min(history, target % 100)


@pytest.mark.parametrize("causal", [True, False])
def test_long_histories_are_cut_to_the_last_items(causal: bool) -> None:
    examples = Examples.of(sequences_of([8]), 3, causal=causal)
    pairs = collated(examples, np.arange(len(examples)))
    if causal:
        assert [len(items) for items, _ in pairs] == [1, 2, 3, 1, 2, 3, 1]
        assert ([4, 5, 6], 7) in pairs
    else:
        assert pairs == [([0], 1), ([0, 1], 2), ([0, 1, 2], 3), ([1, 2, 3], 4), ([2, 3, 4], 5), ([3, 4, 5], 6), ([4, 5, 6], 7)]


def test_user_tokens_follow_their_users() -> None:
    examples = Examples.of(sequences_of([4, 1, 3]), 2, causal=False)
    histories, targets = examples.collate(np.array([4, 0, 2]), np.array([50, 51, 52]))
    assert histories.users is not None
    assert histories.users.tolist() == [52, 50, 50]
    assert targets.tolist() == [202, 1, 3]


@pytest.mark.parametrize("causal", [True, False])
def test_batches_are_about_as_large_as_asked_alike_in_length_and_new_in_every_epoch(causal: bool) -> None:
    lengths = np.random.default_rng(0).integers(2, 40, 300).tolist()
    examples = Examples.of(sequences_of(lengths), 20, causal=causal)
    epochs = [examples.batches(128, (7, epoch)) for epoch in range(6)]
    for batches in epochs:
        targets = [int(examples.lengths[batch].sum()) if causal else len(batch) for batch in batches]
        assert max(targets) <= 128 + 40
        assert np.mean(targets) > 110
        assert np.median([np.ptp(examples.lengths[batch]) for batch in batches]) <= 3
    assert len({len(batches) for batches in epochs}) == 1, "the schedule counts on equally many steps in every epoch"
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))
    again = examples.batches(128, (7, 0))
    assert all(np.array_equal(a, b) for a, b in zip(again, epochs[0], strict=True))


@pytest.mark.parametrize("causal", [True, False])
def test_batches_come_in_few_shapes(causal: bool) -> None:
    """A matrix product on a CPU is compiled for every new shape; what is compiled then serves all epochs."""
    lengths = np.random.default_rng(0).geometric(0.1, 3000).tolist()
    examples, seen = Examples.of(sequences_of(lengths), 50, causal=causal), []
    for epoch in range(3):
        batches = examples.batches(128, (7, epoch))
        shapes = [tuple(examples.collate(batch, None)[0].items.shape) for batch in batches]
        assert len(set(shapes)) <= 35 < len(shapes) / 4
        padded, real = sum(rows * width for rows, width in shapes), sum(examples.lengths)
        assert padded <= 1.03 * real
        seen.append(set(shapes))
    assert len(seen[0] | seen[1] | seen[2]) <= len(seen[0]) + 3


@given(LENGTHS, st.integers(1, 60))
def test_every_epoch_has_equally_many_batches(lengths: list[int], batch_targets: int) -> None:
    examples = Examples.of(sequences_of(lengths), 20, causal=True)
    assert len({len(examples.batches(batch_targets, (0, epoch))) for epoch in range(8)}) == 1


@pytest.mark.parametrize("causal", [True, False])
def test_nothing_held_out_is_in_any_example(causal: bool) -> None:
    """Training on the validation target (pitfall: RQ-VAE-Recommender)."""
    lengths = [3, 7, 2, 12, 1]
    split = LeaveOneOut(sequences_of(lengths))
    examples = Examples.of(split.train(), 4, causal=causal)
    used = {item for items, target in collated(examples, np.arange(len(examples))) for item in (*items, target)}
    held_out = {100 * user + n - back for user, n in enumerate(lengths) if n >= 3 for back in (1, 2)}
    assert held_out == {*split.evaluation("validation").targets.tolist(), *split.evaluation("test").targets.tolist()}
    assert not used & held_out
    assert used == {100 * user + place for user, n in enumerate(lengths) for place in range(n - 2 if n >= 3 else n)} - {0, 400}


SCHEDULES: tuple[Schedule, ...] = ("cosine", "linear", "inverse-sqrt", "constant")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (100, 0), (5, 4), (1, 0)])
def test_warm_up_reaches_the_peak_and_the_rest_never_rises(schedule: Schedule, total: int, warmup: int) -> None:
    factors = [learning_rate_factor(step, total=total, warmup=warmup, schedule=schedule) for step in range(total)]
    assert factors[warmup] == 1.0
    assert all(0 < factor < 1 for factor in factors[:warmup])
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert min(factors) > 0


def test_the_schedule_of_the_tiger_paper() -> None:
    """The peak for the first W steps, then peak * sqrt(W / step); at W the two meet."""
    found = [learning_rate_factor(step, total=200, warmup=10, schedule="inverse-sqrt", shape="constant") for step in range(200)]
    assert found == pytest.approx([(10 / max(step, 10)) ** 0.5 for step in range(200)])
    assert found[:11] == [1.0] * 11 and found[40] == 0.5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_constant_warm_up_changes_nothing_after_it(schedule: Schedule) -> None:
    at = {"total": 60, "warmup": 12, "schedule": schedule}
    constant = [learning_rate_factor(step, **at, shape="constant") for step in range(60)]
    assert constant[:12] == [1.0] * 12
    assert constant[12:] == [learning_rate_factor(step, **at) for step in range(12, 60)]


def test_settings_with_a_linear_warm_up_are_those_of_earlier_versions() -> None:
    assert "warmup" not in as_tree(TrainingConfig())
    assert as_tree(TrainingConfig(warmup="constant"))["warmup"] == "constant"


def test_schedules_end_where_they_say() -> None:
    """The learning rate decays (pitfall: it never does in RQ-VAE-Recommender)."""
    at = {name: learning_rate_factor(1000, total=1000, warmup=100, schedule=name, floor=0.02) for name in SCHEDULES}
    assert at == pytest.approx({"cosine": 0.02, "linear": 0.02, "inverse-sqrt": 100**0.5 / 1000**0.5, "constant": 1.0})
    half = {name: learning_rate_factor(550, total=1000, warmup=100, schedule=name, floor=0.02) for name in SCHEDULES}
    assert half == pytest.approx({"cosine": 0.51, "linear": 0.51, "inverse-sqrt": (100 / 550) ** 0.5, "constant": 1.0})
