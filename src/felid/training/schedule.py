"""Learning rate over the steps of a training: linear warm-up, then a decay."""

from __future__ import annotations

import math
from typing import Literal, assert_never

Schedule = Literal["cosine", "linear", "inverse-sqrt", "constant"]


def learning_rate_factor(step: int, *, total: int, warmup: int, schedule: Schedule, floor: float = 0.01) -> float:
    """Factor on the peak learning rate at a step.

    Args:
        step: 0-based step, < total.
        total: steps of the whole training.
        warmup: steps of linear warm-up, 0 <= warmup < total; the peak is reached at step `warmup`.
        schedule: shape of the decay; cosine and linear end at `floor`, inverse-sqrt is sqrt(warmup / step).
        floor: smallest factor of the decay.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
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
