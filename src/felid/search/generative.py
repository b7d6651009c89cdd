"""Items by the likelihood of their codes, those that share an ID one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import NodeVectors, TorchTrie
from felid.search.beam import Results, beam_search
from felid.search.exact import score_items
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

    def search(
        self,
        histories: Histories,
        seen: Int[Tensor, "B E"] | None,
        count: int,
        num_beams: int,
        also: Int[Tensor, "B M"] | None = None,
    ) -> Results:
        """The most probable items that a beam search finds; those of an ID follow each other in order of item_index.

        Args:
            histories: B users.
            seen: items that a user must not get, padded with -1.
            count: items wanted.
            num_beams: width of the search; raised to `count`.
            also: items of the trie to score on the way.
        """
        num_beams = max(num_beams, count)
        if self.groups is None:
            found = beam_search(self.model, histories, self.trie, num_beams, seen, also, self.vectors)
            return Results(found.items[:, :count], found.scores[:, :count], found.also)
        known, device = None if seen is None else seen.cpu().numpy(), histories.items.device
        closed = None if known is None else torch.from_numpy(self.groups.used_up(known)).to(device)
        found = beam_search(self.model, histories, self.trie, num_beams, closed, also, self.vectors)
        items, scores = self.groups.expand(found.items.cpu().numpy(), found.scores.cpu().numpy(), count, known)
        return Results(torch.from_numpy(items).to(device), torch.from_numpy(scores).to(device), found.also)

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
