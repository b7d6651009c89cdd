"""lynx: felid's own model, a causal encoder over items with two heads: a small decoder over the codes of the next item, and
a context that is held against item vectors.

One vector per history item (its codes, its text embedding and one of its own together) makes histories L times shorter than
in TIGER, and the causal encoder gives every position of a sequence its target in one pass.
"""

from __future__ import annotations

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
from felid.models.items import ItemVectors, check_text_hidden, sum_of_rows
from felid.models.torch_trie import NodeVectors, TorchTrie
from felid.models.transformer import BlockShape, DecoderState, Stack, initialize, padding_bias

QUERY_STD = 0.1
"""Spread of what decoder outputs first add to queries."""
CODE_STD = 0.05
"""Spread of first code vectors, close to that of own vectors and text projections."""


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
    """What the softmax over codes runs over, in training and in search alike."""
    level_share: float = Field(default=0.02, ge=0, lt=1)
    """Share of a softmax over all codes of a level in a trie-normalised loss; above 0 cold items can be searched too."""
    node_vectors: bool = True
    """Whether a code's logit also holds the mean vector of the items below it in the trie against the user's context. Without
    effect under `normalize: vocabulary`, and beside a sampled softmax, which is there to avoid the vectors of all items."""
    own_vectors: bool = True
    """Whether every warm item has a vector of its own."""
    own_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Probability that an item's own vector is left out in a step of training."""
    own_prior: float = Field(default=0.0, ge=0)
    """k: the own vector of an item with n training interactions enters as n / (n + k) of itself; 0 = all of it."""
    text: bool = True
    """Whether item vectors read the text embedding."""
    text_hidden: tuple[int, ...] = ()
    """Widths of hidden layers between text embedding and item vector; () is a linear map."""
    generative_weight: float = Field(default=1.0, ge=0)
    """Weight of the generative head's loss; 0 = there is no such head."""
    dense_weight: float = Field(default=1.0, ge=0)
    """Weight of the dense head's loss; 0 = there is no such head."""
    dense: DenseConfig = DenseConfig()
    """Logits and loss of the dense head."""

    @model_validator(mode="after")
    def _parts_fit(self) -> LynxConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if not self.generative_weight and not self.dense_weight:
            raise ValueError("generative_weight and dense_weight are both 0, so there is nothing to learn; raise one of them")
        if self.own_prior and not self.own_vectors:
            raise ValueError("own_prior weighs own vectors, and own_vectors=false leaves none; set own_prior=0")
        check_text_hidden(self.text, self.text_hidden)
        return self

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The ways to rank that such a model is trained for."""
        if not self.dense_weight:
            return ("generative",)
        return ("fused", "generative", "dense") if self.generative_weight else ("fused", "dense")

    @property
    def reads_nodes(self) -> bool:
        """Whether such a model compares codes by the items below them."""
        return bool(self.generative_weight) and self.node_vectors and self.normalize == "trie" and self.dense.softmax == "full"


class Lynx(GenerativeModel, DenseModel):
    """Item vectors -> causal encoder -> for every position a decoder over the L codes of the next item, and a context.

    An item's vector is the sum of its code tokens, its text projection and its own vector. The dense head holds the context of
    a position against item vectors. The decoder starts from that context, and reads all encoder outputs up to its position by
    cross-attention. A code's logit is the sum of two: decoder output and code token, a matter of the code alone, and the
    context, corrected by the decoder, against the mean vector of the items below that node of the trie. The second is their mean
    dense logit before the correction, so the generative head need not learn anew what the dense one knows of single items.
    """

    causal: ClassVar[bool] = True
    config: LynxConfig

    def __init__(self, config: LynxConfig, catalogue: Catalogue) -> None:
        super().__init__(catalogue, config.user_buckets, config.width)
        self.config, self.history, self.normalize = config, config.history, config.normalize
        self.output_scale, self.level_share = 1.0, config.level_share
        width = config.width
        shape = BlockShape(width, config.heads, width // config.heads, config.feed_forward, config.dropout)
        self.items = ItemVectors(
            catalogue,
            width,
            own=config.own_vectors,
            text=config.text,
            text_hidden=config.text_hidden,
            own_dropout=config.own_dropout,
            own_prior=config.own_prior,
        )
        self.item_norm, self.history_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.encoder = Stack(config.layers, shape, causal=True)
        initialize(self.encoder, shape)
        if config.generative_weight:  # tokens are small beside contexts, as parts of item vectors; norms make them equal
            self.context, self.code_norm = nn.Linear(width, width), nn.RMSNorm(width, eps=1e-6)
            self.decoder = Stack(config.decoder_layers, shape, causal=True, cross=True)
            initialize(self.decoder, shape)
        self.corrections: nn.ModuleList | None = None
        if config.reads_nodes:
            self.corrections = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in self.layout.sizes)
            for correction in self.corrections.parameters():
                nn.init.normal_(correction, std=QUERY_STD * width**-0.5)
        self.dense = DenseHead(config.dense, width)
        nn.init.normal_(self.tokens.weight, std=CODE_STD)

    @property
    def modes(self) -> tuple[Mode, ...]:
        return self.config.modes

    @property
    def unit_vectors(self) -> bool:
        return self.config.dense.similarity == "cosine"

    def forward(self, histories: Histories, targets: Int[Tensor, " M"], items: TrainingItems, smoothing: float = 0.0) -> Losses:
        config = self.config
        step = StepItems.of(
            self.items, histories, targets, items.counts, config.dense if config.dense_weight or config.reads_nodes else None
        )
        vectors = self._warm_vectors() if step.rows is None else self._vectors(step.rows)
        encoded, real = self._encode(F.embedding(step.history, vectors), histories), histories.real
        contexts, held = self.dense.contexts(encoded), self.dense.vectors(vectors)
        total, parts = torch.zeros((), device=encoded.device), {}
        if config.generative_weight:
            assert items.trie is not None
            nodes = items.trie.means(held, self.items.warm_rows) if config.reads_nodes else None
            decoded = self._decode(encoded, contexts, real, targets)
            log_probs, loss = self.likelihood(decoded, targets, items.trie, smoothing, nodes)
            total, parts["generative"] = total + config.generative_weight * loss, -log_probs.detach().sum()
        if config.dense_weight:
            loss, parts["dense"] = self.dense.loss(contexts[real], held, step, smoothing)
            total = total + config.dense_weight * loss
        return Losses(total, parts)

    def contexts(self, histories: Histories) -> Float[Tensor, "B D"]:
        return self._dense_head().contexts(histories.last(self._encode_histories(histories)))

    def item_vectors(self) -> Float[Tensor, "N D"]:
        return self._dense_head().vectors(self._vectors(None))

    def _dense_head(self) -> DenseHead:
        if not self.config.dense_weight:
            raise RequestError(
                "this lynx has no dense head, so it has no item vectors; train one with model.dense_weight above 0"
            )
        return self.dense

    def _vectors(self, rows: Int[Tensor, " R"] | None) -> Float[Tensor, "R D"]:
        """Vectors of the items `rows`, or of the whole catalogue."""
        tokens = self.codes + self.offsets if rows is None else self.item_tokens(rows)
        vectors: Tensor = self.items(rows)
        return vectors + sum_of_rows(self.tokens.weight, tokens)

    def _warm_vectors(self) -> Float[Tensor, "W D"]:
        return self.items.warm() + sum_of_rows(self.tokens.weight, self.item_tokens(self.items.warm_rows))

    def _encode(self, vectors: Float[Tensor, "B T D"], histories: Histories) -> Float[Tensor, "B T D"]:
        """Encoder states; the codes of a history item stand beside its vector once more, in which text outweighs them."""
        codes, users = self.item_tokens(histories.items).flatten(0, 1), histories.users
        vectors = self.item_norm(vectors) + self.history_norm(sum_of_rows(self.tokens.weight, codes)).view_as(vectors)
        if users is not None:
            vectors = vectors + self.tokens(users)[:, None]
        states: Tensor = self.encoder(vectors)  # right padding lies in the future of every real position
        return states

    def _encode_histories(self, histories: Histories) -> Float[Tensor, "B T D"]:
        rows, inverse = torch.unique(histories.items, return_inverse=True)
        return self._encode(F.embedding(inverse, self._vectors(rows)), histories)

    def code_vectors(self, codes: Int[Tensor, "*B"], level: int) -> Float[Tensor, "*B D"]:
        vectors: Tensor = self.code_norm(super().code_vectors(codes, level))
        return vectors

    def node_vectors(self, trie: TorchTrie, vectors: Float[Tensor, "N D"] | None = None) -> NodeVectors | None:
        if not self.config.reads_nodes:
            return None
        vectors = self.dense.vectors(self._vectors(None)) if vectors is None else vectors
        return trie.means(vectors, torch.arange(len(vectors), device=vectors.device))

    def queries(self, hidden: Float[Tensor, "*B D"], starts: Float[Tensor, "*B D"], level: int) -> Float[Tensor, "*B D"]:
        assert self.corrections is not None
        correction: Tensor = self.corrections[level](hidden)
        return starts + correction.float()

    def start(self, histories: Histories) -> tuple[Float[Tensor, "B D"], DecoderState]:
        encoded = self._encode_histories(histories)
        padding = padding_bias(histories.lengths, encoded.shape[1])
        return self.dense.contexts(histories.last(encoded)), self.decoder.remember(encoded, padding)

    def first_inputs(self, starts: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        inputs: Tensor = self.context(starts)
        return inputs

    def target_states(self, histories: Histories, targets: Int[Tensor, " M"]) -> Decoded:
        encoded = self._encode_histories(histories)
        return self._decode(encoded, self.dense.contexts(encoded), histories.real, targets)

    def _decode(
        self, encoded: Float[Tensor, "B T D"], contexts: Float[Tensor, "B T D"], real: Tensor, targets: Int[Tensor, " M"]
    ) -> Decoded:
        levels, (batch, length, width) = self.layout.num_levels, encoded.shape
        codes = encoded.new_zeros(batch, length, levels - 1, width)
        codes[real] = self.code_norm(self.tokens(self.item_tokens(targets)[:, :-1])).to(encoded.dtype)
        inputs = torch.cat((self.first_inputs(contexts)[:, :, None].to(encoded.dtype), codes), 2)
        # the decoder of a position reads the encoder up to that position
        future = torch.full((length, length), -torch.inf, device=encoded.device).triu(1).repeat_interleave(levels, 0)
        states: Tensor = self.decoder(inputs.flatten(0, 1), None, encoded, future[None, None])
        return Decoded(states.view(batch, length, levels, width)[real], contexts[real])
