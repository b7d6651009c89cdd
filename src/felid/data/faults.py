"""Everything doubtful in people's own tables at once, with the rows concerned, where reading them stops at the first fault."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from felid.data import checks
from felid.data.dataset import Dataset
from felid.data.filters import FilterConfig
from felid.data.sources.files import FilesConfig, name_of, read
from felid.errors import DataError, FelidWarning

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC).timestamp()
"""Interactions with things on a computer are later; earlier times are mostly of another unit."""
AHEAD_SECONDS = 86_400.0
"""Clocks and time zones may be off by so much."""

STAND_INS = ("null", "none", "nan", "n/a", "nil", "undefined", "unknown")
"""What exports write where an id is missing; in any case of letters."""


@dataclass(frozen=True)
class Fault:
    """Something in a table that a reader should know.

    Attributes:
        text: what, how often and where: "interactions with ...: 3 (data rows 2, 5, 9)"; rows count from 1, without the header.
        fatal: whether `felid run` refuses the data because of it.
    """

    text: str
    fatal: bool = False


@dataclass(frozen=True, eq=False)
class Inspection:
    """Tables that were looked at as a whole.

    Attributes:
        faults: what was found, fatal ones first.
        dataset: the data without the rows that have fatal faults, unfiltered.
        left_out: rows with fatal faults, of both tables.
    """

    faults: tuple[Fault, ...]
    dataset: Dataset
    left_out: int


def inspect(config: FilesConfig, now: datetime | None = None) -> Inspection:
    """Read tables and find everything in them that is wrong or doubtful.

    Args:
        config: how they are read.
        now: what is later is in the future; None = now.

    Raises:
        DataError: a file is missing or no table, ids have a type that is none, or no row is usable.
    """
    interactions, items, _ = read(config)
    moment = (now or datetime.now(UTC)).timestamp()
    found: list[Fault] = []
    broken = pl.repeat(False, len(interactions), eager=True)
    for text, rows, fatal in [*_of_ids(interactions, "interactions"), *_of_values(interactions, moment)]:
        found += _fault(text, rows, fatal)
        broken = broken | rows if fatal else broken
    left_out = 0
    if items is not None:
        bad = pl.repeat(False, len(items), eager=True)
        for text, rows, fatal in [*_of_ids(items, "items"), *_of_items(items)]:
            found += _fault(text, rows, fatal)
            bad = bad | rows if fatal else bad
        items, left_out = items.filter(~bad), int(bad.sum())
        checks.require_same_type(interactions, items)
        unknown = checks.unknown_items(interactions, items).fill_null(False) & ~broken
        found += _fault("interactions with an item that has no row in the items file", unknown, True)
        broken = broken | unknown
    usable = interactions.filter(~broken)
    if usable.is_empty() and len(interactions):
        told = "; ".join(fault.text for fault in found if fault.fatal)
        raise DataError(f"no row of {config.interactions} can be used ({told}); mend them, or correct which column is which")
    found += [Fault(text) for text in _of_users(usable, items)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FelidWarning)  # what it would say is among the faults
        dataset = Dataset.from_frames(name_of(config), usable, items)
    ordered = sorted(found, key=lambda fault: not fault.fatal)
    return Inspection(tuple(ordered), dataset, left_out + int(broken.sum()))


def filtered(dataset: Dataset, filters: FilterConfig) -> Dataset:
    """The same data with minimum interactions; a `DataError` where nothing is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FelidWarning)
        tables = dataset.name, dataset.interactions, dataset.items
        return Dataset.from_frames(*tables, order_rule=dataset.order_rule, filters=filters)


Found = Iterator[tuple[str, pl.Series, bool]]
"""What is wrong, (rows,) bool where, and whether it is fatal."""


def _fault(text: str, rows: pl.Series, fatal: bool) -> list[Fault]:
    return [Fault(f"{text}: {checks.first_rows(rows)}", fatal)] if rows.any() else []


def _of_ids(table: pl.DataFrame, where: str) -> Found:
    for column in (name for name in ("user_id", "item_id") if name in table.columns):
        ids = table[column]
        yield f"{where} with a missing or empty {column}", checks.missing_ids(ids), True
        if ids.dtype == pl.String:
            padded = (ids != ids.str.strip_chars()).fill_null(False) & ~checks.missing_ids(ids)
            yield f"{where} whose {column} begins or ends with a blank (ids are compared as they are)", padded, False
            stand_ins = ids.str.strip_chars().str.to_lowercase().is_in(STAND_INS).fill_null(False)
            yield f"{where} whose {column} reads like a missing one, such as 'NULL' (it is taken for an id)", stand_ins, False


def _of_values(interactions: pl.DataFrame, now: float) -> Found:
    bad = pl.repeat(False, len(interactions), eager=True)
    if "timestamp" in interactions.columns:
        times = interactions["timestamp"]
        if times.dtype.is_numeric():
            bad = checks.unusable_times(times)
            yield "interactions with a missing, unreadable or negative time", bad, True
            yield "interactions in the future", (times > now + AHEAD_SECONDS).fill_null(False) & ~bad, False
            yield "interactions before 1990 (another unit?)", (times < EARLIEST).fill_null(False) & ~bad, False
            same = interactions.select(pl.struct("user_id", "timestamp").is_duplicated()).to_series() & ~bad
            yield "interactions at the same time as another one of that user (their order is that of the file)", same, False
    if "rating" in interactions.columns:
        yield "interactions with a rating that is not a number", checks.unreadable_ratings(interactions["rating"]), True
    if "position" in interactions.columns:
        yield "interactions with a missing position", interactions["position"].is_null(), True
    if "timestamp" in interactions.columns or "position" in interactions.columns:
        repeated = ~interactions.select(pl.struct(pl.all()).is_first_distinct()).to_series()
        yield "rows that are equal to an earlier one (they are dropped)", repeated & ~bad, False


def _of_items(items: pl.DataFrame) -> Found:
    known = ~checks.missing_ids(items["item_id"])
    yield "items with the item_id of an earlier row", ~items["item_id"].is_first_distinct() & known, True
    if len(items.columns) > 1:
        blank = checks.without_text(items)
        same = items.select(pl.struct(pl.exclude("item_id")).is_duplicated()).to_series() & ~blank
        yield "items without any text", blank, False
        yield "items that differ from another one in nothing but the item_id", same, False


def _of_users(interactions: pl.DataFrame, items: pl.DataFrame | None) -> Iterator[str]:
    """What is no matter of single rows."""
    lengths = interactions.group_by("user_id", maintain_order=True).len()
    short = lengths.filter(pl.col("len") < checks.MIN_EVALUATED)
    if len(short):
        first = ", ".join(repr(user) for user in short["user_id"].head(3))
        yield f"users with fewer than {checks.MIN_EVALUATED} interactions: {len(short)} of {len(lengths)} (first: {first})"
    if items is not None:
        never = len(items) - interactions["item_id"].n_unique()
        if never:
            yield f"items that nobody took: {never} of {len(items)}"
