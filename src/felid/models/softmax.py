"""Softmax losses over many items that never hold all logits at once.

With C contexts, R items and no trick, the logits, their exponentials and the gradient of both take (C, R) floats each,
far more than all else in a model. Here a slice of contexts goes through all three before the next one starts, and leaves
only its part of the gradients behind. (Computing the gradient in the forward pass saves a second matrix product, as in
Liger-Kernel, Hsu et al. 2024, arXiv:2410.10989.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = {"cpu": 2**21, "cuda": 2**27}
"""Logits held at once, by device."""
LEAST_ROWS = 128
"""Contexts taken at once also where these hold more logits: each slice reads and writes all vectors."""
COUNT_POWER = 0.75
"""Negatives are drawn in proportion to this power of an item's interactions (Mikolov et al. 2013, arXiv:1310.4546)."""


def full_softmax_loss(
    contexts: Float[Tensor, "M D"], vectors: Float[Tensor, "R D"], targets: Int[Tensor, " M"], smoothing: float = 0.0
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross-entropy of the targets over all `vectors`, summed: the loss to minimise (smoothed), and without smoothing.

    The matrix products of logits and gradients run in the precision of autocast where it is on, all else in float32. The logit
    of a target is rounded as all others are, so that no context costs less than nothing.

    Args:
        contexts: float32, inner products with `vectors` are logits.
        vectors: float32, one per candidate.
        targets: the row of each target in `vectors`.
        smoothing: share of the target probability spread over all candidates.
    """
    device = contexts.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    apply: Callable[..., Tensor] = _CrossEntropy.apply
    nll = apply(contexts, vectors, targets, dtype)
    if not smoothing:
        return nll, nll.detach()
    gold, mean = (contexts * F.embedding(targets, vectors)).sum(), (contexts.sum(0) * vectors.mean(0)).sum()
    return nll + smoothing * (gold - mean), nll.detach()


class _CrossEntropy(torch.autograd.Function):
    """Sum over contexts of logsumexp(logits) - logit of the target."""

    @staticmethod
    def forward(ctx: Any, contexts: Tensor, vectors: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.autocast(contexts.device.type, enabled=False):
            nll, of_contexts, of_vectors = _sum_nll(contexts.to(dtype), vectors.to(dtype), targets)
            golds = F.embedding(targets, vectors)
            ctx.save_for_backward(of_contexts.sub_(golds), of_vectors.index_add_(0, targets, contexts, alpha=-1))
            return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None, None]:
        of_contexts, of_vectors = ctx.saved_tensors
        return of_contexts * outer, of_vectors * outer, None, None


def _sum_nll(contexts: Tensor, vectors: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sum over contexts of logsumexp(logits) - logit of the target, and the gradients of its first part; all float32."""
    rows = max(LEAST_ROWS, CHUNK_ELEMENTS.get(contexts.device.type, 2**27) // len(vectors))
    products = contexts.new_empty(min(rows, len(contexts)), len(vectors))  # one for all slices: fresh memory is slow
    floats = products if products.dtype == torch.float32 else torch.empty_like(products, dtype=torch.float32)
    total = torch.zeros((), device=contexts.device)
    of_contexts, of_vectors = (torch.zeros_like(x, dtype=torch.float32) for x in (contexts, vectors))
    for start in range(0, len(contexts), rows):
        part = contexts[start : start + rows]
        product = torch.mm(part, vectors.T, out=products[: len(part)])
        weights = floats[: len(part)].copy_(product)
        top, gold = weights.amax(1, keepdim=True), weights.gather(1, targets[start : start + rows, None])
        sums = weights.sub_(top).exp_().sum(1, keepdim=True)
        total += (sums.log() + (top - gold)).sum()
        weights = product.copy_(weights)  # the softmax but for 1 / sums, which is applied to the smaller matrices
        of_contexts[start : start + rows] = (weights @ vectors) / sums
        scaled = (part / sums).to(part.dtype)
        if scaled.dtype == torch.float32:
            of_vectors.addmm_(weights.T, scaled)  # without a fresh matrix of that size for every slice
        else:
            of_vectors += weights.T @ scaled
    return total, of_contexts, of_vectors


@dataclass(frozen=True)
class Negatives:
    """Items drawn with replacement, which stand for all others in a sampled softmax.

    Attributes:
        items: (S,) item_index, or rows of a matrix of vectors.
        log_expected: (S,) logarithm of how often each item is expected among the S.
    """

    items: Tensor
    log_expected: Tensor

    @classmethod
    def draw(cls, counts: Float[Tensor, " N"], num: int) -> Negatives:
        """`num` items drawn in proportion to counts**0.75, by torch's global generator; items without a count never are."""
        weights = counts.double() ** COUNT_POWER
        ends = weights.cumsum(0)  # torch.multinomial takes no more than 2**24 items
        places = torch.rand(num, dtype=torch.float64, device=counts.device) * ends[-1]
        items = torch.searchsorted(ends, places, right=True)
        items = items.clamp(max=torch.searchsorted(ends, ends[-1:]))  # where a product was rounded up to the end
        return cls(items, (weights[items] / ends[-1] * num).log().float())


def sampled_softmax_loss(
    contexts: Float[Tensor, "M D"],
    vectors: Float[Tensor, "R D"],
    targets: Int[Tensor, " M"],
    negatives: Negatives,
    smoothing: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """`full_softmax_loss` with the other candidates estimated from a sample.

    Every negative counts 1 / (times it is expected in the sample), which makes the sum of exponentials unbiased (Bengio and
    Senecal 2008; the correction by log Q of Yi et al. 2019). The target is there for certain, so its logit stays as it is, and
    where it was also drawn it does not count again.

    Args:
        contexts: float32, inner products with `vectors` are logits.
        vectors: float32, holds at least the targets and the negatives.
        targets: the row of each target in `vectors`.
        negatives: `items` are rows of `vectors`.
        smoothing: share of the target probability spread over all candidates, these too estimated from the sample.
    """
    gold = (contexts * F.embedding(targets, vectors)).sum(1)
    others = F.embedding(negatives.items, vectors)
    logits = (contexts @ others.T).float() - negatives.log_expected
    logits = logits.masked_fill(targets[:, None] == negatives.items, -torch.inf)
    log_z = torch.cat((gold[:, None], logits), 1).logsumexp(1).sum()
    loss = log_z - gold.sum()
    if smoothing:
        mean = ((-negatives.log_expected).softmax(0)[:, None] * others).sum(0)
        loss = loss + smoothing * (gold.sum() - (contexts.sum(0) * mean).sum())
    return loss, (log_z - gold.sum()).detach()
