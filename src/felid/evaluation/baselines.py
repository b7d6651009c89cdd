"""Popularity and first-order Markov chains: what every model must beat.

Both are fitted on the training part alone and rank the whole catalogue. Equal counts are ordered by popularity, then by
item_index, so the lists are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import Sequences

Indices = NDArray[np.int64]

USERS_PER_BATCH = 4096


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

    @classmethod
    def fit(cls, train: Sequences, num_items: int) -> Popularity:
        """Count the training interactions of each of `num_items` items."""
        return cls(np.argsort(-np.bincount(train.items, minlength=num_items), kind="stable"))

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than `k` items are eligible."""
        return np.concatenate([np.empty((0, k), np.int64), *self._batches(histories, k, exclude_seen)])

    def _batches(self, histories: Sequences, k: int, exclude_seen: bool) -> Iterator[Indices]:
        for batch in _batches(histories):
            no_rows = np.zeros(len(batch), np.int64)
            yield _merge(batch, k, exclude_seen, self.order, (no_rows, no_rows, self.order))


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
        place = np.empty(num_items, np.int64)
        place[popularity.order] = np.arange(num_items)
        best_first = np.lexsort((place[second], -counts, first))
        lengths = np.bincount(first, minlength=num_items)
        return cls(popularity, _offsets(lengths), second[best_first])

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than `k` items are eligible."""
        return np.concatenate([np.empty((0, k), np.int64), *self._batches(histories, k, exclude_seen)])

    def _batches(self, histories: Sequences, k: int, exclude_seen: bool) -> Iterator[Indices]:
        for batch in _batches(histories):
            known = batch.lengths > 0
            last = np.zeros(len(batch), np.int64)
            last[known] = batch.items[batch.offsets[1:][known] - 1]
            lengths = np.where(known, self.offsets[last + 1] - self.offsets[last], 0)
            yield _merge(batch, k, exclude_seen, self.popularity.order, (self.offsets[last], lengths, self.successors))


def _batches(histories: Sequences) -> Iterator[Sequences]:
    for start in range(0, len(histories), USERS_PER_BATCH):
        yield histories.take(np.arange(start, min(start + USERS_PER_BATCH, len(histories))))


def _offsets(lengths: Indices) -> Indices:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)


def _runs(starts: Indices, lengths: Indices) -> Indices:
    """The indices start, start + 1, ... of every run, joined."""
    shift: Indices = starts - (np.cumsum(lengths) - lengths)
    return np.arange(lengths.sum(), dtype=np.int64) + np.repeat(shift, lengths)


def _merge(histories: Sequences, k: int, exclude_seen: bool, popular: Indices, rows: tuple[Indices, Indices, Indices]) -> Indices:
    """First `k` eligible items of "own row, then popular items" of each user.

    Args:
        histories: U users.
        k: length of the lists.
        exclude_seen: leave out the items of the history.
        popular: (N,) all items, best first.
        rows: (U,) start and (U,) length of each user's own candidates in the third array.
    """
    num_items, users = len(popular), np.arange(len(histories))
    seen = np.repeat(users, histories.lengths) * num_items + histories.items if exclude_seen else np.empty(0, np.int64)
    enough = k + (histories.lengths if exclude_seen else np.zeros(len(histories), np.int64))
    starts, lengths, own = rows
    lengths = np.minimum(lengths, enough)
    fill = np.minimum(enough + lengths, num_items)
    owner = np.concatenate((np.repeat(users, lengths), np.repeat(users, fill)))
    items = np.concatenate((own[_runs(starts, lengths)], popular[_runs(np.zeros_like(fill), fill)]))
    by_user = np.argsort(owner, kind="stable")
    key = (owner * num_items + items)[by_user]
    first = np.sort(np.unique(key, return_index=True)[1])
    kept = key[first]
    return _lists(kept[~np.isin(kept, seen)], len(histories), num_items, k)


def _lists(keys: Indices, num_users: int, num_items: int, k: int) -> Indices:
    """(U, k) lists from the keys user * num_items + item, ordered by user and then best first; -1 fills up."""
    owner = keys // num_items
    place = np.arange(len(keys)) - np.searchsorted(owner, owner)
    result = np.full((num_users, k), -1, np.int64)
    within = place < k
    result[owner[within], place[within]] = keys[within] % num_items
    return result
