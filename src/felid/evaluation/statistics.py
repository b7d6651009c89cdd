"""Bootstrap over users, and over users and trainings: confidence intervals and paired differences.

Users are drawn with replacement and the percentiles of the resampled means are the interval (Efron and Tibshirani 1993,
chapter 13). The interval speaks of the choice of users, not of the training seed; `retrained_difference` has one that speaks of
both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

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

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def interval(self) -> str:
        """`95 % CI +0.0010 to +0.0210`."""
        return f"{self.level * 100:g} % CI {self.low:+.4f} to {self.high:+.4f}"

    def sentence(self, name_a: str, name_b: str, metric: str, *, claimed: bool = True) -> str:
        """What may be said of the two systems on these users, and nothing beyond.

        Args:
            name_a: whose values `a` are.
            name_b: whose values `b` are.
            metric: what was measured.
            claimed: False = a test does not allow the claim that the interval would.
        """
        interval = f"{self.interval}, {self.users:,} users"
        if claimed and self.low > 0:
            return f"{metric}: {name_a} is above {name_b} by {self.mean:.4f} ({interval})"
        if claimed and self.high < 0:
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


def retrained_difference(
    a: Values, b: Values, resampled: tuple[Values, Values], *, paired: bool, level: float = 0.95
) -> Difference:
    """Interval of the mean of a - b that speaks of new trainings on other users: two-way bootstrap of seeds and users.

    Each draw takes users with replacement and, apart from that, seeds with replacement, n - 1 of n, which makes the variance
    between few seeds right (Rao and Wu 1988). The interval is the mean -+ t times the standard deviation of the draws; degrees
    of freedom follow from the share of the variance that lies between the seeds (Welch 1947, Satterthwaite 1946), so that with
    few seeds that differ much the interval is wide, as it must be.

    It errs to the wide side, because a two-way bootstrap counts more than once what varies by user and training together (Owen
    2007): in simulations it holds the truth 95 to 100 of 100 times, with two seeds that differ far more than users do no more
    than 86. It does not speak of other data, settings or held-out items.

    Args:
        a: (S, U) values of one system: a row per training, a column per user. One row alone is taken not to vary.
        b: (S', U) those of the other one, the same users in the same order.
        resampled: (draws, S) and (draws, S') means over resampled users of the rows of `a` and of `b`, the same users in a draw
            (`bootstrap_means` of both together).
        paired: row by row the same seed: differences within a seed are resampled. Else both sides' seeds are drawn apart.
        level: share of the interval.

    Raises:
        RequestError: no side has two rows, or paired sides have unequally many.
    """
    if max(len(a), len(b)) < 2 or (paired and len(a) != len(b)):
        raise RequestError(f"got {len(a)} trainings against {len(b)}, expected two of one at least, of paired ones equally many")
    means, drawn = (a.mean(axis=1), b.mean(axis=1)), resampled
    parts = [(means[0] - means[1], drawn[0] - drawn[1])] if paired else [(means[0], drawn[0]), (-means[1], -drawn[1])]
    rng, total = np.random.default_rng(0), np.zeros(len(drawn[0]))
    between = []
    for of_seed, of_draw in parts:
        n = len(of_seed)
        picks = rng.integers(0, n, (len(total), n - 1)) if n > 1 else np.zeros((len(total), 1), np.int64)
        total += np.take_along_axis(of_draw, picks, axis=1).mean(axis=1)
        between += [(of_seed.var(ddof=1) / n, n - 1)] if n > 1 else []
    variance = max(float(total.var()), sum(part for part, _ in between))
    shares = sum(part**2 / freedom for part, freedom in between)
    half = float(stdtrit(variance**2 / shares if shares else np.inf, (1 + level) / 2)) * variance**0.5
    mean = float(means[0].mean() - means[1].mean())
    return Difference(mean, mean - half, mean + half, level, a.shape[1])
