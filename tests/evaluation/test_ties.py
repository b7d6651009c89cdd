from __future__ import annotations

import numpy as np
import pytest
import torch

from felid.errors import RequestError
from felid.evaluation.ties import Ties, ranks_of_scores
from felid.metrics import ranks_of, recall_at_k
from felid.search.dense import most_probable


def counted(scores: np.ndarray, target: int, ties: Ties) -> float:
    """The same by counting, one user at a time."""
    if np.isneginf(scores[target]):
        return 0
    better = [item for item, score in enumerate(scores) if score > scores[target]]
    equal = [item for item, score in enumerate(scores) if score == scores[target] and item != target]
    ahead = {"order": sum(item < target for item in equal), "average": len(equal) / 2, "pessimistic": len(equal)}[ties]
    return len(better) + ahead + 1


@pytest.mark.parametrize("ties", ["order", "average", "pessimistic"])
def test_ranks_equal_those_that_are_counted(ties: Ties) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (60, 9)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    targets, seen = rng.integers(0, 9, 60), rng.integers(-1, 9, (60, 3))
    left = scores.copy()
    for user, item in zip(*np.nonzero(seen >= 0), strict=True):
        left[user, seen[user, item]] = -np.inf
    found = ranks_of_scores(scores, targets, ties, seen)
    assert found.tolist() == [counted(left[user], int(targets[user]), ties) for user in range(60)]
    assert found.min() == 0 and (found == 1).any()


def test_the_order_is_that_of_dense_lists() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 3, (40, 8)).astype(np.float32)
    targets, seen = rng.integers(0, 8, 40), rng.integers(0, 8, (40, 2))
    lists = most_probable(torch.from_numpy(scores.copy()), torch.from_numpy(seen), 8).items.numpy()
    assert ranks_of_scores(scores, targets, "order", seen).tolist() == ranks_of(targets, lists).tolist()


def test_a_system_that_scores_all_items_alike_is_not_praised() -> None:
    """Pitfall: a constant score, with the target counted before its equals, is a perfect system."""
    scores, targets = np.zeros((3, 10)), np.array([0, 4, 9])
    assert ranks_of_scores(scores, targets, "order").tolist() == [1, 5, 10]
    assert ranks_of_scores(scores, targets, "average").tolist() == [5.5] * 3
    assert ranks_of_scores(scores, targets, "pessimistic").tolist() == [10] * 3
    assert recall_at_k(ranks_of_scores(scores, targets, "average"), 5) == 0
    assert recall_at_k(ranks_of_scores(scores, targets, "average"), 6) == 1


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, np.int64), r"scores have shape \(2, 3\) and targets \(3,\)"),
        (np.array([[0.0, np.nan]]), np.zeros(1, np.int64), "1 scores are NaN"),
        (np.zeros((1, 3)), np.array([3]), r"outside 0\.\.2"),
        (np.zeros((1, 3)), np.array([-1]), r"outside 0\.\.2"),
    ],
)
def test_what_has_no_rank_is_refused(scores: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ranks_of_scores(scores, targets)
