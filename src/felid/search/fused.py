"""Items by both heads: each proposes its best ones, and both score all that were proposed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from felid.models.base import Histories
from felid.search.beam import Results
from felid.search.dense import VectorScores, most_probable
from felid.search.generative import CodeScores
from felid.search.top import best


@dataclass(frozen=True, eq=False)
class Candidates:
    """What both heads say of the items that either proposed.

    Attributes:
        items: (B, M) item_index, ascending in each row, -1 = none before them.
        dense: (B, M) float32 natural log-probability under the dense head; -inf = not to be recommended.
        generative: (B, M) float32 the same under the generative head.
    """

    items: Tensor
    dense: Tensor
    generative: Tensor

    def best(self, weight: float, count: int) -> Results:
        """The `count` best items by `fuse`, ties by item_index."""
        places, scores = best(fuse(self.dense, self.generative, weight), count)
        return Results(self.items.gather(1, places).masked_fill(torch.isneginf(scores), -1), scores)


def fuse(dense: Float[Tensor, "*B"], generative: Float[Tensor, "*B"], weight: float) -> Float[Tensor, "*B"]:
    """(1 - weight) * dense + weight * generative; -inf where either is, whatever the weight."""
    possible = torch.isfinite(dense) & torch.isfinite(generative)
    return torch.where(possible, (1 - weight) * dense + weight * generative, -torch.inf)


@torch.inference_mode()
def propose(
    codes: CodeScores, vectors: VectorScores, histories: Histories, seen: Int[Tensor, "B E"] | None, count: int, num_beams: int
) -> Candidates:
    """The union of each head's best `count` items, with both scores of each."""
    log_probs = vectors.log_probs(histories)
    by_vector = most_probable(log_probs, seen, count)
    asked = torch.where(by_vector.items < 0, codes.trie.leaf_item[0], by_vector.items)
    by_codes = codes.search(histories, seen, count, num_beams, asked)
    assert by_codes.also is not None
    dense = log_probs.gather(1, by_codes.items.clamp(min=0))
    new = _missing(by_vector.items, by_codes.items, log_probs.shape[1])
    items, order = torch.cat((by_codes.items, by_vector.items.masked_fill(~new, -1)), 1).sort(1)
    absent = items < 0
    both = torch.cat((dense, by_vector.scores), 1), torch.cat((by_codes.scores, by_codes.also), 1)
    return Candidates(items, *(scores.gather(1, order).masked_fill(absent, -torch.inf) for scores in both))


def _missing(items: Int[Tensor, "B C"], others: Int[Tensor, "B W"], num_items: int) -> Bool[Tensor, "B C"]:
    """Which of `items` are not among the `others` of their row."""
    among = torch.zeros(len(items), num_items + 1, dtype=torch.bool, device=items.device)  # the last place is that of -1
    return ~among.scatter_(1, others % (num_items + 1), True).gather(1, items % (num_items + 1))
