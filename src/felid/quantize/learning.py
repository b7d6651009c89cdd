"""What the trainings of residual quantisers share: how many rows they look at, and the record of an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

START_ROWS = 65_536
"""Rows that a k-means start learns from, or 4 per code of the largest level if that is more."""
CANDIDATES = 4096
"""Rows from which unused codes are replaced, or 2 per code of the largest level if that is more."""


def start_rows(sizes: Sequence[int]) -> int:
    """Most rows that a k-means start of these sizes learns from."""
    return max(START_ROWS, 4 * max(sizes))


def candidate_rows(sizes: Sequence[int]) -> int:
    """Most rows from which unused codes are replaced."""
    return max(CANDIDATES, 2 * max(sizes))


class Usage(NamedTuple):
    """Use of one level's codes.

    Attributes:
        used: codes with at least one item.
        share: used / size.
        perplexity: exp of the entropy in nats; 0 without items.
    """

    used: int
    share: float
    perplexity: float


def usage(counts: Int[Tensor, "K"]) -> Usage:
    """Use of a level's codes, from the number of items of each."""
    used = int((counts > 0).sum())
    share = counts[counts > 0].double() / counts.sum()
    perplexity = float(torch.exp(-(share * share.log()).sum())) if used else 0.0
    return Usage(used, used / len(counts), perplexity)


class CodeCounts:
    """Number of items of each code, added up batch by batch."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.levels = [torch.zeros(size, dtype=torch.int64) for size in sizes]

    def add(self, indices: Sequence[Int[Tensor, "B"]]) -> None:
        """Count a batch, one tensor of codes per level."""
        for counts, codes in zip(self.levels, indices, strict=True):
            counts.add_(torch.bincount(codes.cpu(), minlength=len(counts)))

    def usage(self) -> list[Usage]:
        """Use of each level's codes."""
        return [usage(counts) for counts in self.levels]


class EpochSums:
    """Losses and codes of an epoch, added up batch by batch."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.counts = CodeCounts(sizes)
        self._items = 0
        self._losses: dict[str, float] = {}
        self._levels = torch.zeros(len(sizes), dtype=torch.float64)

    def add(self, losses: Mapping[str, Tensor], level_losses: Float[Tensor, "L"], indices: Sequence[Int[Tensor, "B"]]) -> None:
        """Take in a batch: means over its items, and its codes."""
        items = len(indices[0])
        self._items += items
        for name, value in losses.items():
            self._losses[name] = self._losses.get(name, 0.0) + items * float(value.detach())
        self._levels += items * level_losses.cpu()
        self.counts.add(indices)

    def means(self) -> dict[str, float]:
        """Each loss as a mean over all items so far."""
        return {name: value / self._items for name, value in self._losses.items()}

    def per_level(self) -> dict[str, list[float]]:
        """Per level `level_losses` (means over the items), `utilisation` (share of the codes in use) and `perplexity`."""
        levels = self.counts.usage()
        return {
            "level_losses": (self._levels / self._items).tolist(),
            "utilisation": [level.share for level in levels],
            "perplexity": [level.perplexity for level in levels],
        }
