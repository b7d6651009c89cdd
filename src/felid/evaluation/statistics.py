"""Bootstrap over users: confidence intervals and paired differences.

Users are drawn with replacement and the percentiles of the resampled means are the interval (Efron and Tibshirani 1993,
chapter 13). The interval speaks of the choice of users, not of the training seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from felid.errors import RequestError

Values = NDArray[np.float64]

CELLS_PER_CHUNK = 2_000_000
"""Users x draws held in memory at a time (three arrays of 8 bytes a cell)."""


@dataclass(frozen=True)
class Difference:
    """Mean of a - b over the same users, with its bootstrap interval.

    Attributes:
        mean: mean of a - b.
        low: lower end of the interval.
        high: upper end of the interval.
        level: share of the interval, for example 0.95.
        users: number of users.
    """

    mean: float
    low: float
    high: float
    level: float
    users: int

    def sentence(self, name_a: str, name_b: str, metric: str) -> str:
        """What may be said of the two systems on these users, and nothing beyond."""
        interval = f"{self.level * 100:g} % CI {self.low:+.4f} to {self.high:+.4f}, {self.users:,} users"
        if self.low > 0:
            return f"{metric}: {name_a} is above {name_b} by {self.mean:.4f} ({interval})"
        if self.high < 0:
            return f"{metric}: {name_a} is below {name_b} by {-self.mean:.4f} ({interval})"
        return f"{metric}: no difference between {name_a} and {name_b} can be claimed, {self.mean:+.4f} ({interval})"


def bootstrap_means(values: Values, draws: int = 2000, seed: int = 0) -> Values:
    """Means of resampled users; all columns see the same users in a draw.

    Args:
        values: (U, M) float64, one row per user.
        draws: number of resamples.
        seed: equal seeds give equal draws, whatever M is.

    Returns:
        (draws, M) float64.
    """
    users = len(values)
    if not users or draws < 1:
        raise RequestError(f"bootstrap over {users} users with {draws} draws, expected at least one of each; evaluate some users")
    rng, chunk = np.random.default_rng(seed), max(1, CELLS_PER_CHUNK // users)
    means = np.empty((draws, values.shape[1]))
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        picks = rng.integers(0, users, (rows, users)) + np.arange(rows)[:, None] * users
        counts = np.bincount(picks.ravel(), minlength=rows * users).reshape(rows, users)
        means[start : start + rows] = counts.astype(np.float64) @ values / users
    return means


def intervals(values: Values, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[Values, Values]:
    """Lower and upper ends, each (M,), of the percentile intervals of the column means of (U, M) values."""
    if not 0 < level < 1:
        raise RequestError(f"confidence level is {level}, expected a share between 0 and 1 such as 0.95")
    tail = (1 - level) / 2
    low, high = np.quantile(bootstrap_means(values, draws, seed), [tail, 1 - tail], axis=0)
    return low, high


def bootstrap_ci(values: Values, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of (U,) values."""
    low, high = intervals(np.asarray(values, np.float64)[:, None], level, draws, seed)
    return float(low[0]), float(high[0])


def pooled_difference(
    a: Values, b: Values, users: NDArray[np.generic], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Difference:
    """Interval of mean(a - b) over the rows of several runs, for example over draws of held-out items or training seeds.

    A user may have rows in several runs. Those are no independent evidence, so a user is drawn with all rows of the user.

    Args:
        a: (R,) values of one system.
        b: (R,) values of the other one, row by row of the same run, user and target.
        users: (R,) id of each row's user.
        level: share of the interval.
        draws: number of resamples.
        seed: equal seeds give equal draws.
    """
    if a.shape != b.shape or a.shape != users.shape:
        raise RequestError(f"got {len(a)} and {len(b)} values of {len(users)} users, expected equally many; pair the rows first")
    gap = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    rows = np.unique(users, return_inverse=True)[1]
    sums = np.stack([np.bincount(rows, gap), np.bincount(rows).astype(np.float64)], axis=1)
    means = bootstrap_means(sums, draws, seed)
    low, high = np.quantile(means[:, 0] / means[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(gap.mean()), float(low), float(high), level, len(sums))
