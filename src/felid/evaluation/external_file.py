"""A file of another system's recommendations: its rows checked at the door, its ids brought to those of the data.

Columns are `user_id`, `item_id` and `rank` (1 = best, without gaps) or `score` (higher is better); others are not read. Faults
are `DataError`s with a count, the first data rows (numbered from 1, header apart) and a remedy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from felid.data.checks import canonical_ids, first_rows, require_rows
from felid.data.histories import Sequences
from felid.data.sources.tables import read_table
from felid.errors import DataError
from felid.evaluation.ties import ScoredLists

_ROW = "__row"
IDS = ("user_id", "item_id")
ORDERS = {"score": "higher scores first", "rank": "the lists are ordered by their ranks, and so are their scores"}
UNSEEN = "the lists are ordered by their ranks; how their system orders equal scores cannot be seen in them"


def read_lists(path: Path, user_ids: NDArray[np.generic], item_ids: NDArray[np.generic]) -> ScoredLists:
    """The lists of a file, best item first; equal scores stand in the order of the file.

    Args:
        path: .csv, .tsv, .jsonl, .ndjson (each also with .gz) or .parquet.
        user_ids: (U,) all users of the data; those of the file must be among them.
        item_ids: (N,) the catalogue, row = item_index.

    Returns:
        Lists of the users that have one, under the ids of the data.

    Raises:
        DataError: columns, ids, ranks or scores are missing or unusable, users or items are not in the data, or a user has an
            item twice.
    """
    where = f"recommendations {path}"
    frame = read_table(path, IDS)
    _require_columns(frame, where)
    require_rows(frame, where)
    users, items = (_places(frame, column, known, where) for column, known in zip(IDS, (user_ids, item_ids), strict=True))
    order = "rank" if "rank" in frame.columns else "score"
    value = _ranks(frame[order], where) if order == "rank" else -_scores(frame[order], where)
    table = pl.DataFrame({"user": users, "item": items, "value": value, "score": _beside(frame)}).with_row_index(_ROW)
    repeated = ~table.select(pl.struct("user", "item").is_first_distinct()).to_series()
    if repeated.any():
        raise DataError(f"{where} has an item of the same user again: {first_rows(repeated)}; keep one row of each")
    table = table.sort("user", "value", _ROW)
    runs = table["user"].rle()
    lengths = runs.struct.field("len").to_numpy().astype(np.int64)
    if order == "rank":
        _check_places(table, lengths, where)
    scored = _falling(table)
    said = f"{ORDERS[order]}; {_tie_text(table)}" if scored else UNSEEN
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    owners = user_ids[runs.struct.field("value").to_numpy()]
    scores = table["score"].to_numpy() if scored else None
    return ScoredLists(Sequences(owners, offsets, table["item"].to_numpy().astype(np.int64)), scores, said)


def _require_columns(frame: pl.DataFrame, where: str) -> None:
    missing = [name for name in IDS if name not in frame.columns]
    if missing or not {"rank", "score"} & set(frame.columns):
        wanted = missing or ["rank", "score"]
        raise DataError(
            f"{where} has no column {' or '.join(map(repr, wanted))}; it has {', '.join(frame.columns) or 'none'}, expected "
            "user_id, item_id and rank (1 = best) or score (higher is better); rename its columns"
        )


def _places(frame: pl.DataFrame, column: str, known: NDArray[np.generic], where: str) -> pl.Series:
    """The place of each row's id among the `known` ones."""
    what, ids = column.removesuffix("_id"), canonical_ids(frame.select(column), column, where)[column]
    if known.dtype.kind == "i" and ids.dtype == pl.String:
        numbers = ids.cast(pl.Int64, strict=False)
        if numbers.has_nulls():
            bad = numbers.is_null()
            raise DataError(
                f"{where} has a {column} that is no integer: {first_rows(bad)}, for example {ids.filter(bad)[0]!r}, but those of "
                "the data are integers; give ids as the data has them"
            )
        ids = numbers
    elif known.dtype.kind != "i":
        ids = ids.cast(pl.String)
    table = pl.DataFrame({"id": pl.Series(known.tolist(), dtype=ids.dtype), "place": np.arange(len(known))})
    found = pl.DataFrame({"id": ids}).join(table, on="id", how="left", maintain_order="left")["place"]
    unknown = found.is_null()
    if unknown.any():
        distinct = ids.filter(unknown).n_unique()
        raise DataError(
            f"{where} has rows with a {what} that the data does not have: {first_rows(unknown)}, {distinct:,} different "
            f"ids, for example {ids.filter(unknown)[0]!r}; those of the data are such as {known.tolist()[0]!r}: map the ids "
            "back, or remove these rows"
        )
    return found


def _ranks(ranks: pl.Series, where: str) -> pl.Series:
    """Whole numbers from 1 on."""
    numbers = ranks.cast(pl.Float64, strict=False)
    whole = (numbers.is_finite() & (numbers == numbers.floor())).fill_null(False)
    if not whole.all():
        raise DataError(
            f"{where} has a rank that is missing or no whole number: {first_rows(~whole)}; number each list from 1 on"
        )
    low = numbers < 1
    if low.any():
        raise DataError(f"{where} has ranks below 1: {first_rows(low)}, expected 1 = best; add 1 to all ranks if they begin at 0")
    return numbers.cast(pl.Int64)


def _scores(scores: pl.Series, where: str) -> pl.Series:
    numbers = scores.cast(pl.Float64, strict=False)
    finite = numbers.is_finite().fill_null(False)
    if not finite.all():
        raise DataError(f"{where} has a score that is missing or not finite: {first_rows(~finite)}; remove or mend these rows")
    return numbers


def _beside(frame: pl.DataFrame) -> pl.Series:
    """The scores, NaN where there is none that can be read; beside ranks they say which items are equals."""
    if "score" not in frame.columns:
        return pl.repeat(float("nan"), len(frame), eager=True)
    return frame["score"].cast(pl.Float64, strict=False).fill_null(float("nan"))


def _falling(table: pl.DataFrame) -> bool:
    """Whether all scores are known and none is above the one before it in its list."""
    rises = (table["user"].diff() == 0) & (table["score"].diff() > 0)
    return bool(table["score"].is_finite().all()) and not rises.any()


def _check_places(table: pl.DataFrame, lengths: NDArray[np.int64], where: str) -> None:
    """The ranks of every user must be 1, 2, 3 and so on."""
    ends = np.cumsum(lengths)
    expected = np.arange(len(table)) - np.repeat(ends - lengths, lengths) + 1
    wrong = table["value"].to_numpy() != expected
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        rows = np.zeros(len(table), bool)
        rows[table[_ROW].to_numpy()[wrong]] = True
        raise DataError(
            f"{where} has lists with a repeated rank or a gap: {first_rows(pl.Series(rows))}; data row "
            f"{table[_ROW][first] + 1} has rank {table['value'][first]} in place of {expected[first]}; number each "
            "list 1, 2, 3, ..., or give scores instead"
        )


def _tie_text(table: pl.DataFrame) -> str:
    tied = int(((table["user"].diff() == 0) & (table["score"].diff() == 0)).sum())
    return f"{tied:,} of {len(table):,} rows have the score of another of their user and stand as in the file"
