"""Nearest codes of many rows: exact, block by block, without a matrix of all rows times all codes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS, CODES = 1024, 4096
"""Rows and codes compared at once: 16 MiB of scores."""
PAIRS = 8192
"""Rows and codes whose distances are computed in float64 at once."""
ROUNDING = 2.0**-18
"""Relative error that a float32 product may have: 32 units in the last place."""
STEPS = 10
"""Steps of Sinkhorn-Knopp between two moves into logarithms; each changes a share by a factor of at most B K."""


@torch.no_grad()
def nearest_codes(x: Float[Tensor, "B D"], codebook: Float[Tensor, "K D"], *, exact: bool = True) -> Int[Tensor, "B"]:
    """(B,) int64 code of least squared distance; of equal codes the lowest.

    Both are centred on the mean code first, so that |x - c|^2 = |x|^2 - 2 x.c + |c|^2 loses no digits far from the origin. Codes
    that are closer to each other than rounding are compared again in float64, so that a row's code does not depend on blocks,
    threads or the rows beside it.

    Args:
        x: (B, D) float32.
        codebook: (K, D) float32.
        exact: False leaves out the comparison in float64: for training, where it is of no use.
    """
    centre = codebook.mean(0)
    shifted = codebook - centre
    half = (shifted * shifted).sum(1) / 2
    reach = (2 * half.max()).sqrt()
    result = torch.empty(len(x), dtype=torch.int64, device=x.device)
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS]
        rows = part - centre
        codes, margin = _two_best(rows, shifted, half)
        if exact:
            tolerance = ROUNDING * reach * (rows.norm(dim=1) + 1.5 * reach)
            close = (margin <= tolerance).nonzero()[:, 0]
            for some in close.split(max(1, ROWS * CODES // len(codebook))):
                scores = torch.addmm(half, rows[some], shifted.T, alpha=-1)
                is_near = scores <= scores.amin(1, keepdim=True) + 2 * tolerance[some, None]
                codes[some] = _exact(part[some], codebook, is_near)
        result[start : start + ROWS] = codes
    return result if exact else _lowest_equal(shifted, half, result)


def _two_best(x: Tensor, codebook: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """The best code of each row, and by how much the score of the next one is larger (infinite if there is none)."""
    best, least, second = _argmin_and_next(torch.addmm(half[:CODES], x, codebook[:CODES].T, alpha=-1))
    for start in range(CODES, len(codebook), CODES):
        part = slice(start, start + CODES)
        code, value, following = _argmin_and_next(torch.addmm(half[part], x, codebook[part].T, alpha=-1))
        best = torch.where(value < least, code + start, best)
        second = torch.minimum(torch.maximum(least, value), torch.minimum(second, following))
        least = torch.minimum(least, value)
    return best, second - least


def _argmin_and_next(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Place and value of the first least entry of each row, and the least of the others; overwrites the scores."""
    code = _argmin(scores)
    value = scores.gather(1, code[:, None])
    scores.scatter_(1, code[:, None], torch.inf)
    return code, value[:, 0], scores.amin(1)


def _argmin(scores: Tensor) -> Tensor:
    """First least entry of each row; NumPy's is several times faster than torch's on a CPU."""
    return torch.from_numpy(scores.numpy().argmin(1)) if scores.device.type == "cpu" else scores.argmin(1)


def _exact(x: Tensor, codebook: Tensor, is_near: Tensor) -> Tensor:
    """Best of the candidates `is_near` (n, K) of each row in float64, the lowest of equals."""
    row, code = is_near.nonzero(as_tuple=True)
    pairs = zip(row.split(PAIRS), code.split(PAIRS), strict=True)
    costs = torch.cat([(x[r].double() - codebook[c].double()).square_().sum(1) for r, c in pairs])
    least = torch.full((len(x),), torch.inf, dtype=costs.dtype, device=x.device).scatter_reduce_(0, row, costs, "amin")
    code = code.masked_fill(costs > least[row], len(codebook))
    return torch.full((len(x),), len(codebook), device=x.device).scatter_reduce_(0, row, code, "amin")


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
    its last level: every row gives 1, every code receives B / K, and a row's code is the one that receives most of it. What the
    steps have found moves into logarithms now and then, so that no epsilon makes it vanish. Needs 12 bytes per row and code.

    Args:
        x: (B, D) float32.
        codebook: (K, D) float32.
        epsilon: weight of the entropy; 1 = half the range of the batch's squared distances. The smaller, the more even, until
            the iterations no longer suffice: .003 (LC-Rec's) to .05 go with 50.
        iterations: steps of the algorithm.
    """
    centre = codebook.mean(0)
    x, codebook = x - centre, codebook - centre
    costs, energy = torch.addmm((codebook * codebook).sum(1), x, codebook.T, alpha=-2), (x * x).sum(1).double()
    largest, least = (costs.amax(1) + energy).max(), (costs.amin(1) + energy).min()
    scale = epsilon * (largest - least).clamp(min=torch.finfo(torch.float32).tiny) / 2
    parts = costs.split(max(1, ROWS * CODES // 4 // len(codebook)))  # a cost that all codes of a row share changes nothing
    gains = torch.full((len(codebook),), torch.inf, dtype=torch.float64, device=x.device)
    for part in parts:
        torch.minimum(gains, (part.double() - part.amin(1, keepdim=True)).amin(0), out=gains)
    gains /= scale
    plan, share = torch.empty_like(costs, dtype=torch.float64), torch.ones_like(gains)
    for step in range(iterations):
        if step % STEPS == 0:
            gains, share = gains + share.log(), torch.ones_like(share)
            for part, planned in zip(parts, plan.split(len(parts[0])), strict=True):
                torch.softmax(gains - part.double() / scale, 1, out=planned)
        share = len(x) / len(codebook) / ((1 / (plan @ share)) @ plan)
    gains = gains + share.log()
    codes = torch.empty(len(x), dtype=torch.int64, device=x.device)
    for part, found in zip(parts, codes.split(len(parts[0])), strict=True):
        found.copy_(_argmin(part.double() / scale - gains))
    return codes
