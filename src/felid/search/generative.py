"""Items by the likelihood of their codes, those that share an ID one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import NodeVectors, TorchTrie
from felid.search.beam import Query, Results, beam_searches
from felid.search.exact import score_items
from felid.search.plan import Plan
from felid.semantic_ids import IdGroups


@dataclass(frozen=True, eq=False)
class CodeScores:
    """A generative model over the items that it may recommend.

    Attributes:
        model: in evaluation mode.
        trie: those items.
        groups: the items of each ID where they share IDs, else None.
        vectors: the model's vectors of the trie's nodes, for models that have them.
    """

    model: GenerativeModel
    trie: TorchTrie
    groups: IdGroups | None
    vectors: NodeVectors | None

    @classmethod
    @torch.inference_mode()
    def of(
        cls, model: GenerativeModel, trie: TorchTrie, groups: IdGroups | None, vectors: Float[Tensor, "N D"] | None = None
    ) -> CodeScores:
        """With the vectors that the model's nodes have now, or those of `vectors` of the items."""
        return cls(model, trie, groups, model.node_vectors(trie, vectors))

    def plan(
        self,
        seen: Int[Tensor, "B E"] | None,
        count: int,
        num_beams: int,
        also: Int[Tensor, "B M"] | None = None,
    ) -> Plan[Results]:
        """The most probable items that a beam search finds; those of an ID follow each other in order of item_index.

        Args:
            seen: items that a user must not get, padded with -1.
            count: items wanted.
            num_beams: width of the search; raised to `count`.
            also: items of the trie to score on the way.
        """
        num_beams, groups = max(num_beams, count), self.groups
        if groups is None:
            return Plan(
                Query(num_beams, seen, also), lambda found: Results(found.items[:, :count], found.scores[:, :count], found.also)
            )
        known = None if seen is None else seen.cpu().numpy()
        closed = None if seen is None or known is None else torch.from_numpy(groups.used_up(known)).to(seen.device)

        def expand(found: Results) -> Results:
            items, scores = groups.expand(found.items.cpu().numpy(), found.scores.cpu().numpy(), count, known)
            device = found.items.device
            return Results(torch.from_numpy(items).to(device), torch.from_numpy(scores).to(device), found.also)

        return Plan(Query(num_beams, closed, also), expand)

    def search(self, histories: Histories, queries: Sequence[Query]) -> tuple[Results, ...]:
        """What beam searches for the same users find."""
        return beam_searches(self.model, histories, self.trie, queries, self.vectors)

    def score(self, histories: Histories, items: Int[Tensor, "B M"]) -> Float[Tensor, "B M"]:
        """Natural log-probabilities; -inf for items outside the trie."""
        inside = self.trie.paths[items, -1] >= 0
        asked = torch.where(inside, items, self.trie.leaf_item[0])
        scores = score_items(self.model, histories, asked, self.trie, self.vectors)
        return scores.masked_fill(~inside, -torch.inf)

    def score_targets(self, histories: Histories, targets: NDArray[np.int64]) -> NDArray[np.float32]:
        """(B,) the same of one item for each user: what the loss of training adds up, without dropout."""
        wanted = torch.from_numpy(targets).to(histories.items.device)
        scores: NDArray[np.float32] = self.score(histories, wanted[:, None])[:, 0].cpu().numpy()
        return scores
