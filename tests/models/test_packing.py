"""Padding is left out of all work on single positions, and changes nothing."""

from __future__ import annotations

import torch

from felid.models.packing import Packing
from felid.models.transformer import BlockShape, Stack, initialize, padding_bias

LENGTHS = torch.tensor([3, 7, 1, 5])


def _stack() -> Stack:
    torch.manual_seed(0)
    shape = BlockShape(16, 2, 8, 32, 0.0)
    stack = Stack(2, shape, causal=False)
    initialize(stack, shape)
    return stack


def test_unpack_undoes_pack_and_leaves_zeros() -> None:
    padding = padding_bias(LENGTHS, 7)
    assert padding is not None
    packing, x = Packing.of(padding), torch.randn(4, 7, 3)
    real = torch.arange(7)[None] < LENGTHS[:, None]
    assert torch.equal(packing.pack(x), x[real])
    assert torch.equal(packing.unpack(packing.pack(x)), x * real[..., None])


def test_states_and_gradients_are_those_of_each_row_alone() -> None:
    stack, x = _stack(), torch.randn(4, 7, 16)
    together = stack(x, padding_bias(LENGTHS, 7))
    together.square().sum().backward()
    gradients = [p.grad.clone() for p in stack.parameters()]
    stack.zero_grad()
    for row, length in enumerate(LENGTHS.tolist()):
        alone = stack(x[row : row + 1, :length])
        alone.square().sum().backward()
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=1e-5)
        assert not together[row, length:].any()
    for parameter, gradient in zip(stack.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-4)


def test_what_stands_at_padding_is_not_read() -> None:
    stack, x = _stack(), torch.randn(4, 7, 16)
    padding = padding_bias(LENGTHS, 7)
    spoilt = x.clone()
    spoilt[0, 3:] = torch.nan
    assert torch.equal(stack(x, padding), stack(spoilt, padding))
