"""Paired randomisation test between two systems, and Holm's correction where several differences are tested.

If two systems are equally good, it is chance which of a user's two values belongs to which of them. So the sign of each user's
difference is flipped at random, and the p-value is the share of the flips whose mean is at least as far from 0 as the one seen
(Fisher 1935; Smucker, Allan and Carterette 2007 for rankings). Nothing is assumed of how the values are distributed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from felid.errors import RequestError

Values = NDArray[np.float64]

CELLS_PER_CHUNK = 4_000_000
"""Users x flips held in memory at a time (9 bytes a cell)."""
ROUNDING = 1e-11
"""Of the sum of all absolute differences: sums no further apart are equal, as adding in another order parts them that far."""


def randomisation_test(a: Values, b: Values, users: NDArray[np.generic], flips: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of mean(a - b) over the rows of one or several runs.

    All rows of a user flip together: they are no independent evidence. The p-value is (x + 1) / (flips + 1) where x random flips
    are at least as extreme as what was seen, which counts among them; so it is never 0 (Phipson and Smyth 2010).

    It speaks of these trainings on other users of the kind, as the interval of `pooled_difference` does, not of new trainings.
    Where the sides are means over unequally many trainings it is approximate, since such means are not exchangeable.

    Args:
        a: (R,) values of one system.
        b: (R,) values of the other one, row by row of the same user and target.
        users: (R,) id of each row's user.
        flips: number of random flips; no p-value is below 1 / (flips + 1).
        seed: equal seeds give equal flips.

    Raises:
        RequestError: other lengths, no users, or no flips.
    """
    if a.shape != b.shape or a.shape != users.shape:
        raise RequestError(f"got {len(a)} and {len(b)} values of {len(users)} users, expected equally many; pair the rows first")
    if not len(a) or flips < 1:
        raise RequestError(
            f"randomisation of {len(a)} rows with {flips} flips, expected at least one of each; evaluate some users"
        )
    gap = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    sums = np.bincount(np.unique(users, return_inverse=True)[1], gap)
    sums = sums[sums != 0]  # turning 0 round changes nothing
    least = abs(sums.sum()) - ROUNDING * np.abs(sums).sum()
    extreme = sum(int((np.abs(flipped) >= least).sum()) for flipped in _flipped(sums, flips, seed))
    return (extreme + 1) / (flips + 1)


def _flipped(sums: Values, flips: int, seed: int) -> list[Values]:
    """Sums of (U,) values with random signs, in chunks of flips."""
    rng, width = np.random.default_rng(seed), -(-len(sums) // 8)
    chunk = max(1, CELLS_PER_CHUNK // max(len(sums), 1))
    found = []
    for start in range(0, flips, chunk):
        drawn = rng.integers(0, 256, (min(chunk, flips - start), width), np.uint8)
        kept = np.unpackbits(drawn, axis=1, count=len(sums)).astype(np.float64)
        found.append(2 * (kept @ sums) - sums.sum())
    return found


def holm(p_values: Values) -> Values:
    """p-values adjusted for how many there are, in the order given (Holm 1979).

    Claiming all whose adjusted value is below a level makes any false claim at all no more likely than that level, however the
    tests depend on each other.

    Args:
        p_values: (C,) of all comparisons that are shown together.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    steps = np.asarray(p_values, np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
