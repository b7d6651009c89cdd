"""The users of the test part cut into groups: for whom, and for which targets, a system is good.

A *slice* is one way to cut. Each group has its own bootstrap over its own users, all systems on the same draws; groups of few
users have wide intervals, and differences between groups are no differences between systems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.data.holdout import first_seen
from felid.evaluation.protocol import Evaluation, EvaluationConfig
from felid.evaluation.statistics import intervals

Indices = NDArray[np.int64]
POPULARITY = ("head", "mid", "tail", "cold")
HISTORY_LENGTHS = (1, 5, 10, 20, 50, 100)
"""Shortest history of each group, in items."""
AGES = {"under a day": 0, "1 day to 1 week": 1, "1 week to 1 month": 7, "1 month to 3 months": 30, "3 months to 1 year": 90}
AGES |= {"1 year or more": 365}
"""Least age of an item in each group, in days."""
DAY_SECONDS = 86_400
LONGEST = 10
"""The largest k of at most this is reported, and the largest of all."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One way to cut the users.

    Attributes:
        groups: each group's name and what it means.
        of_user: (U,) int64 place of each user's group in `groups`.
    """

    groups: Sequence[tuple[str, str]]
    of_user: Indices

    def __post_init__(self) -> None:
        inside = (self.of_user >= 0) & (self.of_user < len(self.groups))
        assert inside.all(), f"{(~inside).sum()} users are in no group of {[name for name, _ in self.groups]}"


def by_popularity(targets: Indices, counts: Indices) -> Slice:
    """By the training interactions of the target: thirds of all training interactions, cold items apart.

    An item is `head` if the items with more training interactions than it hold less than a third of all of them, `mid` if less
    than two thirds, else `tail`. Items with equally many are thus in one group, whatever their ids are.

    Args:
        targets: (U,) item_index.
        counts: (N,) training interactions.
    """
    groups = popularity_groups(counts)
    meanings = [
        "no training interactions" if name == "cold" else _range(counts[groups == i]) for i, name in enumerate(POPULARITY)
    ]
    return Slice(list(zip(POPULARITY, meanings, strict=True)), groups[targets])


def popularity_groups(counts: Indices) -> Indices:
    """(N,) place of each item's group in `POPULARITY`."""
    ascending = np.sort(counts)
    up_to = np.concatenate(([0], np.cumsum(ascending)))
    above = up_to[-1] - up_to[np.searchsorted(ascending, counts, side="right")]
    thirds = 3 * above // max(int(up_to[-1]), 1)
    return np.where(counts > 0, thirds, len(POPULARITY) - 1).astype(np.int64)


def by_history_length(lengths: Indices) -> Slice:
    """By the number of items in the history, all of them, also those that a model does not read; (U,) at least 1."""
    ends = (*(start - 1 for start in HISTORY_LENGTHS[1:]), None)
    names = [f"{start}+" if end is None else f"{start}-{end}" for start, end in zip(HISTORY_LENGTHS, ends, strict=True)]
    return Slice([(name, "items in the history") for name in names], _bins(lengths, HISTORY_LENGTHS))


def by_age(ages: NDArray[np.float64]) -> Slice:
    """By the seconds, (U,), between the first interaction that anyone had with the target and the user's own."""
    named = [(name, "since the item's first interaction") for name in AGES]
    return Slice(named, _bins(ages / DAY_SECONDS, tuple(AGES.values())))


def by_warmth(groups: NDArray[np.str_]) -> Slice:
    """By whether the target has training interactions; (U,) as `LeaveOneOut.groups` gives them."""
    meanings = {
        "warm": "target with training interactions",
        "cold": "target held out of training for the test",
        "other": "target without training interactions that is not held out for the test",
    }
    return Slice(list(meanings.items()), np.array([list(meanings).index(name) for name in groups.tolist()], np.int64))


def target_ages(dataset: Dataset, split: LeaveOneOut) -> NDArray[np.float64] | None:
    """(U,) seconds from the first interaction with each test target to the one to predict; None for data without timestamps."""
    first = first_seen(dataset)
    if first is None:
        return None
    part, times = split.evaluation("test"), dataset.interactions["timestamp"].to_numpy().astype(np.float64)
    places = split.sequences.offsets[split.evaluated] + part.histories.lengths
    ages: NDArray[np.float64] = times[places] - first[part.targets]
    return ages


def measure(
    slices: Mapping[str, Slice], results: Mapping[str, Evaluation], config: EvaluationConfig
) -> dict[str, list[dict[str, Any]]]:
    """`slices` of `metrics.json`: the metrics of each system, with intervals, on each group that has users.

    A slice that puts all users into one group says nothing new and is left out.

    Args:
        slices: by name.
        results: of each system, on the same users.
        config: the bootstrap.
    """
    columns = {name: _columns(result) for name, result in results.items()}
    return {name: _groups(one, columns, config) for name, one in slices.items() if len(np.unique(one.of_user)) > 1}


def _groups(
    one: Slice, columns: Mapping[str, Mapping[str, NDArray[np.float64]]], config: EvaluationConfig
) -> list[dict[str, Any]]:
    entries = []
    for place, (group, meaning) in enumerate(one.groups):
        users = one.of_user == place
        if not users.any():
            continue
        values = np.stack([column[users] for found in columns.values() for column in found.values()], axis=1)
        low, high = intervals(values, config.level, config.bootstrap, config.seed)
        cells = iter(zip(values.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True))
        systems = {
            system: {metric: dict(zip(("value", "low", "high"), next(cells), strict=True)) for metric in found}
            for system, found in columns.items()
        }
        entries.append({"group": group, "meaning": meaning, "num_users": int(users.sum()), "systems": systems})
    return entries


def _columns(result: Evaluation) -> dict[str, NDArray[np.float64]]:
    """(U,) values of each metric at the lengths that are reported."""
    short = [k for k in result.ks if k <= LONGEST]
    ends = tuple(f"@{k}" for k in {short[-1] if short else result.ks[0], result.ks[-1]})
    return {name: values for name, values in zip(result.names, result.per_user().T, strict=True) if name.endswith(ends)}


def _bins(values: NDArray[np.float64] | Indices, starts: Sequence[int]) -> Indices:
    return np.searchsorted(np.asarray(starts), values, side="right").astype(np.int64) - 1


def _range(counts: Indices) -> str:
    if not len(counts):
        return "no item"
    return f"{len(counts):,} items with {counts.min():,} to {counts.max():,} training interactions"
