"""lynx: felid's own model, a causal encoder over items and a small decoder over the codes of the next one.

One vector per history item (its codes and its text embedding together) makes histories L times shorter than in TIGER,
and the causal encoder gives every position of a sequence its target in one pass.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from felid.config import Config
from felid.models.base import Catalogue, Histories
from felid.models.generative import GenerativeModel, Normalize
from felid.models.transformer import BlockShape, DecoderState, Stack, initialize, padding_bias


class LynxConfig(Config):
    """Settings of `Lynx`."""

    kind: Literal["lynx"] = "lynx"
    width: int = Field(default=128, ge=1)
    """Model width, a multiple of `heads`."""
    layers: int = Field(default=1, ge=1)
    """Blocks of the causal encoder over items."""
    decoder_layers: int = Field(default=1, ge=1)
    """Blocks of the decoder over codes."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; each has width / heads."""
    feed_forward: int = Field(default=512, ge=1)
    """Width of the feed-forward layer."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout rate, also on attention weights."""
    history: int = Field(default=50, ge=1)
    """Items of a history that the model reads, the last ones."""
    user_buckets: int = Field(default=0, ge=0)
    """User tokens that user ids are hashed to; 0 = none."""
    normalize: Normalize = "trie"
    """What the softmax runs over, in training and in search alike."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> LynxConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class Lynx(GenerativeModel):
    """Item vectors -> causal encoder -> for every position a decoder over the L codes of the next item.

    The decoder starts from its position's encoder output and reads all encoder outputs up to it by cross-attention.
    """

    causal: ClassVar[bool] = True

    def __init__(self, config: LynxConfig, catalogue: Catalogue) -> None:
        super().__init__(catalogue, config.user_buckets, config.width)
        embeddings = torch.from_numpy(np.ascontiguousarray(catalogue.embeddings))
        self.config, self.history, self.normalize = config, config.history, config.normalize
        self.output_scale = 1.0
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.embeddings: Tensor
        width = config.width
        shape = BlockShape(width, config.heads, width // config.heads, config.feed_forward, config.dropout)
        self.text = nn.Linear(embeddings.shape[1], width)
        self.item_norm = nn.RMSNorm(width, eps=1e-6)
        self.encoder = Stack(config.layers, shape, causal=True)
        self.context = nn.Linear(width, width)
        self.decoder = Stack(config.decoder_layers, shape, causal=True, cross=True)
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
        encoded = self._encode(histories)
        rows = torch.arange(len(encoded), device=encoded.device)
        padding = padding_bias(histories.lengths, encoded.shape[1])
        return self.context(encoded[rows, histories.lengths - 1]), self.decoder.remember(encoded, padding)

    def target_states(self, histories: Histories, targets: Int[Tensor, " M"]) -> Float[Tensor, "M L D"]:
        encoded, real = self._encode(histories), histories.real
        levels, (batch, length, width) = self.layout.num_levels, encoded.shape
        codes = encoded.new_zeros(batch, length, levels - 1, width)
        codes[real] = self.tokens(self.item_tokens(targets)[:, :-1])
        inputs = torch.cat((self.context(encoded)[:, :, None], codes), 2)
        # the decoder of a position reads the encoder up to that position
        future = torch.full((length, length), -torch.inf, device=encoded.device).triu(1).repeat_interleave(levels, 0)
        states: Tensor = self.decoder(inputs.flatten(0, 1), None, encoded, future[None, None])
        return states.view(batch, length, levels, width)[real]
