"""Steam reviews and games (Kang and McAuley 2018; Wan and McAuley 2018), from the two public files."""

from __future__ import annotations

import html
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from felid.config import Config
from felid.data.dataset import Dataset
from felid.data.filters import FilterConfig
from felid.data.sources.download import data_home, fetch
from felid.data.sources.literals import mapping, numbered_lines, some_fields, spellings
from felid.errors import DataError

_URL = "https://cseweb.ucsd.edu/~wckang/"
_FILES = {"interactions": "steam_reviews.json.gz", "items": "steam_games.json.gz"}
_TEXTS = ("title", "brand", "categories", "tags", "specs", "developer", "sentiment", "release_date")


class SteamConfig(Config):
    """Steam: every review is an interaction."""

    kind: Literal["steam"] = "steam"
    """Source."""
    user: Literal["username", "user_id"] = "username"
    """What tells users apart: `username`, as published experiments do, or the account number `user_id`, which fewer than half
    of the reviews have; the others are left out and counted."""


def locate(config: SteamConfig) -> dict[str, Path]:
    """The two files in `FELID_DATA_HOME/steam`, downloaded if need be."""
    folder = data_home() / "steam"
    try:
        return {key: fetch(_URL + name, folder / name) for key, name in _FILES.items()}
    except DataError as error:
        raise DataError(f"Steam is not here: put {' and '.join(_FILES.values())} (from {_URL}) into {folder}; {error}") from error


def load(config: SteamConfig, filters: FilterConfig) -> Dataset:
    """Read the located files.

    Times are the days of the reviews, as unix seconds; those of one day stay in file order. Items are the reviewed games,
    with title, price (US dollars; what says that it is free costs 0), brand (the publisher, else the developer), categories
    (the genres), tags, specs, developer, sentiment and release_date; several values of a field are joined by ", ".
    """
    paths = locate(config)
    reviews = _read_reviews(paths["interactions"], config.user)
    interactions = reviews.table()
    items, missing = _read_games(paths["items"], list(reviews.items.known))
    notes = []
    if reviews.without_user:
        total = reviews.without_user + len(interactions)
        notes.append(f"reviews without {config.user}, left out: {reviews.without_user} of {total}")
    if missing:
        notes.append(f"reviewed games without metadata, kept with empty columns: {missing} of {len(items)}")
    rule = "timestamp (day resolution), ties in file order"
    return Dataset.from_frames("steam", interactions, items, rule, tuple(notes), filters)


@dataclass
class _Coded:
    """A column of texts that repeat: each text once, and its number per row."""

    known: dict[str, int] = field(default_factory=dict)
    codes: array[int] = field(default_factory=lambda: array("i"))

    def add(self, text: str) -> None:
        self.codes.append(self.known.setdefault(text, len(self.known)))

    def series(self) -> pl.Series:
        return pl.Series(list(self.known), dtype=pl.String).gather(np.frombuffer(self.codes, np.int32))


@dataclass
class _Reviews:
    """The reviews as columns, 16 bytes a row beside the distinct texts."""

    users: _Coded = field(default_factory=_Coded)
    items: _Coded = field(default_factory=_Coded)
    times: array[int] = field(default_factory=lambda: array("q"))
    without_user: int = 0

    def table(self) -> pl.DataFrame:
        if not self.times:
            raise DataError(f"{_FILES['interactions']} has no review with a user, expected at least one; replace the file")
        times = np.frombuffer(self.times, np.int64)
        return pl.DataFrame({"user_id": self.users.series(), "item_id": self.items.series(), "timestamp": times})


def _read_reviews(path: Path, user: str) -> _Reviews:
    reviews, days, keys = _Reviews(), dict[str, int](), spellings((user, "product_id", "date"))
    for number, line in numbered_lines(path):
        where = f"line {number} of {path}"
        found = some_fields(line, keys, where)
        item, day = found.get("product_id"), found.get("date")
        if not isinstance(item, str) or not isinstance(day, str):
            raise DataError(f"{where} is not a review with product_id and date as text; replace the file")
        if day not in days:
            days[day] = _seconds(day, where)
        name = found.get(user)
        if not isinstance(name, str) or not name.strip():
            reviews.without_user += 1
            continue
        reviews.users.add(name)
        reviews.items.add(item)
        reviews.times.append(days[day])
    return reviews


def _seconds(day: str, where: str) -> int:
    try:
        return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        raise DataError(f"{where} has the date {day!r}, expected one such as 2017-12-31; replace the file") from error


def _read_games(path: Path, item_ids: list[str]) -> tuple[pl.DataFrame, int]:
    """Rows of the given games in their order, and how many of them have no metadata. Of games given twice the last counts."""
    found: dict[str, dict[str, Any]] = {}
    wanted = set(item_ids)
    for number, line in numbered_lines(path):
        game = mapping(line, f"line {number} of {path}")
        item = str(game.get("id", ""))
        if item in wanted:
            found[item] = _columns(game)
    rows = [{"item_id": item, **found.get(item, {})} for item in item_ids]
    types = {"item_id": pl.String, "price": pl.Float64} | dict.fromkeys(_TEXTS, pl.String)
    return pl.DataFrame(rows, schema=types).select("item_id", "title", "price", pl.exclude("item_id", "title", "price")), (
        len(rows) - len(found)
    )


def _columns(game: Mapping[str, Any]) -> dict[str, Any]:
    """Our columns of a game; what it lacks is None."""
    given = {
        "title": game.get("title") or game.get("app_name"),
        "brand": game.get("publisher") or game.get("developer"),
        "categories": game.get("genres"),
        **{name: game.get(name) for name in ("tags", "specs", "developer", "sentiment", "release_date")},
    }
    return {name: _text(value) for name, value in given.items()} | {"price": _price(game.get("price"))}


def _text(value: object) -> str | None:
    parts = value if isinstance(value, list | tuple) else [value]
    return ", ".join(html.unescape(str(part)).strip() for part in parts if part is not None) or None


def _price(value: object) -> float | None:
    if isinstance(value, str) and "free" in value.lower():
        return 0.0
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return None
