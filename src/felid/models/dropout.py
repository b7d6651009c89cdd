"""Dropout whose masks cost little on a CPU.

Most of the time of torch's dropout on a CPU goes into drawing one Bernoulli number per element. Here one 64-bit draw of the
same generator decides four elements, by comparing 16 bits with the rate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero each element with probability `rate`, and scale the rest by 1 / (1 - rate).

    On a CPU the probability is rounded to a multiple of 2**-16 below 1.
    """
    if x.device.type != "cpu" or not 0 < rate < 1:
        return F.dropout(x, rate)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    lanes, kept = draws.view(torch.int16)[: x.numel()].view(x.shape), torch.empty_like(x)
    torch.ge(
        lanes, min(round(rate * 2**16), 2**16 - 1) - 2**15, out=kept
    )  # 0 or 1 as numbers: turning booleans into numbers is slow
    return x * kept.mul_(1 / (1 - rate))


class Dropout(nn.Module):
    """`dropout` in training mode, nothing in evaluation mode."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate) if self.training and self.rate else x

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
