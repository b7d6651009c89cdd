"""Permutation tests: how large an effect is beyond chance, and how often chance alone makes one as large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from felid.evaluation.audit.thresholds import DRAWS, FEW_DRAWS, LEVEL, SEED

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """A statistic beside what chance gives.

    Attributes:
        observed: the statistic of the data.
        chance: its mean over random draws.
        p: share of the draws (the data among them) that reach `observed`; 1.0 where the effect is below its bar, and no more
            draws were made.
    """

    observed: float
    chance: float
    p: float

    @property
    def is_found(self) -> bool:
        """Whether the effect is above its bar and chance does not explain it."""
        return self.p < LEVEL


def effect(observed: float, draw: Callable[[np.random.Generator], float], is_large: Callable[[float], bool]) -> Effect:
    """Compare a statistic with random draws of it.

    Args:
        observed: of the data; large values speak against chance.
        draw: the statistic of data that differ from these by chance alone.
        is_large: whether the statistic matters, given its mean by chance. Most draws are made only then.

    Returns:
        One-sided p-value (1 + draws that reach `observed`) / (1 + draws), Phipson and Smyth 2010.
    """
    rng = np.random.default_rng(SEED)
    few = [draw(rng) for _ in range(FEW_DRAWS)]
    chance = float(np.mean(few))
    if not is_large(chance):
        return Effect(observed, chance, 1.0)
    draws = np.array(few + [draw(rng) for _ in range(DRAWS - FEW_DRAWS)])
    return Effect(observed, float(draws.mean()), (1 + int((draws >= observed).sum())) / (1 + DRAWS))


def midranks(values: NDArray[np.generic]) -> Floats:
    """(n,) ranks from 0, equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts + 1) / 2)[place]
    return ranks


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's correlation, of ranks Spearman's; 0 where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def rank_effect(a: NDArray[np.generic], b: NDArray[np.generic], bar: float) -> tuple[float, Effect]:
    """Spearman's correlation of two columns, with its sign, and the effect of its size against reordered columns."""
    x, y = midranks(a), midranks(b)
    found = correlation(x, y)
    return found, effect(abs(found), lambda rng: abs(correlation(rng.permutation(x), y)), lambda chance: abs(found) >= bar)
