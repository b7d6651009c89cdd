"""What generative models share: token vectors, the decoder and the likelihood of an item's codes.

A model turns a history into a decoder state; the decoder then gives, level by level, a distribution over codes. Two
normalisations exist, the same in training and in search:

- `trie`: the softmax runs over the codes that some item continues the prefix with, so the L cross-entropies of an item
  add up to its log-likelihood over the catalogue (a hierarchical softmax), and exp(score) sums to 1 over all items.
- `vocabulary`: the softmax runs over all tokens, as in TIGER (Rajput et al. 2023, arXiv:2305.05065).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from felid.errors import SemanticIdError
from felid.models.base import Catalogue, Histories, Losses, Mode, Model, TrainingItems
from felid.models.nodes import node_logits
from felid.models.torch_trie import NodeVectors, TorchTrie
from felid.models.transformer import DecoderState, Stack
from felid.tokens import TokenLayout

Normalize = Literal["trie", "vocabulary"]


@dataclass(frozen=True)
class Decoded:
    """What a model computes for M targets under teacher forcing.

    Attributes:
        hidden: (M, L, D) decoder outputs.
        starts: (M, D) what each decoding starts from.
    """

    hidden: Tensor
    starts: Tensor


class GenerativeModel(Model):
    """A model that generates the codes of a user's next item from a history.

    Subclasses provide the encoder (`start`, `target_states`); this class owns the token embeddings, the decoder and
    the likelihood.
    """

    normalize: Normalize
    """What the softmax runs over, in training and in search alike."""
    output_scale: float
    """Factor on decoder outputs before the tied output layer."""
    level_share: float = 0.0
    """Share of a softmax over all codes of a level in a trie-normalised loss."""

    def __init__(self, catalogue: Catalogue, user_buckets: int, width: int) -> None:
        super().__init__(catalogue)
        if catalogue.ids is None:
            raise SemanticIdError("this model generates semantic IDs, and the catalogue has none; tokenize it first")
        self.layout = TokenLayout(catalogue.ids.sizes, user_buckets)
        codes = torch.from_numpy(catalogue.ids.codes).long()
        self.tokens = nn.Embedding(self.layout.vocabulary_size, width)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("offsets", torch.from_numpy(self.layout.offsets), persistent=False)
        self.codes: Tensor
        self.offsets: Tensor
        self.decoder: Stack

    @abstractmethod
    def start(self, histories: Histories) -> tuple[Float[Tensor, "B D"], DecoderState]:
        """What the decoding starts from for each user, and the decoder's state."""

    @abstractmethod
    def target_states(self, histories: Histories, targets: Int[Tensor, " M"]) -> Decoded:
        """Decoder outputs under teacher forcing.

        For a causal model the M targets follow every real position of `histories`, row by row; else each follows its
        whole history (M = B).
        """

    def first_inputs(self, starts: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The decoder's first inputs."""
        return starts

    def item_tokens(self, items: Int[Tensor, "*B"]) -> Int[Tensor, "*B L"]:
        """Tokens of items' semantic IDs."""
        return self.codes[items] + self.offsets

    def code_vectors(self, codes: Int[Tensor, "*B"], level: int) -> Float[Tensor, "*B D"]:
        """Token vectors of codes of one level."""
        vectors: Tensor = self.tokens(codes + self.offsets[level])
        return vectors

    def logits(self, hidden: Float[Tensor, "*B D"], level: int) -> Float[Tensor, "*B K"]:
        """Unnormalised float32 scores of the codes of one level (tied output)."""
        return F.linear(hidden * self.output_scale, self.tokens.weight[self.layout.level_tokens(level)]).float()

    def code_logits(self, hidden: Float[Tensor, "P D"], codes: Int[Tensor, " P"], level: int) -> Float[Tensor, " P"]:
        """What `logits` says of one code for each row, without the others."""
        vectors: Tensor = self.tokens(codes + self.offsets[level])
        return (hidden * self.output_scale * vectors).sum(-1).float()

    def node_vectors(self, trie: TorchTrie, vectors: Float[Tensor, "N D"] | None = None) -> NodeVectors | None:
        """A vector for each node of a trie, for models that compare codes by the items below them too; else None.

        `vectors` are of all items, in place of the model's own.
        """
        return None

    def queries(self, hidden: Float[Tensor, "*B D"], starts: Float[Tensor, "*B D"], level: int) -> Float[Tensor, "*B D"]:
        """What is held against the node vectors of the codes of one level, where the model has these; float32."""
        return starts

    def vocabulary_logits(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Unnormalised float32 scores of all tokens."""
        return F.linear(hidden * self.output_scale, self.tokens.weight).float()

    @property
    def scores_cold_items(self) -> bool:
        """Whether training also compares codes that no warm item continues a prefix with, so that new ones may be searched."""
        return self.normalize == "vocabulary" or self.level_share > 0

    @property
    def modes(self) -> tuple[Mode, ...]:
        return ("generative",)

    def forward(self, histories: Histories, targets: Int[Tensor, " M"], items: TrainingItems, smoothing: float = 0.0) -> Losses:
        assert items.trie is not None
        log_probs, total = self.likelihood(self.target_states(histories, targets), targets, items.trie, smoothing)
        return Losses(total, {"generative": -log_probs.detach().sum()})

    def likelihood(
        self,
        decoded: Decoded,
        targets: Int[Tensor, " M"],
        trie: TorchTrie,
        smoothing: float = 0.0,
        vectors: NodeVectors | None = None,
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, ""]]:
        """Log-probability of each target item given decoder outputs, and the summed loss to minimise (nats, smoothed).

        `vectors` are those that `node_vectors` gives for the trie, where they are at hand.
        """
        hidden, starts = decoded.hidden, decoded.starts
        if self.normalize == "vocabulary":
            return self._vocabulary_loss(hidden, targets, smoothing)
        vectors = self.node_vectors(trie) if vectors is None else vectors
        log_probs, total = hidden.new_zeros(len(targets), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        for level in range(self.layout.num_levels):
            nodes = trie.paths[targets, level]
            # a single child has probability 1 and gets no gradient, except from the softmax over all codes
            rows = torch.nonzero(trie.num_children(nodes) > (0 if self.level_share else 1))[:, 0]
            if not len(rows):
                continue
            logits, codes = self.logits(hidden[rows, level], level), self.codes[targets[rows], level]
            by_node = logits
            if vectors is not None:
                queries = self.queries(hidden[rows, level], starts[rows], level)
                by_node = logits + node_logits(queries, nodes[rows], trie, vectors, level)
            gold, smooth = trie_cross_entropy(by_node, codes, trie.mask(nodes[rows], level))
            log_probs = log_probs.index_add(0, rows, gold)
            loss = -(1 - smoothing) * gold.sum() - (smoothing * smooth.sum() if smoothing else 0.0)
            if self.level_share:
                unmasked = F.cross_entropy(logits, codes, reduction="sum")
                loss = (1 - self.level_share) * loss + self.level_share * unmasked
            total = total + loss
        return log_probs, total

    def _vocabulary_loss(self, hidden: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        logits = self.vocabulary_logits(hidden).flatten(0, 1)
        tokens = self.item_tokens(targets)
        nll = F.cross_entropy(logits, tokens.flatten(), reduction="none").view_as(tokens)
        total = nll.sum()
        if smoothing:
            total = F.cross_entropy(logits, tokens.flatten(), reduction="sum", label_smoothing=smoothing)
        return -nll.sum(1), total


def trie_cross_entropy(
    logits: Float[Tensor, "M K"], codes: Int[Tensor, " M"], mask: Tensor
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Log-probability of the given codes, and the mean log-probability of all valid codes (for label smoothing).

    The softmax runs over the codes where `mask` (M, K) is True; each row has at least one, `codes` among them.
    """
    valid = logits.masked_fill(~mask, -torch.inf)
    log_z = valid.logsumexp(-1)
    gold = logits.gather(1, codes[:, None])[:, 0] - log_z
    mean = logits.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1) - log_z
    return gold, mean
