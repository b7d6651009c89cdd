"""What stands in the data more than once: users, events, moments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import Sequences
from felid.evaluation.audit.finding import Finding, examples, of_users, passed
from felid.evaluation.audit.thresholds import LEVEL, SHARE

USERS = "duplicate users"
EVENTS = "duplicate events"
TIES = "ties at the split"
SHORTEST = 3
"""Items in a history from which on its repetition is counted."""
Floats = NDArray[np.float64]


def duplicate_users(sequences: Sequences) -> Finding:
    """Whether many users have the very same items in the same order: copied accounts, or one person counted several times.

    They are no independent evidence, and intervals that treat them so are too narrow. Chance is what independent draws from the
    popularity of items would give.
    """
    lengths = sequences.lengths
    users = np.flatnonzero(lengths >= SHORTEST)
    seen: dict[bytes, int] = {}
    group = np.array([seen.setdefault(sequences[row].tobytes(), len(seen)) for row in users.tolist()], np.int64)
    counts = np.bincount(group)
    twins = users[counts[group] > 1]
    share, largest = len(twins) / max(len(users), 1), int(counts.max(initial=0))
    pairs = int((counts * (counts - 1) // 2).sum())
    p = _as_many_pairs(sequences, lengths[users], pairs)
    text = f"{len(twins):,} of {len(users):,} users ({share:.2%}) have the history of another user, of {SHORTEST} or more items"
    if not len(twins):
        return passed(USERS, text)
    text += f" ({examples(sequences.user_ids[twins])}; largest group {largest:,})"
    if share >= SHARE and p < LEVEL:
        remedy = "leave one user of each group, or draw whole groups where intervals are made"
        return Finding(USERS, "doubtful", text + f", more than chance gives (p {p:.2g})", remedy)
    return passed(USERS, text)


def _as_many_pairs(sequences: Sequences, lengths: NDArray[np.int64], pairs: int) -> float:
    """Bound on the chance of so many equal pairs among independent histories of these lengths (Markov's inequality)."""
    popularity = np.bincount(sequences.items) / max(len(sequences.items), 1)
    sizes, counts = np.unique(lengths, return_counts=True)
    expected = float((counts * (counts - 1.0) / 2 * float(popularity @ popularity) ** sizes).sum())
    return min(1.0, expected / pairs) if pairs else 1.0


def duplicate_events(sequences: Sequences, places: NDArray[np.int64], times: Floats | None) -> Finding:
    """Whether an event stands twice in the data, worst of all once in the history and once as the target.

    Args:
        sequences: all users.
        places: (U,) place of the test target of each user, -1 = none.
        times: (interactions,) seconds in the order of `sequences`; None = not known: an item right after itself is then all that
            can be seen.
    """
    items, users = sequences.items, np.repeat(np.arange(len(sequences)), sequences.lengths)
    again = np.append(False, (np.diff(items) == 0) & (np.diff(users) == 0))
    twice = np.zeros(len(items), bool) if times is None else _equal_rows(users, items, times)
    rows = np.flatnonzero(places >= 0)
    at = sequences.offsets[rows] + places[rows]
    echoed, copied = rows[again[at]], rows[twice[at]]
    text = f"{again.sum():,} of {len(items):,} interactions repeat the item right before them"
    text += "" if times is None else f", {twice.sum():,} have the user, item and time of another one"
    text += f"; {len(echoed):,} of {len(rows):,} test targets are the last item of the history"
    if len(copied) >= SHARE * max(len(rows), 1):
        text += f"; the targets of {of_users(sequences.user_ids[copied])} are there a second time, with the same time"
        return Finding(EVENTS, "failed", text, "drop repeated rows before the split")
    if len(echoed) >= SHARE * max(len(rows), 1):
        text += f" (users {examples(sequences.user_ids[echoed])})"
        remedy = (
            "drop repeats that are no second choice; else read both policies: such a target is lost where seen items are removed"
        )
        return Finding(EVENTS, "doubtful", text, remedy)
    if max(again.sum(), twice.sum()) >= SHARE * max(len(items), 1):
        return Finding(
            EVENTS, "doubtful", text, "drop repeated rows before the split, or say beside the results that they are real"
        )
    return passed(EVENTS, text)


def _equal_rows(users: NDArray[np.int64], items: NDArray[np.int64], times: Floats) -> NDArray[np.bool_]:
    """(n,) rows that another row equals in all three."""
    order = np.lexsort((times, items, users))
    same = np.ones(len(order) + 1, bool)
    same[[0, -1]] = False
    for column in (users, items, times):
        same[1:-1] &= np.diff(column[order]) == 0
    result = np.empty(len(order), bool)
    result[order] = same[1:] | same[:-1]
    return result


def ties_at_the_split(sequences: Sequences, places: NDArray[np.int64], times: Floats | None, order_rule: str) -> Finding:
    """Whether which item is the target was decided by something else than time.

    An item of the same time stands right before the target, or right after it where a split in time takes the first one.

    Args:
        sequences: all users.
        places: (U, P) place of each target of a user, one column for each part, -1 = none.
        times: (interactions,) seconds in the order of `sequences`; None = not known.
        order_rule: what decides between equal times, in words.
    """
    has = places >= 0
    evaluated = has.any(axis=1)
    if times is None:
        text = f"the data has no times, so ties cannot be seen; the order of a user's items is {order_rule}"
        return Finding(TIES, "doubtful", text, "say beside the results what decided the order; give times, if there are some")
    at = sequences.offsets[:-1, None] + np.maximum(places, 0)
    after = np.minimum(at + 1, len(times) - 1)
    by_earlier = has & (places > 0) & (times[at] == times[np.maximum(at - 1, 0)])
    by_later = has & (at + 1 < sequences.offsets[1:, None]) & (times[at] == times[after])
    users = np.flatnonzero((by_earlier | by_later).any(axis=1))
    total = int(evaluated.sum())
    share = len(users) / max(total, 1)
    text = f"{len(users):,} of {total:,} evaluated users ({share:.1%}) have a target at the time of the item before or after it"
    text += f"; what decides: {order_rule}"
    if share < SHARE:
        return passed(TIES, text)
    last = np.unique(np.concatenate([at[by_earlier], after[by_later]]))
    upward = float((sequences.items[last] > sequences.items[last - 1]).mean())
    text += f"; of two such items that with the larger item_id came last in {upward:.0%} of the cases"
    text += f"; for example users {examples(sequences.user_ids[users])}"
    remedy = "say beside the results what decided; compare only with results under the same order; finer times, if there are some"
    return Finding(TIES, "doubtful", text, remedy)
