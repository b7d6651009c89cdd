"""Ranks per user without the ids of the data, and what several trainings say together of each system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from felid.errors import RequestError
from felid.evaluation.protocol import PER_USER, POLICIES
from felid.evaluation.statistics import bootstrap_means

GROUPS = {"test": ("all", "warm", "cold"), "validation": ("all",)}
"""Users whose figures are kept, by part."""
Figures = dict[str, Any]
"""System -> part -> group -> policy -> metric -> mean, low, high and the mean of each run; `num_users` beside the policies."""


def without_ids(ranks: pl.DataFrame) -> pl.DataFrame:
    """A column per system, part and policy and one per part with the users' groups, a row per user, no id of a user or an item.

    Args:
        ranks: as `Report.ranks`.
    """
    columns = {}
    for (system, part, policy), found in ranks.group_by("system", "part", "policy", maintain_order=True):
        columns[f"{part}: group"] = found["group"].alias(f"{part}: group")  # the same users in the same order for every system
        columns[f"{part}: {policy}: {system}"] = found["rank"].cast(pl.UInt16).alias(f"{part}: {policy}: {system}")
    length = max(len(column) for column in columns.values())  # of the part with the most users, who number the rows
    return pl.DataFrame([column.extend_constant(None, length - len(column)) for column in columns.values()])


def write_ranks(ranks: pl.DataFrame, path: Path) -> None:
    """Write `without_ids` into an existing folder."""
    without_ids(ranks).write_parquet(path, compression="zstd", compression_level=19)


def read_ranks(path: Path) -> pl.DataFrame:
    """What `write_ranks` wrote as `felid.evaluation.compare_runs` takes it; users are numbered, targets are not known."""
    table, found = pl.read_parquet(path), []
    for name in table.columns:
        part, _, rest = name.partition(": ")
        policy, _, system = rest.partition(": ")
        if system:
            labels = {"system": system, "part": part, "policy": policy, "target": 0}
            rows = table.select(group=f"{part}: group", rank=pl.col(name).cast(pl.Int64)).with_row_index("user_id")
            found.append(rows.drop_nulls().with_columns(pl.lit(value).alias(label) for label, value in labels.items()))
    return pl.concat(found)


def pooled_figures(
    runs: Sequence[pl.DataFrame], ks: Sequence[int], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Figures:
    """Means and intervals of all systems over the users of one or several runs.

    A mean is over the rows of all runs; the bootstrap draws a user with all rows of the user, so an interval speaks of the choice
    of users, and the means of the runs beside it of the trainings.

    Args:
        runs: ranks of each run, as `Report.ranks` or `read_ranks`; the same users in the same order.
        ks: lengths of the lists.
        level: share of an interval.
        draws: resamples.
        seed: of the bootstrap.

    Raises:
        RequestError: the runs have other users or other systems.
    """
    systems = runs[0]["system"].unique(maintain_order=True).to_list()
    if any(run["system"].unique(maintain_order=True).to_list() != systems for run in runs):
        raise RequestError("the runs hold other systems, expected trainings of one recipe; evaluate them with the same settings")
    found: Figures = {system: {} for system in systems}
    for part, groups in GROUPS.items():
        of_part = [run.filter(part=part) for run in runs]
        if of_part[0].is_empty():
            continue
        cells = [(system, policy) for system in systems for policy in POLICIES]
        for group in groups:
            values, masks = _values(of_part, cells, ks, group)
            if masks.any() and (group == "all" or any((run["group"] == "cold").any() for run in of_part)):
                pooled = _pooled(values, masks, level, draws, seed)
                _put(found, cells, ks, part, group, pooled)
    return found


def _values(
    runs: Sequence[pl.DataFrame], cells: Sequence[tuple[str, str]], ks: Sequence[int], group: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(S, U, M) metrics per run and user, a column for each cell, length and metric, and (S, U) which users are of the group."""
    values, masks, users = [], [], None
    for run in runs:
        frames = [run.filter(system=system, policy=policy) for system, policy in cells]
        here = frames[0]["user_id"].to_list()
        if users not in (None, here) or any(frame["user_id"].to_list() != here for frame in frames[1:]):
            raise RequestError("the runs were evaluated on other users, expected trainings on the same data; record them apart")
        users = here
        ranks = [frame["rank"].to_numpy() for frame in frames]
        values.append(np.stack([metric(rank, k) for rank in ranks for k in ks for metric in PER_USER.values()], axis=1))
        masks.append(np.ones(len(here), bool) if group == "all" else (frames[0]["group"] == group).to_numpy())
    return np.stack(values), np.stack(masks)


def _pooled(
    values: NDArray[np.float64], masks: NDArray[np.bool_], level: float, draws: int, seed: int
) -> Mapping[str, NDArray[np.float64]]:
    """`mean`, `low`, `high` (M,) and `runs` (M, S)."""
    chosen = np.where(masks[:, :, None], values, 0.0)
    counts = masks.sum(axis=0)
    sums = np.concatenate([chosen.sum(axis=0), counts[:, None]], axis=1)[counts > 0]
    means = bootstrap_means(sums, draws, seed)
    low, high = np.quantile(means[:, :-1] / means[:, -1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    of_runs = chosen.sum(axis=1) / np.maximum(masks.sum(axis=1), 1)[:, None]
    total = sums.sum(axis=0)
    return {"mean": total[:-1] / total[-1], "low": low, "high": high, "runs": of_runs.T, "users": np.array([len(sums)])}


def _put(
    found: Figures,
    cells: Sequence[tuple[str, str]],
    ks: Sequence[int],
    part: str,
    group: str,
    pooled: Mapping[str, NDArray[np.float64]],
) -> None:
    """Write the columns of `_pooled` under their names."""
    names = [(system, policy, f"{metric}@{k}") for system, policy in cells for k in ks for metric in PER_USER]
    for column, (system, policy, metric) in enumerate(names):
        ends = {end: round(float(pooled[end][column]), 6) for end in ("mean", "low", "high")}
        cell = {**ends, "runs": [round(float(value), 6) for value in pooled["runs"][column]]}
        of_group = found[system].setdefault(part, {}).setdefault(group, {"num_users": int(pooled["users"][0])})
        of_group.setdefault(policy, {})[metric] = cell
