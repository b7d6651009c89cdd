"""Warm items with a similar text speak for items without training interactions.

Nothing is trained. For a model that knows items by their interactions alone this is the "SASRec + text-kNN" baseline, which all
that is brought for new items must be measured against; one that reads texts and codes gains from it too, for it has learnt more
of its warm items than their content.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from felid.rows import Vectors, blocks
from felid.search.top import best

BLOCK = 256
"""Cold items looked up at once: their cosines to all warm items are in memory."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The warm items that are nearest to each cold one.

    Attributes:
        cold: (C,) int64 item_index of the cold items that have a text.
        nearest: (C, K) int64 item_index of warm items, those of largest cosine first (ties: smaller item_index).
    """

    cold: Tensor
    nearest: Tensor

    @classmethod
    def of(cls, embeddings: Vectors, warm: NDArray[np.bool_], count: int) -> Neighbours:
        """Look them up.

        Args:
            embeddings: (N, E) float32 text vectors at unit length; an item whose row is zero has no text.
            warm: (N,) items with training interactions.
            count: K; fewer only where fewer warm items have a text.
        """
        assert count >= 1 and len(embeddings) == len(warm)
        has_text = embeddings.any(1)
        known, cold = np.flatnonzero(has_text & warm), np.flatnonzero(has_text & ~warm)
        if not len(known):
            return cls(*(torch.zeros(shape, dtype=torch.long) for shape in (0, (0, 1))))
        table, queries = torch.from_numpy(embeddings[known]), torch.from_numpy(embeddings[cold])
        found = [best(queries[block] @ table.T, count)[0] for block in blocks(len(cold), BLOCK)]
        nearest = torch.from_numpy(known)[torch.cat([torch.zeros(0, min(count, len(known)), dtype=torch.long), *found])]
        return cls(torch.from_numpy(cold), nearest)

    def to(self, device: torch.device) -> Neighbours:
        """The same on another device."""
        return Neighbours(self.cold.to(device), self.nearest.to(device))

    def fill(self, vectors: Float[Tensor, "N D"], *, unit: bool) -> Float[Tensor, "N D"]:
        """Item vectors in which the mean of its neighbours' stands for a cold item's, or where it has one half of it.

        Args:
            vectors: rows of NaN where an item has none.
            unit: bring the new ones to length 1, for vectors that have it: means are shorter, the more the less they agree.
        """
        means, own, filled = vectors[self.nearest].mean(1), vectors[self.cold], vectors.clone()
        new = torch.where(own.isnan(), means, (own + means) / 2)
        filled[self.cold] = torch.nn.functional.normalize(new, dim=1) if unit else new
        return filled

    def share(self, evidence: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """What is known of items by their interactions, with the mean of its neighbours' for each cold one; in place."""
        evidence[:, self.cold] = evidence[:, self.nearest].mean(2)
        return evidence
