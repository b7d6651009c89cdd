"""Balanced k-means: each code has a price that is added to its squared distance, learnt so that all codes are used equally.

Prices are the duals of entropy-regularised optimal transport between rows and codes (Cuturi, NIPS 2013), which unlike an
assignment of the fitted rows also serve rows that come later, one at a time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from felid.quantize.kmeans import assign, first_codes, improve, means
from felid.rows import Vectors, blocks

BLUR = 3.0
"""Difference of costs at which a row is shared between codes while they are learnt, in units of the median margin. With too
little, levels whose rows lie about equally far from all codes, as most residuals of text vectors do, do not settle."""
STEPS, SHARPEST = 24, 0.03
"""Steps of the last pricing, and the share of the blur that its last step has."""


def learn_balanced(x: Vectors, size: int, iterations: int, rng: np.random.Generator) -> tuple[Vectors, Vectors]:
    """(size, D) codes and (size,) prices: Lloyd's iteration whose clusters are kept about equally large by prices."""
    prices = np.zeros(size, np.float32)
    if size == 1:
        return means(x, np.zeros(len(x), np.int32), x[:1]), prices
    codebook = improve(x, first_codes(x, size, rng), max(1, iterations // 4), rng)
    blur = BLUR * max(float(np.median(assign(x, codebook).margins)), 1e-9)
    for _ in range(iterations):
        prices = _step(prices, _shares(x, codebook, prices, blur)[0], blur)
        codebook = means(x, assign(x, codebook, prices).codes, codebook)
    return codebook, _even_prices(x, codebook, prices, blur)


def _even_prices(x: Vectors, codebook: Vectors, prices: Vectors, blur: float) -> Vectors:
    """(K,) prices of the most even use among those that Sinkhorn's iteration passes from `prices` as the blur falls."""
    best, least = prices, np.inf
    for step in range(STEPS + 1):
        width = blur * SHARPEST ** (step / STEPS)
        shares, counts = _shares(x, codebook, prices, width)
        spread = float((counts * counts).sum())
        if spread < least:
            best, least = prices, spread
        prices = _step(prices, shares, width)
    return best


def _step(prices: Vectors, shares: NDArray[np.float64], width: float) -> Vectors:
    raised = prices + width * np.log(np.maximum(shares * len(prices), 1e-6))
    return np.asarray(raised - raised.mean(), np.float32)


def _shares(x: Vectors, codebook: Vectors, prices: Vectors, width: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(K,) expected share of each code when rows choose softly, and (K,) number of rows for which it is the cheapest."""
    centre = codebook.mean(0)
    shifted = codebook - centre
    offsets = (shifted * shifted).sum(1) + prices
    total, counts = np.zeros(len(codebook)), np.zeros(len(codebook))
    for rows in blocks(len(x), max(512, 2**19 // len(codebook))):
        scores = 2 * (x[rows] - centre) @ shifted.T - offsets
        codes = scores.argmax(1)
        counts += np.bincount(codes, minlength=len(codebook))
        scores -= scores[np.arange(len(scores)), codes][:, None]
        np.exp(np.multiply(scores, np.float32(1 / width), out=scores), out=scores)
        scores /= scores.sum(1, keepdims=True)
        total += scores.sum(0)
    return total / len(x), counts
