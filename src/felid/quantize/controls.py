"""Controls: codes that know nothing of the items' content. What a model gains over them is what the content is worth.

Random codes also stand in the ablation of Rajput et al. (TIGER, NeurIPS 2023, table 2, "random ID").
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from math import prod
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid.artifacts import read_json, write_json
from felid.config import Config, as_tree, validate
from felid.errors import FelidWarning, SemanticIdError
from felid.quantize.base import (
    NO_CONTEXT,
    Codes,
    FitContext,
    check_codes,
    check_input,
    load_codebooks,
    save_codebooks,
    warn_of_start,
)
from felid.quantize.kmeans import means
from felid.quantize.rkmeans import Size
from felid.rows import Vectors, blocks

Items = NDArray[np.int64]


class RandomConfig(Config):
    """Settings of random codes."""

    kind: Literal["random"] = "random"
    """Tag of this quantiser."""
    sizes: tuple[Size, ...] = Field((256, 256, 256), min_length=1)
    """Codes per level, first level first."""
    seed: int = Field(0, ge=0, lt=2**64)
    """Key of the hash: another seed, other codes."""


class ItemNumberConfig(Config):
    """Settings of codes that count the items up."""

    kind: Literal["item-number"] = "item-number"
    """Tag of this quantiser."""
    sizes: tuple[Size, ...] = Field((256, 256, 256), min_length=1)
    """Codes per level, first level first; their product is the number of items that can be told apart."""


class _Control(ABC):
    """Codes from item_index alone. A code's vector is the mean of what is left of the fitted rows that have it."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes
        self._codebooks: tuple[Vectors, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes per level."""
        return self._sizes

    @abstractmethod
    def _codes(self, items: Items) -> Codes:
        """(N, Lq) codes of items."""

    def fit(self, x: Vectors, context: FitContext = NO_CONTEXT) -> Self:
        """Learn what vectors the codes stand for; the codes themselves do not depend on `x`.

        Warns:
            FelidWarning: `context.start` is given.
        """
        warn_of_start(context)
        residual = check_input(x).copy()
        codes = self._codes(_items(len(x), context.items))
        codebooks = []
        for level, size in enumerate(self.sizes):
            codebooks.append(means(residual, codes[:, level], np.zeros((size, x.shape[1]), np.float32)))
            for rows in blocks(len(residual)):
                residual[rows] -= codebooks[-1][codes[rows, level]]
        self._codebooks = tuple(codebooks)
        return self

    def encode(self, x: Vectors, items: Items | None = None) -> Codes:
        """(N, Lq) int32 codes of the items `items`; of `x` only the number of rows counts."""
        check_input(x, self.codebook(0).shape[1])
        return self._codes(_items(len(x), items))

    def last_level_costs(self, x: Vectors, codes: Codes) -> Vectors:
        """(N, K) float32: 0 for the row's own last code, 1 for any other, since none is nearer than another."""
        costs = np.ones((len(x), self.sizes[-1]), np.float32)
        costs[np.arange(len(x)), check_codes(codes, self.sizes)[:, -1]] = 0
        return costs

    def decode(self, codes: Codes) -> Vectors:
        """(N, D) float32 sum of the codes' vectors over the given levels."""
        check_codes(codes, self.sizes)
        total = np.zeros((len(codes), self.codebook(0).shape[1]), np.float32)
        for level in range(codes.shape[1]):
            total += self._codebooks[level][codes[:, level]]
        return total

    def codebook(self, level: int) -> Vectors:
        """(K, D) float32 vectors of a level; zeros for codes that no fitted item has."""
        if not self._codebooks:
            raise SemanticIdError("the quantiser has no codebooks yet; call fit, or load a fitted one")
        return self._codebooks[level]

    def _save(self, folder: Path, config: Config) -> None:
        self.codebook(0)
        save_codebooks(folder, self._codebooks)
        write_json(folder / "quantizer.json", as_tree(config))


class RandomCodes(_Control):
    """Codes drawn by a keyed hash of seed, level and item_index: uniform, independent, the same in every run; a `Quantizer`."""

    def __init__(self, config: RandomConfig) -> None:
        super().__init__(config.sizes)
        self.config = config

    def _codes(self, items: Items) -> Codes:
        seed = np.asarray([self.config.seed], np.uint64)
        keys = _mix(_mix(seed) ^ np.arange(len(self.sizes), dtype=np.uint64))
        drawn = _mix(_mix(items.astype(np.uint64))[:, None] ^ keys)
        return (drawn % np.asarray(self.sizes, np.uint64)).astype(np.int32)

    def save(self, folder: Path) -> None:
        """Write `quantizer.json` and `codebook_<level>.npy` into an existing folder."""
        self._save(folder, self.config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a missing or damaged file is an `ArtifactError`."""
        quantizer = cls(validate(RandomConfig, read_json(folder / "quantizer.json")))
        quantizer._codebooks = load_codebooks(folder, quantizer.sizes)
        return quantizer


class ItemNumberCodes(_Control):
    """item_index written with the level sizes as its bases, most significant digit first; a `Quantizer`.

    An item_index of the product of the sizes or more starts again at 0; `encode` warns of it.
    """

    def __init__(self, config: ItemNumberConfig) -> None:
        super().__init__(config.sizes)
        self.config = config

    def fit(self, x: Vectors, context: FitContext = NO_CONTEXT) -> Self:
        """Learn what vectors the codes stand for.

        Raises:
            SemanticIdError: more rows than the levels can tell apart.
        """
        if len(x) > prod(self.sizes):
            raise SemanticIdError(
                f"quantizer.sizes {self.sizes} can number {prod(self.sizes)} items but {len(x)} are to be fitted; "
                "use more or larger levels"
            )
        return super().fit(x, context)

    def encode(self, x: Vectors, items: Items | None = None) -> Codes:
        """(N, Lq) int32 digits of the items `items`; of `x` only the number of rows counts.

        Warns:
            FelidWarning: an item_index is beyond what the sizes can number, so that items far apart share codes.
        """
        codes, last = super().encode(x, items), min(prod(self.sizes), 2**63) - 1
        beyond = int((_items(len(x), items) > last).sum())
        if beyond:
            warnings.warn(
                f"{beyond} of {len(x)} items have an item_index above {last}, the last that sizes {self.sizes} can number, and "
                "start again at 0; use more or larger levels",
                FelidWarning,
                stacklevel=2,
            )
        return codes

    def _codes(self, items: Items) -> Codes:
        steps = [min(prod(self.sizes[level + 1 :]), 2**62) for level in range(len(self.sizes))]
        return np.column_stack([items // step % size for step, size in zip(steps, self.sizes, strict=True)]).astype(np.int32)

    def save(self, folder: Path) -> None:
        """Write `quantizer.json` and `codebook_<level>.npy` into an existing folder."""
        self._save(folder, self.config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a missing or damaged file is an `ArtifactError`."""
        quantizer = cls(validate(ItemNumberConfig, read_json(folder / "quantizer.json")))
        quantizer._codebooks = load_codebooks(folder, quantizer.sizes)
        return quantizer


def _items(count: int, items: Items | None) -> Items:
    if items is None:
        return np.arange(count, dtype=np.int64)
    if len(items) != count or (items < 0).any():
        raise SemanticIdError(f"got {len(items)} item indices for {count} rows; expected one per row, none negative")
    return items


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection whose bits look independent."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
