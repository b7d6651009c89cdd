"""How much each voice counts in the fused score, chosen on validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from felid.artifacts import read_json, write_json
from felid.config import Config, as_tree, validate
from felid.data.histories import EvaluationSet
from felid.metrics import ndcg_per_user, ranks_of
from felid.ranking import ItemRanker
from felid.search.config import SearchConfig
from felid.search.fused import Weights

SHARES = tuple(step / 10 for step in range(11))
MEMORY = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
GRID = tuple(Weights(share, memory) for memory in MEMORY for share in SHARES)


class FusionChoice(Config):
    """What was chosen, and among what."""

    weight: float = Field(ge=0, le=1)
    """Share of the generative score with the best NDCG@10; of equals the smallest."""
    memory_weight: float = Field(ge=0)
    """Factor of the transition memory with the best NDCG@10; of equals the smallest."""
    curve: tuple[tuple[float, float, float], ...]
    """Each share and factor that was tried with its NDCG@10."""

    def save(self, folder: Path) -> None:
        """Write `search.json`."""
        write_json(folder / "search.json", as_tree(self))

    def complete(self, search: SearchConfig) -> SearchConfig:
        """The settings with weights in place of those that are null: the best ones beside a weight that is given.

        Where none was tried with the given weight, the others are those of the best pair.
        """
        share, memory = search.fusion_weight, search.memory_weight
        fitting = [tried for tried in self.curve if share in (None, tried[0]) and memory in (None, tried[1])]
        best = max(fitting, key=lambda tried: tried[2]) if fitting else (self.weight, self.memory_weight)
        update = {"fusion_weight": best[0] if share is None else share, "memory_weight": best[1] if memory is None else memory}
        return search.model_copy(update=update)

    @classmethod
    def load(cls, folder: Path) -> FusionChoice | None:
        """Read what `save` wrote; None where there is nothing."""
        path = folder / "search.json"
        return validate(cls, read_json(path)) if path.is_file() else None


def choose_fusion(
    ranker: ItemRanker, eval_set: EvaluationSet, exclude_seen: bool, grid: Sequence[Weights] = GRID
) -> FusionChoice:
    """The weights with the best NDCG@10 under `fused`; each voice scores each user once.

    Args:
        ranker: under mode `fused`; its own weights decide which candidates the memory adds, and nothing else.
        eval_set: validation users.
        exclude_seen: leave the items of the history out of the lists.
        grid: the weights to try. Shares are skipped where there is no generative head, factors where there is no memory.
    """
    tried = [w for w in grid if (ranker.codes or not w.generative) and (ranker.memory or not w.memory)]
    totals, k = np.zeros(len(tried)), min(10, len(ranker.catalogue.warm))  # a smaller catalogue is a list of its own
    for rows, candidates in ranker.candidates(eval_set.histories, k, exclude_seen):
        for place, weights in enumerate(tried):
            found = candidates.best(weights, k).items.cpu().numpy()
            totals[place] += ndcg_per_user(ranks_of(eval_set.targets[rows], found), k).sum()
    ndcg = totals / len(eval_set.targets)
    curve = tuple((w.generative, w.memory, float(value)) for w, value in zip(tried, ndcg, strict=True))
    chosen = tried[int(ndcg.argmax())]
    return FusionChoice(weight=chosen.generative, memory_weight=chosen.memory, curve=curve)
