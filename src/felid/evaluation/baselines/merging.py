"""Lists of items for many users at once, out of candidates that are in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import Sequences

Indices = NDArray[np.int64]

USERS_PER_BATCH = 4096


def user_batches(histories: Sequences, size: int = USERS_PER_BATCH) -> Iterator[Sequences]:
    """The users in order, at most `size` at a time."""
    for start in range(0, len(histories), size):
        yield histories.take(np.arange(start, min(start + size, len(histories))))


def merge(histories: Sequences, k: int, exclude_seen: bool, popular: Indices, rows: tuple[Indices, Indices, Indices]) -> Indices:
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


def _runs(starts: Indices, lengths: Indices) -> Indices:
    """The indices start, start + 1, ... of every run, joined."""
    shift: Indices = starts - (np.cumsum(lengths) - lengths)
    return np.arange(lengths.sum(), dtype=np.int64) + np.repeat(shift, lengths)
