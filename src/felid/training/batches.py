"""Training examples out of user sequences, and batches of similar length out of examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from felid.data.histories import Sequences
from felid.models.base import Histories


@dataclass(frozen=True)
class Examples:
    """Where each training example lies in the flat item array; every item but a user's first is a target exactly once.

    Attributes:
        sequences: training sequences.
        rows: (R,) user row of each example.
        starts: (R,) place of its first history item in `sequences.items`.
        lengths: (R,) number of history items, at least 1.
        causal: a target after every history item (True) or after the last only (False).
    """

    sequences: Sequences
    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    causal: bool

    @classmethod
    def of(cls, sequences: Sequences, history: int, *, causal: bool) -> Examples:
        """Cut sequences into examples with histories of at most `history` items.

        For causal models a sequence is cut from its end into windows of `history` targets; else every prefix is an
        example of its own (sliding window).
        """
        lengths = sequences.lengths
        counts = np.maximum(lengths - 1, 0) if not causal else np.where(lengths > 1, -(-(lengths - 1) // history), 0)
        rows = np.repeat(np.arange(len(sequences)), counts)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        target = nth + 1 if not causal else lengths[rows] - 1 - nth * history  # place of the example's last target
        first = np.maximum(target - history, 0)
        return cls(sequences, rows, sequences.offsets[rows] + first, target - first, causal)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_targets(self) -> int:
        return int(self.lengths.sum()) if self.causal else len(self.rows)

    def batches(self, batch_targets: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        """Examples of one epoch in batches of about `batch_targets` targets, similar lengths together, all shuffled.

        Lengths are blurred by up to one item before sorting, so that batches differ from epoch to epoch; how many there
        are and how many examples each holds does not.
        """
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self))
        order = order[np.argsort(self.lengths[order] + rng.uniform(-1, 1, len(order)), kind="stable")]
        weights = np.sort(self.lengths) if self.causal else np.ones(len(order), np.int64)
        batch = (np.cumsum(weights) - weights) // batch_targets
        groups = np.split(order, np.flatnonzero(np.diff(batch)) + 1)
        return [groups[i] for i in rng.permutation(len(groups))]

    def collate(self, chosen: NDArray[np.int64], user_tokens: NDArray[np.int64] | None) -> tuple[Histories, Tensor]:
        """The histories of the chosen examples and their targets, in the order the models expect."""
        starts, lengths = self.starts[chosen], self.lengths[chosen]
        flat, step = self.sequences.items, np.arange(lengths.max())
        real = step < lengths[:, None]
        places = np.where(real, starts[:, None] + step, 0)
        items = np.where(real, flat[places], 0)
        targets = flat[(places + 1)[real]] if self.causal else flat[starts + lengths]
        users = None if user_tokens is None else torch.from_numpy(user_tokens[self.rows[chosen]])
        return Histories(torch.from_numpy(items), torch.from_numpy(lengths), users), torch.from_numpy(targets)
