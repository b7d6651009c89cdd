"""The leave-one-out split: what each part may see."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from felid.data.histories import LeaveOneOut, Sequences

lengths_of_users = st.lists(st.integers(0, 30), min_size=1, max_size=12)


def numbered(lengths: list[int]) -> Sequences:
    """Sequences in which every event has a number of its own, so that events can be told apart."""
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return Sequences(np.arange(len(lengths)), offsets, np.arange(offsets[-1]))


@given(lengths_of_users)
def test_no_event_precedes_its_history(lengths: list[int]) -> None:
    split = LeaveOneOut(numbered(lengths))
    for part in ("validation", "test"):
        held = split.evaluation(part)
        for row, target in enumerate(held.targets):
            assert held.histories[row].max() < target
            assert np.all(np.diff(held.histories[row]) == 1)


@given(lengths_of_users)
def test_training_sequences_hold_neither_target(lengths: list[int]) -> None:
    split = LeaveOneOut(numbered(lengths))
    train = split.train()
    targets = np.concatenate([split.evaluation("validation").targets, split.evaluation("test").targets])
    assert not np.isin(train.items, targets).any()
    assert len(train.items) + len(targets) == sum(lengths)
    assert train.lengths.tolist() == [length - 2 if length >= 3 else length for length in lengths]


@given(lengths_of_users)
def test_test_history_is_validation_history_and_its_target(lengths: list[int]) -> None:
    split = LeaveOneOut(numbered(lengths))
    validation, test = split.evaluation("validation"), split.evaluation("test")
    for row in range(len(test.targets)):
        assert test.histories[row].tolist() == [*validation.histories[row].tolist(), validation.targets[row]]


@given(lengths_of_users)
def test_only_users_with_three_items_are_evaluated(lengths: list[int]) -> None:
    split = LeaveOneOut(numbered(lengths))
    expected = [row for row, length in enumerate(lengths) if length >= 3]
    assert split.evaluated.tolist() == expected
    assert split.evaluation("test").histories.user_ids.tolist() == expected


def test_histories_are_not_cut_before_the_split() -> None:
    split = LeaveOneOut(numbered([75]))
    assert split.evaluation("test").histories.lengths.tolist() == [74]
    assert split.train().lengths.tolist() == [73]


def test_warm_items_come_from_training_only() -> None:
    split = LeaveOneOut(Sequences(np.arange(2), np.array([0, 4, 6]), np.array([3, 1, 0, 2, 5, 5])))
    assert np.flatnonzero(split.warm_items(7)).tolist() == [1, 3, 5]


@given(lengths_of_users)
def test_take_follows_the_given_rows(lengths: list[int]) -> None:
    sequences = numbered(lengths)
    rows = np.random.default_rng(len(lengths)).permutation(len(lengths))
    taken = sequences.take(rows)
    assert taken.user_ids.tolist() == rows.tolist()
    assert all(np.array_equal(taken[new], sequences[old]) for new, old in enumerate(rows))


@given(lengths_of_users)
def test_from_lists_is_the_inverse_of_indexing(lengths: list[int]) -> None:
    sequences = numbered(lengths)
    again = Sequences.from_lists(sequences.user_ids, [sequences[row] for row in range(len(sequences))])
    assert np.array_equal(again.offsets, sequences.offsets)
    assert np.array_equal(again.items, sequences.items)
