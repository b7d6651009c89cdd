"""Vectors for items without training interactions, from the trained vectors of items with a similar text.

This is the "SASRec + text-kNN" baseline: nothing is trained, so what a model for new items brings must be measured against it.
"""

from __future__ import annotations

import numpy as np

from felid.rows import Vectors, blocks

BLOCK = 256
"""Items filled at once: their cosines to all others are in memory."""


def fill_cold(vectors: Vectors, embeddings: Vectors, neighbours: int, *, unit: bool = False) -> Vectors:
    """Give every item without a vector the mean vector of the items with the most similar texts.

    Args:
        vectors: (N, D) float32 item vectors, rows of NaN where an item has none.
        embeddings: (N, E) float32 text vectors at unit length; an item whose row is zero has no text.
        neighbours: how many items the mean is taken over, those of largest cosine (ties: smaller item_index), all of equal
            weight; fewer only where fewer items have a vector and a text.
        unit: bring the means to length 1, for vectors that have it: means are shorter, the more the less they agree.

    Returns:
        (N, D) float32: `vectors` with the rows of NaN replaced, but for items without a text, which stay as they are.
    """
    assert neighbours >= 1 and len(vectors) == len(embeddings)
    has_text, lacking = embeddings.any(1), np.isnan(vectors).any(1)
    known, cold = np.flatnonzero(has_text & ~lacking), np.flatnonzero(has_text & lacking)
    filled = vectors.copy()
    if not len(known):
        return filled
    for block in blocks(len(cold), BLOCK):
        cosines = embeddings[cold[block]] @ embeddings[known].T
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :neighbours]
        means = vectors[known[nearest]].mean(1)
        filled[cold[block]] = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12) if unit else means
    return filled
