"""Items by all that is known: the heads propose their best ones, and each candidate gets the score of every voice.

The voices are the dense head, the generative head where the model has one, and the transition memory, whose evidence is added
to the dense scores before that head proposes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from felid.models.base import Histories
from felid.search.beam import Results
from felid.search.dense import VectorScores, most_probable
from felid.search.generative import CodeScores
from felid.search.neighbours import Neighbours
from felid.search.plan import Plan
from felid.search.top import best
from felid.search.transitions import TransitionMemory


@dataclass(frozen=True)
class Weights:
    """How much each voice counts.

    Attributes:
        generative: share of the generative score, 0 to 1; the dense one has the rest.
        memory: factor of the transition memory's evidence.
    """

    generative: float
    memory: float

    def fuse(
        self, dense: Float[Tensor, "*B"], generative: Float[Tensor, "*B"], memory: Float[Tensor, "*B"]
    ) -> Float[Tensor, "*B"]:
        """The weighted sum of all voices; -inf where a head says so, whatever its share."""
        possible = torch.isfinite(dense) & torch.isfinite(generative)
        score = (1 - self.generative) * dense + self.generative * generative + self.memory * memory
        return torch.where(possible, score, -torch.inf)


@dataclass(frozen=True, eq=False)
class Candidates:
    """What each voice says of the items that were proposed.

    Attributes:
        items: (B, M) item_index, ascending in each row, -1 = none before them.
        dense: (B, M) float32 natural log-probability under the dense head; -inf = not to be recommended.
        generative: (B, M) float32 the same under the generative head, with the bias that the dense one has in its logits; the
            dense score where there is no such head.
        memory: (B, M) float32 evidence of the transition memory; 0 where there is none.
    """

    items: Tensor
    dense: Tensor
    generative: Tensor
    memory: Tensor

    def best(self, weights: Weights, count: int) -> Results:
        """The `count` best items by `Weights.fuse`, ties by item_index."""
        places, scores = best(weights.fuse(self.dense, self.generative, self.memory), count)
        return Results(self.items.gather(1, places).masked_fill(torch.isneginf(scores), -1), scores)


@dataclass(frozen=True)
class Voices:
    """What has a say in a fused list.

    Attributes:
        vectors: the dense head.
        codes: the generative head; None for a model without one.
        memory: the transition memory; None = there is none.
        neighbours: whose transitions cold items have; None = they have none.
    """

    vectors: VectorScores
    codes: CodeScores | None
    memory: TransitionMemory | None
    neighbours: Neighbours | None = None

    def evidence(self, histories: Histories) -> Float[Tensor, "B N"]:
        """What the memory says of every item."""
        if self.memory is not None:
            found = self.memory.scores(histories)
            return found if self.neighbours is None else self.neighbours.share(found)
        return torch.zeros(len(histories.items), len(self.vectors.vectors), device=histories.items.device)


@torch.inference_mode()
def proposal(
    voices: Voices, histories: Histories, seen: Int[Tensor, "B E"] | None, count: int, num_beams: int, memory_weight: float
) -> Plan[Candidates]:
    """The union of each head's best `count` items, the dense ones with `memory_weight` times the memory's evidence added."""
    log_probs, evidence = voices.vectors.log_probs(histories), voices.evidence(histories)
    found = most_probable(log_probs + memory_weight * evidence, seen, count).items

    def candidates(items: Int[Tensor, "B M"], generative: Float[Tensor, "B M"]) -> Candidates:
        absent, known = items < 0, items.clamp(min=0)
        dense = log_probs.gather(1, known)
        return Candidates(
            items, dense.masked_fill(absent, -torch.inf), generative.masked_fill(absent, -torch.inf), evidence.gather(1, known)
        )

    if voices.codes is None:
        items = found.sort(1).values
        return Plan(None, lambda _: candidates(items, log_probs.gather(1, items.clamp(min=0))))

    def united(by_codes: Results) -> Candidates:
        assert by_codes.also is not None
        new = _missing(found, by_codes.items, log_probs.shape[1])
        items, order = torch.cat((by_codes.items, found.masked_fill(~new, -1)), 1).sort(1)
        generative = torch.cat((by_codes.scores, by_codes.also), 1).gather(1, order)
        return candidates(items, generative + voices.vectors.bias[items.clamp(min=0)])

    asked = torch.where(found < 0, voices.codes.trie.leaf_item[0], found)
    return voices.codes.plan(seen, count, num_beams, asked).then(united)


def _missing(items: Int[Tensor, "B C"], others: Int[Tensor, "B W"], num_items: int) -> Bool[Tensor, "B C"]:
    """Which of `items` are not among the `others` of their row."""
    among = torch.zeros(len(items), num_items + 1, dtype=torch.bool, device=items.device)  # the last place is that of -1
    return ~among.scatter_(1, others % (num_items + 1), True).gather(1, items % (num_items + 1))
