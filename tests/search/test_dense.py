"""Inner products over the catalogue against float64 in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from felid.models.base import DenseModel, Histories
from felid.search.dense import VectorScores, most_probable
from tests.tiny import DENSE_KINDS, DenseKind, catalogue, dense_model, histories_of, random_histories, tiny_catalogue

IDS = catalogue(18, (4, 3, 5))


def setting(kind: DenseKind) -> tuple[DenseModel, Histories]:
    return dense_model(kind, tiny_catalogue(IDS, cold=(2, 7))), histories_of(random_histories(IDS))


@torch.no_grad()
def dumb_log_probs(model: DenseModel, histories: Histories, bias: np.ndarray) -> np.ndarray:
    """(B, N) float64; -inf for items without a vector or with a bias of -inf."""
    vectors = model.item_vectors().double().numpy()
    logits = model.contexts(histories).double().numpy() @ np.nan_to_num(vectors).T + bias
    logits[:, np.isnan(vectors).any(1)] = -np.inf
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@pytest.mark.parametrize("kind", DENSE_KINDS)
def test_log_probabilities_sum_to_one_over_items_that_may_be_recommended(kind: DenseKind) -> None:
    model, histories = setting(kind)
    bias = np.zeros(18)
    bias[[0, 7]] = 1.5, -np.inf
    scores = VectorScores.of(model, model.item_vectors(), torch.from_numpy(bias).float())
    found = scores.log_probs(histories)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), dumb_log_probs(model, histories, bias), atol=1e-4)
    assert torch.isneginf(found[:, 7]).all()
    assert torch.isneginf(found[:, 2]).all() == (kind == "sasrec"), "cold items of a model without text have no vector"
    assert found.exp().sum(1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)


@pytest.mark.parametrize("count", [1, 5, 12, 18, 30])
def test_seen_items_and_items_that_may_not_be_recommended_are_left_out(count: int) -> None:
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (3, 12)).astype(np.float32))
    scores[:, [1, 6]] = -torch.inf
    seen = torch.tensor([[3, 4, 3], [5, -1, -1], [0, 1, -1]])
    wanted_scores = scores.tolist()
    for found, banned in (
        (most_probable(scores.clone(), seen, count), seen.tolist()),
        (most_probable(scores.clone(), None, count), [[]] * 3),
    ):
        for row, line in enumerate(wanted_scores):
            eligible = [item for item in range(12) if item not in banned[row] and np.isfinite(line[item])]
            wanted = sorted(eligible, key=lambda item: (-line[item], item))[:count]
            width = min(count, 12)
            assert found.items[row].tolist() == wanted + [-1] * (width - len(wanted))
            assert found.scores[row].tolist() == [line[item] for item in wanted] + [-np.inf] * (width - len(wanted))
