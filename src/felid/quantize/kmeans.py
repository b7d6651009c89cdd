"""k-means on BLAS: Lloyd's iteration in blocks, with codes moved to where they are needed most.

A (N, K) matrix never exists as a whole. Codes are those of exact arithmetic: rows whose two nearest codes are closer than
rounding are looked at again in float64, so nothing depends on threads, blocks or which rows are looked up together.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from felid.errors import FelidWarning, SemanticIdError
from felid.quantize.base import Codes, mean_row
from felid.rows import Vectors, blocks

MOVED = 0.25
"""Share of the codes that may move at the first step; it falls to 0."""
COOLING = 0.85
"""Part of the iterations in which codes move; the rest is Lloyd's alone."""
GAIN = 0.5
"""Share of a cluster's error that a second code is trusted to remove; a code that saves more where it is stays."""
ROUNDING = 2.0**-18
"""Relative error that a float32 product may have: 32 units in the last place."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """Nearest codes of N rows.

    Attributes:
        codes: (N,) int32; of equally near codes the lowest.
        costs: (N,) float32 squared distance to the code, plus its price where there are prices.
        margins: (N,) float32 by how much the next code costs more; infinite if there is no other.
    """

    codes: Codes
    costs: Vectors
    margins: Vectors


def assign(x: Vectors, codebook: Vectors, prices: Vectors | None = None) -> Assignment:
    """The code of least squared distance plus price for each row of `x` (N, D), among the rows of `codebook` (K, D)."""
    size = len(codebook)
    centre = codebook.mean(0)
    shifted = codebook - centre
    offsets = ((shifted * shifted).sum(1) + (0 if prices is None else prices)) / 2
    reach = np.sqrt((shifted * shifted).sum(1).max())
    slack = reach * reach + np.abs(offsets).max()
    found = Assignment(np.empty(len(x), np.int32), np.empty(len(x), np.float32), np.empty(len(x), np.float32))
    for rows in blocks(len(x), max(512, 2**19 // size)):
        part = x[rows] - centre
        scores = part @ shifted.T
        np.subtract(offsets, scores, out=scores)
        index, codes = np.arange(len(part)), scores.argmin(1)
        least = scores[index, codes]
        scores[index, codes] = np.inf
        margins = scores.min(1) - least
        energy = (part * part).sum(1)
        tolerance = ROUNDING * (np.sqrt(energy) * reach + slack)
        close = np.flatnonzero(margins <= tolerance)
        if len(close):
            scores[index, codes] = least
            candidates = scores[close] <= (least + tolerance)[close, None]
            codes[close] = _exact(x[rows][close], codebook, prices, candidates)
        found.codes[rows] = codes
        found.costs[rows] = np.maximum(energy + 2 * least, 0) if prices is None else energy + 2 * least
        found.margins[rows] = 2 * margins
    return found


def _exact(x: Vectors, codebook: Vectors, prices: Vectors | None, candidates: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Best candidate of each row in float64, the lowest of equals; `candidates` is (n, K), at least one per row."""
    row, code = np.nonzero(candidates)
    costs = np.empty(len(row))
    for part in blocks(len(row), max(1, 2**21 // x.shape[1])):
        difference = x[row[part]].astype(np.float64) - codebook[code[part]]
        costs[part] = (difference * difference).sum(1)
    if prices is not None:
        costs += prices[code]
    order = np.lexsort((code, costs, row))
    best: NDArray[np.int64] = code[order[np.searchsorted(row, np.arange(len(x)))]]
    return best


def squared_distances(x: Vectors, codebook: Vectors) -> Vectors:
    """(N, K) float32, computed in float64."""
    rows, codes = x.astype(np.float64), codebook.astype(np.float64)
    found = (rows * rows).sum(1)[:, None] - 2 * rows @ codes.T + (codes * codes).sum(1)
    return np.asarray(np.maximum(found, 0), np.float32)


def means(x: Vectors, codes: Codes, codebook: Vectors) -> Vectors:
    """(K, D) mean of the rows of each code; a code without rows keeps its vector of `codebook`."""
    size = len(codebook)
    counts, sums = np.bincount(codes, minlength=size), np.zeros(codebook.shape)
    for rows in blocks(len(x)):
        part = codes[rows]
        member = sparse.csr_matrix((np.ones(len(part), np.float32), (part, np.arange(len(part)))), shape=(size, len(part)))
        sums += member @ x[rows]
    return np.asarray(np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], codebook), np.float32)


