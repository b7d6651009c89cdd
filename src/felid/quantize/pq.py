"""Product quantisation: each level codes its own part of the vector (Jegou, Douze and Schmid, TPAMI 2011).

With `rotate` the parts are those of a rotated vector, by the rotation that leaves the least error: OPQ (Ge, He, Ke and Sun, CVPR
2013, the non-parametric method).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid.artifacts import read_json, write_json
from felid.config import Config, as_tree, validate
from felid.errors import SemanticIdError
from felid.quantize.base import (
    NO_CONTEXT,
    Codes,
    FitContext,
    check_codes,
    check_input,
    load_codebooks,
    mean_row,
    save_codebooks,
    warn_of_start,
    warn_without_effect,
)
from felid.quantize.kmeans import assign, few_codes, learn_codebook, means, squared_distances
from felid.quantize.rkmeans import Size
from felid.rows import Vectors, blocks, load_array


class PQConfig(Config):
    """Settings of product quantisation."""

    kind: Literal["pq"] = "pq"
    """Tag of this quantiser."""
    sizes: tuple[Size, ...] = Field((256, 256, 256), min_length=1)
    """Codes per level; level l codes the l-th of equally long parts of the vector (the first are one longer if need be)."""
    rotate: bool = False
    """Whether the vectors are rotated first, so that the parts carry equally much and less is lost (OPQ)."""
    rotations: int = Field(12, ge=1)
    """Times that rotation and codebooks are fitted to each other; without effect, and with a warning, unless `rotate`."""
    iterations: int = Field(30, ge=1)
    """Iterations of k-means per level, at most."""
    restarts: int = Field(1, ge=1)
    """k-means++ starts per level, of which the best after a few iterations goes on."""
    seed: int = Field(0, ge=0)
    """Seed of the starts and moves."""


class PQ:
    """Product quantisation, plain or rotated; a `Quantizer`.

    A vector of a codebook has the width of the input: its part in its place (rotated back), zeros elsewhere. So codes stand
    for the sum of their vectors, as those of other quantisers do.
    """

    def __init__(self, config: PQConfig) -> None:
        self.config = config
        self._parts: list[Vectors] = []
        self._rotation: Vectors | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes per level."""
        return self.config.sizes

    def fit(self, x: Vectors, context: FitContext = NO_CONTEXT) -> Self:
        """Learn the rotation, if any, and one codebook per level.

        Raises:
            SemanticIdError: fewer dimensions than levels, or fewer distinct first parts than codes in the first level.
            EmbeddingError: `x` is not a finite (N, D) matrix.

        Warns:
            FelidWarning: `rotations` without `rotate`, or `context.start`; or a later level has more codes than distinct parts.
        """
        warn_of_start(context)
        if not self.config.rotate:
            warn_without_effect(self.config, ["rotations"], "with rotate=false")
        x = check_input(x)
        if x.shape[1] < len(self.sizes):
            raise SemanticIdError(
                f"item vectors have {x.shape[1]} dimensions for {len(self.sizes)} levels; give quantizer.sizes at most "
                f"{x.shape[1]} levels, or take another quantiser"
            )
        self._rotation = _spread_evenly(x, len(self.sizes)) if self.config.rotate else None
        codebooks: list[Vectors] = []
        for level, part in enumerate(self._split(x)):
            codebooks.append(self._fit_level(part, level))
            context.progress(level + 1, len(self.sizes))
        if self.config.rotate:
            codebooks = self._fit_rotation(x, codebooks)
        self._parts = codebooks
        return self

    def encode(self, x: Vectors, items: NDArray[np.int64] | None = None) -> Codes:
        """(N, Lq) int32 nearest code of each part; ties go to the lowest code."""
        x = check_input(x, self._width)
        codes = np.empty((len(x), len(self.sizes)), np.int32)
        for rows in blocks(len(x), 65_536):
            for level, part in enumerate(self._split(x[rows])):
                codes[rows, level] = assign(part, self._parts[level]).codes
        return codes

    def last_level_costs(self, x: Vectors, codes: Codes) -> Vectors:
        """(N, K) float32 squared distance of each row's last part to each code of the last level."""
        x = check_input(x, self._width)
        check_codes(codes, self.sizes)
        return squared_distances(self._split(x)[-1], self._parts[-1])

    def decode(self, codes: Codes) -> Vectors:
        """(N, D) float32 vector whose first parts are the codes' and whose further parts are zero."""
        check_codes(codes, self.sizes)
        total = np.zeros((len(codes), self._width), np.float32)
        for level in range(codes.shape[1]):
            total += self.codebook(level)[codes[:, level]]
        return total

    def codebook(self, level: int) -> Vectors:
        """(K, D) float32 vectors of a level."""
        whole = np.zeros((self.sizes[level], self._width), np.float32)
        widths = [part.shape[1] for part in self._parts]
        start = sum(widths[:level])
        whole[:, start : start + widths[level]] = self._parts[level]
        return whole if self._rotation is None else _product(whole, self._rotation.T)

    def save(self, folder: Path) -> None:
        """Write `quantizer.json`, the parts as `codebook_<level>.npy` and, if rotated, `rotation.npy` into an existing folder."""
        self.codebook(0)
        save_codebooks(folder, self._parts)
        if self._rotation is not None:
            np.save(folder / "rotation.npy", self._rotation)
        write_json(folder / "quantizer.json", as_tree(self.config))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a missing or damaged file is an `ArtifactError`."""
        quantizer = cls(validate(PQConfig, read_json(folder / "quantizer.json")))
        quantizer._parts = list(load_codebooks(folder, quantizer.sizes))
        if quantizer.config.rotate:
            dim = sum(part.shape[1] for part in quantizer._parts)
            quantizer._rotation = load_array(folder / "rotation.npy", (dim, dim))
        return quantizer

    @property
    def _width(self) -> int:
        """D of the fitted rows."""
        if not self._parts:
            raise SemanticIdError("the quantiser has no codebooks yet; call fit, or load a fitted one")
        return sum(part.shape[1] for part in self._parts)

    def _split(self, x: Vectors) -> list[Vectors]:
        """The levels' parts of the rows, each contiguous; beside them only a block of rows is held."""
        levels = len(self.sizes)
        parts = [np.empty((len(x), len(dims)), np.float32) for dims in np.array_split(np.arange(x.shape[1]), levels)]
        for rows in blocks(len(x)):
            turned = x[rows] if self._rotation is None else _product(x[rows], self._rotation)
            for part, columns in zip(parts, np.array_split(turned, levels, axis=1), strict=True):
                part[rows] = columns
        return parts

    def _fit_level(self, part: Vectors, level: int) -> Vectors:
        size, config = self.sizes[level], self.config
        few = few_codes(part, size, level)
        rng = np.random.default_rng((config.seed, level))
        return learn_codebook(part, size, config.iterations, config.restarts, rng) if few is None else few

    def _fit_rotation(self, x: Vectors, codebooks: list[Vectors]) -> list[Vectors]:
        """Turn the rotation and move the codes by turns; each turn lowers the error or leaves it."""
        for _ in range(self.config.rotations):
            parts = self._split(x)
            codes = [assign(part, codebook).codes for part, codebook in zip(parts, codebooks, strict=True)]
            codebooks = [means(part, code, codebook) for part, code, codebook in zip(parts, codes, codebooks, strict=True)]
            fit = np.zeros((x.shape[1], x.shape[1]))
            for rows in blocks(len(x)):
                coded = [codebook[code[rows]] for codebook, code in zip(codebooks, codes, strict=True)]
                fit += x[rows].T @ np.concatenate(coded, axis=1)
            left, _, right = np.linalg.svd(fit)
            self._rotation = np.asarray(left @ right, np.float32)
        return codebooks


def _spread_evenly(x: Vectors, levels: int) -> Vectors:
    """(D, D) principal axes of `x`, dealt out so that the parts' variances have about equal products (Ge et al., section 3.2)."""
    centred = x - mean_row(x)
    variances, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    room = [len(part) for part in np.array_split(np.arange(x.shape[1]), levels)]
    dealt: list[list[int]] = [[] for _ in range(levels)]
    weights = [0.0] * levels
    for axis in np.argsort(-variances, kind="stable").tolist():
        level = min((part for part in range(levels) if len(dealt[part]) < room[part]), key=lambda part: weights[part])
        dealt[level].append(axis)
        weights[level] += np.log(max(variances[axis] / max(variances.max(), 1e-300), 1e-12)) + 28
    return np.asarray(axes[:, [axis for part in dealt for axis in part]], np.float32)


def _product(x: Vectors, rotation: Vectors) -> Vectors:
    """Rows of `x` turned; computed in float64, so that a row is the same alone and among others."""
    return np.asarray(x.astype(np.float64) @ rotation.astype(np.float64), np.float32)
