"""What every quantiser can do, and what can be said about any of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from felid.config import Config
from felid.errors import EmbeddingError, FelidWarning, SemanticIdError
from felid.rows import Vectors, blocks, load_array

Codes = NDArray[np.int32]
"""(N, Lq) int32; Lq is the number of levels that the quantiser learns, without the collision level."""


LogRecord = Mapping[str, int | float | list[float] | list[int]]


@dataclass(frozen=True, eq=False)
class FitContext:
    """What a quantiser may learn from besides the vectors, and whom it tells.

    Attributes:
        items: (N,) item_index of each row; None = 0..N-1.
        collaborative: (N, Dc) float32 vector of each row's item from behaviour, a row of NaN where there is none.
        start: first codebooks, one (K, D') per level, instead of the quantiser's own start; for `RQVAE`, others warn.
        log: hears one record per epoch.
        progress: hears (steps done, steps in all).
    """

    items: NDArray[np.int64] | None = None
    collaborative: Vectors | None = None
    start: tuple[Vectors, ...] | None = None
    log: Callable[[LogRecord], None] = lambda record: None
    progress: Callable[[int, int], None] = lambda done, total: None


NO_CONTEXT = FitContext()


class Quantizer(Protocol):
    """Maps vectors to one code per level.

    `fit` may see fewer items than `encode`: cold items are encoded with codebooks that never saw them. An item's codes do
    not depend on which other items are encoded in the same call.
    """

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes per level."""
        ...

    def fit(self, x: Vectors, context: FitContext = NO_CONTEXT) -> Self:
        """Learn the codebooks from the rows of `x`; the order of the rows may matter, the number of threads does not."""
        ...

    def encode(self, x: Vectors, items: NDArray[np.int64] | None = None) -> Codes:
        """Codes of each row; of equally near codes the lowest.

        Args:
            x: (N, D).
            items: (N,) item_index of each row, None = 0..N-1. Only the controls look at it.
        """
        ...

    def last_level_costs(self, x: Vectors, codes: Codes) -> Vectors:
        """(N, K) cost of each code of the last level for each row, given its codes on the other levels.

        The squared distance to the row's residual where there is one. The row's own last code costs least; resolving a
        collision moves items at the least additional cost.
        """
        ...

    def decode(self, codes: Codes) -> Vectors:
        """Vectors that codes stand for; with fewer columns than levels, the approximation by the first levels."""
        ...

    def codebook(self, level: int) -> Vectors:
        """(K, D) vectors of a level."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything that `load` needs, `quantizer.json` among it."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...


def check_input(x: Vectors, dim: int | None = None) -> Vectors:
    """Return `x` as a contiguous finite float32 matrix, of width `dim` if given.

    Raises:
        EmbeddingError: another shape, no rows, or NaN or infinity.
    """
    if x.ndim != 2 or not x.size:
        raise EmbeddingError(f"got item vectors of shape {x.shape}; expected (N, D) with at least one row")
    if dim is not None and x.shape[1] != dim:
        raise EmbeddingError(f"item vectors have {x.shape[1]} dimensions but the quantiser was fitted on {dim}; fit it again")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x).all(1)).sum())
        raise EmbeddingError(f"{bad} of {len(x)} item vectors hold NaN or infinity; embed these items again")
    return np.ascontiguousarray(x, dtype=np.float32)


def check_codes(codes: Codes, sizes: tuple[int, ...]) -> Codes:
    """Return `codes` if each column fits its level.

    Raises:
        SemanticIdError: more columns than levels, or a code outside 0..K-1.
    """
    if codes.ndim != 2 or codes.shape[1] > len(sizes):
        raise SemanticIdError(f"got codes of shape {codes.shape}; expected (N, L) with L at most {len(sizes)}")
    outside = (codes < 0) | (codes >= np.asarray(sizes[: codes.shape[1]]))
    if outside.any():
        row, level = np.argwhere(outside)[0].tolist()
        raise SemanticIdError(f"code {codes[row, level]} of row {row} is outside level {level}, which has {sizes[level]} codes")
    return codes


def distortion(quantizer: Quantizer, x: Vectors, items: NDArray[np.int64] | None = None) -> tuple[float, ...]:
    """Share of the variance of `x` that is left after 1, 2, ... levels.

    Mean squared L2 distance between the rows and their decodings, divided by that to the mean row; 0 is perfect, above 1 is
    worse than one vector for all. If all rows are equal the divisor is the smallest float32.
    """
    codes = quantizer.encode(x, items)
    centre, spread, left = mean_row(x), 0.0, np.zeros(codes.shape[1])
    for rows in blocks(len(x)):
        spread += energy(x[rows] - centre)
        left += [energy(x[rows] - quantizer.decode(codes[rows, : level + 1])) for level in range(len(left))]
    variance = max(spread / len(x), float(np.finfo(np.float32).tiny))
    return tuple((left / len(x) / variance).tolist())


def mean_row(x: Vectors) -> Vectors:
    """(D,) float32 mean of the rows, summed in float64: a float32 sum of many rows drifts."""
    return np.asarray(x.mean(0, dtype=np.float64), np.float32)


def energy(x: Vectors) -> float:
    """Sum of squares."""
    return sum(float((x[rows] * x[rows]).sum(1).sum(dtype=np.float64)) for rows in blocks(len(x)))


def warn_without_effect(config: Config, fields: Sequence[str], reason: str) -> None:
    """Warn, in the name of the caller's caller, of each of the fields that is not at its default; `reason` says why in vain."""
    defaults = type(config).model_fields
    changed = [name for name in fields if getattr(config, name) != defaults[name].default]
    if changed:
        text = f"{' and '.join(changed)} of the quantiser: no effect {reason}; leave at the default"
        warnings.warn(text, FelidWarning, stacklevel=3)


def warn_of_start(context: FitContext) -> None:
    """Warn, in the name of the caller's caller, of first codebooks for a quantiser that finds its own."""
    if context.start is not None:
        text = "this quantiser finds its own first codebooks, those given (FitContext.start) have no effect; leave them out"
        warnings.warn(text, FelidWarning, stacklevel=3)


def save_codebooks(folder: Path, codebooks: Sequence[Vectors]) -> None:
    """Write one `codebook_<level>.npy` per level into an existing folder."""
    for level, codebook in enumerate(codebooks):
        np.save(folder / f"codebook_{level}.npy", codebook)


def load_codebooks(folder: Path, sizes: tuple[int, ...]) -> tuple[Vectors, ...]:
    """Read what `save_codebooks` wrote; a missing or damaged file, or one of another size, is an `ArtifactError`."""
    return tuple(load_array(folder / f"codebook_{level}.npy", (size, None)) for level, size in enumerate(sizes))
