from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from felid.errors import EmbeddingError
from felid.quantize.collaborative import alignment_loss, check_collaborative, cluster_codes, diversity_loss, mean_diversity_loss


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


def slow_alignment(projected: np.ndarray, collaborative: np.ndarray, temperature: float) -> float:
    known = [row for row in range(len(projected)) if not np.isnan(collaborative[row]).any()]
    losses = []
    for row in known:
        shares = {other: math.exp(cosine(projected[row], collaborative[other]) / temperature) for other in known}
        losses.append(-math.log(shares[row] / sum(shares.values())))
    return sum(losses) / max(len(losses), 1)


def slow_diversity(codebook: np.ndarray, clusters: list[int], codes: list[int], temperature: float) -> float:
    losses = []
    for code in codes:
        others = {k: math.exp(cosine(codebook[code], codebook[k]) / temperature) for k in range(len(codebook)) if k != code}
        mates = [k for k in others if clusters[k] == clusters[code]]
        losses.append(sum(-math.log(others[k] / sum(others.values())) for k in mates) / max(len(mates), 1))
    return sum(losses) / len(losses)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 7), missing=st.integers(0, 7), seed=st.integers(0, 999), temperature=st.floats(0.1, 2))
def test_alignment_is_the_double_loop(count, missing, seed, temperature):
    rng = np.random.default_rng(seed)
    projected, collaborative = rng.normal(size=(2, count, 5))
    collaborative[rng.permutation(count)[:missing]] = np.nan
    found = alignment_loss(torch.from_numpy(projected), torch.from_numpy(collaborative), temperature)
    assert float(found) == pytest.approx(slow_alignment(projected, collaborative, temperature), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(2, 7), num_clusters=st.integers(1, 4), seed=st.integers(0, 999), temperature=st.floats(0.1, 2))
def test_diversity_is_the_double_loop(size, num_clusters, seed, temperature):
    rng = np.random.default_rng(seed)
    codebook, clusters, codes = rng.normal(size=(size, 3)), rng.integers(num_clusters, size=size), rng.integers(size, size=9)
    tensors = [torch.from_numpy(array) for array in (codebook, clusters, codes)]
    expected = slow_diversity(codebook, clusters.tolist(), codes.tolist(), temperature)
    assert float(diversity_loss(*tensors, temperature)) == pytest.approx(expected, abs=1e-9)


def test_items_without_a_collaborative_vector_take_no_part():
    generator = torch.Generator().manual_seed(0)
    projected, collaborative = torch.randn(2, 8, 4, generator=generator)
    collaborative[[1, 6]] = torch.nan
    known = torch.tensor([0, 2, 3, 4, 5, 7])
    leaf = projected.clone().requires_grad_()
    loss = alignment_loss(leaf, collaborative, 0.2)
    loss.backward()
    assert torch.equal(loss.detach(), alignment_loss(projected[known], collaborative[known], 0.2))
    assert (leaf.grad[[1, 6]] == 0).all()
    assert (leaf.grad[known].abs().sum(1) > 0).all()


def test_a_batch_without_any_collaborative_vector_costs_nothing():
    leaf = torch.ones(3, 2, requires_grad=True)
    loss = alignment_loss(leaf, torch.full((3, 2), torch.nan), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(leaf.grad, torch.zeros(3, 2))


def test_diversity_moves_a_code_to_its_cluster_and_away_from_others():
    codebook = torch.nn.Parameter(torch.tensor([[1.0, 0.2], [1.0, -0.2], [-0.2, 1.0], [0.2, 1.0]]))
    clusters, codes = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 3])
    step = torch.optim.SGD([codebook], lr=0.05)
    before = [cosine(*codebook.detach().numpy()[list(pair)]) for pair in ((0, 1), (0, 3))]
    for _ in range(20):
        step.zero_grad()
        diversity_loss(codebook, clusters, codes, 0.5).backward()
        step.step()
    after = [cosine(*codebook.detach().numpy()[list(pair)]) for pair in ((0, 1), (0, 3))]
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_mean_diversity_counts_a_level_of_one_code_as_zero():
    generator = torch.Generator().manual_seed(1)
    codebook, codes = torch.randn(5, 3, generator=generator), torch.tensor([0, 4, 2])
    clusters = torch.tensor([0, 0, 1, 1, 0])
    single, zeros = torch.ones(1, 3), torch.zeros(3, dtype=torch.int64)
    found = mean_diversity_loss([codebook, single], [clusters, zeros[:1]], [codes, zeros], 0.3)
    assert float(found) == pytest.approx(float(diversity_loss(codebook, clusters, codes, 0.3)) / 2)
    assert float(mean_diversity_loss([single], [zeros[:1]], [zeros], 0.3)) == 0


def test_codes_are_grouped_by_nearness():
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    codebook = centres.repeat_interleave(4, 0) + 0.1 * torch.randn(12, 2, generator=torch.Generator().manual_seed(2))
    groups = cluster_codes(codebook, 3, seed=0).reshape(3, 4)
    assert (groups == groups[:, :1]).all()
    assert len(set(groups[:, 0].tolist())) == 3
    assert cluster_codes(torch.ones(4, 2), 3, seed=0).tolist() == [0] * 4


def test_collaborative_vectors_are_checked():
    good = np.array([[1, 2], [np.nan, np.nan], [3, 4]], np.float32)
    np.testing.assert_array_equal(check_collaborative(good, 3), good)
    with pytest.raises(EmbeddingError, match=r"shape \(3, 2\); expected \(4, D\)"):
        check_collaborative(good, 4)
    for bad in (np.nan, np.inf):
        with pytest.raises(EmbeddingError, match="1 collaborative vectors hold NaN or infinity"):
            check_collaborative(np.array([[1, 2], [bad, 0], [3, 4]], np.float32), 3)
    with pytest.raises(EmbeddingError, match="no item to fit has a collaborative vector"):
        check_collaborative(np.full((2, 3), np.nan, np.float32), 2)
