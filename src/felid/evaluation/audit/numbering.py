"""Ids that say more than who or which: users numbered by their target, items numbered by time, popularity or company."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import EvaluationSet, Sequences
from felid.evaluation.audit.chance import Effect, correlation, effect, midranks, rank_effect
from felid.evaluation.audit.finding import Finding, passed
from felid.evaluation.audit.thresholds import BLOCK, CORRELATION, FEWER_USERS, LIFT, MOST_USERS, SEED, SHARE

USERS = "user ids"
ITEMS = "item ids"
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Choices:
    """Users in the order of their ids, each with the items of the history and, last, the target.

    Attributes:
        ids: (U,) user ids.
        numbers: (U,) the number in each id; None where ids have none.
        taken: the items.
    """

    ids: NDArray[np.generic]
    numbers: Indices | None
    taken: Sequences

    @classmethod
    def of(cls, part: EvaluationSet) -> _Choices:
        rows = _sample(len(part.targets))
        held, targets = part.histories.take(rows), part.targets[rows]
        items = np.insert(held.items, held.offsets[1:], targets)
        numbers = _numbers(held.user_ids)
        order = np.arange(len(rows)) if numbers is None else np.argsort(numbers, kind="stable")
        taken = Sequences(held.user_ids, held.offsets + np.arange(len(rows) + 1), items).take(order)
        return cls(taken.user_ids, None if numbers is None else numbers[order], taken)

    @property
    def targets(self) -> Indices:
        """(U,) where in `taken.items` each user's target stands."""
        return self.taken.offsets[1:] - 1

    def any_item(self, rng: np.random.Generator) -> Indices:
        """(U,) where an item of each user stands, drawn at random, the target among them."""
        return self.taken.offsets[:-1] + (rng.random(len(self.ids)) * self.taken.lengths).astype(np.int64)


def user_ids(test: EvaluationSet, item_ids: NDArray[np.generic]) -> Finding:
    """Whether ids of users say more of their targets than of the other items that the same users took.

    Ids that go with taste or time alone, such as those in the order of a first visit, tell as much of any of the user's items,
    which the history gives away in any case. So chance here is another item of the same user in place of the target. Four
    statistics: the target's id stands in the user's, whatever the case; users in the order of their ids have targets in the order
    of theirs (Spearman); neighbouring users have the same target; the last number in the user's id less the target's, modulo the
    catalogue, is the same.

    Args:
        test: histories and targets.
        item_ids: (N,) ids by item_index.
    """
    if not len(test.targets):
        return passed(USERS, "nobody is evaluated")
    people = _Choices.of(test)
    found = {name: _told(people, statistic, bar) for name, statistic, bar in _statistics(people, item_ids)}
    text = "; ".join(f"{name} {one.observed:.3f} (another item of the user: {one.chance:.3f})" for name, one in found.items())
    loud = [name for name, one in found.items() if one.is_found]
    if not loud:
        return passed(USERS, f"they tell no more of the target than of the user's other items: {text}")
    heard = ", ".join(f"{name} (p {found[name].p:.2g})" for name in loud)
    user, target = people.ids[:1].tolist()[0], item_ids[people.taken.items[people.targets[:1]]].tolist()[0]
    text = f"they tell of the target by {heard}: {text}; for example user {user!r} and target {target!r}"
    remedy = (
        "give the users new ids, drawn at random, and train again; a model that reads user ids (`model.user_buckets`) can learn "
        "the answers from them"
    )
    return Finding(USERS, "doubtful" if loud == ["order"] else "failed", text, remedy)


def _statistics(people: _Choices, item_ids: NDArray[np.generic]) -> list[tuple[str, Callable[[Indices], float], float]]:
    """Name, statistic of the chosen items (places in `taken.items`), and by how much it must exceed chance."""
    taken, size = people.taken.items, len(item_ids)
    owners = np.repeat(np.arange(len(people.ids)), people.taken.lengths).tolist()
    names, texts = ([str(one).casefold() for one in ids.tolist()] for ids in (item_ids, people.ids))
    within = np.array([names[item] in texts[user] for user, item in zip(owners, taken.tolist(), strict=True)], bool)
    order, rank = np.arange(len(people.ids), dtype=np.float64), midranks(taken)
    found: list[tuple[str, Callable[[Indices], float], float]] = [
        ("text", lambda chosen: float(within[chosen].mean()), SHARE),
        ("order", lambda chosen: abs(correlation(order, rank[chosen])), CORRELATION),
        ("neighbours", lambda chosen: float((np.diff(taken[chosen]) == 0).mean()) if len(chosen) > 1 else 0.0, SHARE),
    ]
    if (numbers := _last_numbers(people.ids)) is not None:
        found.append(
            ("remainder", lambda chosen: float(np.bincount((numbers - taken[chosen]) % size).max() / len(chosen)), SHARE)
        )
    return found


def _told(people: _Choices, statistic: Callable[[Indices], float], bar: float) -> Effect:
    observed = statistic(people.targets)
    return effect(observed, lambda rng: statistic(people.any_item(rng)), lambda chance: observed - chance >= bar)


