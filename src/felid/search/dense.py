"""Items by inner product, over the whole catalogue at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from felid.errors import RequestError
from felid.models.base import DenseModel, Histories
from felid.search.beam import Results
from felid.search.top import best


@dataclass(frozen=True, eq=False)
class VectorScores:
    """A dense model and its item vectors.

    Attributes:
        model: in evaluation mode.
        vectors: (N, D) float32, zero where an item has none.
        bias: (N,) float32 added to the logits; -inf for items that may not be recommended.
    """

    model: DenseModel
    vectors: Tensor
    bias: Tensor

    @classmethod
    def of(cls, model: DenseModel, vectors: Float[Tensor, "N D"], bias: Float[Tensor, " N"]) -> VectorScores:
        """Items without a vector (NaN) are never recommended."""
        absent = vectors.isnan().any(1)
        return cls(model, vectors.masked_fill(absent[:, None], 0.0), bias.masked_fill(absent, -torch.inf))

    @torch.inference_mode()
    def log_probs(self, histories: Histories) -> Float[Tensor, "B N"]:
        """Natural log-probability of every item; their exponentials sum to 1 over those that may be recommended.

        Raises:
            RequestError: the model computes something other than numbers.
        """
        logits = torch.addmm(self.bias, checked(self.model.contexts(histories).float(), "contexts"), self.vectors.T)
        return logits if torch.isneginf(self.bias).all() else logits.log_softmax(1)


@torch.inference_mode()
def vectors_of(model: DenseModel) -> Float[Tensor, "N D"]:
    """The item vectors that a model has now, float32; NaN where a cold item has none.

    Raises:
        RequestError: the vector of a warm item is not finite.
    """
    vectors = model.item_vectors().float()
    checked(vectors[torch.from_numpy(model.catalogue.warm).to(vectors.device)], "vectors of warm items")
    return vectors


def checked(values: Tensor, what: str) -> Tensor:
    """The values, all of them finite.

    Raises:
        RequestError: some are not.
    """
    if not torch.isfinite(values).all():
        raise RequestError(
            f"the model's {what} are not finite, so it can rank nothing; its training diverged or its file is damaged: "
            "train again, with a lower learning rate if that was the reason"
        )
    return values


@torch.inference_mode()
def most_probable(log_probs: Float[Tensor, "B N"], seen: Int[Tensor, "B E"] | None, count: int) -> Results:
    """The `count` best items of each row, ties by item_index.

    Args:
        log_probs: natural log-probability of every item; those that are seen are overwritten with -inf.
        seen: item_index that a user must not get, padded on the right with -1; None = none.
        count: items wanted; fewer come back where the catalogue is smaller.
    """
    if seen is not None:
        log_probs.scatter_(1, torch.where(seen < 0, seen[:, :1], seen), -torch.inf)  # a history has at least one item
    places, scores = best(log_probs, count)
    return Results(places.masked_fill(torch.isneginf(scores), -1), scores)
