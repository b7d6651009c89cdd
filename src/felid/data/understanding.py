"""Which files of people's own data are interactions and items, and which column is what, guessed from names and first rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from felid.data.sources.files import ColumnMap, FilesConfig
from felid.data.sources.tables import ENDINGS, ending_of, form_of, read_table
from felid.data.sources.written import parse_times
from felid.errors import DataError

ROWS = 1000
"""First rows that a guess looks at."""
NAMES = {
    "user_id": ("userid", "user", "uid", "customerid", "customer", "reviewerid", "visitorid", "sessionid", "session", "username"),
    "item_id": ("itemid", "item", "iid", "sku", "asin", "productid", "product", "articleid", "movieid", "bookid", "trackid"),
    "timestamp": ("timestamp", "unixreviewtime", "time", "datetime", "date", "ts", "createdat", "eventtime"),
    "position": ("position", "pos"),
    "rating": ("rating", "stars", "score", "overall"),
    "title": ("title", "name", "productname", "producttitle", "itemname", "itemtitle", "movietitle", "booktitle", "headline"),
    "price": ("price",),
    "brand": ("brand", "manufacturer", "vendor"),
    "categories": ("categories", "category", "genres", "genre", "producttype", "categorypath"),
}
"""What a column may be called, best first, in lower case and without what is no letter or digit."""
PARTS = {
    "user_id": ("user", "customer", "reviewer", "visitor", "member", "client", "buyer"),
    "item_id": ("item", "product", "article", "movie", "book", "song", "track", "video", "game", "business", "news", "offer"),
    "timestamp": ("timestamp", "time", "date"),
}
"""What else a name may hold; only where one column has it alone."""
ROLES = ("user_id", "item_id", "timestamp", "position", "rating")
"""Of columns of the interactions."""
TEXTS = ("title", "price", "brand", "categories")
TITLE_LENGTH = 150
"""Most characters of what is taken for a title though its name does not say so."""
_LINK = r"^(https?:)?//"
_NUMBER = r"^\s*-?[0-9.]+\s*$"


@dataclass(frozen=True, eq=False)
class Understanding:
    """What was made of files.

    Attributes:
        config: a source that reads them.
        texts: columns of the items that read like text, under our names, in the order of an item's text.
        lines: the same in words.
        doubts: what may have been understood wrongly, in words.
    """

    config: FilesConfig
    texts: tuple[str, ...]
    lines: tuple[str, ...]
    doubts: tuple[str, ...] = ()


def understand(path: Path, items: Path | None = None, given: Mapping[str, str] | None = None) -> Understanding:
    """Guess how a file of interactions, or a folder with one, is to be read.

    Args:
        path: the file or folder.
        items: the items file; None = that of the folder, if there is one.
        given: our names -> the file's, for columns whose guess would be wrong.

    Raises:
        DataError: no such file, or what is interactions, user or item cannot be told.
    """
    given = dict(given or {})
    unknown = [name for name in given if name not in NAMES]
    if unknown:
        raise DataError(f"--column {unknown[0]}=... names no column of ours; use one of {', '.join(NAMES)}")
    if not path.exists():
        raise DataError(f"{path} does not exist (looked from {Path.cwd()}); give a table, or a folder with one")
    log = _interactions_in(path, given) if path.is_dir() else path
    head = _head(log)
    columns = {role: found for role in ROLES if (found := _find(head, role, given))}
    for role in ("user_id", "item_id"):
        if role not in columns:
            raise DataError(f"{_no_column(log, head, role)}; say which by --column {role}=NAME")
    _check_given(given, head, log, ROLES)
    items = items or (_items_in(path, log, columns["item_id"]) if path.is_dir() else None)
    shown = {ours: theirs for ours, theirs in columns.items() if ours in ("user_id", "item_id") or theirs != ours}
    lines, doubts = [_line("interactions", log, columns, head)], tuple(_unsure_times(head, columns))
    if items is None:
        lines.append(f"items: {_no_items(path, log)}; without it items have no text")
        return Understanding(FilesConfig(interactions=log, columns=ColumnMap(**shown)), (), tuple(lines), doubts)
    catalogue = _head(items)
    named = _item_columns(catalogue, columns["item_id"], given, items)
    texts = _texts(catalogue, named)
    lines += [_line("items", items, named, catalogue), f"item text: {', '.join(texts) or 'no column reads like text'}"]
    mapped = {ours: theirs for ours, theirs in named.items() if ours != theirs}
    config = FilesConfig(interactions=log, items=items, columns=ColumnMap(**shown), item_columns=mapped)
    return Understanding(config, texts, tuple(lines), doubts)


def _head(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} is no file (looked from {Path.cwd()}); give a table")
    return read_table(path, None, ROWS)


def _tables(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if ending_of(path) in ENDINGS and not path.name.startswith(".")]


def _interactions_in(folder: Path, given: Mapping[str, str]) -> Path:
    """The one table with users and items."""
    tables = _tables(folder)
    found = [path for path in tables if all(_find(_head(path), role, given) for role in ("user_id", "item_id"))]
    if found[1:] or not tables:
        names = ", ".join(path.name for path in found) or "no table"
        what = f"{len(found)} tables with a user and an item in each row ({names})"
        raise DataError(f"{folder} holds {what}, expected one; give the path of that file, and --items FILE beside it")
    if not found:
        known = "; ".join(f"{path.name}: {_names(_head(path))}" for path in tables)
        text = f"none of the tables in {folder} has columns that are clearly the user and the item ({known})"
        raise DataError(f"{text}; say which by --column user_id=NAME --column item_id=NAME")
    return found[0]


def _items_in(folder: Path, log: Path, item_column: str) -> Path | None:
    """The one other table with items; None = there is none. A column that is called `id` counts where it holds their ids."""
    others = {path: _head(path) for path in _tables(folder) if path != log}
    found = [path for path, head in others.items() if item_column in head.columns or _find(head, "item_id", {})]
    if not found:
        taken = _head(log)[item_column].cast(pl.String).implode()
        by_id = [path for path, head in others.items() if "id" in head.columns]
        found = [path for path in by_id if read_table(path, None)["id"].cast(pl.String).is_in(taken).any()]
    if len(found) > 1:
        raise DataError(
            f"{folder} holds {len(found)} tables of items ({', '.join(p.name for p in found)}); say which by --items FILE"
        )
    return found[0] if found else None


def _no_items(path: Path, log: Path) -> str:
    """Why there is no table of items, and what to do about it."""
    others = [other.name for other in _tables(path) if other != log] if path.is_dir() else []
    if others:
        return f"no column of {', '.join(others)} is called like the items' id (say which file by --items FILE)"
    return "no file (give a folder with one, or --items FILE)"


def _unsure_times(head: pl.DataFrame, columns: Mapping[str, str]) -> list[str]:
    """Why no column is the time though some look like it."""
    if "timestamp" in columns or "position" in columns:
        return []
    plain = {name: _plain(name) for name in head.columns if name not in columns.values()}
    called = [name for name, short in plain.items() if short in NAMES["timestamp"] or any(p in short for p in PARTS["timestamp"])]
    could = [name for name in plain if (name in called and _is_time(head[name])) or _is_date(head[name])]
    if could:
        text = f"columns {', '.join(could)} could each be the time, so none is taken and the order is that of the rows"
        return [f"{text}; say which by --column timestamp=NAME"]
    text = "is called like a time, but its values, such as {!r}, cannot be read as times, so the order is that of the rows"
    first = {name: head[name].drop_nulls()[0] for name in called if head[name].count()}
    return [f"column {name!r} {text.format(value)}; write them as 2023-04-30 or 30.4.2023" for name, value in first.items()]


def _find(head: pl.DataFrame, role: str, given: Mapping[str, str]) -> str | None:
    """The column of a role; None = no name says so, or several do."""
    if given.get(role) in head.columns:
        return given[role]
    plain = {name: _plain(name) for name in head.columns}
    exact = [name for known in NAMES[role] for name, short in plain.items() if short == known]
    loose = [name for name, short in plain.items() if any(part in short for part in PARTS.get(role, ()))]
    ids = [name for name in loose if plain[name].endswith("id")]
    for candidates in (exact[:1], ids, loose):
        usable = [name for name in candidates if role != "timestamp" or _is_time(head[name])]
        if len(usable) == 1:
            return usable[0]
    dated = [name for name in head.columns if role == "timestamp" and _is_date(head[name])]
    return dated[0] if len(dated) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_date(column: pl.Series) -> bool:
    """Whether a column, whatever its name, holds times that are written as dates."""
    written = column.dtype == pl.String and not column.str.contains(_NUMBER).any()
    return (written or column.dtype in (pl.Date, pl.Datetime)) and _is_time(column)


def _is_time(column: pl.Series) -> bool:
    """Whether most of the values are times."""
    seconds = parse_times(column)[0]
    return seconds.dtype.is_numeric() and 2 * seconds.count() >= max(column.count(), 1)


def _no_column(path: Path, head: pl.DataFrame, role: str) -> str:
    if all(re.match(_NUMBER, name) for name in head.columns):
        names = ", ".join(head.columns)
        return f"the first line of {path} is {names}, which looks like data, expected names of columns; put a line of names first"
    return f"none of the columns of {path} ({_names(head)}) is clearly the {role.removesuffix('_id')}"


def _names(head: pl.DataFrame) -> str:
    """The columns; those that hold others are not looked into, which is said."""
    nested = {name: kind for name, kind in head.schema.items() if isinstance(kind, pl.Struct)}
    inside = (f"{name} with {', '.join(field.name for field in kind.fields)} inside" for name, kind in nested.items())
    plain = [name for name in head.columns if name not in nested]
    return ", ".join([*plain, *inside]) + ("; unpack nested columns first" if nested else "")


def _check_given(given: Mapping[str, str], head: pl.DataFrame, path: Path, roles: Sequence[str]) -> None:
    for role in (role for role in roles if role in given and given[role] not in head.columns):
        raise DataError(f"{path} has no column {given[role]!r}; it has {', '.join(head.columns)}; correct --column {role}=NAME")


def _item_columns(head: pl.DataFrame, item_column: str, given: Mapping[str, str], path: Path) -> dict[str, str]:
    """Our names -> the items file's."""
    _check_given(given, head, path, TEXTS)
    item = item_column if item_column in head.columns else _find(head, "item_id", {})
    if item is None and "id" in head.columns:
        item = "id"
    if item is None:
        raise DataError(f"{_no_column(path, head, 'item_id')}; rename that column to {item_column}, as in the interactions")
    rest = head.drop(item)
    found = {role: name for role in TEXTS if (name := _find(rest, role, given))}
    if "title" not in found:
        names = [name for name in rest.columns if name not in found.values() and _names_items(rest[name])]
        found = {**({"title": names[0]} if names else {}), **found}
    return {"item_id": item, **found}


