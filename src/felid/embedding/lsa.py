"""Latent semantic analysis: TF-IDF, then a truncated SVD. Needs no download and no network.

Deerwester et al., "Indexing by Latent Semantic Analysis", JASIS 1990.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid.config import Config
from felid.embedding.template import ItemTexts
from felid.errors import EmbeddingError, FelidWarning


class LsaConfig(Config):
    """Settings of the LSA embedder; the defaults were chosen by text kNN on Beauty validation targets."""

    kind: Literal["lsa"] = "lsa"
    """Tag of this embedder."""
    dim: int = Field(384, ge=1)
    """Width of the vectors; lowered, with a warning, to what the texts can carry."""
    min_df: int = Field(2, ge=1)
    """A term counts when at least this many fitted items have it."""
    max_ngram: int = Field(1, ge=1, le=3)
    """Longest word n-gram; on Beauty 1 beats 2 (.0610 against .0605 Recall@10) in half the time."""
    iterations: int = Field(5, ge=1)
    """Power iterations of the randomised SVD."""
    seed: int = Field(0, ge=0)
    """Seed of the randomised SVD."""


def embed_lsa(config: LsaConfig, items: ItemTexts) -> NDArray[np.float32]:
    """Fit TF-IDF and SVD on the warm items and transform all of them.

    Returns:
        (N, D) float32, D = `config.dim` or less; the row of an item whose words are all unknown is zero. A function of texts,
        fit rows and config alone; each axis has the sign that makes its largest loading positive.

    Raises:
        EmbeddingError: no item to fit on, or no term that reaches `min_df`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    fitted = [text for text, fit in zip(items.texts, items.fit_rows, strict=True) if fit]
    vectorizer = TfidfVectorizer(
        sublinear_tf=True, min_df=min(config.min_df, max(len(fitted), 1)), ngram_range=(1, config.max_ngram), dtype=np.float32
    )
    try:
        terms = vectorizer.fit_transform(fitted)
    except ValueError as error:
        raise EmbeddingError(
            f"no word occurs in {config.min_df} or more of the {len(fitted)} training items' texts; "
            "check text.columns or set embedding.min_df=1"
        ) from error
    width = min(config.dim, *terms.shape)
    _, strength, axes = randomized_svd(terms, width, n_iter=config.iterations, random_state=config.seed)
    axes = _oriented(axes[strength > 1e-5 * strength[0]])
    if len(axes) < config.dim:
        warnings.warn(
            f"embedding.dim is {config.dim}, but {terms.shape[0]} training items with {terms.shape[1]} terms carry only "
            f"{len(axes)}; the vectors have {len(axes)} dimensions",
            FelidWarning,
            stacklevel=2,
        )
    return np.ascontiguousarray(vectorizer.transform(items.texts) @ axes.T, dtype=np.float32)


def _oriented(axes: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1, keepdims=True), 1)
    return axes * np.where(largest < 0, np.float32(-1), np.float32(1))
