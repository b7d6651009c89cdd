"""Training examples out of user sequences, and batches of equal length out of examples."""

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
        """Examples of one epoch in batches of about `batch_targets` targets, equal lengths together, all shuffled.

        Nearly all batches of a length have the same number of examples, so that few shapes occur (see `_rounded`): what is
        left over of a length joins the next longer one. How many batches there are is the same in every epoch.
        """
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self))
        lengths, groups, left = self._rounded(self.lengths[order]), [], order[:0]
        for length in np.unique(lengths).tolist():
            pool = np.concatenate((left, order[lengths == length]))
            count = max(1, round(batch_targets / length)) if self.causal else batch_targets
            full = len(pool) - len(pool) % count
            groups += list(pool[:full].reshape(-1, count))
            left = pool[full:]
        groups += [left] if len(left) else []
        return [groups[i] for i in rng.permutation(len(groups))]

    def targets_in(self, chosen: NDArray[np.int64]) -> int:
        """How many targets the chosen examples have."""
        return int(self.lengths[chosen].sum()) if self.causal else len(chosen)

    def _rounded(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lengths to pad to: exact below 16, then rounded up by at most an eighth, and no longer than the longest example.

        A matrix product on a CPU costs several times its own time where it meets a shape for the first time.
        """
        step = 1 << np.maximum(np.frexp(lengths)[1] - 4, 0)
        rounded: NDArray[np.int64] = np.minimum(-(-lengths // step) * step, self.lengths.max(initial=1))
        return rounded

    def collate(self, chosen: NDArray[np.int64], user_tokens: NDArray[np.int64] | None) -> tuple[Histories, Tensor]:
        """The histories of the chosen examples and their targets, in the order the models expect."""
        starts, lengths = self.starts[chosen], self.lengths[chosen]
        flat, step = self.sequences.items, np.arange(self._rounded(lengths).max())
        real = step < lengths[:, None]
        places = np.where(real, starts[:, None] + step, 0)
        items = np.where(real, flat[places], 0)
        targets = flat[(places + 1)[real]] if self.causal else flat[starts + lengths]
        users = None if user_tokens is None else torch.from_numpy(user_tokens[self.rows[chosen]])
        return Histories(torch.from_numpy(items), torch.from_numpy(lengths), users), torch.from_numpy(targets)
