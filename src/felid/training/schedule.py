"""Learning rate over the steps of a training: a warm-up, then a decay."""

from __future__ import annotations

import math
from typing import Literal, assert_never

Schedule = Literal["cosine", "linear", "inverse-sqrt", "constant"]
Warmup = Literal["linear", "constant"]


def learning_rate_factor(
    step: int, *, total: int, warmup: int, schedule: Schedule, shape: Warmup = "linear", floor: float = 0.01
) -> float:
    """Factor on the peak learning rate at a step.

    Under `inverse-sqrt` with a constant warm-up it is sqrt(warmup / max(step, warmup)), TIGER's schedule (Rajput et al. 2023,
    arXiv:2305.05065: .01 for the first 10,000 steps, then inverse square root).

    Args:
        step: 0-based step, < total.
        total: steps of the whole training.
        warmup: steps of warm-up, 0 <= warmup < total; the decay begins at step `warmup`, with the peak.
        schedule: shape of the decay; cosine and linear end at `floor`, inverse-sqrt is sqrt(warmup / step).
        shape: `linear` rises to the peak during the warm-up, `constant` stays at it.
        floor: smallest factor of the decay.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1) if shape == "linear" else 1.0
    share = (step - warmup) / max(1, total - warmup)
    match schedule:
        case "cosine":
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))
        case "linear":
            return floor + (1 - floor) * (1 - share)
        case "inverse-sqrt":
            return math.sqrt(max(warmup, 1) / max(step, 1)) if step > max(warmup, 1) else 1.0
        case "constant":
            return 1.0
        case _:
            assert_never(schedule)
