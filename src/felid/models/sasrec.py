"""SASRec: a causal Transformer over item vectors that is trained on every next item (Kang and McAuley 2018, arXiv:1808.09781)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from felid.config import Config
from felid.models.base import Catalogue, DenseModel, Histories, Losses, Mode, TrainingItems
from felid.models.dense import DenseConfig, DenseHead, StepItems
from felid.models.items import ItemVectors, check_text_hidden
from felid.models.transformer import BlockShape, Stack, initialize

PLACE_STD = 0.05
"""Spread of the first vectors of places."""


class SASRecConfig(Config):
    """Settings of `SASRec`."""

    kind: Literal["sasrec"] = "sasrec"
    width: int = Field(default=64, ge=1)
    """Model width, a multiple of `heads`."""
    layers: int = Field(default=2, ge=1)
    """Transformer blocks."""
    heads: int = Field(default=1, ge=1)
    """Attention heads; each has width / heads."""
    feed_forward: int = Field(default=256, ge=1)
    """Width of the feed-forward layer."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout rate, also on attention weights."""
    history: int = Field(default=50, ge=1)
    """Items of a history that the model reads, the last ones."""
    positions: Literal["learned", "relative"] = "learned"
    """A learnt vector for every place in the history as in the paper, or a learnt attention bias for every distance."""
    text: bool = False
    """Whether item vectors also read the text embedding; without it only warm items have a vector."""
    text_hidden: tuple[int, ...] = ()
    """Widths of hidden layers between text embedding and item vector; () is a linear map."""
    own_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability that an item's own vector is left out in a step of training; needs `text`."""
    own_prior: float = Field(default=0.0, ge=0)
    """k: the own vector of an item with n training interactions enters as n / (n + k) of itself; 0 = all of it."""
    dense: DenseConfig = DenseConfig()
    """Logits and loss."""

    @model_validator(mode="after")
    def _parts_fit(self) -> SASRecConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if self.own_dropout and not self.text:
            raise ValueError("own_dropout leaves an item without any vector; set text=true or own_dropout=0")
        check_text_hidden(self.text, self.text_hidden)
        return self

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The ways to rank that such a model is trained for."""
        return ("dense", "fused")  # as published first; the transition memory can be asked for


class SASRec(DenseModel):
    """Item vectors -> causal encoder -> context of every position, held against the vectors of the next items."""

    causal: ClassVar[bool] = True
    config: SASRecConfig

    def __init__(self, config: SASRecConfig, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self.config, self.history = config, config.history
        width = config.width
        shape = BlockShape(width, config.heads, width // config.heads, config.feed_forward, config.dropout)
        self.items = ItemVectors(
            catalogue,
            width,
            text=config.text,
            text_hidden=config.text_hidden,
            own_dropout=config.own_dropout,
            own_prior=config.own_prior,
        )
        self.item_norm = nn.RMSNorm(width, eps=1e-6)
        self.places = nn.Parameter(torch.randn(config.history, width) * PLACE_STD) if config.positions == "learned" else None
        self.encoder = Stack(config.layers, shape, causal=True, relative=self.places is None)
        self.dense = DenseHead(config.dense, width)
        initialize(self.encoder, shape)

    @property
    def modes(self) -> tuple[Mode, ...]:
        return self.config.modes

    @property
    def readable(self) -> NDArray[np.bool_]:
        known: NDArray[np.bool_] = self.items.known.cpu().numpy()
        return known

    @property
    def unit_vectors(self) -> bool:
        return self.config.dense.similarity == "cosine"

    def forward(self, histories: Histories, targets: Int[Tensor, " M"], items: TrainingItems, smoothing: float = 0.0) -> Losses:
        step = StepItems.of(self.items, histories, targets, items.counts, self.config.dense)
        vectors = self.items.warm() if step.rows is None else self.items(step.rows)
        encoded = self._encode(F.embedding(step.history, vectors))
        contexts = self.dense.contexts(encoded[histories.real])
        total, nll = self.dense.loss(contexts, self.dense.vectors(vectors), step, smoothing)
        return Losses(total, {"dense": nll})

    def contexts(self, histories: Histories) -> Float[Tensor, "B D"]:
        rows, inverse = torch.unique(histories.items, return_inverse=True)
        encoded = self._encode(F.embedding(inverse, self.items(rows)))
        return self.dense.contexts(histories.last(encoded))

    def item_vectors(self) -> Float[Tensor, "N D"]:
        return self.dense.vectors(self.items()).masked_fill(~self.items.known[:, None], torch.nan)

    def _encode(self, vectors: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        vectors = self.item_norm(vectors)
        if self.places is not None:
            vectors = vectors + self.places[: vectors.shape[1]]
        states: Tensor = self.encoder(vectors)  # right padding lies in the future of every real position
        return states
