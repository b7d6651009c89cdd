"""LIGER's search (Yang et al. 2024, arXiv:2411.18814): generated candidates and a pool of cold items, by dense score.

A generative model hardly ever generates the codes of an item that it was not trained on, so these items are candidates
without being generated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from felid.models.base import Histories
from felid.search.beam import Results
from felid.search.dense import VectorScores, most_probable
from felid.search.generative import CodeScores
from felid.search.plan import Plan


@dataclass(frozen=True, eq=False)
class HybridScores:
    """Both heads of a model, and what is ranked without being generated.

    Attributes:
        vectors: the dense head.
        codes: the generative head.
        pool: (N,) bool, candidates of every user.
    """

    vectors: VectorScores
    codes: CodeScores
    pool: Tensor

    def plan(
        self, histories: Histories, seen: Int[Tensor, "B E"] | None, count: int, generated: int, num_beams: int
    ) -> Plan[Results]:
        """The `count` best of the candidates by dense score, ties by item_index.

        Args:
            histories: B users.
            seen: items that a user must not get, padded with -1.
            count: items wanted; -1 stands where there are fewer candidates, so that a longer list begins as a shorter one does.
            generated: candidates that a beam search finds.
            num_beams: its width; raised to `generated`.
        """

        def ranked(found: Results) -> Results:
            size = len(self.pool)
            among = torch.zeros(len(found.items), size + 1, dtype=torch.bool, device=found.items.device)  # the last one: of -1
            candidates = among.scatter_(1, found.items % (size + 1), True)[:, :size] | self.pool
            return most_probable(self.vectors.log_probs(histories).masked_fill_(~candidates, -torch.inf), seen, count)

        return self.codes.plan(seen, generated, num_beams).then(ranked)
