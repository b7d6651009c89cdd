"""Figures of several runs together, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from felid.data.histories import Group, Part
from felid.evaluation.comparison import Ranks
from felid.evaluation.protocol import PER_USER, Policy
from felid.evaluation.statistics import Difference, pooled_difference


def pooled(
    runs: Sequence[Ranks], metric: str, *, part: Part = "test", policy: Policy = "seen_removed", group: Group | None = None
) -> tuple[Difference, list[float]]:
    """A system's metric over the users of several runs, such as one per seed.

    Returns:
        Mean over the rows of all runs with its interval (users are resampled with all their rows), and the mean of each run.
    """
    frames = [ranks.filter(system=system, part=part, policy=policy) for ranks, system in runs]
    chosen = frames if group is None else [frame.filter(group=group) for frame in frames]
    name, _, length = metric.partition("@")
    values = [PER_USER[name](frame["rank"].to_numpy(), int(length)) for frame in chosen]
    every, users = np.concatenate(values), pl.concat([frame["user_id"] for frame in chosen]).to_numpy()
    return pooled_difference(every, np.zeros_like(every), users), [float(value.mean()) for value in values]


def with_extent(mean: float, values: Sequence[float]) -> str:
    """A mean, and of several values the least and the largest where they differ."""
    return f"{mean:.4f}" if min(values) == max(values) else f"{mean:.4f} ({min(values):.4f}-{max(values):.4f})"


def with_interval(difference: Difference) -> str:
    return f"{difference.mean:.4f} [{difference.low:.4f}, {difference.high:.4f}]"


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as reports have it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
