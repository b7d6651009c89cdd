"""lynx: felid's own model, a causal encoder over items and a small decoder over the codes of the next one.

One vector per history item (its codes and its text embedding together) makes histories L times shorter than in TIGER,
and the causal encoder gives every position of a sequence its target in one pass.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from felid.config import Config
from felid.models.base import GenerativeModel, Histories, Normalize
from felid.models.transformer import BlockShape, DecoderState, Stack, initialize
from felid.tokens import TokenLayout


class LynxConfig(Config):
    """Settings of `Lynx`."""

    kind: Literal["lynx"] = "lynx"
    width: int = 128
    """Model width."""
    layers: int = 2
    """Blocks of the causal encoder over items."""
    decoder_layers: int = 1
    """Blocks of the decoder over codes."""
    heads: int = 4
    """Attention heads; each has width / heads."""
    feed_forward: int = 512
    """Width of the feed-forward layer."""
    dropout: float = 0.2
    """Dropout rate, also on item vectors and attention weights."""
    history: int = 50
    """Items of a history that the model reads, the last ones."""
    user_buckets: int = 0
    """User tokens that user ids are hashed to; 0 = none."""
    normalize: Normalize = "trie"
    """What the softmax runs over, in training and in search alike."""


class Lynx(GenerativeModel):
    """Item vectors -> causal encoder -> context of every position -> decoder over the L codes."""

    causal: ClassVar[bool] = True

    def __init__(
        self, config: LynxConfig, layout: TokenLayout, codes: Int[Tensor, "N L"], embeddings: Float[Tensor, "N E"]
    ) -> None:
        super().__init__(layout, codes, config.width)
        self.config, self.history, self.normalize = config, config.history, config.normalize
        self.output_scale = 1.0
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.embeddings: Tensor
        width = config.width
        shape = BlockShape(width, config.heads, width // config.heads, config.feed_forward, config.dropout)
        self.text = nn.Linear(embeddings.shape[1], width)
        self.item_norm, self.dropout = nn.RMSNorm(width, eps=1e-6), nn.Dropout(config.dropout)
        self.encoder = Stack(config.layers, shape, causal=True)
        self.context = nn.Linear(width, width)
        self.decoder = Stack(config.decoder_layers, shape, causal=True)
        for stack in (self.encoder, self.decoder):
            initialize(stack, shape)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)

    def _encode(self, histories: Histories) -> Float[Tensor, "B T D"]:
        vectors = self.tokens(self.item_tokens(histories.items)).sum(-2) + self.text(self.embeddings[histories.items])
        vectors = self.item_norm(vectors)
        if histories.users is not None:
            vectors = vectors + self.tokens(histories.users)[:, None]
        states: Tensor = self.encoder(vectors)  # right padding lies in the future of every real position
        return states

    def start(self, histories: Histories) -> tuple[Float[Tensor, "B D"], DecoderState]:
        rows = torch.arange(len(histories.items), device=histories.items.device)
        return self.context(self._encode(histories)[rows, histories.lengths - 1]), DecoderState()

    def target_states(self, histories: Histories, targets: Int[Tensor, " M"]) -> Float[Tensor, "M L D"]:
        context = self.context(self._encode(histories)[histories.real])
        codes = self.tokens(self.item_tokens(targets)[:, :-1])
        states: Tensor = self.decoder(torch.cat((context[:, None], codes), 1))
        return states
