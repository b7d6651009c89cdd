"""What every generative model shares: its inputs, its catalogue and the likelihood of an item's codes.

A model turns a history into a decoder state; the decoder then gives, level by level, a distribution over codes. Two
normalisations exist, the same in training and in search:

- `trie`: the softmax runs over the codes that some item continues the prefix with, so the L cross-entropies of an item
  add up to its log-likelihood over the catalogue (a hierarchical softmax), and exp(score) sums to 1 over all items.
- `vocabulary`: the softmax runs over all tokens, as in TIGER (Rajput et al. 2023, arXiv:2305.05065).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from felid.config import Config
from felid.errors import SemanticIdError
from felid.models.transformer import DecoderState, Stack
from felid.tokens import TokenLayout
from felid.trie import Trie

Normalize = Literal["trie", "vocabulary"]


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


@dataclass(frozen=True)
class TorchTrie:
    """The flat arrays of a `Trie` on a device, and each item's path through it.

    Attributes:
        paths: (N, L + 1) int64 node of every item's prefix at depth 0..L; -1 below the root for items not in the trie.
        fan_out: largest number of children at depth 0..L-1.
    """

    code: Tensor
    child_start: Tensor
    leaf_count: Tensor
    leaf_item: Tensor
    paths: Tensor
    first_leaf: int
    sizes: tuple[int, ...]
    fan_out: tuple[int, ...]

    @classmethod
    def of(cls, trie: Trie, codes: np.ndarray, device: torch.device | str = "cpu") -> TorchTrie:
        """Move `trie` to a device; `codes` (N, L) are those of the whole catalogue, row = item_index."""
        if codes.shape[1] != trie.num_levels:
            raise SemanticIdError(
                f"codes have {codes.shape[1]} levels but the trie was built for {trie.num_levels}; "
                "rebuild it with Trie.from_codes(codes)"
            )
        paths = np.stack([trie.walk(codes[:, :depth]) for depth in range(trie.num_levels + 1)], 1)
        paths[paths[:, -1] < 0, 1:] = -1  # also where some item of the trie shares the prefix

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).long().to(device)

        return cls(
            code=tensor(trie.code),
            child_start=tensor(trie.child_start),
            leaf_count=tensor(trie.leaf_end - trie.leaf_start),
            leaf_item=tensor(trie.leaf_item),
            paths=tensor(paths),
            first_leaf=int(trie.depth_start[-2]),
            sizes=trie.sizes,
            fan_out=trie.max_children,
        )

    def to(self, device: torch.device) -> TorchTrie:
        """The same trie on another device."""
        names = ("code", "child_start", "leaf_count", "leaf_item", "paths")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def num_children(self, nodes: Tensor) -> Tensor:
        """How many codes may follow each node."""
        return self.child_start[nodes + 1] - self.child_start[nodes]

    def mask(self, nodes: Int[Tensor, " M"], level: int) -> Tensor:
        """(M, sizes[level]) bool: True where a code may follow the node (all nodes at depth `level`)."""
        counts = self.num_children(nodes)
        rows = torch.repeat_interleave(counts)
        first = self.child_start[nodes] - (counts.cumsum(0) - counts)
        children = first[rows] + torch.arange(len(rows), device=nodes.device)
        result = torch.zeros(len(nodes), self.sizes[level], dtype=torch.bool, device=nodes.device)
        result[rows, self.code[children]] = True
        return result


class GenerativeModel(nn.Module, ABC):
    """A model that generates the codes of a user's next item from a history.

    Subclasses provide the encoder (`start`, `target_states`); this class owns the token embeddings, the decoder and
    the likelihood.
    """

    causal: ClassVar[bool]
    """Whether one pass over a sequence gives a target at every position (else: one prefix, one target)."""
    history: int
    """How many of a user's last items the model reads."""
    normalize: Normalize
    """What the softmax runs over, in training and in search alike."""
    output_scale: float
    """Factor on decoder outputs before the tied output layer."""
    config: Config
    """Settings the model was built with, a member of `felid.models.ModelConfig`."""

    def __init__(self, layout: TokenLayout, codes: Int[Tensor, "N L"], width: int) -> None:
        super().__init__()
        self.layout = layout
        self.tokens = nn.Embedding(layout.vocabulary_size, width)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("offsets", torch.from_numpy(layout.offsets), persistent=False)
        self.codes: Tensor
        self.offsets: Tensor
        self.decoder: Stack

    @abstractmethod
    def start(self, histories: Histories) -> tuple[Float[Tensor, "B D"], DecoderState]:
        """The decoder's first input for each user, and its state."""

    @abstractmethod
    def target_states(self, histories: Histories, targets: Int[Tensor, " M"]) -> Float[Tensor, "M L D"]:
        """Decoder outputs under teacher forcing.

        For a causal model the M targets follow every real position of `histories`, row by row; else each follows its
        whole history (M = B).
        """

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

    def vocabulary_logits(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Unnormalised float32 scores of all tokens."""
        return F.linear(hidden * self.output_scale, self.tokens.weight).float()

    def forward(
        self, histories: Histories, targets: Int[Tensor, " M"], trie: TorchTrie, smoothing: float = 0.0
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, ""]]:
        """Log-probability of each target item, and the summed loss to minimise (nats; smoothed when asked)."""
        hidden = self.target_states(histories, targets)
        if self.normalize == "vocabulary":
            return self._vocabulary_loss(hidden, targets, smoothing)
        log_probs, total = hidden.new_zeros(len(targets), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        for level in range(self.layout.num_levels):
            nodes = trie.paths[targets, level]
            rows = torch.nonzero(trie.num_children(nodes) > 1)[:, 0]  # a single child has probability 1
            if not len(rows):
                continue
            gold, smooth = trie_cross_entropy(
                self.logits(hidden[rows, level], level), self.codes[targets[rows], level], trie.mask(nodes[rows], level)
            )
            log_probs = log_probs.index_add(0, rows, gold)
            total = total - (1 - smoothing) * gold.sum() - (smoothing * smooth.sum() if smoothing else 0.0)
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
