"""Beam search over a trie of real items: every result is an item, ties are broken by the smaller semantic ID.

Beams are kept in trie order. The children of trie-ordered nodes are in trie order too, so the W best candidates come
out in trie order again, equal scores in favour of the lexicographically smaller ID (`felid.search.top`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import NodeVectors, TorchTrie
from felid.search.steps import Steps, along
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


@torch.inference_mode()
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
        also: (B, M) items of the trie to score on the way; prefixes that they share with the beams are computed once.
        vectors: what the model's `node_vectors` gives for the trie, where it is at hand.
    """
    batch, device = len(histories.items), histories.items.device
    closed = Excluded.of(excluded, trie) if excluded is not None and excluded.shape[1] else None
    steps = Steps(model, histories, trie, vectors)
    paths = trie.paths[torch.zeros_like(histories.items[:, :0]) if also is None else also]
    scores, further = torch.zeros(batch, 1, device=device), torch.zeros(paths.shape[:2], device=device)
    nodes = torch.full((batch, 1), ROOT, device=device)
    parents = torch.zeros(batch, 1 + paths.shape[1], dtype=torch.long, device=device)  # of the beams, then of `also`
    for level, fan in enumerate(trie.fan_out):
        width = nodes.shape[1]
        gains = steps.gains(torch.cat((nodes, paths[:, :, level]), 1), parents)
        further = further + along(gains[:, width:], paths, level, trie)
        candidates = (scores[:, :, None] + gains[:, :width]).flatten(1)
        if closed is not None:
            candidates = _close(candidates, closed, level, nodes, trie)
        chosen, scores = largest(candidates, num_beams)
        origin = chosen // fan
        children = trie.child_start[nodes.gather(1, origin)] + chosen % fan
        parents = torch.cat((origin, torch.arange(width, gains.shape[1], device=device).expand(batch, -1)), 1)
        # a beam at -inf repeats the node before it, so that nodes stay in trie order and the live beam of a node comes first
        nodes = torch.where(torch.isfinite(scores), children, trie.child_start[nodes[:, :1]]).cummax(1).values
    return _results(nodes, scores, further, trie, num_beams)


def _results(nodes: Int[Tensor, "B W"], scores: Tensor, further: Tensor, trie: TorchTrie, num_beams: int) -> Results:
    """The items of leaves in trie order, best first, filled up to `num_beams`."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    scores, nodes = scores.gather(1, order), nodes.gather(1, order)
    found = torch.isfinite(scores)
    items = torch.where(found, trie.leaf_item[nodes - trie.depth_start[-2]], -1)
    missing = (0, num_beams - items.shape[1])
    return Results(F.pad(items, missing, value=-1), F.pad(scores, missing, value=-torch.inf), further)


def _close(candidates: Float[Tensor, "B C"], closed: Excluded, level: int, nodes: Int[Tensor, "B W"], trie: TorchTrie) -> Tensor:
    """Give -inf to candidates that lead to a closed node."""
    (batch, width), fan = nodes.shape, trie.fan_out[level]
    slot = torch.searchsorted(nodes, closed.parents[level]).clamp(max=width - 1)
    parent = nodes.gather(1, slot)
    inside = (closed.nodes[level] >= 0) & (parent == closed.parents[level])
    place = torch.where(inside, slot * fan + closed.nodes[level] - trie.child_start[parent], width * fan)
    padded = torch.cat((candidates, candidates.new_zeros(batch, 1)), 1)
    return padded.scatter(1, place, -torch.inf)[:, :-1]
