"""TIGER: a T5-style encoder-decoder over the codes of a history (Rajput et al. 2023, arXiv:2305.05065)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from felid.config import Config
from felid.models.base import Catalogue, Histories, Mode
from felid.models.generative import Decoded, GenerativeModel, Normalize
from felid.models.transformer import BlockShape, DecoderState, Stack, initialize, padding_bias
from felid.tokens import BEGIN


class TigerConfig(Config):
    """Settings of `Tiger`; the defaults are the paper's."""

    kind: Literal["tiger"] = "tiger"
    width: int = Field(default=128, ge=1)
    """Model width (d_model)."""
    encoder_layers: int = Field(default=4, ge=1)
    """Encoder blocks."""
    decoder_layers: int = Field(default=4, ge=1)
    """Decoder blocks."""
    heads: int = Field(default=6, ge=1)
    """Attention heads."""
    head_width: int = Field(default=64, ge=1)
    """Width of one head (d_kv)."""
    feed_forward: int = Field(default=1024, ge=1)
    """Width of the feed-forward layer (d_ff)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout rate, also on attention weights."""
    history: int = Field(default=20, ge=1)
    """Items of a history that the model reads, the last ones."""
    user_buckets: int = Field(default=2000, ge=0)
    """User tokens that user ids are hashed to; 0 = no user token (reproductions found that it hurts)."""
    normalize: Normalize = "vocabulary"
    """What the softmax runs over, in training and in search alike."""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The ways to rank that such a model is trained for."""
        return ("generative",)


class Tiger(GenerativeModel):
    """Encoder over `[user token] + codes of the history`, decoder over the target's codes, tied output."""

    causal: ClassVar[bool] = False

    def __init__(self, config: TigerConfig, catalogue: Catalogue) -> None:
        super().__init__(catalogue, config.user_buckets, config.width)
        self.config, self.history, self.normalize = config, config.history, config.normalize
        self.output_scale = config.width**-0.5
        shape = BlockShape(config.width, config.heads, config.head_width, config.feed_forward, config.dropout)
        self.encoder = Stack(config.encoder_layers, shape, causal=False)
        self.decoder = Stack(config.decoder_layers, shape, causal=True, cross=True)
        for stack in (self.encoder, self.decoder):
            initialize(stack, shape)
        nn.init.normal_(self.tokens.weight, std=1.0)

    def _encode(self, histories: Histories) -> tuple[Float[Tensor, "B S D"], Tensor | None]:
        tokens, lengths = self.item_tokens(histories.items).flatten(1), histories.lengths * self.layout.num_levels
        if histories.users is not None:
            tokens, lengths = torch.cat((histories.users[:, None], tokens), 1), lengths + 1
        padding = padding_bias(lengths, tokens.shape[1])
        return self.encoder(self.tokens(tokens), padding), padding

    def start(self, histories: Histories) -> tuple[Float[Tensor, "B D"], DecoderState]:
        begin = self.tokens.weight[BEGIN].expand(len(histories.items), -1)
        return begin, self.decoder.remember(*self._encode(histories))

    def target_states(self, histories: Histories, targets: Int[Tensor, " M"]) -> Decoded:
        memory, padding = self._encode(histories)
        tokens = self.item_tokens(targets)
        inputs = torch.cat((torch.full_like(tokens[:, :1], BEGIN), tokens[:, :-1]), 1)
        vectors = self.tokens(inputs)
        return Decoded(self.decoder(vectors, None, memory, padding), vectors[:, 0])
