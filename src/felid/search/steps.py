"""Decoding of many prefixes per user, level by level, where the decoder sees only those whose next code is open.

Under `normalize: trie` a prefix that a single item continues has a certain rest, of probability 1. Catalogues have many of
those from the second or third level on, and prefixes that stand twice are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.nodes import node_logits
from felid.models.torch_trie import NodeVectors, TorchTrie

WORTH_A_PRODUCT = 256
"""Codes of a level per child of a node from which on gathered rows are faster than a matrix product with all codes."""


@dataclass(frozen=True)
class Gains:
    """Log-probabilities of the children of W nodes for each of B users, in rows that equal nodes share.

    Attributes:
        rows: (B, R, C) by place among a node's children, -inf beyond the last child.
        slots: (B, W) the row of each node.
        certain: (B, W) bool, nodes whose rest is certain: their first child has probability 1, whatever their row says.
        trie: what the nodes are of.
    """

    rows: Tensor
    slots: Tensor
    certain: Tensor
    trie: TorchTrie

    def of(self, first: int, end: int | None = None) -> Gains:
        """Those of some of the nodes."""
        return replace(self, slots=self.slots[:, first:end], certain=self.certain[:, first:end])

    def children(self) -> Float[Tensor, "B W C"]:
        """Of all children."""
        rows = self.rows.gather(1, self.slots[..., None].expand(-1, -1, self.rows.shape[2]))
        only = torch.full_like(rows[0, 0], -torch.inf)
        only[0] = 0.0
        return torch.where(self.certain[..., None], only, rows)

    def along(self, paths: Int[Tensor, "B W P"], level: int) -> Float[Tensor, "B W"]:
        """Of one child of each node: where the nodes are those at depth `level` of some paths, of the next one of each path."""
        child = paths[:, :, level + 1] - self.trie.child_start[paths[:, :, level]]
        found = self.rows.flatten(1).gather(1, self.slots * self.rows.shape[2] + child)
        return found.masked_fill(self.certain, 0.0)


class Steps:
    """The decoder's way through a trie.

    Args:
        model: in evaluation mode.
        histories: B users.
        trie: the items that codes are compared within.
        vectors: what the model's `node_vectors` gives for the trie, where it is at hand.
    """

    def __init__(self, model: GenerativeModel, histories: Histories, trie: TorchTrie, vectors: NodeVectors | None = None) -> None:
        self.model, self.trie, self.level = model, trie, 0
        self.vectors = model.node_vectors(trie) if vectors is None else vectors
        self.start, self.state = model.start(histories)
        self.slots = torch.zeros(len(self.start), 1, dtype=torch.long, device=self.start.device)

    def gains(self, nodes: Int[Tensor, "B W"], parents: Int[Tensor, "B W"]) -> Gains:
        """Log-probabilities of the children of some nodes of the next level.

        Args:
            nodes: in any order, also several times.
            parents: places of their parents among the nodes of the last call; 0 in the first one.
        """
        ordered, order = nodes.sort(1)
        places, slots = compact(self._open(ordered))
        chosen, origin = ordered.gather(1, places), order.gather(1, places)
        if self.level == 0:
            inputs = self.model.first_inputs(self.start)[:, None]
        else:
            inputs = self.model.code_vectors(self.trie.code[chosen], self.level - 1)
        state = self.state.choose(self.slots.gather(1, parents.gather(1, origin)))
        hidden, self.state = self.model.decoder.decode_step(inputs, state)
        rows = self._log_probs(hidden, chosen)
        self.slots = torch.empty_like(slots).scatter_(1, order, slots)
        self.level += 1
        certain = (self.trie.leaf_count[nodes] == 1) & (self.model.normalize == "trie")
        return Gains(rows, self.slots, certain, self.trie)

    def _open(self, nodes: Int[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
        """Of sorted nodes those that the decoder must see: the first of equal ones, and none with a certain rest."""
        first = torch.ones_like(nodes, dtype=torch.bool)
        first[:, 1:] = nodes[:, 1:] != nodes[:, :-1]
        return first if self.model.normalize == "vocabulary" else first & (self.trie.leaf_count[nodes] > 1)

    def _log_probs(self, hidden: Float[Tensor, "B R D"], nodes: Int[Tensor, "B R"]) -> Float[Tensor, "B R C"]:
        model = self.model
        if model.normalize == "trie":
            few = int(self.trie.num_children(nodes).sum()) * WORTH_A_PRODUCT < nodes.numel() * self.trie.sizes[self.level]
            logits = self._of_children(hidden, nodes) if few else self._of_all_codes(hidden, nodes)
            return logits - logits.logsumexp(2, keepdim=True)
        codes, absent = self._codes(nodes)
        vocabulary = model.vocabulary_logits(hidden)
        logits = vocabulary[..., model.layout.level_tokens(self.level)].gather(2, codes)
        return (logits - vocabulary.logsumexp(2, keepdim=True)).masked_fill(absent, -torch.inf)

    def _codes(self, nodes: Int[Tensor, "B R"]) -> tuple[Int[Tensor, "B R C"], Bool[Tensor, "B R C"]]:
        """The codes of each node's children, and where there is none."""
        first, last = self.trie.child_start[nodes], self.trie.child_start[nodes + 1] - 1
        children = first[:, :, None] + torch.arange(self.trie.fan_out[self.level], device=nodes.device)
        return self.trie.code[torch.minimum(children, last[:, :, None])], children > last[:, :, None]

    def _of_all_codes(self, hidden: Float[Tensor, "B R D"], nodes: Int[Tensor, "B R"]) -> Float[Tensor, "B R C"]:
        """Scores of each node's children, -inf where there is none, out of those of all codes of the level."""
        logits = self.model.logits(hidden, self.level)
        if self.vectors is not None:
            queries = self._queries(hidden).flatten(0, 1)
            logits = logits + node_logits(queries, nodes.flatten(), self.trie, self.vectors, self.level).view_as(logits)
        codes, absent = self._codes(nodes)
        return logits.gather(2, codes).masked_fill(absent, -torch.inf)

    def _of_children(self, hidden: Float[Tensor, "B R D"], nodes: Int[Tensor, "B R"]) -> Float[Tensor, "B R C"]:
        """The same out of those of the children alone, which are few among the codes of the level."""
        trie, flat = self.trie, nodes.flatten()
        owners, children = trie.children_of(flat)
        logits = self.model.code_logits(hidden.flatten(0, 1).index_select(0, owners), trie.code[children], self.level)
        if self.vectors is not None:
            vectors = self.vectors[self.level].index_select(0, children - trie.depth_start[self.level + 1])
            logits = logits + (self._queries(hidden).flatten(0, 1).index_select(0, owners) * vectors).sum(1)
        found = logits.new_full((len(flat), trie.fan_out[self.level]), -torch.inf)
        found[owners, children - trie.child_start[flat][owners]] = logits
        return found.view(*nodes.shape, -1)

    def _queries(self, hidden: Float[Tensor, "B R D"]) -> Float[Tensor, "B R D"]:
        return self.model.queries(hidden, self.start[:, None].expand_as(hidden), self.level)


def compact(wanted: Bool[Tensor, "B W"]) -> tuple[Int[Tensor, "B R"], Int[Tensor, "B W"]]:
    """Places of the wanted ones of each row in order, and for every place where the wanted one at or before it went.

    R is the largest number of wanted ones in a row, at least 1. Rows with fewer are filled up with places that are not
    wanted; places before the first wanted one are sent to 0.
    """
    count = max(1, int(wanted.sum(1).max()))
    places = wanted.int().sort(dim=1, descending=True, stable=True).indices[:, :count]
    return places, (wanted.cumsum(1) - 1).clamp(min=0)
