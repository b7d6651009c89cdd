"""Beam search over a trie of real items: every result is an item, ties are broken by the smaller semantic ID.

Beams are kept in trie order. The children of trie-ordered nodes are in trie order too, so the W best candidates come
out in trie order again, equal scores in favour of the lexicographically smaller ID (`felid.search.top`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import NodeVectors, TorchTrie
from felid.search.steps import Gains, Steps
from felid.search.top import largest
from felid.trie import ROOT


@dataclass(frozen=True)
class Results:
    """Items found for each user, best first.

    Attributes:
        items: (B, W) item_index; -1 where fewer than W items are eligible.
        scores: (B, W) float32 natural log-probability of the whole ID; -inf beside -1.
        also: (B, M) float32 the scores of further items that were asked for, found or not.
    """

    items: Tensor
    scores: Tensor
    also: Tensor | None = None


@dataclass(frozen=True)
class Query:
    """What a beam search is asked for.

    Attributes:
        num_beams: W >= 1.
        excluded: (B, E) item_index that a user must not get, padded with -1; None = none.
        also: (B, M) items of the trie to score on the way; None = none.
    """

    num_beams: int
    excluded: Tensor | None = None
    also: Tensor | None = None


@dataclass(frozen=True)
class Excluded:
    """Trie nodes with no eligible item below, per user.

    Attributes:
        nodes: per depth 1..L, (B, E) nodes all of whose items are excluded, -1 elsewhere.
        parents: per depth 1..L, (B, E) their parents.
    """

    nodes: tuple[Tensor, ...]
    parents: tuple[Tensor, ...]

    @classmethod
    def of(cls, items: Int[Tensor, "B E"], trie: TorchTrie) -> Excluded:
        """Nodes closed by excluding `items` (-1 = nothing; repeats and items outside the trie do no harm)."""
        known = torch.where((items >= 0)[..., None], trie.paths[items.clamp(min=0)], -1).sort(dim=1).values
        leaves = known[:, :, -1]
        again = torch.zeros_like(leaves, dtype=torch.bool)
        again[:, 1:] = leaves[:, 1:] == leaves[:, :-1]  # trie order: repeats of an item stand side by side
        weights = (~again & (leaves >= 0)).long().cumsum(1)
        before = torch.cat((torch.zeros_like(weights[:, :1]), weights), 1)
        closed = []
        for depth in range(1, known.shape[2]):
            nodes = known[:, :, depth].contiguous()
            first, end = torch.searchsorted(nodes, nodes), torch.searchsorted(nodes, nodes, right=True)
            excluded = before.gather(1, end) - before.gather(1, first)
            closed.append(torch.where((nodes >= 0) & (excluded == trie.leaf_count[nodes.clamp(min=0)]), nodes, -1))
        return cls(tuple(closed), tuple(known[:, :, depth].contiguous() for depth in range(known.shape[2] - 1)))


def beam_search(
    model: GenerativeModel,
    histories: Histories,
    trie: TorchTrie,
    num_beams: int,
    excluded: Int[Tensor, "B E"] | None = None,
    also: Int[Tensor, "B M"] | None = None,
    vectors: NodeVectors | None = None,
) -> Results:
    """The `num_beams` most probable items of the trie that a beam search of that width finds.

    With `num_beams` at least the number of prefixes on every level the result is exact. Always finds
    min(num_beams, eligible) items: a prefix whose items are all excluded is never kept.

    Args:
        model: in evaluation mode.
        histories: B users.
        trie: the items that may be returned, and, for `normalize: trie`, the items that probabilities sum to 1 over.
        num_beams: W >= 1.
        excluded: (B, E) item_index that a user must not get, padded with -1.
        also: (B, M) items of the trie to score on the way.
        vectors: what the model's `node_vectors` gives for the trie, where it is at hand.
    """
    return beam_searches(model, histories, trie, (Query(num_beams, excluded, also),), vectors)[0]


@torch.inference_mode()
def beam_searches(
    model: GenerativeModel,
    histories: Histories,
    trie: TorchTrie,
    queries: Sequence[Query],
    vectors: NodeVectors | None = None,
) -> tuple[Results, ...]:
    """What `beam_search` finds for each of some queries about the same users; prefixes that they share are computed once."""
    steps = Steps(model, histories, trie, vectors)
    searches = [_Search(query, trie, histories) for query in queries]
    parents = torch.zeros_like(torch.cat([one.nodes(0) for one in searches], 1))
    for level in range(len(trie.fan_out)):
        nodes = [one.nodes(level) for one in searches]
        gains, start, origins = steps.gains(torch.cat(nodes, 1), parents), 0, []
        for one, own in zip(searches, nodes, strict=True):
            origins.append(start + one.grow(gains.of(start, start + own.shape[1]), level))
            start += own.shape[1]
        parents = torch.cat(origins, 1)
    return tuple(one.results() for one in searches)


class _Search:
    """The beams of one query on their way down the trie, and beside them the paths of the items that it scores on the way."""

    def __init__(self, query: Query, trie: TorchTrie, histories: Histories) -> None:
        batch, device = len(histories.items), histories.items.device
        excluded, also = query.excluded, query.also
        self.trie, self.num_beams = trie, query.num_beams
        self.closed = Excluded.of(excluded, trie) if excluded is not None and excluded.shape[1] else None
        self.beams = torch.full((batch, 1), ROOT, device=device)
        self.scores = torch.zeros(batch, 1, device=device)
        self.paths = trie.paths[torch.zeros_like(histories.items[:, :0]) if also is None else also]
        self.also = torch.zeros(self.paths.shape[:2], device=device)

    def nodes(self, level: int) -> Int[Tensor, "B W"]:
        """The beams, in trie order, then the nodes of the other items."""
        return torch.cat((self.beams, self.paths[:, :, level]), 1)

    def grow(self, gains: Gains, level: int) -> Int[Tensor, "B V"]:
        """Go down a level.

        Args:
            gains: of `nodes(level)`.
            level: where the children's codes stand.

        Returns:
            The places among `nodes(level)` of the parents of `nodes(level + 1)`.
        """
        width, fan = self.beams.shape[1], self.trie.fan_out[level]
        self.also = self.also + gains.of(width).along(self.paths, level)
        candidates = (self.scores[:, :, None] + gains.of(0, width).children()).flatten(1)
        if self.closed is not None:
            candidates = _close(candidates, self.closed, level, self.beams, self.trie)
        chosen, self.scores = largest(candidates, self.num_beams)
        # a beam at -inf is a copy of the live one before it, node and parent, so that nodes stay in trie order; where none is
        # before it, of a first child
        alive = torch.isfinite(self.scores)
        live = torch.where(alive, torch.arange(chosen.shape[1], device=chosen.device), 0).cummax(1).values
        chosen = (chosen - chosen % fan * ~alive).gather(1, live)
        origin = chosen // fan
        self.beams = self.trie.child_start[self.beams.gather(1, origin)] + chosen % fan
        others = torch.arange(width, width + self.paths.shape[1], device=chosen.device).expand(len(chosen), -1)
        return torch.cat((origin, others), 1)

    def results(self) -> Results:
        """The items of the leaves that the beams have come to, best first, filled up to `num_beams`."""
        order = self.scores.sort(dim=1, descending=True, stable=True).indices
        scores, leaves = self.scores.gather(1, order), self.beams.gather(1, order)
        found = torch.isfinite(scores)
        items = torch.where(found, self.trie.leaf_item[leaves - self.trie.depth_start[-2]], -1)
        missing = (0, self.num_beams - items.shape[1])
        return Results(F.pad(items, missing, value=-1), F.pad(scores, missing, value=-torch.inf), self.also)


def _close(candidates: Float[Tensor, "B C"], closed: Excluded, level: int, nodes: Int[Tensor, "B W"], trie: TorchTrie) -> Tensor:
    """Give -inf to candidates that lead to a closed node."""
    (batch, width), fan = nodes.shape, trie.fan_out[level]
    slot = torch.searchsorted(nodes, closed.parents[level]).clamp(max=width - 1)
    parent = nodes.gather(1, slot)
    inside = (closed.nodes[level] >= 0) & (parent == closed.parents[level])
    place = torch.where(inside, slot * fan + closed.nodes[level] - trie.child_start[parent], width * fan)
    padded = torch.cat((candidates, candidates.new_zeros(batch, 1)), 1)
    return padded.scatter(1, place, -torch.inf)[:, :-1]
