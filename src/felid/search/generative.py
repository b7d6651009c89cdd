"""Items by the likelihood of their codes, those that share an ID one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import TorchTrie
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
    """

    model: GenerativeModel
    trie: TorchTrie
    groups: IdGroups | None

    def search(self, histories: Histories, seen: Int[Tensor, "B E"] | None, count: int, num_beams: int) -> Results:
        """The `count` most probable items that a beam search finds, none of those that are `seen` (-1 = none).

        The items of an ID follow each other in order of item_index, with the same score.
        """
        num_beams = max(num_beams, count)
        if self.groups is None:
            found = beam_search(self.model, histories, self.trie, num_beams, seen)
            return Results(found.items[:, :count], found.scores[:, :count])
        known = None if seen is None else seen.cpu().numpy()
        closed = None if known is None else torch.from_numpy(self.groups.used_up(known)).to(histories.items.device)
        found = beam_search(self.model, histories, self.trie, num_beams, closed)
        items, scores = self.groups.expand(found.items.cpu().numpy(), found.scores.cpu().numpy(), count, known)
        return Results(torch.from_numpy(items).to(found.items.device), torch.from_numpy(scores).to(found.items.device))

    def score(self, histories: Histories, items: Int[Tensor, "B M"]) -> Float[Tensor, "B M"]:
        """Natural log-probabilities; -inf for items outside the trie and for -1."""
        inside = (items >= 0) & (self.trie.paths[items.clamp(min=0), -1] >= 0)
        scores = score_items(self.model, histories, torch.where(inside, items, self.trie.leaf_item[0]), self.trie)
        return scores.masked_fill(~inside, -torch.inf)
