"""Nearest codes of many rows: exact, block by block, without a matrix of all rows times all codes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS, CODES = 1024, 4096
"""Rows and codes compared at once: 16 MiB of scores."""


@torch.no_grad()
def nearest_codes(x: Float[Tensor, "B D"], codebook: Float[Tensor, "K D"]) -> Int[Tensor, "B"]:
    """(B,) int64 code of least squared distance; of equal codes the lowest.

    Both are centred on the mean code first, so that |x - c|^2 = |x|^2 - 2 x.c + |c|^2 loses no digits far from the origin.

    Args:
        x: (B, D) float32.
        codebook: (K, D) float32.
    """
    centre = codebook.mean(0)
    codebook = codebook - centre
    half = (codebook * codebook).sum(1) / 2
    result = torch.empty(len(x), dtype=torch.int64, device=x.device)
    for start in range(0, len(x), ROWS):
        result[start : start + ROWS] = _best(x[start : start + ROWS] - centre, codebook, half)
    return _lowest_equal(codebook, half, result)


def _best(x: Tensor, codebook: Tensor, half: Tensor) -> Tensor:
    found: tuple[Tensor, Tensor] | None = None
    for start in range(0, len(codebook), CODES):
        scores = torch.addmm(half[start : start + CODES], x, codebook[start : start + CODES].T, alpha=-1)
        code = _argmin(scores)
        if len(codebook) <= CODES:
            return code
        value = scores.gather(1, code[:, None])[:, 0]
        if found is not None:
            code, value = torch.where(value < found[1], code + start, found[0]), torch.minimum(value, found[1])
        found = code, value
    assert found is not None
    return found[0]


def _argmin(scores: Tensor) -> Tensor:
    """First least entry of each row; NumPy's is several times faster than torch's on a CPU."""
    return torch.from_numpy(scores.numpy().argmin(1)) if scores.device.type == "cpu" else scores.argmin(1)


def _lowest_equal(codebook: Tensor, half: Tensor, codes: Tensor) -> Tensor:
    """Exchange codes for the lowest with an equal vector: rounding makes equal columns of a product differ."""
    ordered, order = half.sort()
    twin = torch.zeros_like(ordered, dtype=torch.bool)
    twin[1:] = ordered[1:] == ordered[:-1]
    twin[:-1] |= twin[1:].clone()
    if not twin.any():
        return codes
    suspects = order[twin]
    _, group = torch.unique(codebook[suspects], dim=0, return_inverse=True)
    lowest = torch.full_like(suspects, len(codebook)).scatter_reduce_(0, group, suspects, "amin")
    mapping = torch.arange(len(codebook), device=codes.device)
    mapping[suspects] = lowest[group]
    return mapping[codes]


@torch.no_grad()
def balanced_codes(x: Float[Tensor, "B D"], codebook: Float[Tensor, "K D"], epsilon: float, iterations: int) -> Int[Tensor, "B"]:
    """(B,) int64 codes that use the codebook evenly within the batch, at little additional distance.

    Sinkhorn-Knopp on squared distances (Cuturi 2013, arXiv:1306.0895), as LC-Rec (Zheng et al. 2024, arXiv:2311.09049) does in
    its last level: every row gives 1, every code receives B / K, and a row's code is the one that receives most of it.

    Args:
        x: (B, D) float32.
        codebook: (K, D) float32.
        epsilon: weight of the entropy; 1 = half the range of the batch's squared distances. LC-Rec takes .003.
        iterations: steps of the algorithm.
    """
    centre = codebook.mean(0)
    x, codebook = x - centre, codebook - centre
    costs = torch.addmm((codebook * codebook).sum(1), x, codebook.T, alpha=-2).double() + (x * x).sum(1, keepdim=True)
    scale = epsilon * (costs.max() - costs.min()).clamp(min=torch.finfo(torch.float32).tiny) / 2
    costs -= costs.amin(1, keepdim=True)
    costs -= costs.amin(0, keepdim=True)  # now every row and every column has a 0, and no sum below vanishes
    plan = torch.exp(costs / -scale)
    share = plan.new_ones(len(codebook))
    for _ in range(iterations):
        share = len(x) / len(codebook) / ((1 / (plan @ share)) @ plan)
    return _argmin(costs / scale - share.log())
