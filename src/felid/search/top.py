"""The largest of many scores, with ties in favour of the earlier place: `torch.topk` promises no order among equals."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def largest(scores: Float[Tensor, "B C"], width: int) -> tuple[Int[Tensor, "B W"], Float[Tensor, "B W"]]:
    """Places and scores of the `width` largest scores of each row in ascending place; of equals the first ones.

    W is `width`, or C where that is smaller.
    """
    if width >= scores.shape[1]:
        return torch.arange(scores.shape[1], device=scores.device).expand(scores.shape), scores
    values, indices = scores.topk(width + 1, dim=1)
    places = indices[:, :width].sort(dim=1).values
    tied = torch.nonzero(values[:, width - 1] == values[:, width])[:, 0]  # which of the equals are in is chance
    if len(tied):
        places[tied] = _first_of_equals(scores[tied], values[tied, width - 1 : width], width)
    return places, scores.gather(1, places)


def best(scores: Float[Tensor, "B C"], width: int) -> tuple[Int[Tensor, "B W"], Float[Tensor, "B W"]]:
    """Places and scores of the `width` largest scores of each row, best first; of equals the first ones, first ones first."""
    places, found = largest(scores, width)
    order = found.sort(dim=1, descending=True, stable=True).indices
    return places.gather(1, order), found.gather(1, order)


def _first_of_equals(scores: Float[Tensor, "R C"], least: Float[Tensor, "R 1"], width: int) -> Int[Tensor, "R W"]:
    """Places of the scores above `least` and of as many first ones equal to it as there is room for."""
    above, equal = scores > least, scores == least
    room = width - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1) <= room))
    return torch.nonzero(chosen)[:, 1].view(-1, width)
