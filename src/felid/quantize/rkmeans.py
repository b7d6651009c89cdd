"""Residual k-means: each level clusters what the levels before it left over.

Multi-stage vector quantisation (Juang and Gray, ICASSP 1982) for semantic IDs, as in OneRec's and GRID's RQ-KMeans, with
codebooks that are fitted to each other afterwards (Chan, Gupta and Gersho, IEEE Transactions on Communications, 1992).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid.artifacts import read_json, write_json
from felid.config import Config, as_tree, validate
from felid.errors import SemanticIdError
from felid.quantize.balance import learn_balanced
from felid.quantize.base import (
    NO_CONTEXT,
    Codes,
    FitContext,
    check_codes,
    check_input,
    energy,
    load_codebooks,
    mean_row,
    save_codebooks,
    warn_of_start,
    warn_without_effect,
)
from felid.quantize.kmeans import (
    assign,
    few_codes,
    learn_codebook,
    means,
    squared_distances,
)
from felid.rows import Vectors, blocks, load_array

Size = Annotated[int, Field(ge=1)]


class RKMeansConfig(Config):
    """Settings of residual k-means."""

    kind: Literal["rkmeans"] = "rkmeans"
    """Tag of this quantiser."""
    sizes: tuple[Size, ...] = Field((256, 256, 256), min_length=1)
    """Codes per level, first level first; 3 x 256 is TIGER's size."""
    iterations: int = Field(30, ge=1)
    """Iterations per level, at most; in the first 85 % codes move from where they save little to where they save more."""
    restarts: int = Field(1, ge=1)
    """k-means++ starts (Arthur and Vassilvitskii, 2007) per level, of which the best after a few iterations goes on; balanced
    levels have one."""
    refinements: int = Field(6, ge=0)
    """Passes over all codebooks after each further level, at most, in which each is fitted to what the others leave: less error
    of the whole for a little more of the first level alone. 0 = each level knows only those before it, as balanced levels do."""
    balanced: bool = False
    """Whether every code of a level is used about equally often by the fitted items, at the price of a larger error: a code's
    price is added to its squared distance."""
    seed: int = Field(0, ge=0)
    """Seed of the starts and moves."""


