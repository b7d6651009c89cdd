"""Users' item sequences as flat arrays, and the leave-one-out split of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["validation", "test"]


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

    def take(self, rows: NDArray[np.int64], drop_last: int = 0) -> Sequences:
        """The given users in the given order, each without its last `drop_last` items (at least that many must exist)."""
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


@dataclass(frozen=True)
class LeaveOneOut:
    """Last item = test, last but one = validation, the rest = training.

    Users with fewer than three items have nothing to hold out: all their items train, and they are not evaluated.
    """

    sequences: Sequences

    @property
    def evaluated(self) -> NDArray[np.int64]:
        """(U',) rows of the users with at least three items."""
        return np.flatnonzero(self.sequences.lengths >= 3)

    def train(self) -> Sequences:
        """Training sequences of all users, in the order of `sequences`."""
        s = self.sequences
        held_out = np.where(s.lengths >= 3, 2, 0)
        keep = np.ones(len(s.items), bool)
        ends = s.offsets[1:][held_out > 0]
        keep[ends - 1] = keep[ends - 2] = False
        return Sequences(s.user_ids, np.concatenate(([0], np.cumsum(s.lengths - held_out))).astype(np.int64), s.items[keep])

    def evaluation(self, part: Part) -> EvaluationSet:
        """Histories and targets of the validation or the test part."""
        rows, drop = self.evaluated, 2 if part == "validation" else 1
        targets = self.sequences.items[self.sequences.offsets[1:][rows] - drop]
        return EvaluationSet(self.sequences.take(rows, drop_last=drop), targets)

    def warm_items(self, num_items: int) -> NDArray[np.bool_]:
        """(N,) True for items with at least one training interaction."""
        warm = np.zeros(num_items, bool)
        warm[self.train().items] = True
        return warm