def first_codes(x: Vectors, size: int, rng: np.random.Generator) -> Vectors:
    """(size, D) rows of `x` to start from: k-means++ (Arthur and Vassilvitskii, SODA 2007) with up to 64 draws in turn.

    More than 64 codes are drawn several at once, and from a sample of the rows if there are many: `improve` moves what is amiss.
    """
    if len(x) > max(32 * size, 4096):
        x = x[np.sort(rng.choice(len(x), max(32 * size, 4096), replace=False))]
    chosen, centre = [rng.integers(len(x), size=1)], mean_row(x)
    energy = np.concatenate([((x[rows] - centre) ** 2).sum(1) for rows in blocks(len(x))])
    distance = np.full(len(x), np.inf, np.float32)
    while (left := size - sum(map(len, chosen))) > 0:
        last = x[chosen[-1]] - centre  # far from the origin |x|^2 would drown the distances
        offsets = (last * last).sum(1) + 2 * (last @ centre)
        for rows in blocks(len(x)):
            found = energy[rows, None] - 2 * (x[rows] @ last.T) + offsets
            distance[rows] = np.minimum(distance[rows], np.maximum(found.min(1), 0))
        distance[chosen[-1]] = 0
        total = np.cumsum(distance, dtype=np.float64)
        draws = np.searchsorted(total, rng.random(min(left, -(-size // 64))) * total[-1], side="right")
        chosen.append(np.unique(np.minimum(draws, len(x) - 1)))
    return x[np.concatenate(chosen)]


def improve(x: Vectors, codebook: Vectors, iterations: int, rng: np.random.Generator) -> Vectors:
    """Lloyd's iteration from `codebook`, which at every second step moves the codes that are needed least.

    Stops early when nothing changes any more. The result's codes are means of their rows as of the last step.
    """
    previous: Codes | None = None
    for step in range(iterations):
        found = assign(x, codebook)
        codebook = means(x, found.codes, codebook)
        share = MOVED * (1 - step / (COOLING * iterations))
        limit = round(share * len(codebook)) if step % 2 == 0 and step + 1 < iterations else 0
        if limit > 0 and _move(x, codebook, found, limit, rng):
            previous = None
        elif previous is not None and np.array_equal(found.codes, previous):
            break
        else:
            previous = found.codes
    return codebook


def _move(x: Vectors, codebook: Vectors, found: Assignment, limit: int, rng: np.random.Generator) -> int:
    """Move up to `limit` codes, in place, into the clusters with the largest errors; how many moved.

    A code moves halfway from the new cluster's mean to one of its rows, drawn in proportion to its squared distance, if its
    removal costs less than is gained there. Removal sends its rows to their second nearest codes.
    """
    size = len(codebook)
    use = np.bincount(found.codes, found.margins, size) if size > 1 else np.full(1, np.inf)
    error = np.bincount(found.codes, found.costs, size)
    least, worst = np.argsort(use, kind="stable")[:limit], np.argsort(-error, kind="stable")[:limit]
    moves = (use[least] < GAIN * error[worst]) & ~np.isin(worst, least[: limit // 2 + 1]) & ~np.isin(least, worst)
    race = rng.exponential(size=len(x)) / np.maximum(found.costs, np.finfo(np.float32).tiny)
    order = np.lexsort((race, found.codes))
    winners = order[np.searchsorted(found.codes[order], worst[moves])]
    codebook[least[moves]] = (x[winners] + codebook[worst[moves]]) / 2
    return int(moves.sum())


def learn_codebook(x: Vectors, size: int, iterations: int, restarts: int, rng: np.random.Generator) -> Vectors:
    """(size, D) codes for the rows of `x`, of which more than `size` differ.

    Of several starts the one with the least error after an eighth of the iterations goes on.
    """
    starts = [first_codes(x, size, rng) for _ in range(restarts)]
    if restarts > 1:
        tried = [improve(x, start, max(1, iterations // 8), rng) for start in starts]
        starts = [min(tried, key=lambda start: float(assign(x, start).costs.sum(dtype=np.float64)))]
    return improve(x, starts[0], iterations, rng)


def few_codes(x: Vectors, size: int, level: int) -> Vectors | None:
    """(size, D) codes that hold every distinct row of `x`, where there are at most `size`; else None.

    Codes beyond these repeat the first, so that they stay unused, with a warning.

    Raises:
        SemanticIdError: fewer distinct rows than codes in level 0.
    """
    distinct = _distinct(x, size + 1)
    if len(distinct) > size:
        return None
    if len(distinct) < size and level == 0:
        raise SemanticIdError(
            f"the size of the first level is {size} but the {len(x)} items to fit have only {len(distinct)} distinct vectors; "
            f"lower it to {len(distinct)} or less"
        )
    if len(distinct) < size:
        warnings.warn(
            f"level {level} has {size} codes for {len(distinct)} distinct vectors; the other "
            f"{size - len(distinct)} stay unused, lower its size or the number of levels",
            FelidWarning,
            stacklevel=4,
        )
    return np.concatenate([distinct, np.repeat(distinct[:1], size - len(distinct), axis=0)])


def _distinct(x: Vectors, limit: int) -> Vectors:
    """The first `limit` distinct rows of `x`, in order of appearance."""
    seen: dict[bytes, int] = {}
    for row, vector in enumerate(x):
        seen.setdefault((vector + np.float32(0)).tobytes(), row)  # -0.0 becomes 0.0
        if len(seen) == limit:
            break
    return x[list(seen.values())]
