"""How far two groupings of the same items agree, whatever their groups are called.

Normalised mutual information (arithmetic mean of the entropies) and adjusted mutual information (Vinh, Epps and Bailey,
JMLR 2010), equal to scikit-learn's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Groups = NDArray[np.int64]
"""(N,) number of each item's group, 0..G-1."""


@dataclass(frozen=True)
class Agreement:
    """Mutual information of two groupings: normalised (0..1, rises with the number of groups) and adjusted (0 by chance)."""

    normalized: float
    adjusted: float


def agreement(a: NDArray[np.integer[Any]], b: NDArray[np.integer[Any]]) -> Agreement:
    """Mutual information of two groupings (N,) of the same items, N at least 1."""
    a, b = (np.unique(side, return_inverse=True)[1].reshape(-1).astype(np.int64) for side in (a, b))
    sizes_a, sizes_b = np.bincount(a), np.bincount(b)
    if len(sizes_a) == len(sizes_b) and len(sizes_a) in (1, len(a)):
        return Agreement(1.0, 1.0)  # one group, or every item its own, on both sides
    pairs, counts = np.unique(a * len(sizes_b) + b, return_counts=True)
    expected_counts = sizes_a[pairs // len(sizes_b)] * sizes_b[pairs % len(sizes_b)] / len(a)
    shared = max(float((counts * np.log(counts / expected_counts)).sum() / len(a)), 0.0)
    mean = (_entropy(sizes_a) + _entropy(sizes_b)) / 2
    chance = _expected_information(sizes_a, sizes_b)
    spread = mean - chance
    adjusted = (shared - chance) / (spread if abs(spread) > 1e-12 else float(np.copysign(1e-12, spread)))
    return Agreement(shared / max(mean, 1e-12), adjusted)


def _entropy(sizes: Groups) -> float:
    share = sizes / sizes.sum()
    return float(-(share * np.log(share)).sum())


def _expected_information(sizes_a: Groups, sizes_b: Groups) -> float:
    """Mutual information of random groupings with these sizes (Vinh et al., 2010, equation 24a), equal sizes handled at once."""
    total = int(sizes_a.sum())
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    distinct_b, times_b = np.unique(sizes_b, return_counts=True)
    expected = 0.0
    for a, times in zip(*np.unique(sizes_a, return_counts=True), strict=True):
        low, high = np.maximum(a + distinct_b - total, 1), np.minimum(a, distinct_b)
        lengths = high - low + 1
        b, weight = np.repeat(distinct_b, lengths), np.repeat(times_b, lengths)
        n = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(low, lengths)
        fixed = log_factorial[a] + log_factorial[total - a] - log_factorial[total]
        log_p = fixed + log_factorial[b] + log_factorial[total - b] - log_factorial[n] - log_factorial[a - n]
        log_p -= log_factorial[b - n] + log_factorial[total - a - b + n]
        expected += float(times * (weight * n / total * np.log(total * n / (a * b)) * np.exp(log_p)).sum())
    return expected
