"""Item vectors from behaviour, for quantisers that let behaviour shape the codes.

They come from a file, or from a truncated SVD of the co-occurrence of items in training histories (positive pointwise
mutual information; Levy and Goldberg, NeurIPS 2014). An item that nobody took in training has none: its row is NaN.
"""

from __future__ import annotations

from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from felid.config import Config
from felid.embedding.precomputed import PrecomputedConfig, known_vectors
from felid.errors import EmbeddingError
from felid.rows import Vectors


class CooccurrenceConfig(Config):
    """Settings of the SVD of co-occurrences."""

    kind: Literal["cooccurrence"] = "cooccurrence"
    """Tag of this source."""
    dim: int = Field(64, ge=1)
    """Width of the vectors; at most the number of items that co-occur with others, minus one."""
    window: int = Field(5, ge=1)
    """How many steps apart two items of a history count as a pair."""
    seed: int = Field(0, ge=0)
    """Seed of the randomised SVD."""


def collaborative_vectors(
    config: PrecomputedConfig | CooccurrenceConfig,
    item_ids: NDArray[np.generic],
    items: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> Vectors:
    """A vector from behaviour for each item.

    Args:
        config: the source.
        item_ids: (N,) ids of the catalogue, row = item_index.
        items: item_index of all training histories, one after the other, oldest first.
        offsets: (U + 1,) where each history begins.

    Returns:
        (N, Dc) float32, a row of NaN for an item without a vector.

    Raises:
        EmbeddingError: the file does not fit, or fewer than three items co-occur.
    """
    match config:
        case PrecomputedConfig():
            return known_vectors(config, item_ids)
        case CooccurrenceConfig():
            return _cooccurrence_vectors(config, len(item_ids), items, offsets)
        case _:
            assert_never(config)


def _cooccurrence_vectors(
    config: CooccurrenceConfig, num_items: int, items: NDArray[np.int64], offsets: NDArray[np.int64]
) -> Vectors:
    counts = _counts(num_items, items, offsets, config.window)
    known = np.flatnonzero(counts.sum(1))
    if len(known) < 3:
        raise EmbeddingError(
            f"only {len(known)} items occur beside another one in the training histories, expected at least 3; "
            "give collaborative vectors of your own (collaborative.kind=precomputed)"
        )
    from sklearn.utils.extmath import randomized_svd

    dim = min(config.dim, len(known) - 1)
    left, strength, _ = randomized_svd(_ppmi(counts)[known][:, known], dim, random_state=config.seed)
    found = np.full((num_items, dim), np.nan, np.float32)
    found[known] = left * np.sqrt(strength)
    return found


def _counts(num_items: int, items: NDArray[np.int64], offsets: NDArray[np.int64], window: int) -> sparse.csr_array:
    """(N, N) how often two different items stand at most `window` steps apart in a history; symmetric."""
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    first, second = [], []
    for step in range(1, window + 1):
        pair = (user[step:] == user[:-step]) & (items[step:] != items[:-step])
        first.append(items[:-step][pair])
        second.append(items[step:][pair])
    a, b = np.concatenate(first), np.concatenate(second)
    ones = np.ones(len(a))
    one_way = sparse.coo_array((ones, (a, b)), shape=(num_items, num_items)).tocsr()
    return sparse.csr_array(one_way + one_way.T)


def _ppmi(counts: sparse.csr_array) -> sparse.csr_array:
    """max(0, log p(a, b) / (p(a) p(b))) of the pairs that occur."""
    pairs = counts.tocoo()
    margin = np.asarray(counts.sum(1)).reshape(-1)
    information = np.log(pairs.data * counts.sum() / (margin[pairs.coords[0]] * margin[pairs.coords[1]]))
    return sparse.csr_array((np.maximum(information, 0), pairs.coords), shape=counts.shape)
