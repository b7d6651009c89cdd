"""Your own tables: CSV, TSV, JSON lines or Parquet with a map of column names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from felid.config import Config
from felid.data import checks
from felid.data.dataset import Dataset
from felid.data.filters import FilterConfig
from felid.data.sources.tables import form_of, read_table
from felid.data.sources.written import parse_numbers, parse_times
from felid.errors import DataError

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"


class ColumnMap(Config):
    """Names that the interactions file gives its columns."""

    user_id: str = "user_id"
    """Column of the user."""
    item_id: str = "item_id"
    """Column of the item."""
    timestamp: str | None = None
    """Column of the time: unix seconds (or ms, us, ns, told by size), ISO dates, or dates with the day or the month first; None =
    `timestamp` if it is there."""
    position: str | None = None
    """Column of the order within a user, integers; goes before the time; None = `position` if it is there."""
    rating: str | None = None
    """Column of the rating, a number with a point or a comma; None = `rating` if it is there."""


class FilesConfig(Config):
    """Tables by path; .csv, .tsv, .jsonl, .ndjson (each also with .gz) and .parquet are told apart by their endings."""

    kind: Literal["files"] = "files"
    """Source."""
    interactions: Path
    """File with one interaction per row."""
    items: Path | None = None
    """File with one item per row; None = a catalogue of bare ids, without text."""
    columns: ColumnMap = ColumnMap()
    """Our name: the interactions file's name."""
    item_columns: dict[str, str] = Field(default_factory=dict)
    """Our name: the items file's name, for item_id, title, price, brand, categories and others; unnamed columns keep theirs."""


def locate(config: FilesConfig) -> dict[str, Path]:
    """The files named by the config; a missing one is a `DataError`."""
    paths = {"interactions": config.interactions} | ({"items": config.items} if config.items else {})
    for name, path in paths.items():
        if not path.is_file():
            raise DataError(f"{name} file {path} does not exist (looked from {Path.cwd()}); correct dataset.{name}")
    return paths


def load(config: FilesConfig, filters: FilterConfig) -> Dataset:
    """Read the files. Ids in untyped text (CSV, TSV) are integers if all of a kind are, so that "007" stays text."""
    interactions, items, notes = read(config)
    try:
        return Dataset.from_frames(name_of(config), interactions, items, None, notes, filters)
    except DataError as error:
        raise DataError(f"{error}. `felid data check` names all that is wrong with files at once") from error


def name_of(config: FilesConfig) -> str:
    """What reports call the data."""
    return config.interactions.name.split(".")[0]


def read(config: FilesConfig) -> tuple[pl.DataFrame, pl.DataFrame | None, tuple[str, ...]]:
    """Both tables under our names, with typed ids and times in unix seconds, not yet checked; notes say what was not as usual."""
    paths = locate(config)
    interactions = read_table(config.interactions, (config.columns.user_id, config.columns.item_id))
    interactions = _mapped(interactions, config.columns, f"interactions file {config.interactions}")
    items = read_items(paths["items"], config.item_columns) if "items" in paths else None
    forms = {name: form_of(path) for name, path in paths.items()}
    interactions, items = typed_ids(interactions, items, [name for name, form in forms.items() if form.separator])
    notes = tuple(f"{name} file read with {' and '.join(form.surprises)}" for name, form in forms.items() if form.surprises)
    if "timestamp" in interactions.columns:
        times, of_times = parse_times(interactions["timestamp"])
        interactions, notes = interactions.with_columns(times.alias("timestamp")), notes + of_times
    if "rating" in interactions.columns:
        interactions = interactions.with_columns(parse_numbers(interactions["rating"]))
    return interactions, items, notes


def _mapped(frame: pl.DataFrame, columns: ColumnMap, where: str) -> pl.DataFrame:
    """The canonical columns under their canonical names."""
    mapped = {"user_id": columns.user_id, "item_id": columns.item_id}
    for name in ("timestamp", "position", "rating"):
        theirs: str | None = getattr(columns, name)
        if theirs is not None or name in frame.columns:
            mapped[name] = theirs or name
    checks.require_columns(frame, mapped.values(), where)
    checks.require_rows(frame, where)
    return frame.select(pl.col(theirs).alias(ours) for ours, theirs in mapped.items())


def read_items(path: Path, columns: dict[str, str]) -> pl.DataFrame:
    """An items table with our column names; the ids of untyped text stay text."""
    mapped = {"item_id": "item_id", **columns}
    frame = read_table(path, None)  # a title such as "007" is no number
    checks.require_columns(frame, mapped.values(), f"items file {path}")
    checks.require_rows(frame, f"items file {path}")
    rest = pl.exclude(list({*mapped.values(), *mapped.keys()}))
    frame = frame.select(*(pl.col(theirs).alias(ours) for ours, theirs in mapped.items()), rest)
    return frame.with_columns(parse_numbers(frame["price"])) if "price" in frame.columns else frame


def typed_ids(
    interactions: pl.DataFrame, items: pl.DataFrame | None, untyped: list[str]
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Make ids read from untyped text integers where every value is written as one, in all tables that share them."""
    if "interactions" in untyped and _all_integers(interactions["user_id"]):
        interactions = interactions.with_columns(pl.col("user_id").cast(pl.Int64))
    tables = {"interactions": interactions} | ({} if items is None else {"items": items})
    typed_as_text = any(table["item_id"].dtype == pl.String for name, table in tables.items() if name not in untyped)
    if not typed_as_text and all(_all_integers(tables[name]["item_id"]) for name in untyped):
        for name in untyped:
            tables[name] = tables[name].with_columns(pl.col("item_id").cast(pl.Int64))
    return tables["interactions"], tables.get("items")


def _all_integers(ids: pl.Series) -> bool:
    return bool(ids.str.contains(_INTEGER).all())
