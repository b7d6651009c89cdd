"""Two systems compared on the users of several runs: what `ranks.parquet` of their evaluations says of their difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from felid.data.histories import Group, Part
from felid.errors import RequestError
from felid.evaluation.protocol import PER_USER, Policy
from felid.evaluation.statistics import Difference, pooled_difference

Ranks = tuple[pl.DataFrame, str]
"""Ranks of an evaluation (`Report.ranks`) and the name of the system in it."""


def compare_runs(
    ours: Sequence[Ranks],
    theirs: Sequence[Ranks],
    metric: str = "recall@10",
    *,
    part: Part = "test",
    policy: Policy = "seen_removed",
    group: Group | None = None,
) -> tuple[float, float, Difference]:
    """Compare two systems over pairs of runs, such as one per draw of held-out items or one per training seed.

    Args:
        ours: one system's runs.
        theirs: the other one's, in the same order, on the same data and with the same held-out items.
        metric: `recall`, `ndcg` or `mrr`, @ and the length of the lists, at most that of the evaluation.
        part: users of which part.
        policy: whether seen items were removed.
        group: only users with such a target; None = all.

    Returns:
        Mean of ours, mean of theirs, and their difference; the mean is over the rows of all runs, and users are resampled
        with all their rows.

    Raises:
        RequestError: unequally many runs, runs on other users or targets, an unknown metric, or no user in the group.
    """
    function, k = metric_of(metric)
    if not ours or len(ours) != len(theirs):
        raise RequestError(f"got {len(ours)} runs against {len(theirs)}, expected pairs of runs; give one of each per draw")
    sides = [[_chosen(run, part, policy, group) for run in side] for side in (ours, theirs)]
    keys = ["user_id", "target", "group"]
    for place, (one, other) in enumerate(zip(*sides, strict=True)):
        if not one.select(keys).equals(other.select(keys)):
            raise RequestError(f"the runs of pair {place} have other users, targets or held-out items; evaluate both on the same")
    rows = [pl.concat(side) for side in sides]
    if rows[0].is_empty():
        raise RequestError(f"no user of the {part} part has a {group} target; hold items out (holdout.rule)")
    first, second = (function(frame["rank"].to_numpy(), k) for frame in rows)
    return float(first.mean()), float(second.mean()), pooled_difference(first, second, rows[0]["user_id"].to_numpy())


def metric_of(name: str) -> tuple[Callable[[NDArray[np.int64], int], NDArray[np.float64]], int]:
    """The function of ranks that a name such as `recall@10` stands for, and the length of its lists.

    Raises:
        RequestError: there is no such metric.
    """
    kind, _, length = name.partition("@")
    if kind not in PER_USER or not length.isdecimal() or int(length) < 1:
        raise RequestError(f"metric is {name!r}, expected one of {', '.join(PER_USER)} with a length, such as recall@10")
    return PER_USER[kind], int(length)


def _chosen(run: Ranks, part: Part, policy: Policy, group: Group | None) -> pl.DataFrame:
    ranks, system = run
    if system not in ranks["system"]:
        raise RequestError(f"the ranks hold {', '.join(ranks['system'].unique().sort())}, not {system!r}; name one of them")
    chosen = ranks.filter(system=system, part=part, policy=policy)
    return chosen if group is None else chosen.filter(group=group)