def _sample(num_users: int, most: int = MOST_USERS) -> Indices:
    """Rows of the users to look at: all, or blocks of neighbouring ones."""
    if num_users <= most:
        return np.arange(num_users)
    starts = np.arange(0, num_users - BLOCK + 1, BLOCK)
    chosen = np.sort(np.random.default_rng(SEED).choice(starts, most // BLOCK, replace=False))
    return (chosen[:, None] + np.arange(BLOCK)).ravel()


def _numbers(ids: NDArray[np.generic]) -> Indices | None:
    """(U,) ids that are integers, or the number at the end of ids that are otherwise the same word, such as "user_12"."""
    if ids.dtype.kind == "i":
        return ids.astype(np.int64)
    parts = [re.fullmatch(r"(\D*)(\d{1,18})", str(one)) for one in ids.tolist()]
    if not parts or any(part is None for part in parts) or len({part[1] for part in parts if part}) > 1:
        return None
    return np.array([int(part[2]) for part in parts if part], np.int64)


def _last_numbers(ids: NDArray[np.generic]) -> Indices | None:
    """(U,) ids that are integers, or the last number in each id; None where some id has none."""
    if ids.dtype.kind == "i":
        return ids.astype(np.int64)
    parts = [re.search(r"(\d{1,18})\D*$", str(one)) for one in ids.tolist()]
    numbers = [int(part[1]) for part in parts if part]
    return np.array(numbers, np.int64) if parts and len(numbers) == len(parts) else None


def item_ids(sequences: Sequences, test: EvaluationSet, num_items: int, first_seen: Floats | None) -> Finding:
    """Whether the order of the catalogue, which is that of item ids, goes with time, popularity or company, or tells targets.

    Items that were numbered as they first appear in users' sequences tell some targets exactly: it is the item after the largest
    of the history. To models that read no ids this is no leak by itself, but item_index decides between equal scores, between
    items with the same codes and between equally popular items, and an order that knows of interactions lets these decisions
    know of them, of those of the test part as well.
    Chance is the same catalogue in another order.

    Args:
        sequences: all users, all interactions.
        test: histories and targets.
        num_items: size of the catalogue.
        first_seen: (N,) when each item was first taken, NaN for never; None = not known.
    """
    counts = np.bincount(sequences.items, minlength=num_items)
    taken = np.flatnonzero(counts)
    if len(taken) < 3:
        return passed(ITEMS, f"{len(taken)} items were taken, too few to have an order")
    lengths = np.repeat(sequences.lengths, sequences.lengths)
    place = (np.arange(len(sequences.items)) - np.repeat(sequences.offsets[:-1], sequences.lengths)) / np.maximum(lengths - 1, 1)
    columns = {
        "popularity": counts[taken],
        "place in histories": np.bincount(sequences.items, place, num_items)[taken] / counts[taken],
    }
    if first_seen is not None:
        columns = {"first time": first_seen[taken], **columns}
    ranks = {name: rank_effect(taken, column, CORRELATION) for name, column in columns.items()}
    company, following = _company(sequences, num_items), _next_number(test, num_items)
    told = [f"rank correlation with {name} {found:+.2f}" for name, (found, _) in ranks.items()]
    told.append(f"neighbouring ids stand in one history {company.observed:.1f} times as often as by chance")
    told.append(
        f"{following.observed:.1%} of the targets are the item after the largest of the history (chance {following.chance:.1%})"
    )
    loud = [name for name, (_, one) in ranks.items() if one.is_found]
    loud += ["company"] * company.is_found + ["next number"] * following.is_found
    text = "; ".join(told)
    if not loud:
        return passed(ITEMS, f"their order says little: {text}")
    remedy = (
        "give items new ids in a random order and see whether the results move, or say so beside them: item_index decides "
        "between equal scores, equal codes and equally popular items, and a system that reads ids learns their order"
    )
    return Finding(ITEMS, "doubtful", f"their order goes with {', '.join(loud)}: {text}", remedy)


def _company(sequences: Sequences, num_items: int) -> Effect:
    """How often the items i and i + 1 stand in one history, as a multiple of what a random order of the catalogue gives.

    Random orders are tried on some of the users only, where they scatter more, so that the p-value is too large if anything.
    """
    found, some = _Lift.of(sequences, num_items), _Lift.of(sequences.take(_sample(len(sequences), FEWER_USERS)), num_items)
    if some.expected == 0:
        return Effect(0.0, 0.0, 1.0)
    observed = found(np.arange(num_items))
    return effect(observed, lambda rng: some(rng.permutation(num_items)), lambda chance: observed >= LIFT)


@dataclass(frozen=True, eq=False)
class _Lift:
    """Which items stand in one history: one entry for each user and different item.

    Attributes:
        owners: user times (N + 1), so that sums with items sort by user and then by item.
        items: the items.
        expected: pairs of items of one user that are neighbours, in the mean over all orders of the catalogue.
    """

    owners: Indices
    items: Indices
    expected: float

    @classmethod
    def of(cls, sequences: Sequences, num_items: int) -> _Lift:
        width = num_items + 1
        keys = np.unique(np.repeat(np.arange(len(sequences)), sequences.lengths) * width + sequences.items)
        sizes = np.bincount(keys // width).astype(np.float64)
        return cls(keys // width * width, keys % width, float((sizes * (sizes - 1)).sum()) / num_items)

    def __call__(self, order: Indices) -> float:
        """Neighbouring pairs as a multiple of `expected`, where item i has the number `order[i]`."""
        return float((np.diff(np.sort(self.owners + order[self.items])) == 1).sum()) / self.expected


def _next_number(test: EvaluationSet, num_items: int) -> Effect:
    """Share of the users whose target follows the largest item of the history directly in the catalogue."""
    rows = np.flatnonzero(test.histories.lengths > 0)
    held, targets = test.histories.take(rows), test.targets[rows]
    if not len(rows):
        return Effect(0.0, 0.0, 1.0)

    def share(order: Indices) -> float:
        return float((np.maximum.reduceat(order[held.items], held.offsets[:-1]) + 1 == order[targets]).mean())

    observed = share(np.arange(num_items))
    return effect(observed, lambda rng: share(rng.permutation(num_items)), lambda chance: observed - chance >= SHARE)
