"""Ranks of targets under every convention for equal scores, for systems that score the whole catalogue.

The evaluator judges lists, in which equal scores already have an order (`felid.evaluation.policies` says which), the same for all
systems of a table. How far a rank can depend on that order is seen here: where `order` and `pessimistic` agree, it does not.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from felid.errors import RequestError

Ties = Literal["order", "average", "pessimistic"]


def ranks_of_scores(
    scores: NDArray[np.floating], targets: NDArray[np.int64], ties: Ties = "order", seen: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Rank of each target among all items, from 1; 0 = the target cannot be recommended.

    The metrics of `felid.metrics` take these ranks. An average one between k and k + 1 is a miss at k.

    Args:
        scores: (U, N), the higher the better; -inf = the item cannot be recommended.
        targets: (U,) item_index.
        ties: what of items with exactly the target's score: those with a smaller item_index stand before it (`order`, that of our
            dense lists), half of them do (`average`), or all of them (`pessimistic`).
        seen: (U, E) item_index that are taken out of the list first, padded with -1; a target among them has rank 0.

    Raises:
        RequestError: other shapes, a score that is no number, or a target outside the catalogue.
    """
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise RequestError(
            f"scores have shape {scores.shape} and targets {targets.shape}, expected (users, items) and (users,); give one row "
            "of scores per target"
        )
    if np.isnan(scores).any():
        raise RequestError(f"{np.isnan(scores).sum():,} scores are NaN, expected numbers; an item that is out has -inf")
    if len(targets) and not (targets.min() >= 0 and targets.max() < scores.shape[1]):
        raise RequestError(f"targets lie outside 0..{scores.shape[1] - 1}, the items that are scored; give item_index")
    left = scores if seen is None else _without(scores, seen)
    own = np.take_along_axis(left, targets[:, None], axis=1)
    before, equal = (left > own).sum(axis=1), left == own
    if ties == "order":
        tied = (equal & (np.arange(scores.shape[1]) < targets[:, None])).sum(axis=1).astype(np.float64)
    else:
        tied = (equal.sum(axis=1) - 1) * (0.5 if ties == "average" else 1.0)
    return np.where(np.isneginf(own[:, 0]), 0.0, before + tied + 1)


def _without(scores: NDArray[np.floating], seen: NDArray[np.int64]) -> NDArray[np.floating]:
    left = np.concatenate([scores, np.zeros_like(scores[:, :1])], axis=1)  # the last place is that of -1
    np.put_along_axis(left, seen, -np.inf, axis=1)
    return left[:, :-1]
