"""Residual k-means: each level clusters what the levels before it left over.

Multi-stage vector quantisation (Juang and Gray, ICASSP 1982) for semantic IDs, as in OneRec's and GRID's RQ-KMeans.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Literal, Self

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid.artifacts import read_json, write_json
from felid.config import Config, as_tree, validate
from felid.errors import ArtifactError, FelidWarning, SemanticIdError
from felid.quantize.base import NO_CONTEXT, Codes, FitContext, Vectors, check_codes, check_input

Size = Annotated[int, Field(ge=1)]


class RKMeansConfig(Config):
    """Settings of residual k-means."""

    kind: Literal["rkmeans"] = "rkmeans"
    """Tag of this quantiser."""
    sizes: tuple[Size, ...] = Field((256, 256, 256), min_length=1)
    """Codes per level, first level first; 3 x 256 is TIGER's size."""
    iterations: int = Field(25, ge=1)
    """Lloyd iterations per level; more change the distortion on Beauty (MiniLM) by less than one restart does."""
    restarts: int = Field(3, ge=1)
    """k-means++ starts (Arthur and Vassilvitskii, 2007) per level, of which the best is kept."""
    seed: int = Field(0, ge=0)
    """Seed of the starts."""


class RKMeans:
    """Residual k-means on faiss; a `Quantizer`.

    The result depends on the rows and their order, the config and the seed, not on the number of threads.
    """

    def __init__(self, config: RKMeansConfig) -> None:
        self.config = config
        self._codebooks: list[Vectors] = []

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes per level."""
        return self.config.sizes

    def fit(self, x: Vectors, context: FitContext = NO_CONTEXT) -> Self:
        """Learn one codebook per level.

        Where a later level has no more distinct residuals than codes, these residuals become its first codes and the
        remaining codes stay unused, with a warning.

        Raises:
            SemanticIdError: fewer distinct rows than codes in the first level.
            EmbeddingError: `x` is not a finite (N, D) matrix.
        """
        residual = check_input(x)
        codebooks: list[Vectors] = []
        for level in range(len(self.sizes)):
            codebooks.append(self._fit_level(residual, level))
            residual = residual - codebooks[-1][_nearest(residual, codebooks[-1])]
        self._codebooks = codebooks
        return self

    def encode(self, x: Vectors, items: NDArray[np.int64] | None = None) -> Codes:
        """(N, Lq) int32 nearest codes, level by level; ties go to the lowest code."""
        residual = check_input(x, self.codebook(0).shape[1])
        codes = np.empty((len(residual), len(self.sizes)), np.int32)
        for level, codebook in enumerate(self._codebooks):
            codes[:, level] = _nearest(residual, codebook)
            residual = residual - codebook[codes[:, level]]
        return codes

    def last_level_costs(self, x: Vectors, codes: Codes) -> Vectors:
        """(N, K) float32 squared distance of each row's last residual to each code of the last level."""
        residual = check_input(x, self.codebook(0).shape[1]) - self.decode(codes[:, : len(self.sizes) - 1])
        last = self.codebook(len(self.sizes) - 1)
        index = (residual * residual).sum(1)[:, None] - 2 * residual @ last.T + (last * last).sum(1)
        return np.maximum(index, 0, dtype=np.float32)

    def decode(self, codes: Codes) -> Vectors:
        """(N, D) float32 sum of the codes' vectors over the given levels."""
        check_codes(codes, self.sizes)
        total = np.zeros((len(codes), self.codebook(0).shape[1]), np.float32)
        for level in range(codes.shape[1]):
            total += self._codebooks[level][codes[:, level]]
        return total

    def codebook(self, level: int) -> Vectors:
        """(K, D) float32 vectors of a level."""
        if not self._codebooks:
            raise SemanticIdError("the quantiser has no codebooks yet; call fit, or load a fitted one")
        return self._codebooks[level]

    def save(self, folder: Path) -> None:
        """Write `quantizer.json` and one `codebook_<level>.npy` per level into an existing folder."""
        for level in range(len(self.sizes)):
            np.save(folder / f"codebook_{level}.npy", self.codebook(level))
        write_json(folder / "quantizer.json", as_tree(self.config))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a missing or damaged file is an `ArtifactError`."""
        quantizer = cls(validate(RKMeansConfig, read_json(folder / "quantizer.json")))
        for level, size in enumerate(quantizer.sizes):
            path = folder / f"codebook_{level}.npy"
            try:
                quantizer._codebooks.append(np.load(path, allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                raise ArtifactError(f"{path} cannot be read ({error}); run `felid tokenize` again") from error
            if len(quantizer.codebook(level)) != size:
                raise ArtifactError(
                    f"{path} has {len(quantizer.codebook(level))} codes, expected {size}; run `felid tokenize` again"
                )
        return quantizer

    def _fit_level(self, residual: Vectors, level: int) -> Vectors:
        size = self.sizes[level]
        distinct = _distinct(residual, size + 1)
        if len(distinct) > size:
            return self._cluster(residual, level)
        if len(distinct) < size and level == 0:
            raise SemanticIdError(
                f"quantizer.sizes asks for {size} codes in level 0 but the {len(residual)} items to fit have only "
                f"{len(distinct)} distinct vectors; lower it to {len(distinct)} or less"
            )
        if len(distinct) < size:
            warnings.warn(
                f"level {level} has {size} codes for {len(distinct)} distinct residuals; the other "
                f"{size - len(distinct)} stay unused, lower quantizer.sizes or the number of levels",
                FelidWarning,
                stacklevel=3,
            )
        return np.concatenate([distinct, np.repeat(distinct[:1], size - len(distinct), axis=0)])

    def _cluster(self, residual: Vectors, level: int) -> Vectors:
        kmeans = faiss.Kmeans(
            residual.shape[1],
            self.sizes[level],
            niter=self.config.iterations,
            nredo=self.config.restarts,
            seed=self.config.seed + level,
            init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
            min_points_per_centroid=1,
            max_points_per_centroid=len(residual),
        )
        kmeans.train(residual)
        return np.array(kmeans.centroids, np.float32)


def _nearest(x: Vectors, codebook: Vectors) -> Codes:
    """(N,) int32 index of the nearest row of `codebook`; of equal rows the first."""
    index = faiss.IndexFlatL2(codebook.shape[1])
    index.add(codebook)
    found = index.search(x, 1)[1][:, 0]
    _, first, group = np.unique(codebook, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[group.reshape(-1)][found], np.int32)


def _distinct(x: Vectors, limit: int) -> Vectors:
    """The first `limit` distinct rows of `x`, in order of appearance."""
    seen: dict[bytes, int] = {}
    for row, vector in enumerate(x):
        seen.setdefault((vector + np.float32(0)).tobytes(), row)  # -0.0 becomes 0.0
        if len(seen) == limit:
            break
    return x[list(seen.values())]
