"""Popularity and first-order Markov chains: counts of the training part.

Equal counts are ordered by popularity, then by item_index, so the lists are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from felid.data.histories import Sequences
from felid.evaluation.baselines.merging import Indices, merge, user_batches


def counted_baselines(train: Sequences, num_items: int) -> dict[str, Popularity | Markov]:
    """Popularity and first-order Markov chains by the names that evaluations give them."""
    return {"popularity": Popularity.fit(train, num_items), "markov": Markov.fit(train, num_items)}


@dataclass(frozen=True, eq=False)
class Popularity:
    """The items with the most training interactions, the same for everyone.

    Attributes:
        order: (N,) item_index, most popular first; ties by item_index; items without interactions last.
    """

    order: Indices

    @property
    def place(self) -> Indices:
        """(N,) where each item stands in `order`."""
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(self.order))
        return place

    @classmethod
    def fit(cls, train: Sequences, num_items: int) -> Popularity:
        """Count the training interactions of each of `num_items` items."""
        return cls(np.argsort(-np.bincount(train.items, minlength=num_items), kind="stable"))

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than `k` items are eligible."""
        return np.concatenate([np.empty((0, k), np.int64), *self._batches(histories, k, exclude_seen)])

    def _batches(self, histories: Sequences, k: int, exclude_seen: bool) -> Iterator[Indices]:
        for batch in user_batches(histories):
            no_rows = np.zeros(len(batch), np.int64)
            yield merge(batch, k, exclude_seen, self.order, (no_rows, no_rows, self.order))


@dataclass(frozen=True, eq=False)
class Markov:
    """Items that most often followed the last item of the history directly; after them the popular ones.

    Attributes:
        popularity: decides ties and fills the list.
        offsets: (N + 1,) int64; the successors of item i are `successors[offsets[i]:offsets[i + 1]]`.
        successors: item_index, most frequent first, ties by popularity.
    """

    popularity: Popularity
    offsets: Indices
    successors: Indices

    @classmethod
    def fit(cls, train: Sequences, num_items: int) -> Markov:
        """Count the neighbouring pairs within each training sequence."""
        popularity = Popularity.fit(train, num_items)
        inner = np.ones(max(len(train.items) - 1, 0), bool)
        borders = train.offsets[1:-1]
        inner[borders[(borders > 0) & (borders < len(train.items))] - 1] = False
        pairs, counts = np.unique(train.items[:-1][inner] * num_items + train.items[1:][inner], return_counts=True)
        first, second = pairs // num_items, pairs % num_items
        best_first = np.lexsort((popularity.place[second], -counts, first))
        lengths = np.bincount(first, minlength=num_items)
        return cls(popularity, _offsets(lengths), second[best_first])

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than `k` items are eligible."""
        return np.concatenate([np.empty((0, k), np.int64), *self._batches(histories, k, exclude_seen)])

    def _batches(self, histories: Sequences, k: int, exclude_seen: bool) -> Iterator[Indices]:
        for batch in user_batches(histories):
            known = batch.lengths > 0
            last = np.zeros(len(batch), np.int64)
            last[known] = batch.items[batch.offsets[1:][known] - 1]
            lengths = np.where(known, self.offsets[last + 1] - self.offsets[last], 0)
            yield merge(batch, k, exclude_seen, self.popularity.order, (self.offsets[last], lengths, self.successors))


def _offsets(lengths: Indices) -> Indices:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
