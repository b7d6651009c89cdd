"""felid's dropout against what dropout is: independent zeros at a rate, the rest scaled, the same mask for the gradient."""

from __future__ import annotations

import pytest
import torch

from felid.models.dropout import Dropout, dropout


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_zeros_come_at_the_rate_and_the_rest_is_scaled(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001)
    y = dropout(x, rate)
    assert float((y == 0).float().mean()) == pytest.approx(rate, abs=3e-3)
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - rate)))


def test_neighbours_and_lanes_of_a_draw_are_independent() -> None:
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(400_000), 0.3) == 0).view(-1, 4).double()
    torch.testing.assert_close(dropped.mean(0), torch.full((4,), 0.3).double(), atol=5e-3, rtol=0)
    correlation = torch.corrcoef(torch.cat((dropped[:-1], dropped[1:]), 1).T) - torch.eye(8)
    assert correlation.abs().max() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_uses_the_same_mask(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(7, 5, 3, dtype=dtype, requires_grad=True)
    y = dropout(x, 0.4)
    y.sum().backward()
    assert y.dtype == dtype and torch.equal(x.grad, y)


def test_the_seed_decides() -> None:
    def once() -> torch.Tensor:
        torch.manual_seed(3)
        return dropout(torch.ones(101), 0.5)

    assert torch.equal(once(), once())


def test_the_ends_of_the_range() -> None:
    x = torch.randn(10)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout(x, 1.0), torch.zeros(10))


def test_a_rate_just_below_one_drops_nearly_all() -> None:
    torch.manual_seed(0)
    assert (dropout(torch.ones(10_000), 1 - 2**-18) == 0).float().mean() > 0.99


def test_evaluation_mode_passes_through() -> None:
    layer, x = Dropout(0.9), torch.randn(50)
    assert layer.eval()(x) is x
    assert (layer.train()(x) == 0).any()
    assert Dropout(0.0).train()(x) is x