class RKMeans:
    """Residual k-means; a `Quantizer`.

    The result depends on the rows and their order, the config and the seed, not on the number of threads. One more level
    never raises the squared error of the fitted rows (balanced levels may).
    """

    def __init__(self, config: RKMeansConfig) -> None:
        self.config = config
        self._codebooks: list[Vectors] = []
        self._prices: list[Vectors] = []

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes per level."""
        return self.config.sizes

    def fit(self, x: Vectors, context: FitContext = NO_CONTEXT) -> Self:
        """Learn one codebook per level.

        Where a later level has no more distinct residuals than codes, these residuals become its first codes and the
        remaining codes stay unused.

        Raises:
            SemanticIdError: fewer distinct rows than codes in the first level.
            EmbeddingError: `x` is not a finite (N, D) matrix.

        Warns:
            FelidWarning: codes that stay unused; `restarts` or `refinements` with `balanced`; `context.start`.
        """
        warn_of_start(context)
        if self.config.balanced:
            unused = ["restarts", "refinements"] if self.config.refinements else ["restarts"]
            warn_without_effect(self.config, unused, "with balanced=true")
        x = check_input(x)
        residual, codes = x.copy(), np.empty((len(x), 0), np.int32)
        self._codebooks, self._prices = [], []
        for level in range(len(self.sizes)):
            codebook, prices = self._fit_level(residual, level)
            self._codebooks.append(codebook)
            self._prices.append(prices)
            found = assign(residual, codebook, prices).codes
            _add(residual, codebook, found, -1)
            codes = np.column_stack([codes, found])
            if level > 0 and self.config.refinements:
                codes = self._refine(x, residual, codes)
            context.progress(level + 1, len(self.sizes))
        return self

    def encode(self, x: Vectors, items: NDArray[np.int64] | None = None) -> Codes:
        """(N, Lq) int32 nearest codes (balanced: of least squared distance plus price), level by level; ties go to the lowest."""
        x = check_input(x, self.codebook(0).shape[1])
        codes = np.empty((len(x), len(self.sizes)), np.int32)
        for rows in blocks(len(x), 65_536):
            codes[rows], _ = self._encode(x[rows].copy())
        return codes

    def last_level_costs(self, x: Vectors, codes: Codes) -> Vectors:
        """(N, K) float32 squared distance of each row's last residual to each code of the last level, plus the code's price."""
        residual = check_input(x, self.codebook(0).shape[1]).copy()
        check_codes(codes, self.sizes)
        for level in range(len(self.sizes) - 1):
            _add(residual, self._codebooks[level], codes[:, level], -1)
        costs = squared_distances(residual, self._codebooks[-1])
        return costs + self._prices[-1] if self.config.balanced else costs

    def decode(self, codes: Codes) -> Vectors:
        """(N, D) float32 sum of the codes' vectors over the given levels."""
        check_codes(codes, self.sizes)
        total = np.zeros((len(codes), self.codebook(0).shape[1]), np.float32)
        for level in range(codes.shape[1]):
            _add(total, self._codebooks[level], codes[:, level], 1)
        return total

    def codebook(self, level: int) -> Vectors:
        """(K, D) float32 vectors of a level."""
        if not self._codebooks:
            raise SemanticIdError("the quantiser has no codebooks yet; call fit, or load a fitted one")
        return self._codebooks[level]

    def save(self, folder: Path) -> None:
        """Write `quantizer.json`, `codebook_<level>.npy` and, if balanced, `prices.npy` into an existing folder."""
        self.codebook(0)
        save_codebooks(folder, self._codebooks)
        if self.config.balanced:
            np.save(folder / "prices.npy", np.concatenate(self._prices))
        write_json(folder / "quantizer.json", as_tree(self.config))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a missing or damaged file is an `ArtifactError`."""
        quantizer = cls(validate(RKMeansConfig, read_json(folder / "quantizer.json")))
        quantizer._codebooks = list(load_codebooks(folder, quantizer.sizes))
        prices = np.zeros(sum(quantizer.sizes), np.float32)
        if quantizer.config.balanced:
            prices = load_array(folder / "prices.npy", prices.shape)
        quantizer._prices = np.split(prices, np.cumsum(quantizer.sizes)[:-1])
        return quantizer

    def _fit_level(self, residual: Vectors, level: int) -> tuple[Vectors, Vectors]:
        size, config = self.sizes[level], self.config
        rng, free = np.random.default_rng((config.seed, level)), np.zeros(size, np.float32)
        few = few_codes(residual, size, level)
        if few is not None:
            return few, free
        if config.balanced:
            return learn_balanced(residual, size, config.iterations, rng)
        return learn_codebook(residual, size, config.iterations, config.restarts, rng), free

    def _encode(self, residual: Vectors) -> tuple[Codes, tuple[float, ...]]:
        """Codes of all fitted levels, and the squared error after each; `residual` becomes what is left."""
        codes, errors = np.empty((len(residual), len(self._codebooks)), np.int32), []
        for level, (codebook, prices) in enumerate(zip(self._codebooks, self._prices, strict=True)):
            codes[:, level] = assign(residual, codebook, prices).codes
            _add(residual, codebook, codes[:, level], -1)
            errors.append(energy(residual))
        return codes, tuple(errors)

    def _refine(self, x: Vectors, residual: Vectors, codes: Codes) -> Codes:
        """Fit the codebooks to each other, as long as the error falls and no level raises it; `residual` follows."""
        centre = mean_row(x)
        spread = sum(energy(x[rows] - centre) for rows in blocks(len(x)))
        least, given = energy(residual), codes
        for _ in range(0 if self.config.balanced else self.config.refinements):
            kept, self._codebooks = self._codebooks, self._fitted_to_each_other(residual, codes)
            residual[:] = x
            codes, errors = self._encode(residual)
            if errors[-1] >= least or any(after > before for before, after in pairwise((spread, *errors))):
                self._codebooks, codes = kept, given
                residual[:] = x
                for level, codebook in enumerate(kept):
                    _add(residual, codebook, codes[:, level], -1)
                break
            least, given = errors[-1], codes
        return codes

    def _fitted_to_each_other(self, residual: Vectors, codes: Codes) -> list[Vectors]:
        """Each codebook in turn as the means of what the others leave; `residual` is what all leave, and follows."""
        fitted = []
        for level, codebook in enumerate(self._codebooks):
            _add(residual, codebook, codes[:, level], 1)
            fitted.append(means(residual, codes[:, level], codebook))
            _add(residual, fitted[-1], codes[:, level], -1)
        return fitted


def _add(x: Vectors, codebook: Vectors, codes: Codes, sign: int) -> None:
    """Add the codes' vectors to the rows of `x`, or subtract them, in place."""
    for rows in blocks(len(x)):
        if sign > 0:
            x[rows] += codebook[codes[rows]]
        else:
            x[rows] -= codebook[codes[rows]]
