"""Unique IDs: one more level that tells items with the same codes apart (Rajput et al., TIGER, NeurIPS 2023, section 3.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid.config import Config
from felid.errors import SemanticIdError
from felid.quantize.base import Codes, check_codes


class CollisionConfig(Config):
    """How collisions are resolved."""

    max_size: int = Field(256, ge=1)
    """Most items that may share their codes; more is an error, since the last level would carry the meaning."""


def append_collision_level(codes: Codes, sizes: tuple[int, ...], config: CollisionConfig) -> tuple[Codes, tuple[int, ...]]:
    """Append a level that makes all rows unique.

    Items that share their codes get 0, 1, 2, ... in the order of item_index; an item that shares them with no other gets 0.

    Args:
        codes: (N, Lq) int32, row = item_index.
        sizes: codes per level.
        config: the bound.

    Returns:
        Codes (N, Lq + 1) int32, and sizes with the largest group's size appended (at least 1).

    Raises:
        SemanticIdError: more than `config.max_size` items share their codes, or codes do not fit `sizes`.
    """
    check_codes(codes, sizes)
    group, counts = _groups(codes)
    largest = int(counts.max(initial=1))
    if largest > config.max_size:
        example = tuple(codes[np.flatnonzero(group == counts.argmax())[0]].tolist())
        raise SemanticIdError(
            f"{largest} items share the codes {example}, collision.max_size allows {config.max_size}; use more or larger levels "
            "(quantizer.sizes), give these items distinct texts, or raise the bound"
        )
    order = np.argsort(group, kind="stable")
    ranks = np.empty(len(codes), np.int32)
    ranks[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.column_stack([codes, ranks]).astype(np.int32), (*sizes, largest)


def collision_statistics(codes: Codes, sizes: tuple[int, ...]) -> dict[str, Any]:
    """How well codes (N, Lq), before the collision level, tell items apart.

    Returns:
        num_items; num_unique (distinct rows); collision_rate (share of items that share their codes); largest_group; levels:
        per level size, used (codes that occur), utilisation (used / size) and perplexity (exp of the entropy in nats, 1..size).
    """
    check_codes(codes, sizes)
    group, counts = _groups(codes)
    shared = int((counts[group] > 1).sum())
    return {
        "num_items": len(codes),
        "num_unique": len(counts),
        "collision_rate": shared / max(len(codes), 1),
        "largest_group": int(counts.max(initial=0)),
        "levels": [_level_statistics(codes[:, level], size) for level, size in enumerate(sizes[: codes.shape[1]])],
    }


def _groups(codes: Codes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) group of each row, groups in lexicographic order of codes, and (G,) rows per group."""
    _, group, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return group.reshape(-1), counts


def _level_statistics(column: NDArray[np.int32], size: int) -> dict[str, float]:
    counts = np.bincount(column, minlength=size)
    share = counts[counts > 0] / max(len(column), 1)
    return {
        "size": size,
        "used": len(share),
        "utilisation": len(share) / size,
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
    }
