"""The dense head: a history's context vector against item vectors, and the softmax loss over items.

Logits are inner products, or cosines over a temperature as in LIGER (Yang et al. 2024, arXiv:2411.18814).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from felid.config import Config
from felid.errors import DataError
from felid.models.base import Histories
from felid.models.items import ItemVectors
from felid.models.softmax import Negatives, full_softmax_loss, sampled_softmax_loss


class DenseConfig(Config):
    """Settings of a `DenseHead`."""

    similarity: Literal["dot", "cosine"] = "dot"
    """How a context and an item vector make a logit: their inner product, or their cosine over `temperature`."""
    temperature: float = Field(default=0.07, gt=0)
    """What cosines are divided by."""
    softmax: Literal["full", "sampled"] = "full"
    """What the training loss runs over: all warm items, or a sample of them for catalogues that are too large for that."""
    negatives: int = Field(default=1024, ge=1)
    """Items drawn in each step for `sampled`, shared by the targets of the batch."""


@dataclass(frozen=True)
class StepItems:
    """The items whose vectors a training step needs, and where it finds them.

    Attributes:
        rows: (R,) item_index, each once; None for all warm items in the order of `ItemVectors.warm_rows`.
        history: (B, T) place of each history item among them, that of the row's first item at padding.
        targets: (M,) place of each target.
        negatives: for the sampled softmax, their places.
    """

    rows: Tensor | None
    history: Tensor
    targets: Tensor
    negatives: Negatives | None = None

    @classmethod
    def of(
        cls,
        items: ItemVectors,
        histories: Histories,
        targets: Int[Tensor, " M"],
        counts: Float[Tensor, " N"],
        config: DenseConfig | None,
    ) -> StepItems:
        """What a model with a dense head of this config needs; None = only histories are read.

        Raises:
            DataError: a target or an item of a history is cold.
        """
        _check_warm(items, histories, targets)
        history = torch.where(histories.real, histories.items, histories.items[:, :1])
        if config is not None and config.softmax == "full":
            return cls(None, items.place[history], items.place[targets])
        negatives = None if config is None else Negatives.draw(counts, config.negatives)
        needed = [history.flatten(), targets, *([] if negatives is None else [negatives.items])]
        rows, inverse = torch.unique(torch.cat(needed), return_inverse=True)
        places = inverse.split([len(part) for part in needed])
        if negatives is not None:
            negatives = replace(negatives, items=places[2])
        return cls(rows, places[0].view_as(history), places[1], negatives)


def _check_warm(items: ItemVectors, histories: Histories, targets: Tensor) -> None:
    met = torch.cat((histories.items[histories.real], targets))
    cold = met[items.place[met] >= items.num_warm]
    if len(cold):
        raise DataError(
            f"a training step holds item {int(cold[0])}, which the catalogue marks as cold; leave cold items out of histories "
            "and targets, or mark it as warm"
        )


class DenseHead(nn.Module):
    """Contexts, item vectors and the loss between them."""

    def __init__(self, config: DenseConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(width, width)

    def contexts(self, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Encoder states to contexts whose inner products with `vectors` are logits, float32."""
        contexts: Tensor = self.project(states).float()
        return contexts if self.config.similarity == "dot" else F.normalize(contexts, dim=-1) / self.config.temperature

    def vectors(self, items: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        """Item vectors that contexts are held against, float32."""
        return items.float() if self.config.similarity == "dot" else F.normalize(items.float(), dim=-1)

    def loss(
        self,
        contexts: Float[Tensor, "M D"],
        vectors: Float[Tensor, "R D"],
        step: StepItems,
        smoothing: float,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Cross-entropy of the targets, summed: the loss to minimise (smoothed), and without smoothing."""
        if step.negatives is None:
            return full_softmax_loss(contexts, vectors, step.targets, smoothing)
        return sampled_softmax_loss(contexts, vectors, step.targets, step.negatives, smoothing)
