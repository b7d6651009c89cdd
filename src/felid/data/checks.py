"""Checks at the door: what a table must hold before it becomes a `Dataset`.

Fatal faults raise `DataError` with a count, the first data rows (numbered from 1, header apart) and a remedy; doubtful
but usable data is returned as notes, with a `FelidWarning` where a later stage will suffer from it.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable

import numpy as np
import polars as pl

from felid.errors import DataError, FelidWarning

MIN_EVALUATED = 3
"""Items a user needs to have a training item, a validation target and a test target."""


def first_rows(bad: pl.Series, limit: int = 3) -> str:
    """The count of True values and the first rows where they are, as text such as "12 (data rows 3, 4, 9, ...)"."""
    rows = np.flatnonzero(bad.to_numpy()) + 1
    shown = [str(row) for row in rows[:limit]] + ["..."] * (len(rows) > limit)
    return f"{len(rows)} (data rows {', '.join(shown)})"


def require_columns(frame: pl.DataFrame, names: Iterable[str], where: str) -> None:
    """Every name must be a column."""
    for name in names:
        if name in frame.columns:
            continue
        near = difflib.get_close_matches(name, frame.columns, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(
            f"{where} has no column {name!r}; it has {', '.join(frame.columns) or 'none'}; {hint}correct the column map"
        )


def require_rows(frame: pl.DataFrame, where: str) -> None:
    """The table must not be empty."""
    if frame.is_empty():
        raise DataError(f"{where} has no rows, expected at least one; check that the file is complete")


def canonical_ids(frame: pl.DataFrame, column: str, where: str) -> pl.DataFrame:
    """Integer ids become int64 and text stays text; floats, missing ids and empty strings are refused."""
    ids = frame[column]
    if ids.dtype in (pl.Categorical, pl.Enum):
        ids = ids.cast(pl.String)
    if not (ids.dtype.is_integer() or ids.dtype == pl.String):
        raise DataError(f"{column} of {where} has type {ids.dtype}, expected integers or text; cast the column first")
    missing = missing_ids(ids)
    if missing.any():
        raise DataError(f"{where} has rows with a missing or empty {column}: {first_rows(missing)}; fill or remove them")
    try:
        return frame.with_columns(ids.cast(pl.Int64) if ids.dtype.is_integer() else ids)
    except pl.exceptions.InvalidOperationError as error:
        raise DataError(f"{column} of {where} holds integers beyond 64 bits; cast the column to text") from error


def missing_ids(ids: pl.Series) -> pl.Series:
    """(rows,) bool, True where an id is missing or blank."""
    return ids.fill_null("").str.strip_chars() == "" if ids.dtype == pl.String else ids.is_null()


def require_same_type(interactions: pl.DataFrame, items: pl.DataFrame) -> None:
    """Both tables must write item ids in the same way."""
    here, there = interactions["item_id"].dtype, items["item_id"].dtype
    if here != there:
        raise DataError(f"item_id is {here} in interactions but {there} in items; cast one of them so that the ids can match")


def require_unique_items(items: pl.DataFrame) -> None:
    """One row per item."""
    repeated = ~items["item_id"].is_first_distinct()
    if repeated.any():
        example = items["item_id"].filter(repeated)[0]
        raise DataError(f"items has repeated item_id rows: {first_rows(repeated)}, for example {example!r}; keep one per item")


def require_known_items(interactions: pl.DataFrame, items: pl.DataFrame) -> None:
    """Every item of the interactions needs a row in items."""
    unknown = unknown_items(interactions, items)
    if unknown.any():
        ids = interactions["item_id"].filter(unknown).unique().sort()
        shown = ", ".join(repr(value) for value in ids.head(3))
        raise DataError(
            f"id in interactions without item row: {len(ids)} item ids in {unknown.sum()} interactions, for example {shown}; "
            "add their rows to the items table or remove those interactions"
        )


def unknown_items(interactions: pl.DataFrame, items: pl.DataFrame) -> pl.Series:
    """(interactions,) bool, True where the item has no row in items."""
    return ~interactions["item_id"].is_in(items["item_id"].implode())


def require_times(interactions: pl.DataFrame) -> pl.DataFrame:
    """Timestamps must be finite unix seconds from 1970 on; integers become int64 and floats float64."""
    times = interactions["timestamp"]
    if not times.dtype.is_numeric():
        raise DataError(f"timestamp has type {times.dtype}, expected numbers (unix seconds); the `files` source can convert it")
    times = times.cast(pl.Int64 if times.dtype.is_integer() else pl.Float64)
    bad = unusable_times(times)
    if bad.any():
        raise DataError(
            f"interactions with a missing, unreadable or negative timestamp: {first_rows(bad)}; mend or remove these rows, "
            "or leave the timestamp out and let the file order decide"
        )
    return interactions.with_columns(times)


def unusable_times(times: pl.Series) -> pl.Series:
    """(rows,) bool, True where a number of seconds is missing, not finite or negative."""
    return ~(times.is_finite() & (times >= 0)).fill_null(False)


def require_positions(interactions: pl.DataFrame) -> pl.DataFrame:
    """Positions must be integers without gaps in the column."""
    positions = interactions["position"]
    if not positions.dtype.is_integer():
        raise DataError(f"position has type {positions.dtype}, expected integers that grow with time; cast the column")
    if positions.has_nulls():
        raise DataError(f"interactions with a missing position: {first_rows(positions.is_null())}; fill or remove these rows")
    return interactions.with_columns(positions.cast(pl.Int64))


def require_ratings(interactions: pl.DataFrame) -> pl.DataFrame:
    """Ratings must be numbers (missing ones are allowed)."""
    ratings = interactions["rating"].cast(pl.Float64, strict=False)
    bad = unreadable_ratings(interactions["rating"])
    if bad.any():
        raise DataError(f"interactions with a rating that is not a number: {first_rows(bad)}; mend them or drop the column")
    return interactions.with_columns(ratings)


def unreadable_ratings(ratings: pl.Series) -> pl.Series:
    """(rows,) bool, True where there is a rating and it is no number."""
    return ratings.cast(pl.Float64, strict=False).is_null() & ratings.is_not_null()


def text_notes(items: pl.DataFrame) -> tuple[str, ...]:
    """Count items without any content; warns when there are some, since their embedding would mean nothing."""
    columns = [name for name in items.columns if name != "item_id"]
    if not columns:
        note = "items have no columns besides item_id, so there is no text to embed; give an items file or precomputed embeddings"
        warnings.warn(note, FelidWarning, stacklevel=2)
        return (note,)
    notes, blank = [], without_text(items)
    if "title" in columns and (empty := _blank(items["title"])).any():
        notes.append(f"empty title: {empty.sum()} of {len(items)} items")
    if blank.any():
        note = f"items without any text: {first_rows(blank)} of {len(items)}; their content vectors say nothing; fill them in"
        warnings.warn(note, FelidWarning, stacklevel=2)
        notes.append(note)
    return tuple(notes)


def without_text(items: pl.DataFrame) -> pl.Series:
    """(items,) bool, True where all columns besides item_id are blank."""
    blank = pl.Series(np.ones(len(items), bool))
    for name in (name for name in items.columns if name != "item_id"):
        blank &= _blank(items[name])
    return blank


def _blank(column: pl.Series) -> pl.Series:
    if column.dtype != pl.String:
        return column.is_null()
    return column.fill_null("").str.strip_chars() == ""


def short_user_notes(lengths: pl.Series) -> tuple[str, ...]:
    """Count users with too few items to hold any out."""
    short = int((lengths < MIN_EVALUATED).sum())
    if not short:
        return ()
    return (f"users with fewer than {MIN_EVALUATED} interactions: {short} of {len(lengths)}; they train but are not evaluated",)
