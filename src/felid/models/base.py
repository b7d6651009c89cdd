"""What every model shares: its inputs, what it is told of the items, its losses, and how it is saved.

A model ranks items in one or both of two ways. A *generative* model (`felid.models.generative`) gives the likelihood of an
item's codes; a *dense* model gives a vector per item and one per history, whose inner product is the item's logit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from felid.config import Config
from felid.models.torch_trie import TorchTrie
from felid.semantic_ids import SemanticIds

M = TypeVar("M", bound="Model")
Mode = Literal["generative", "dense", "fused", "hybrid"]
"""How items are ranked: by the likelihood of their codes, by inner product, by all heads and counted transitions together, or
generated ones and all cold ones by inner product."""


@dataclass(frozen=True)
class Histories:
    """A batch of histories.

    Attributes:
        items: (B, T) item_index, oldest first, padded on the right with 0.
        lengths: (B,) how many of them are real, at least 1.
        users: (B,) user tokens, or None for users that are not known and models that read none.
    """

    items: Tensor
    lengths: Tensor
    users: Tensor | None = None

    def to(self, device: torch.device) -> Histories:
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = value.to(device) if isinstance(value, Tensor) else value
        return Histories(**moved)

    @property
    def real(self) -> Tensor:
        """(B, T) True at real positions."""
        return torch.arange(self.items.shape[1], device=self.items.device)[None, :] < self.lengths[:, None]

    def last(self, states: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """What stands at the last real position of each row."""
        return states[torch.arange(len(states), device=states.device), self.lengths - 1]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What a model is told of the items, row = item_index.

    Attributes:
        embeddings: (N, E) float32 item vectors from text.
        warm: (N,) bool, the items with training interactions: no other has a vector of its own.
        ids: semantic IDs; None for models that read none.
        counts: (N,) int64 training interactions, for models that weigh own vectors by them; None = not known.
    """

    embeddings: NDArray[np.float32]
    warm: NDArray[np.bool_]
    ids: SemanticIds | None = None
    counts: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class TrainingItems:
    """The items that losses are taken over: those of the training interactions and no other.

    Attributes:
        counts: (N,) float32 training interactions of each item of the catalogue, 0 for cold ones.
        trie: their codes; None for models that read none.
    """

    counts: Tensor
    trie: TorchTrie | None = None

    def to(self, device: torch.device) -> TrainingItems:
        return TrainingItems(self.counts.to(device), None if self.trie is None else self.trie.to(device))


@dataclass(frozen=True)
class Losses:
    """What a batch costs.

    Attributes:
        total: () what to minimise, summed over the targets.
        parts: negative log-likelihood of the targets in nats, summed, under each head (`generative`, `dense`); no gradient.
    """

    total: Tensor
    parts: dict[str, Tensor]


class Model(nn.Module, ABC):
    """A recommender model.

    Args:
        catalogue: what it is told of the items.
    """

    causal: ClassVar[bool]
    """Whether one pass over a sequence gives a target at every position (else: one prefix, one target)."""
    history: int
    """How many of a user's last items the model reads."""
    config: Config
    """Settings the model was built with, a member of `felid.models.ModelConfig`."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__()
        self.catalogue = catalogue

    @property
    @abstractmethod
    def modes(self) -> tuple[Mode, ...]:
        """The ways to rank that this model is trained for; the first one is its own, taken where none is asked for."""

    @property
    def readable(self) -> NDArray[np.bool_]:
        """(N,) the items that the model has a vector of, so that they say something in a history."""
        return np.ones_like(self.catalogue.warm)

    @abstractmethod
    def forward(self, histories: Histories, targets: Int[Tensor, " M"], items: TrainingItems, smoothing: float = 0.0) -> Losses:
        """Losses of a batch; for a causal model the M targets follow every real position of `histories`, row by row, else
        each follows its whole history (M = B). `smoothing` is the share of the target probability spread over all choices.
        """

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model with its catalogue, so that `from_pretrained` needs nothing else; what the folder held is replaced.

        That is all a model computes with, but not all that a `Recommender` of its run ranks with under `fused`: the weights that
        were chosen on validation (`search.json` of the training) and the transition memory stay in the run folder. For the
        lists of the run give them to `ItemRanker`, or load the run with `Recommender.load`.

        Raises:
            ArtifactError: the folder holds something other than a saved model.
        """
        from felid.models.pretrained import save_pretrained

        save_pretrained(self, Path(folder))

    @classmethod
    def from_pretrained(cls: type[M], folder: str | Path) -> M:
        """Read what `save_pretrained` wrote, in evaluation mode on the CPU; as `Model`, whatever kind it is.

        Raises:
            ArtifactError: not a saved model, not a whole one, or one of another kind than this class.
        """
        from felid.models.pretrained import from_pretrained

        return from_pretrained(cls, Path(folder))


class DenseModel(Model):
    """A model with a vector per item and per history: `contexts(h) @ item_vectors().T` are logits over the catalogue."""

    @property
    @abstractmethod
    def unit_vectors(self) -> bool:
        """Whether all item vectors have length 1 (logits are cosines)."""

    @abstractmethod
    def contexts(self, histories: Histories) -> Float[Tensor, "B D"]:
        """Vector of each whole history, scaled so that inner products with `item_vectors` are logits."""

    @abstractmethod
    def item_vectors(self) -> Float[Tensor, "N D"]:
        """Vectors of all items of the catalogue; those of cold items come from content alone (NaN where there is none)."""
