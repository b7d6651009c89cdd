"""The share of the generative score in the fused one, chosen on validation."""

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

WEIGHTS = tuple(step / 10 for step in range(11))


class FusionChoice(Config):
    """What was chosen, and among what."""

    weight: float = Field(ge=0, le=1)
    """Share of the generative score with the best NDCG@10; of equals the smallest."""
    curve: tuple[tuple[float, float], ...]
    """Each weight that was tried with its NDCG@10."""

    def save(self, folder: Path) -> None:
        """Write `search.json`."""
        write_json(folder / "search.json", as_tree(self))

    @classmethod
    def load(cls, folder: Path) -> FusionChoice | None:
        """Read what `save` wrote; None where there is nothing."""
        path = folder / "search.json"
        return validate(cls, read_json(path)) if path.is_file() else None


def choose_fusion(
    ranker: ItemRanker, eval_set: EvaluationSet, exclude_seen: bool, weights: Sequence[float] = WEIGHTS
) -> FusionChoice:
    """The weight with the best NDCG@10 under `fused`; each head scores each user once.

    Args:
        ranker: under mode `fused`; its own weight is not read.
        eval_set: validation users.
        exclude_seen: leave the items of the history out of the lists.
        weights: shares of the generative score to try.
    """
    totals, k = (
        np.zeros(len(weights)),
        min(10, len(ranker.catalogue.warm)),
    )  # in a smaller catalogue a list of 10 is the whole of it
    for rows, candidates in ranker.candidates(eval_set.histories, k, exclude_seen):
        for place, weight in enumerate(weights):
            found = candidates.best(weight, k).items.cpu().numpy()
            totals[place] += ndcg_per_user(ranks_of(eval_set.targets[rows], found), k).sum()
    ndcg = totals / len(eval_set.targets)
    curve = tuple(zip(weights, ndcg.tolist(), strict=True))
    return FusionChoice(weight=weights[int(ndcg.argmax())], curve=curve)