def _names_items(column: pl.Series) -> bool:
    """Whether a column, whatever it is called, may be the items' title: a few words each, nearly all different, and no dates."""
    if column.dtype != pl.String or not _reads_like_text(column) or _is_date(column):
        return False
    values = column.drop_nulls().str.strip_chars()
    several = 2 * int(values.str.contains(" ", literal=True).sum()) >= len(values)
    return several and 10 * column.n_unique() >= 9 * len(column) and bool((values.str.len_chars() <= TITLE_LENGTH).all())


def _texts(head: pl.DataFrame, named: Mapping[str, str]) -> tuple[str, ...]:
    """Our names of the columns that read like text, the usual ones first."""
    usual = [ours for ours in TEXTS if ours in named and (ours == "price" or _reads_like_text(head[named[ours]]))]
    others = [name for name in head.columns if name not in named.values() and _reads_like_text(head[name])]
    return (*usual, *others)


def _reads_like_text(column: pl.Series) -> bool:
    """Whether a column has words: no numbers, links or codes of one letter, and not the same in all rows."""
    if column.dtype == pl.List(pl.String):
        return column.list.len().sum() > 0
    if column.dtype != pl.String:
        return False
    values = column.drop_nulls().str.strip_chars()
    values = values.filter(values != "")
    if values.is_empty() or (values.n_unique() == 1 and len(values) > 1):
        return False
    words = ~values.str.contains(_NUMBER) & ~values.str.contains(_LINK) & (values.str.len_chars() > 1)
    return 2 * int(words.sum()) >= len(values)


def _line(what: str, path: Path, columns: Mapping[str, str], head: pl.DataFrame) -> str:
    roles = ", ".join(f"{ours} = {theirs}" for ours, theirs in columns.items())
    rest = [name for name in head.columns if name not in columns.values()]
    time = f" ({_kind_of_time(head[columns['timestamp']])})" if "timestamp" in columns else ""
    others = f"; other columns: {', '.join(rest)}" if rest else ""
    return f"{what}: {path} ({form_of(path)}): {roles}{time}{others}"


def _kind_of_time(column: pl.Series) -> str:
    """How times are written, in words."""
    notes = parse_times(column)[1]
    if notes:
        return notes[0].removeprefix("timestamps read as ").removeprefix("timestamps ")
    return "dates" if column.dtype in (pl.Date, pl.Datetime) else "unix seconds"
