"""Minimum interactions per user and per item."""

from __future__ import annotations

import polars as pl
from pydantic import Field

from felid.config import Config
from felid.errors import DataError


class FilterConfig(Config):
    """Which users and items are kept.

    With both on, the filters alternate until nothing changes (a k-core of the user-item graph).
    """

    min_user_interactions: int = Field(5, ge=0)
    """Interactions a user needs (5 in the TIGER, S3-Rec and SASRec protocol); shorter users are dropped. Off at 0 or 1."""
    min_item_interactions: int = Field(0, ge=0)
    """Interactions an item needs; rarer items leave the interactions and the catalogue. 1: no core, but items that no kept user
    took leave the catalogue. 0: they stay, as cold items."""


NO_FILTER = FilterConfig(min_user_interactions=0, min_item_interactions=0)


def apply_filters(
    interactions: pl.DataFrame, items: pl.DataFrame, config: FilterConfig
) -> tuple[pl.DataFrame, pl.DataFrame, tuple[str, ...]]:
    """Drop users and items below their minimum.

    Args:
        interactions: at least user_id and item_id; the order of the rows is kept.
        items: at least item_id; changed only by the item filter.
        config: the minima.

    Returns:
        Interactions, items, and notes with the counts of what was dropped.

    Raises:
        DataError: nothing is left.
    """
    kept = interactions
    while True:
        before = len(kept)
        kept = _with_at_least(kept, "user_id", config.min_user_interactions)
        kept = _with_at_least(kept, "item_id", config.min_item_interactions)
        if len(kept) == before:
            break
    if kept.is_empty():
        raise DataError(_nothing_left(interactions, config))
    catalogue = items
    if config.min_item_interactions:
        catalogue = items.filter(pl.col("item_id").is_in(kept["item_id"].unique().implode()))
    return kept, catalogue, _notes(interactions, kept, len(items) - len(catalogue), config)


def _with_at_least(interactions: pl.DataFrame, column: str, minimum: int) -> pl.DataFrame:
    if minimum <= 1:
        return interactions
    return interactions.filter(pl.len().over(column) >= minimum)


def _nothing_left(interactions: pl.DataFrame, config: FilterConfig) -> str:
    most = [interactions.select(pl.len().over(name).max()).item() for name in ("user_id", "item_id")]
    return (
        f"the filters leave none of {len(interactions)} interactions; min_user_interactions is {config.min_user_interactions} "
        f"(the longest user has {most[0]}), min_item_interactions is {config.min_item_interactions} (the most frequent item has "
        f"{most[1]}); lower the minima"
    )


def _notes(before: pl.DataFrame, after: pl.DataFrame, dropped_items: int, config: FilterConfig) -> tuple[str, ...]:
    dropped = len(before) - len(after)
    if not dropped and not dropped_items:
        return ()
    users = before["user_id"].n_unique() - after["user_id"].n_unique()
    return (
        f"filters (at least {config.min_user_interactions} interactions per user, {config.min_item_interactions} per item) "
        f"dropped {users} users, {dropped_items} items and {dropped} interactions",
    )
