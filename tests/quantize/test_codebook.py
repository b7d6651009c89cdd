"""Codebooks: exact look-up, moving averages against NumPy, gradients, and the faults of naive code."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from felid.errors import FelidWarning, SemanticIdError
from felid.quantize import nearest
from felid.quantize.codebook import SemanticIDConfig, VectorQuantizer
from felid.quantize.nearest import balanced_codes, nearest_codes
from felid.quantize.residual import ResidualVectorQuantizer, rotated

Array = NDArray[np.float64]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distances(x: Tensor, codebook: Tensor) -> Tensor:
    return ((x.double()[:, None] - codebook.double()[None]) ** 2).sum(2)


# Look-up


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_nearest_is_the_double_loop_also_far_from_the_origin(offset: float) -> None:
    x, codebook = normal(300, 6) + offset, normal(50, 6, seed=1) + offset
    codes, slow = nearest_codes(x, codebook), distances(x, codebook)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, slow.argmin(1))


@pytest.mark.parametrize("size", [40, 300])
def test_nearest_is_exact_between_codes_that_float32_products_cannot_tell_apart(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "CODES", 128)
    rng, codebook = np.random.default_rng(0), normal(size, 64)
    codebook = torch.cat([codebook, codebook + 1e-6 * normal(size, 64, seed=1), codebook[:5]])[rng.permutation(2 * size + 5)]
    x = codebook[rng.integers(len(codebook), size=500)] + 0.5 * normal(500, 64, seed=2)
    exact, codes = distances(x, codebook).argmin(1), nearest_codes(x, codebook)
    naive = (codebook.square().sum(1) - 2 * x @ codebook.T).argmin(1)
    assert (naive != exact).any()
    assert torch.equal(codes, exact)
    assert torch.equal(torch.cat([nearest_codes(row[None], codebook) for row in x[:50]]), codes[:50])


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 5), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_blocks_change_no_code_and_equal_codes_give_the_lowest(rows: int, size: int, width: int, seed: int) -> None:
    codebook = normal(size, width, seed=seed)[np.random.default_rng(seed).integers(size, size=size)]
    x = torch.cat([normal(rows, width, seed=seed + 1), codebook])
    whole, rough = nearest_codes(x, codebook), nearest_codes(x, codebook, exact=False)
    first = (codebook[None] == codebook[:, None]).all(2).int().argmax(1)
    assert torch.equal(whole, first[whole]) and torch.equal(rough, first[rough])
    assert torch.equal(whole[rows:], first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "ROWS", 7)
        patch.setattr(nearest, "CODES", 4)
        patch.setattr(nearest, "PAIRS", 3)
        assert torch.equal(nearest_codes(x, codebook), whole)


class Largest(TorchFunctionMode):
    """Size of the largest tensor that any operation returned."""

    numbers = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            self.numbers = max(self.numbers, one.numel() if isinstance(one, Tensor) else 0)
        return out


def test_no_operation_of_a_step_makes_a_matrix_of_all_rows_times_all_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "ROWS", 64)
    monkeypatch.setattr(nearest, "CODES", 128)
    quantizer, x = ResidualVectorQuantizer(SemanticIDConfig(8, 2, (512, 1024))), normal(512, 8).requires_grad_()
    with Largest() as largest:
        quantizer(x).quantized.sum().backward()
    assert 0 < largest.numbers <= 1024 * 8


@pytest.mark.parametrize("epsilon", [0.02, 0.2])
def test_sinkhorn_codes_are_those_of_the_slow_plan(epsilon: float) -> None:
    x, codebook = normal(60, 4), normal(6, 4, seed=1)
    costs = distances(x, codebook).numpy()
    scale = epsilon * (costs.max() - costs.min()) / 2
    rows, columns = np.zeros(60), np.zeros(6)
    for _ in range(50):  # log domain, one logarithm of a sum after the other
        rows = -np.log(np.exp(-costs / scale + columns).sum(1))
        columns = np.log(10) - np.log(np.exp(-costs / scale + rows[:, None]).sum(0))
    assert np.array_equal(balanced_codes(x, codebook, epsilon, 50).numpy(), (columns - costs / scale).argmax(1))


def test_sinkhorn_uses_codes_evenly_even_those_that_no_row_is_near() -> None:
    x, codebook = normal(400, 4), normal(16, 4, seed=1)
    codebook[8:] += 6
    plain = torch.bincount(nearest_codes(x, codebook), minlength=16)
    spread = []
    for epsilon in (1.0, 0.05, 0.01, 0.003):
        even = torch.bincount(balanced_codes(x, codebook, epsilon, 500), minlength=16)
        spread.append(int(even.max() - even.min()))
    assert plain.min() == 0
    assert spread == sorted(spread, reverse=True)  # the smaller epsilon, the more even
    assert spread[-1] <= 6


@pytest.mark.parametrize("epsilon", [3e-4, 1e-4, 1e-5, 1e-7])
def test_pitfall_sinkhorn_underflow_puts_all_rows_on_one_code(epsilon: float) -> None:
    x, codebook = normal(400, 4), normal(16, 4, seed=1)
    codebook[8:] += 6
    counts = torch.bincount(balanced_codes(x, codebook, epsilon, 200), minlength=16)
    assert counts.max() < 200 and (counts > 0).sum() > 8


def test_sinkhorn_codes_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, codebook = normal(200, 4), normal(16, 4, seed=1)
    whole = balanced_codes(x, codebook, 0.02, 45)
    monkeypatch.setattr(nearest, "ROWS", 28)
    monkeypatch.setattr(nearest, "CODES", 16)
    assert torch.equal(balanced_codes(x, codebook, 0.02, 45), whole)
    monkeypatch.setattr(nearest, "STEPS", 1)
    assert torch.equal(balanced_codes(x, codebook, 0.02, 45), whole)


def test_sinkhorn_only_changes_the_last_level_and_only_while_training() -> None:
    torch.manual_seed(0)
    config = SemanticIDConfig(4, 2, (16, 16), sinkhorn_epsilon=0.01, sinkhorn_iterations=200)
    quantizer, x = ResidualVectorQuantizer(config), 0.1 * normal(320, 4)
    expected = quantizer.encode(x)
    first, last = quantizer.eval()(x).indices
    assert torch.equal(first, expected[0]) and torch.equal(last, expected[1])
    first, last = quantizer.train()(x).indices
    assert torch.equal(first, expected[0])
    assert torch.bincount(last, minlength=16).max() < torch.bincount(expected[1], minlength=16).max() / 2


# Moving averages


def numpy_rule(book: Array, n: Array, m: Array, x: Array, codes: NDArray[np.int64], g: float, eps: float) -> Array:
    """The corrected rule for one batch, in place; returns the codebook."""
    size = len(book)
    counts, sums = np.zeros(size), np.zeros_like(book)
    for row, code in zip(x, codes, strict=True):
        counts[code] += 1
        sums[code] += row
    n[:] = g * n + (1 - g) * counts
    m[:] = g * m + (1 - g) * sums
    for code in range(size):
        if counts[code]:
            smooth = (n[code] + eps) / (n.sum() + size * eps) * n.sum()
            book[code] = m[code] / smooth
    return book


@given(
    rows=st.integers(1, 30),
    size=st.integers(1, 12),
    decay=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    epsilon=st.sampled_from([1e-5, 1e-2]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_moving_averages_are_those_of_numpy(rows: int, size: int, decay: float, epsilon: float, seed: int) -> None:
    quantizer = VectorQuantizer(size, 3, decay, epsilon=epsilon)
    quantizer.set_codebook(normal(size, 3, seed=seed))
    book, n = quantizer.codebook.double().numpy().copy(), np.ones(size)
    m = book * n[:, None]
    for batch in range(3):
        x = normal(rows, 3, seed=seed + batch)
        codes = quantizer(x)[1].numpy()
        book = numpy_rule(book, n, m, x.double().numpy(), codes, decay, epsilon)
        np.testing.assert_allclose(quantizer.codebook, book, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(quantizer.cluster_size, n, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(quantizer.cluster_sum, m, rtol=1e-3, atol=1e-4)


def test_pitfall_unused_codes_thrown_far_away() -> None:
    quantizer, start = VectorQuantizer(3, 2, 0.5), torch.tensor([[0.0, 0.0], [9.0, 9.0], [-9.0, 9.0]])
    quantizer.set_codebook(start)
    for batch in range(200):  # the count of an unused code falls to 1e-60
        quantizer(0.1 * normal(8, 2, seed=batch))
    assert torch.equal(quantizer.codebook[1:], start[1:])
    assert not torch.equal(quantizer.codebook[0], start[0])
    quantizer(torch.tensor([[8.0, 8.0]]))  # and used again it comes to its row, no further
    np.testing.assert_allclose(quantizer.codebook[1], [8, 8], rtol=1e-3)


def test_codes_follow_their_clusters() -> None:
    centres = torch.tensor([[5.0, 5.0], [-5.0, 5.0], [0.0, -5.0]])
    quantizer = VectorQuantizer(3, 2, 0.8)
    quantizer.set_codebook(centres / 2)
    for batch in range(60):
        quantizer(centres.repeat(10, 1) + 0.1 * normal(30, 2, seed=batch))
    np.testing.assert_allclose(quantizer.codebook, centres, atol=0.1)


def test_a_start_weighs_one_row_per_code() -> None:
    quantizer = VectorQuantizer(1, 1, 0.9)
    quantizer.set_codebook(torch.zeros(1, 1))
    quantizer(torch.ones(10, 1))
    np.testing.assert_allclose(quantizer.codebook, [[1 / 1.9]], rtol=1e-4)


def test_evaluation_and_nearest_update_nothing() -> None:
    quantizer, x = VectorQuantizer(8, 3), normal(40, 3)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.eval()(x)
    quantizer.train().nearest(x)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())
    quantizer(x)
    assert all(not torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


# Unused codes


def test_reseeding_replaces_the_unused_codes_and_only_these() -> None:
    quantizer = VectorQuantizer(6, 2)
    quantizer.set_codebook(torch.tensor([[0.0, 0.0], [1.0, 0.0], [50.0, 0.0], [60.0, 0.0], [70.0, 0.0], [80.0, 0.0]]))
    quantizer(torch.tensor([[0.0, 0.1], [1.0, 0.1]]))
    before, candidates = quantizer.codebook.clone(), 5 + normal(20, 2)
    assert quantizer.usage.tolist() == [1, 1, 0, 0, 0, 0]
    assert quantizer.reseed(candidates, torch.Generator().manual_seed(0)) == 4
    assert torch.equal(quantizer.codebook[:2], before[:2])
    chosen = [int((candidates == row).all(1).nonzero()) for row in quantizer.codebook[2:]]
    assert len(set(chosen)) == 4
    assert torch.equal(quantizer.cluster_sum[2:], quantizer.codebook[2:])
    quantizer.reset_usage()
    assert quantizer.usage.tolist() == [0] * 6


def test_fewer_candidates_than_unused_codes_make_no_twins() -> None:
    quantizer = VectorQuantizer(5, 2, update="gradient")
    assert quantizer.reseed(normal(3, 2), torch.Generator().manual_seed(0)) == 3
    assert quantizer.reseed(normal(0, 2)) == 0
    assert len(torch.unique(quantizer.codebook.detach(), dim=0)) == 5


def test_reseeding_all_levels_takes_what_the_levels_before_leave_over() -> None:
    quantizer, x = ResidualVectorQuantizer(SemanticIDConfig(4, 2, (4, 64))), normal(200, 4)
    quantizer.level(1).set_codebook(normal(64, 4) + 100)
    quantizer.eval()
    assert quantizer.reseed(x, torch.Generator().manual_seed(0)) == [4, 64]
    residual = x - quantizer.decode(quantizer.encode(x)[0])
    assert torch.cdist(quantizer.level(1).codebook, residual).amin(1).max() < 1e-3


# Gradients


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_pitfall_total_loss_without_a_gradient_path(update: Any) -> None:
    x = normal(20, 3).requires_grad_()
    quantized, codes, loss = VectorQuantizer(5, 3, update=update)(x)
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    np.testing.assert_allclose(gradient, 2 * (x - quantized).detach() / x.numel(), atol=1e-6)
    (gradient,) = torch.autograd.grad(quantized.sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))
    assert codes.dtype == torch.int64 and codes.shape == (20,)


def test_pitfall_a_lone_codebook_with_the_gradient_update_never_learns() -> None:
    quantizer, x = VectorQuantizer(5, 3, update="gradient"), normal(20, 3)
    _, codes, loss = quantizer(x)
    book = quantizer.codebook.detach()
    np.testing.assert_allclose(loss.detach(), 2 * ((x - book[codes]) ** 2).mean(), rtol=1e-5)
    loss.backward()
    expected = torch.zeros_like(book).index_add_(0, codes, 2 * (book[codes] - x) / x.numel())
    np.testing.assert_allclose(quantizer.codebook.grad, expected, atol=1e-6)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=5.0)
    for _ in range(20):
        optimizer.zero_grad()
        quantizer(x)[2].backward()
        optimizer.step()
    assert quantizer(x)[2] < 0.85 * loss


def test_losses_of_the_gradient_update_reach_what_they_should() -> None:
    quantizer = ResidualVectorQuantizer(SemanticIDConfig(3, 2, (5, 7), update="gradient"))
    x = normal(20, 3).requires_grad_()
    out, books = quantizer(x), [quantizer.level(level).codebook for level in (0, 1)]
    assert all(one is None for one in torch.autograd.grad(out.commitment_loss, books, retain_graph=True, allow_unused=True))
    assert torch.autograd.grad(out.codebook_loss, x, retain_graph=True, allow_unused=True)[0] is None
    residual = x.detach()
    for level, gradient in enumerate(torch.autograd.grad(out.codebook_loss, books)):
        expected = torch.zeros_like(books[level])
        for row, code in zip(residual, out.indices[level], strict=True):
            expected[code] += 2 * (books[level][code].detach() - row) / x.numel()
        np.testing.assert_allclose(gradient, expected, atol=1e-6)
        residual = residual - books[level].detach()[out.indices[level]]
    np.testing.assert_allclose(out.codebook_loss.detach(), out.commitment_loss.detach(), rtol=1e-5)


def test_losses_per_level_are_the_mean_squared_residuals() -> None:
    quantizer, x = ResidualVectorQuantizer(SemanticIDConfig(4, 3, (5, 6, 7))).eval(), normal(30, 4)
    out = quantizer(x)
    for level in range(3):
        left = x - quantizer.decode(*out.indices[: level + 1])
        np.testing.assert_allclose(out.level_losses[level], (left**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(out.commitment_loss, out.level_losses.sum(), rtol=1e-6)
    np.testing.assert_allclose(out.quantized, quantizer.decode(*out.indices), atol=1e-6)
    assert out.codebook_loss == 0


def test_rotation_is_the_matrix_of_the_paper() -> None:
    x, target, incoming = normal(15, 4).requires_grad_(), normal(15, 4, seed=1), normal(15, 4, seed=2)
    value = rotated(x, target)
    np.testing.assert_allclose(value.detach(), target, atol=1e-5)
    (gradient,) = torch.autograd.grad(value, x, incoming)
    for row in range(15):
        a, b = x[row].detach() / x[row].detach().norm(), target[row] / target[row].norm()
        r = (a + b) / (a + b).norm()
        rotation = torch.eye(4) - 2 * torch.outer(r, r) + 2 * torch.outer(b, a)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-5)
        expected = target[row].norm() / x[row].detach().norm() * (rotation.T @ incoming[row])
        np.testing.assert_allclose(gradient[row], expected, atol=1e-4)


def test_rotation_of_rows_without_length_or_opposite_ones_stays_finite() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [3.0, 4.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-2.0, 0.0], [3.0, 4.0]])
    value = rotated(x, target)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    np.testing.assert_allclose(value[2:].detach(), target[2:], atol=1e-6)
    assert torch.isfinite(gradient).all()
    assert torch.equal(gradient[:2], torch.ones(2, 2))  # straight through


@pytest.mark.parametrize("estimator", ["straight-through", "rotation"])
def test_both_estimators_give_the_same_numbers(estimator: Any) -> None:
    quantizer, x = ResidualVectorQuantizer(SemanticIDConfig(4, 2, (6, 6), estimator=estimator)).eval(), normal(30, 4)
    np.testing.assert_allclose(quantizer(x).quantized, quantizer.decode(*quantizer.encode(x)), atol=1e-6)


# The door


def test_decoding_takes_the_first_levels_and_refuses_what_is_no_code() -> None:
    quantizer = ResidualVectorQuantizer(SemanticIDConfig(4, 2, (6, 8)))
    first, second = quantizer.encode(normal(30, 4))
    books = [quantizer.level(level).codebook for level in (0, 1)]
    assert torch.equal(quantizer.decode(first), books[0][first])
    assert torch.equal(quantizer.decode(first, second), books[0][first] + books[1][second])
    assert quantizer.decode(first[:0], second[:0]).shape == (0, 4)
    for codes, message in (
        ((), "got codes of 0 levels; expected 1 to 2"),
        ((first, second, second), "3 levels"),
        ((first + 6,), "this level has 0 to 5"),
        ((first - 7,), "got codes from -7"),
    ):
        with pytest.raises(SemanticIdError, match=message):
            quantizer.decode(*codes)


def test_decoding_levels_of_different_lengths_is_refused() -> None:
    """One code would otherwise stand for all rows. In a process of its own, without the tests' checks of shapes."""
    code = """
import torch
from felid.quantize.codebook import SemanticIDConfig
from felid.quantize.residual import ResidualVectorQuantizer
ResidualVectorQuantizer(SemanticIDConfig(4, 2, (6, 8))).decode(torch.zeros(1).long(), torch.zeros(3).long())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "SemanticIdError: got levels of [1, 3] codes; expected one code per level for each row" in done.stderr


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(SemanticIdError, match=r"got vectors of shape \(3, 5\); expected \(B, 4\)"):
        VectorQuantizer(8, 4)(normal(3, 5))
    with pytest.raises(SemanticIdError, match=r"codebook of shape \(8, 5\)"):
        VectorQuantizer(8, 4).set_codebook(normal(8, 5))
    with pytest.raises(SemanticIdError, match="finite"):
        VectorQuantizer(8, 4).set_codebook(normal(8, 4).log())


def test_defaults_are_those_of_the_documented_api() -> None:
    config = SemanticIDConfig()
    assert config == SemanticIDConfig(256, 3, (1024, 4096, 16384), 0.25, 0.99, 1e-5)
    assert SemanticIDConfig(8, 2, [4, 4]).codebook_sizes == (4, 4)  # a list will do
    with pytest.raises(AttributeError):
        config.embedding_dim = 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_codebooks": 2}, "got num_codebooks 2 and codebook_sizes .* one size per codebook"),
        ({"codebook_sizes": (), "num_codebooks": 0}, "one size per codebook"),
        ({"codebook_sizes": (4, 0, 4)}, "at least 1 code per level"),
        ({"embedding_dim": 0}, "got embedding_dim 0; expected at least 1"),
        ({"commitment_cost": -1.0}, "commitment_cost"),
        ({"ema_decay": 1.0}, "0 <= ema_decay < 1"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"update": "adam"}, "expected ema or gradient"),
        ({"estimator": "gumbel"}, "straight-through or rotation"),
        ({"sinkhorn_epsilon": float("nan")}, "sinkhorn_epsilon"),
        ({"sinkhorn_iterations": 0}, "sinkhorn_iterations"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SemanticIdError, match=message):
        SemanticIDConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_embeddings": 0}, "got num_embeddings 0; expected at least 1 code"),
        ({"embedding_dim": 0}, "got embedding_dim 0"),
        ({"ema_decay": 1.0}, "0 <= ema_decay < 1"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"update": "adam"}, "expected ema or gradient"),
        ({"sinkhorn_epsilon": -1.0}, "sinkhorn_epsilon"),
        ({"sinkhorn_iterations": 0}, "got sinkhorn_iterations 0; expected at least 1"),
    ],
)
def test_a_lone_codebook_names_its_own_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SemanticIdError, match=message):
        VectorQuantizer(**{"num_embeddings": 4, "embedding_dim": 2, **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"update": "gradient", "ema_decay": 0.9}, "ema_decay has no effect with update=gradient"),
        ({"update": "gradient", "epsilon": 0.1}, "epsilon has no effect with update=gradient"),
        ({"sinkhorn_iterations": 9}, "sinkhorn_iterations has no effect with sinkhorn_epsilon=0"),
    ],
)
def test_settings_without_effect_warn_where_they_are_written(values: dict[str, Any], message: str) -> None:
    with pytest.warns(FelidWarning, match=message) as caught:
        SemanticIDConfig(**values)
    assert caught[0].filename == __file__


def test_a_module_takes_its_state_from_another() -> None:
    source, target = (
        ResidualVectorQuantizer(SemanticIDConfig(4, 2, (6, 8))),
        ResidualVectorQuantizer(SemanticIDConfig(4, 2, (6, 8))),
    )
    source(normal(30, 4))
    target.load_state_dict(source.state_dict())
    x = normal(50, 4, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(source(x).indices, target(x).indices, strict=True))
    assert torch.equal(source.level(1).codebook, target.level(1).codebook)
