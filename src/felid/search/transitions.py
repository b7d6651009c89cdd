"""Transition memory: which items followed which in the training histories, as evidence beside what a model computes.

A model of a few million parameters forgets pairs of items that it saw once or twice; counting does not. An item gains

    sum over the last items h_1, h_2, ... of the history (h_1 the last):  2 ** (1 - j) * log(1 + c(h_j, item))

where c counts how often the item came 1, 2, ... `window` steps after h_j, a pair s steps apart as 1 / s. It is the first-order
Markov chain of the baselines, with skips, on the scale of logits; how much it counts is chosen on validation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from felid.data.histories import Sequences
from felid.models.base import Histories

WINDOW = 5
"""Steps apart that still count as a transition."""
POSITIONS = 3
"""Last items of a history that are looked up; of what a model reads of it, so fewer where its `history` is shorter."""


@dataclass(frozen=True, eq=False)
class TransitionMemory:
    """Evidence of transitions in rows of items.

    Attributes:
        offsets: (N + 1,) int64; row i is the entries from `offsets[i]` to `offsets[i + 1]`.
        items: int64 item_index of each entry.
        values: float32 log(1 + weighted count) of each entry.
    """

    offsets: Tensor
    items: Tensor
    values: Tensor

    @classmethod
    def of(cls, train: Sequences, num_items: int) -> TransitionMemory:
        """Count the transitions of the training sequences."""
        user = np.repeat(np.arange(len(train)), train.lengths)
        counts = sparse.csr_array((num_items, num_items), dtype=np.float64)
        for step in range(1, WINDOW + 1):
            inside = user[step:] == user[:-step]
            pair = train.items[:-step][inside], train.items[step:][inside]
            once = np.full(len(pair[0]), 1 / step)
            counts = counts + sparse.coo_array((once, pair), shape=counts.shape).tocsr()
        arrays = counts.indptr.astype(np.int64), counts.indices.astype(np.int64), np.log1p(counts.data).astype(np.float32)
        return cls(*(torch.from_numpy(array) for array in arrays))

    def to(self, device: torch.device) -> TransitionMemory:
        """The same memory on another device."""
        return TransitionMemory(self.offsets.to(device), self.items.to(device), self.values.to(device))

    def scores(self, histories: Histories) -> Float[Tensor, "B N"]:
        """What each item gains for each history."""
        batch, num_items = len(histories.items), len(self.offsets) - 1
        gains = torch.zeros(batch * num_items, device=histories.items.device)
        for back in range(POSITIONS):
            users = torch.nonzero(histories.lengths > back)[:, 0]
            rows = histories.items[users, histories.lengths[users] - 1 - back]
            first, count = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
            owner = torch.repeat_interleave(count)
            place = torch.arange(len(owner), device=owner.device) + (first - count.cumsum(0) + count)[owner]
            gains.index_add_(0, users[owner] * num_items + self.items[place], self.values[place], alpha=2.0**-back)
        return gains.view(batch, num_items)
