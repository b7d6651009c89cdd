"""Unique IDs: four ways to tell items with the same codes apart, and how many of them there are.

`suffix` adds one more level (Rajput et al., TIGER, NeurIPS 2023, section 3.1); `nearest-free` and `sinkhorn` move items to
other codes of the last level (the latter as LC-Rec's uniform semantic mapping, Zheng et al., ICDE 2024); `none` leaves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, assert_never

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid.config import Config
from felid.errors import SemanticIdError
from felid.quantize.base import Codes, check_codes
from felid.quantize.resolve_moves import Costs, balancing_prices, move_to_free_codes, runs, sorted_rows


class SuffixConfig(Config):
    """One more level that counts the items of the same codes."""

    kind: Literal["suffix"] = "suffix"
    """Tag of this resolver."""
    max_size: int = Field(256, ge=1)
    """Most items that may share their codes; more is an error, since the last level would carry the meaning."""
    size: int | None = Field(None, ge=1, exclude_if=lambda value: value is None)
    """Codes of that level, whether or not an item needs them; more items of the same codes are an error. null = as many as the
    largest group needs. Where it is null it is not written, so that IDs of versions without it are still known."""


class NearestFreeConfig(Config):
    """Items of the same codes move to free codes of the last level, at the least total cost; other items stay."""

    kind: Literal["nearest-free"] = "nearest-free"
    """Tag of this resolver."""


class SinkhornConfig(Config):
    """As `nearest-free`, but often used codes cost more, and all items of a prefix with a collision may move."""

    kind: Literal["sinkhorn"] = "sinkhorn"
    """Tag of this resolver."""
    epsilon: float = Field(0.01, gt=0)
    """Entropy weight, in units of the mean cost of a code; smaller is nearer to a hard balanced assignment."""
    iterations: int = Field(50, ge=1)
    """Sinkhorn-Knopp iterations; LC-Rec takes 50."""


class NoCollisionConfig(Config):
    """Items of the same codes share their ID; for analysis."""

    kind: Literal["none"] = "none"
    """Tag of this resolver."""
    allow_training: bool = False
    """Whether a model may be trained on shared IDs: it cannot tell their items apart."""


CollisionConfig = Annotated[
    SuffixConfig | NearestFreeConfig | SinkhornConfig | NoCollisionConfig,
    Field(discriminator="kind"),
]
"""How collisions are resolved."""


@dataclass(frozen=True, eq=False)
class Resolution:
    """Final codes.

    Attributes:
        codes: (N, L) int32, row = item_index; rows are unique, except with `none`.
        sizes: codes per level, L of them.
        moved: how many items have another code in the quantiser's last level than it gave them.
    """

    codes: Codes
    sizes: tuple[int, ...]
    moved: int


def resolve_collisions(
    codes: Codes,
    sizes: tuple[int, ...],
    config: CollisionConfig,
    costs: Costs | None = None,
    order: NDArray[np.int64] | None = None,
    learnt: NDArray[np.bool_] | None = None,
) -> Resolution:
    """Tell items with the same codes apart.

    The IDs of `learnt` rows are those that they would have if there were no others: they come first in a group of equal codes,
    prices come from them alone, and the others take what they leave.

    Args:
        codes: (N, Lq) int32 of the quantiser.
        sizes: codes per level, Lq of them.
        config: how.
        costs: rows (n,) int64 -> (n, K) float32 cost of each code of the last level for these rows; asked for few rows at a
            time and only where it matters. `Quantizer.last_level_costs` of the rows. `suffix` and `none` need none.
        order: (N,) rank of each row, all different; decides ties and the numbers of `suffix`. Default: the order of the rows.
            With ranks that belong to the items, the order of the rows changes no item's ID.
        learnt: (N,) True for the rows that may shape the IDs of others. Default: all.

    Raises:
        SemanticIdError: codes do not fit `sizes`; the resolver has no room (the message says what to change); no costs.
    """
    check_codes(codes, sizes)
    ranks = np.arange(len(codes)) if order is None else np.asarray(order)
    first = np.ones(len(codes), bool) if learnt is None else np.asarray(learnt, bool)
    if codes.shape[1] != len(sizes):
        raise SemanticIdError(f"codes have {codes.shape[1]} levels for {len(sizes)} sizes; give the codes of all levels")
    if ranks.shape != (len(codes),) or len(np.unique(ranks)) != len(ranks):
        raise SemanticIdError(f"order has shape {ranks.shape} for {len(codes)} rows; give every row a rank of its own")
    if first.shape != ranks.shape:
        raise SemanticIdError(f"learnt has shape {first.shape} for {len(codes)} rows; give every row True or False")
    match config:
        case SuffixConfig():
            numbers, largest = _suffixes(codes, np.lexsort((ranks, ~first)), config)
            full = np.column_stack([codes, numbers]).astype(np.int32)
            return Resolution(full, (*sizes, config.size or largest), moved=0)
        case NearestFreeConfig() | SinkhornConfig():
            unique = _move(codes, sizes, config, costs, ranks, first)
            return Resolution(unique, sizes, moved=int((unique[:, -1] != codes[:, -1]).sum()))
        case NoCollisionConfig():
            return Resolution(codes.astype(np.int32), sizes, moved=0)
        case _:
            assert_never(config)


def collision_statistics(codes: Codes, sizes: tuple[int, ...]) -> dict[str, Any]:
    """How well codes (N, Lq), before collisions are resolved, tell items apart.

    Returns:
        num_items; num_unique (distinct rows); collision_rate (share of items that share their codes); largest_group; levels:
        per level size, used (codes that occur), utilisation (used / size) and perplexity (exp of the entropy in nats, 1..size).
    """
    check_codes(codes, sizes)
    counts = runs(codes[sorted_rows(codes)])[1]
    return {
        "num_items": len(codes),
        "num_unique": len(counts),
        "collision_rate": int(counts[counts > 1].sum()) / max(len(codes), 1),
        "largest_group": int(counts.max(initial=0)),
        "levels": [_level_statistics(codes[:, level], size) for level, size in enumerate(sizes[: codes.shape[1]])],
    }


def _suffixes(codes: Codes, queue: NDArray[np.int64], config: SuffixConfig) -> tuple[NDArray[np.int64], int]:
    """(N,) number of each item among those of its codes, 0 for an item alone; and the largest group's size.

    The rows of a group are numbered in the order of `queue`, which holds every row once.
    """
    rows = queue[sorted_rows(codes[queue])]
    starts, counts = runs(codes[rows])
    largest = int(counts.max(initial=1))
    bound, name = config.max_size, "max_size"
    if config.size is not None and config.size <= bound:
        bound, name = config.size, "size"
    if largest > bound:
        example = tuple(codes[rows[starts[counts.argmax()]]].tolist())
        raise SemanticIdError(
            f"{largest} items share the codes {example}, collision.{name} allows {bound}; use more or larger levels "
            "(quantizer.sizes), give these items distinct texts, or raise the bound"
        )
    numbers = np.empty(len(codes), np.int64)
    numbers[rows] = np.arange(len(codes)) - np.repeat(starts, counts)
    return numbers, largest


def _move(
    codes: Codes,
    sizes: tuple[int, ...],
    config: NearestFreeConfig | SinkhornConfig,
    costs: Costs | None,
    ranks: NDArray[np.int64],
    learnt: NDArray[np.bool_],
) -> Codes:
    if costs is None:
        raise SemanticIdError(
            f"collision.kind {config.kind!r} needs the costs of the last level's codes, which only the quantiser knows; "
            "use collision.kind suffix for codes without their quantiser"
        )
    prices = None
    if isinstance(config, SinkhornConfig):
        rows = np.argsort(ranks)
        prices = balancing_prices(costs, rows[learnt[rows]], sizes[-1], config.epsilon, config.iterations)
    return move_to_free_codes(codes, sizes, costs, ranks, prices, learnt)


def _level_statistics(column: NDArray[np.int32], size: int) -> dict[str, float]:
    counts = np.bincount(column, minlength=size)
    share = counts[counts > 0] / max(len(column), 1)
    return {
        "size": size,
        "used": len(share),
        "utilisation": len(share) / size,
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
    }
