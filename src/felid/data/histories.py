"""Users' item sequences as flat arrays, and the leave-one-out split of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["validation", "test"]
Group = Literal["warm", "cold", "other"]
"""Of a target: with training interactions; held out of training for its part; neither of them."""


@dataclass(frozen=True)
class Sequences:
    """Item sequences of users, oldest first, in one flat array.

    Attributes:
        user_ids: (U,) ids as the data gives them (int64 or str objects).
        offsets: (U + 1,) int64; user u owns `items[offsets[u]:offsets[u + 1]]`.
        items: (sum of lengths,) int64 item_index.
    """

    user_ids: NDArray[np.generic]
    offsets: NDArray[np.int64]
    items: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(U,) int64 number of items per user."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.user_ids)

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    @classmethod
    def from_lists(cls, user_ids: NDArray[np.generic], rows: list[NDArray[np.int64]]) -> Sequences:
        """Join one int64 array per user."""
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        items = np.concatenate(rows).astype(np.int64) if rows else np.empty(0, np.int64)
        return cls(user_ids, np.concatenate(([0], np.cumsum(lengths))).astype(np.int64), items)

    def padded(self, rows: NDArray[np.int64], limit: int | None, filler: int) -> NDArray[np.int64]:
        """(len(rows), T) the last `limit` items of some rows (all of them for None), left-aligned."""
        lengths = self.lengths[rows] if limit is None else np.minimum(self.lengths[rows], limit)
        step = np.arange(lengths.max())
        places = (self.offsets[rows + 1] - lengths)[:, None] + step
        real = step < lengths[:, None]
        return np.where(real, self.items[np.where(real, places, 0)], filler)

    def where(self, kept: NDArray[np.bool_]) -> Sequences:
        """The same users with only the kept ones of `items`; some may be left with none."""
        kept_before = np.concatenate(([0], np.cumsum(kept))).astype(np.int64)
        return Sequences(self.user_ids, kept_before[self.offsets], self.items[kept])

    def take(self, rows: NDArray[np.int64], drop_last: int | NDArray[np.int64] = 0) -> Sequences:
        """The given users in the given order, each without its last `drop_last` items (at least that many must exist).

        `drop_last` is one number, or (rows,) one for each.
        """
        lengths = self.lengths[rows] - drop_last
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Sequences(self.user_ids[rows], offsets, self.items[np.repeat(self.offsets[rows], lengths) + within])


@dataclass(frozen=True)
class EvaluationSet:
    """One target per user.

    Attributes:
        histories: what the model may see, oldest first; the test history includes the validation item.
        targets: (U,) int64 item_index.
    """

    histories: Sequences
    targets: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Items without any training interaction, in two groups that share none (`felid.data.holdout` chooses them).

    Attributes:
        validation: (N,) bool, the items to make choices on.
        test: (N,) bool, the items to look at once.
        rule: how they were chosen, in words.
    """

    validation: NDArray[np.bool_]
    test: NDArray[np.bool_]
    rule: str

    @property
    def either(self) -> NDArray[np.bool_]:
        """(N,) True for items of either group."""
        return self.validation | self.test


@dataclass(frozen=True, eq=False)
class Cuts:
    """Where each user's items are cut into parts; what comes before a target is its history (`felid.data.split` chooses).

    Attributes:
        train: (U,) int64, so many of the first items train.
        validation: (U,) int64, place of the validation target, from 0; -1 = the user is not validated on.
        test: (U,) int64, the same of the test target.
        rule: how they were chosen, in words.
        left_out: how many users have no test target, by what they lack, in words.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    rule: str
    left_out: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def last_two(cls, lengths: NDArray[np.int64]) -> Cuts:
        """Last item = test, last but one = validation, the rest = training.

        Users with fewer than three items have nothing to hold out: all their items train, and they are not evaluated.
        """
        has = lengths >= 3
        validation, test = (np.where(has, lengths - drop, -1) for drop in (2, 1))
        left_out = {"fewer than three interactions": int((~has).sum())}
        return cls(np.where(has, lengths - 2, lengths), validation, test, "last item = test, last but one = validation", left_out)


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Each user's items cut into a training part, at most one validation target and at most one test target.

    Interactions with items that are held out leave the training part, whose neighbours then follow each other; histories and
    targets of the evaluated parts keep them, since a new item is something that a user may well have taken.

    Attributes:
        sequences: all users.
        held_out: the items to keep out of training; None = there are none.
        cuts: where; None = `Cuts.last_two`.
    """

    sequences: Sequences
    held_out: HeldOut | None = None
    cuts: Cuts | None = None

    @cached_property
    def _cuts(self) -> Cuts:
        return self.cuts or Cuts.last_two(self.sequences.lengths)

    @property
    def evaluated(self) -> NDArray[np.int64]:
        """(U',) rows of the users with a test target."""
        return np.flatnonzero(self._cuts.test >= 0)

    @property
    def left_out(self) -> dict[str, int]:
        """How many users have no test target, by what they lack, in words; reasons without users are not named."""
        return {reason: count for reason, count in self._cuts.left_out.items() if count}

    def train(self) -> Sequences:
        """Training sequences of all users, in the order of `sequences`; some may be empty."""
        s = self.sequences
        place = np.arange(len(s.items)) - np.repeat(s.offsets[:-1], s.lengths)
        keep = place < np.repeat(self._cuts.train, s.lengths)
        if self.held_out is not None:
            keep &= ~self.held_out.either[s.items]
        return s.where(keep)

    def evaluation(self, part: Part) -> EvaluationSet:
        """Histories and targets of the validation or the test part."""
        places = self._cuts.validation if part == "validation" else self._cuts.test
        rows = np.flatnonzero(places >= 0)
        targets = self.sequences.items[self.sequences.offsets[rows] + places[rows]]
        return EvaluationSet(self.sequences.take(rows, drop_last=(self.sequences.lengths - places)[rows]), targets)

    def selection(self) -> EvaluationSet:
        """What choices may be made on: the validation part without targets of the held-out test group."""
        part = self.evaluation("validation")
        if self.held_out is None:
            return part
        rows = np.flatnonzero(~self.held_out.test[part.targets])
        return EvaluationSet(part.histories.take(rows), part.targets[rows])

    def groups(self, part: Part, num_items: int) -> NDArray[np.str_]:
        """(U',) the `Group` of each target of a part, in the order of `evaluation`."""
        targets = self.evaluation(part).targets
        warm, cold = self.warm_items(num_items), np.zeros(num_items, bool)
        if self.held_out is not None:
            cold = self.held_out.validation if part == "validation" else self.held_out.test
        return np.where(warm[targets], "warm", np.where(cold[targets], "cold", "other"))

    def item_counts(self, num_items: int) -> NDArray[np.int64]:
        """(N,) training interactions of each item."""
        return np.bincount(self.train().items, minlength=num_items).astype(np.int64)

    def warm_items(self, num_items: int) -> NDArray[np.bool_]:
        """(N,) True for items with at least one training interaction."""
        return self.item_counts(num_items) > 0
