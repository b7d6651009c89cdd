"""Ranking metrics as pure functions of the target's rank.

With one target per user, Recall@k equals HitRate@k and the ideal DCG is 1, so NDCG@k = 1 / log2(rank + 1)
(Järvelin and Kekäläinen 2002). `ranks` is (U,) int64, 1-based; 0 = the target is not in the list. Every `*_per_user`
function returns (U,) float64; its mean is the metric of the same name with `_at_k`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from felid.errors import RequestError

Ranks = NDArray[np.int64]
Values = NDArray[np.float64]


def ranks_of(targets: NDArray[np.int64], recommended: NDArray[np.int64]) -> Ranks:
    """Rank of each target in its user's list.

    Args:
        targets: (U,) item_index.
        recommended: (U, R) item_index, best first; -1 = no item, which no target ever equals.

    Returns:
        (U,) int64 1-based rank, 0 where the list does not hold the target.
    """
    if recommended.ndim != 2 or targets.shape != recommended.shape[:1]:
        raise RequestError(
            f"targets have shape {targets.shape} and lists {recommended.shape}, expected (users,) and (users, places); "
            "give one list per target"
        )
    if not recommended.shape[1]:
        return np.zeros(len(targets), np.int64)
    hits = recommended == targets[:, None]
    places = hits.argmax(axis=1)
    found = hits[np.arange(len(targets)), places] & (targets >= 0)
    return np.where(found, places + 1, 0).astype(np.int64)


def recall_per_user(ranks: Ranks, k: int) -> Values:
    """1 where the target is among the first `k`, else 0."""
    return _within(ranks, k).astype(np.float64)


def ndcg_per_user(ranks: Ranks, k: int) -> Values:
    """1 / log2(rank + 1) where the target is among the first `k`, else 0."""
    hit = _within(ranks, k)
    return np.where(hit, 1.0 / np.log2(np.where(hit, ranks, 1) + 1.0), 0.0)


def mrr_per_user(ranks: Ranks, k: int) -> Values:
    """1 / rank where the target is among the first `k`, else 0."""
    hit = _within(ranks, k)
    return np.where(hit, 1.0 / np.where(hit, ranks, 1), 0.0)


def recall_at_k(ranks: Ranks, k: int) -> float:
    """Share of users whose target is among the first `k`; NaN for no users."""
    return _mean(recall_per_user(ranks, k))


def ndcg_at_k(ranks: Ranks, k: int) -> float:
    """Mean NDCG@k over users; NaN for no users."""
    return _mean(ndcg_per_user(ranks, k))


def mrr_at_k(ranks: Ranks, k: int) -> float:
    """Mean reciprocal rank cut at `k` over users; NaN for no users."""
    return _mean(mrr_per_user(ranks, k))


def coverage_at_k(recommended: NDArray[np.int64], num_items: int, k: int) -> float:
    """Share of the catalogue that stands in the first `k` places of at least one user's list.

    Args:
        recommended: (U, R) item_index below `num_items`, best first, -1 = no item.
        num_items: size of the catalogue.
        k: places that count; lists shorter than `k` count as they are.
    """
    shown = np.zeros(num_items + 1, bool)
    shown[recommended[:, : _checked(k)]] = True  # -1 marks the last place, which is of no item
    return int(shown[:num_items].sum()) / num_items


def _within(ranks: Ranks, k: int) -> NDArray[np.bool_]:
    return (ranks >= 1) & (ranks <= _checked(k))


def _checked(k: int) -> int:
    if k < 1:
        raise RequestError(f"k is {k}, expected at least 1; ask for one place or more")
    return k


def _mean(values: Values) -> float:
    return float(values.mean()) if len(values) else float("nan")
