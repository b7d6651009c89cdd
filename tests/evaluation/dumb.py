"""The difference of two systems on the same users, one row for each: what pooling must come to."""

from __future__ import annotations

import numpy as np

from felid.evaluation.statistics import Difference, bootstrap_ci


def paired_difference(a: np.ndarray, b: np.ndarray, draws: int = 2000) -> Difference:
    gap = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return Difference(float(gap.mean()), *bootstrap_ci(gap, draws=draws), 0.95, len(gap))
