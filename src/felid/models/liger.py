"""LIGER: a T5-style encoder-decoder over codes with a dense head on its encoder (Yang et al. 2024, arXiv:2411.18814).

The encoder reads the codes of a history with the projected text of each item; the decoder generates the codes of the next
item, and the last encoder state is held against projected texts. Without its text and its dense head it is TIGER with
position embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from felid.config import Config
from felid.errors import RequestError
from felid.models.base import Catalogue, DenseModel, Histories, Losses, Mode, TrainingItems
from felid.models.dense import DenseConfig, DenseHead, StepItems
from felid.models.generative import Decoded, GenerativeModel, Normalize
from felid.models.items import ItemVectors
from felid.models.transformer import BlockShape, DecoderState, Stack, initialize, padding_bias
from felid.tokens import BEGIN


class LigerConfig(Config):
    """Settings of `Liger`; names of switches and weights and all defaults are those of the published code."""

    kind: Literal["liger"] = "liger"
    width: int = Field(default=128, ge=1)
    """Model width (d_model)."""
    encoder_layers: int = Field(default=6, ge=1)
    """Encoder blocks."""
    decoder_layers: int = Field(default=6, ge=1)
    """Decoder blocks."""
    heads: int = Field(default=6, ge=1)
    """Attention heads."""
    head_width: int = Field(default=64, ge=1)
    """Width of one head (d_kv)."""
    feed_forward: int = Field(default=1024, ge=1)
    """Width of the feed-forward layer (d_ff)."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout rate, also on attention weights."""
    history: int = Field(default=20, ge=1)
    """Items of a history that the model reads, the last ones."""
    add_input_embedding: bool = True
    """Whether the encoder reads each item's text beside its codes."""
    use_output_embedding: bool = True
    """Whether there is a dense head."""
    sid_loss_weight: float = Field(default=1.0, ge=0)
    """Weight of the generative loss, the mean over an item's codes; 0 = there is no decoder."""
    embedding_loss_weight: float = Field(default=1.0, ge=0)
    """Weight of the dense loss; 0 = there is no dense head."""
    include_user_id: bool = False
    """Whether a user token stands before the history."""
    user_buckets: int = Field(default=2000, ge=0)
    """User tokens that user ids are hashed to, where they are included."""
    text_hidden: tuple[int, ...] = (768, 512, 256)
    """Widths of hidden layers between text embedding and item vector; () is a linear map."""
    normalize: Normalize = "vocabulary"
    """What the softmax over codes runs over, in training and in search alike."""
    dense: DenseConfig = DenseConfig(similarity="cosine", temperature=0.07)
    """Logits and loss of the dense head."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> LigerConfig:
        if not self.sid_loss_weight and not self.is_dense:
            raise ValueError(
                "sid_loss_weight is 0 and there is no dense head, so there is nothing to learn; raise one of sid_loss_weight and "
                "embedding_loss_weight (with use_output_embedding=true)"
            )
        return self

    @property
    def is_dense(self) -> bool:
        """Whether such a model has a dense head."""
        return self.use_output_embedding and self.embedding_loss_weight > 0

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The ways to rank that such a model is trained for."""
        if not self.is_dense:
            return ("generative",)
        return ("hybrid", "generative", "dense") if self.sid_loss_weight else ("dense",)


@dataclass(frozen=True)
class _Encoded:
    """Histories as the encoder sees them.

    Attributes:
        memory: (B, S, D) encoder outputs.
        padding: (B, 1, 1, S) 0 or -inf over them, or None.
        last: (B, D) the output at the last code of each history.
    """

    memory: Tensor
    padding: Tensor | None
    last: Tensor


