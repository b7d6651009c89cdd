"""The real positions of a padded batch, side by side: what acts on single positions need not see padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Which positions of a padded batch are real.

    Attributes:
        batch: B.
        size: S.
        places: (R,) real positions in the flattened (B * S).
    """

    batch: int
    size: int
    places: Int[Tensor, " R"]

    @classmethod
    def of(cls, padding: Float[Tensor, "B 1 1 S"]) -> Packing:
        """From an attention bias that is 0 at real positions and -inf at padding."""
        return cls(len(padding), padding.shape[-1], torch.nonzero(padding.flatten() == 0)[:, 0])

    def pack(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "R D"]:
        """The real positions, row by row."""
        return x.flatten(0, 1).index_select(0, self.places)

    def unpack(self, x: Float[Tensor, "R D"]) -> Float[Tensor, "B S D"]:
        """Back to where they were, zeros at padding."""
        zeros = x.new_zeros(self.batch * self.size, x.shape[-1])
        return zeros.index_copy_(0, self.places, x).view(self.batch, self.size, -1)
