"""What must never be: targets, held-out items or other users' places in what a system learnt from. Any single one fails."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import EvaluationSet, HeldOut, Part, Sequences
from felid.evaluation.audit.finding import Finding, of_items, of_users, passed
from felid.evaluation.audit.thresholds import SHARE

TARGETS = "targets in training"
HELD_OUT = "held-out items in training"
GROUPS = "cold groups"
USERS = "test users"


def targets_in_training(sequences: Sequences, train: Sequences, parts: Mapping[Part, EvaluationSet]) -> Finding:
    """Whether an interaction from a user's first target on trains, or a target stands in its own history.

    Interactions are told apart by how often the user took the item: an item that the user took before as well may train, but not
    more often than it was taken before the first target.

    Args:
        sequences: all users, all interactions.
        train: the same users, what trains.
        parts: what is evaluated; a history is what came before its target.
    """
    rows = {user: row for row, user in enumerate(sequences.user_ids.tolist())}
    before = sequences.lengths.copy()
    shown = np.zeros(len(sequences), bool)
    for part in parts.values():
        of = np.array([rows[user] for user in part.histories.user_ids.tolist()], np.int64)
        places = part.histories.lengths
        before[of] = np.minimum(before[of], places)
        ends = sequences.offsets[of] + places
        inside = ends < sequences.offsets[of + 1]
        fits = inside & (sequences.items[np.minimum(ends, len(sequences.items) - 1)] == part.targets)
        shown[of[~fits]] = True
        shown[of] |= _more(part.histories, sequences.take(of, sequences.lengths[of] - np.minimum(places, sequences.lengths[of])))
    trained = np.flatnonzero(_more(train, sequences.take(np.arange(len(before)), sequences.lengths - before)))
    seen = np.flatnonzero(shown)
    if not len(trained) and not len(seen):
        count = sum(len(part.targets) for part in parts.values())
        return passed(
            TARGETS, f"none of {count:,} targets, nor anything after a user's first one, trains or stands in its history"
        )
    told = [f"interactions of {of_users(sequences.user_ids[trained])} from the first target on are in training"] * bool(
        len(trained)
    )
    told += [f"the histories of {of_users(sequences.user_ids[seen])} hold the target or what came after it"] * bool(len(seen))
    return Finding(
        TARGETS, "failed", "; ".join(told), "cut each user before the first target (`felid.data.split`) and train again"
    )


def _more(some: Sequences, bound: Sequences) -> NDArray[np.bool_]:
    """(U,) users who have an item more often in `some` than in `bound`; both have the same users."""
    width = int(max(some.items.max(initial=0), bound.items.max(initial=0))) + 1

    def counted(one: Sequences) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        keys, counts = np.unique(np.repeat(np.arange(len(one)), one.lengths) * width + one.items, return_counts=True)
        return keys, counts

    (found, counts), (known, allowed) = counted(some), counted(bound)
    inside, most = np.isin(found, known), np.zeros(len(found), np.int64)
    most[inside] = allowed[np.searchsorted(known, found[inside])]
    result = np.zeros(len(some), bool)
    result[found[counts > most] // width] = True
    return result


def held_out_in_training(
    train: Sequences,
    held_out: HeldOut | None,
    item_ids: NDArray[np.generic],
    known: Mapping[str, NDArray[np.bool_]],
    counts: NDArray[np.int64] | None = None,
) -> Finding:
    """Whether anything that was learnt or counted knows items that have no training interactions, or counts more than these.

    Args:
        train: what trains.
        held_out: the items that must not; None = there are none.
        item_ids: (N,) ids by item_index.
        known: by name of what learnt or counted, (N,) the items that it knows from behaviour.
        counts: (N,) interactions of each item that the system counts; None = not known.
    """
    real = np.bincount(train.items, minlength=len(item_ids))
    faults = {} if held_out is None else {"the training histories": (real > 0) & held_out.either}
    faults |= {name: marks & (real == 0) for name, marks in known.items()}
    told = [f"{name} know {of_items(item_ids[marks])} that must be new" for name, marks in faults.items() if marks.any()]
    if counts is not None and (counts > real).any():
        surplus = counts > real
        more = int((counts - real)[surplus].sum())
        told.append(f"counts hold {more:,} interactions of {of_items(item_ids[surplus])} that the training part does not have")
    if told:
        remedy = "make the run again with one `holdout` and `split` for all stages (`felid run --fresh`)"
        return Finding(HELD_OUT, "failed", "; ".join(told), remedy)
    looked = ", ".join(["the training histories", *known, *(["counts"] if counts is not None else [])])
    number = 0 if held_out is None else int(held_out.either.sum())
    return passed(
        HELD_OUT,
        f"{looked} know none of {int((real == 0).sum()):,} items without training interactions ({number:,} in cold groups)",
    )


def cold_groups(held_out: HeldOut | None, item_ids: NDArray[np.generic]) -> Finding:
    """Whether the cold items that choices are made on and those of the test are different items."""
    if held_out is None:
        return passed(GROUPS, "no items are held out")
    both = held_out.validation & held_out.test
    if both.any():
        text = (
            f"{of_items(item_ids[both])} of {int(held_out.test.sum()):,} cold items of the test are also in the validation group"
        )
        return Finding(GROUPS, "failed", text, "draw two groups that share no item (`holdout`)")
    return passed(
        GROUPS, f"{int(held_out.validation.sum()):,} items for validation and {int(held_out.test.sum()):,} others for the test"
    )


def test_users(sequences: Sequences, evaluated: NDArray[np.bool_], left_out: Mapping[str, int]) -> Finding:
    """Whether all users with a target are evaluated, and not those alone that are easy.

    Args:
        sequences: all users.
        evaluated: (U,) those who are in the test part.
        left_out: how many users the split gives no test target, by what they lack; it is believed.
    """
    total, missing = len(sequences), int((~evaluated).sum()) - sum(left_out.values())
    reasons = ", ".join(f"{count:,} with {reason}" for reason, count in left_out.items())
    text = f"{int(evaluated.sum()):,} of {total:,} users are evaluated"
    text += f"; left out: {reasons}" if reasons else ""
    if missing <= 0:
        return passed(USERS, text)
    share = missing / (int(evaluated.sum()) + missing)
    rows = np.flatnonzero(~evaluated)
    where = rows.mean() / max(total - 1, 1)
    text += f"; {missing:,} others ({share:.1%} of those with a target) are missing without a reason"
    text += f"; not evaluated: {of_users(sequences.user_ids[rows])}, mean place {where:.2f} in the order of users (.5 = all over)"
    remedy = "evaluate all users, or draw some at random: the first of a file are not like the last"
    return Finding(USERS, "failed" if share >= SHARE else "doubtful", text, remedy)