class Liger(GenerativeModel, DenseModel):
    """`[user token] + codes of the history`, each with a vector for its item's place, one for its level and the projected text
    of its item -> encoder -> decoder over the target's codes, and a context held against the projected texts of all items.

    Item vectors come from text alone: a cold item has one like any other.
    """

    causal: ClassVar[bool] = False
    config: LigerConfig

    def __init__(self, config: LigerConfig, catalogue: Catalogue) -> None:
        super().__init__(catalogue, config.user_buckets if config.include_user_id else 0, config.width)
        self.config, self.history, self.normalize = config, config.history, config.normalize
        width = config.width
        self.output_scale = width**-0.5
        shape = BlockShape(width, config.heads, config.head_width, config.feed_forward, config.dropout)
        reads_text = config.add_input_embedding or config.is_dense
        self.items = ItemVectors(catalogue, width, own=False, text=reads_text, text_hidden=config.text_hidden)
        self.text_norm = nn.RMSNorm(width, eps=1e-6) if config.add_input_embedding else None  # as large as tokens and places
        self.item_places = nn.Parameter(torch.randn(config.history, width))
        self.code_places = nn.Parameter(torch.randn(self.layout.num_levels, width))
        self.input_norm = nn.LayerNorm(width)
        self.encoder = Stack(config.encoder_layers, shape, causal=False)
        initialize(self.encoder, shape)
        if config.sid_loss_weight:
            self.decoder = Stack(config.decoder_layers, shape, causal=True, cross=True)
            initialize(self.decoder, shape)
        self.dense = DenseHead(config.dense, width) if config.is_dense else None
        nn.init.normal_(self.tokens.weight, std=1.0)

    @property
    def modes(self) -> tuple[Mode, ...]:
        return self.config.modes

    @property
    def unit_vectors(self) -> bool:
        return self.config.dense.similarity == "cosine"

    def forward(self, histories: Histories, targets: Int[Tensor, " M"], items: TrainingItems, smoothing: float = 0.0) -> Losses:
        config = self.config
        step = StepItems.of(self.items, histories, targets, items.counts, None if self.dense is None else config.dense)
        vectors = self.items.warm() if step.rows is None else self.items(step.rows)
        encoded = self._encode(histories, F.embedding(step.history, vectors))
        total, parts = torch.zeros((), device=vectors.device), {}
        if config.sid_loss_weight:
            assert items.trie is not None
            log_probs, loss = self.likelihood(self._decode(encoded, targets), targets, items.trie, smoothing)
            total = total + config.sid_loss_weight * loss / self.layout.num_levels
            parts["generative"] = -log_probs.detach().sum()
        if self.dense is not None:
            contexts, held = self.dense.contexts(encoded.last), self.dense.vectors(vectors)
            loss, parts["dense"] = self.dense.loss(contexts, held, step, smoothing)
            total = total + config.embedding_loss_weight * loss
        return Losses(total, parts)

    def contexts(self, histories: Histories) -> Float[Tensor, "B D"]:
        return self._dense_head().contexts(self._encode_histories(histories).last)

    def item_vectors(self) -> Float[Tensor, "N D"]:
        return self._dense_head().vectors(self.items())

    def _dense_head(self) -> DenseHead:
        if self.dense is None:
            raise RequestError(
                "this liger has no dense head, so it has no item vectors; train one with model.use_output_embedding=true and "
                "model.embedding_loss_weight above 0"
            )
        return self.dense

    def start(self, histories: Histories) -> tuple[Float[Tensor, "B D"], DecoderState]:
        begin, encoded = self.tokens.weight[BEGIN], self._encode_histories(histories)
        return begin.expand(len(histories.items), -1), self.decoder.remember(encoded.memory, encoded.padding)

    def target_states(self, histories: Histories, targets: Int[Tensor, " M"]) -> Decoded:
        return self._decode(self._encode_histories(histories), targets)

    def _decode(self, encoded: _Encoded, targets: Int[Tensor, " M"]) -> Decoded:
        tokens = self.item_tokens(targets)
        inputs = self.tokens(torch.cat((torch.full_like(tokens[:, :1], BEGIN), tokens[:, :-1]), 1))
        return Decoded(self.decoder(inputs, None, encoded.memory, encoded.padding), inputs[:, 0])

    def _encode_histories(self, histories: Histories) -> _Encoded:
        rows, inverse = torch.unique(histories.items, return_inverse=True)
        return self._encode(histories, F.embedding(inverse, self.items(rows)))

    def _encode(self, histories: Histories, texts: Float[Tensor, "B T D"]) -> _Encoded:
        """`texts` are the item vectors of the history, which only a model that adds them to its input reads."""
        places = torch.arange(histories.items.shape[1], device=texts.device).clamp(max=self.history - 1)
        vectors = self.item_places[places]
        if self.text_norm is not None:
            vectors = vectors + self.text_norm(texts)
        tokens = self.tokens(self.item_tokens(histories.items)) + self.code_places
        vectors, lengths = (tokens + vectors.unsqueeze(-2)).flatten(1, 2), histories.lengths * self.layout.num_levels
        if histories.users is not None:
            vectors, lengths = torch.cat((self.tokens(histories.users)[:, None], vectors), 1), lengths + 1
        padding = padding_bias(lengths, vectors.shape[1])
        memory = self.encoder(self.input_norm(vectors), padding)
        return _Encoded(memory, padding, memory[torch.arange(len(memory), device=memory.device), lengths - 1])
