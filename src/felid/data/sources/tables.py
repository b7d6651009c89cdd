"""Tables as people have them: CSV, TSV, JSON lines and Parquet, with the separator and the encoding that they have."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from felid.errors import DataError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""What an ending promises; the header has the last word."""
JSON_LINES = (".jsonl", ".ndjson")
ENDINGS = (*SEPARATORS, *JSON_LINES, ".parquet")
_OTHERS = ";|,"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BLOCK = 2**20


@dataclass(frozen=True)
class Form:
    """How a table is written.

    Attributes:
        ending: such as ".csv", without ".gz".
        separator: between two columns of untyped text; None for tables with types.
        encoding: a name that Python knows.
    """

    ending: str
    separator: str | None = None
    encoding: str = "utf-8"

    def __str__(self) -> str:
        if self.separator is None:
            return self.ending.removeprefix(".")
        name = {"\t": "tab"}.get(self.separator, repr(self.separator))
        return f"{self.ending.removeprefix('.')}, separator {name}, {self.encoding}{self._doubt}"

    @property
    def _doubt(self) -> str:
        return " (it is not UTF-8; look at a title with accents)" if self.encoding == "cp1252" else ""

    @property
    def surprises(self) -> tuple[str, ...]:
        """What the ending does not promise, in words."""
        found = []
        if self.separator != SEPARATORS.get(self.ending):
            found.append(f"separator {self.separator!r}")
        if self.encoding != "utf-8":
            found.append(f"encoding {self.encoding}{self._doubt}")
        return tuple(found)


def ending_of(path: Path) -> str:
    """The last ending in lower case, `.gz` apart; "" where there is none."""
    endings = [ending.lower() for ending in path.suffixes if ending.lower() != ".gz"]
    return endings[-1] if endings else ""


def form_of(path: Path) -> Form:
    """Find out how a table is written.

    The header tells the separator; all bytes tell the encoding: UTF-8, UTF-16 (with its mark), else cp1252.

    Raises:
        DataError: an ending that no table has.
    """
    ending = ending_of(path)
    if ending not in ENDINGS:
        text = f"{path} ends in {ending or 'nothing'!r}, expected {', '.join(ENDINGS[:-1])} (.gz allowed) or .parquet"
        raise DataError(f"{text}; convert it")
    if ending not in SEPARATORS:
        return Form(ending)
    try:
        encoding = _encoding(path)
        with _open(path) as stream, io.TextIOWrapper(stream, encoding) as lines:
            header = lines.readline().lstrip("\ufeff")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read as {ending} ({error}); check its content and its ending") from error
    return Form(ending, _separator(header, SEPARATORS[ending]), encoding)


def read_table(path: Path, text_columns: tuple[str, ...] | None, rows: int | None = None) -> pl.DataFrame:
    """Read a table.

    Args:
        path: the file.
        text_columns: columns of untyped text that stay text, for None all of them.
        rows: only so many of the first rows.

    Raises:
        DataError: it is empty, no table, or has a line with too many fields, which is named.
    """
    form = form_of(path)
    try:
        if form.separator is not None:
            return _read_separated(path, form, text_columns, rows)
        if form.ending in JSON_LINES:
            return pl.read_ndjson(path, infer_schema_length=None, n_rows=rows)
        return pl.read_parquet(path, n_rows=rows)
    except pl.exceptions.NoDataError as error:
        raise DataError(f"{path} is empty, expected a header and at least one row; check its export") from error
    except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
        reason = _ragged(path, form) or str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as {form.ending} ({reason}); check its content and its ending") from error


def _read_separated(path: Path, form: Form, text_columns: tuple[str, ...] | None, rows: int | None) -> pl.DataFrame:
    assert form.separator is not None
    source: Path | io.BytesIO = path
    if form.encoding != "utf-8":
        with _open(path) as stream:
            source = io.BytesIO(stream.read().decode(form.encoding).encode())
    if text_columns is None:
        return pl.read_csv(source, separator=form.separator, infer_schema=False, n_rows=rows)
    types = dict.fromkeys(text_columns, pl.String)
    return pl.read_csv(source, separator=form.separator, schema_overrides=types, infer_schema_length=None, n_rows=rows)


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _encoding(path: Path) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _open(path) as stream:
        if stream.read(2) in _UTF_16:
            return "utf-16"
        stream.seek(0)
        try:
            while block := stream.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


def _separator(header: str, usual: str) -> str:
    """Tab where there is one, which no name of a column holds, else the most frequent one, in doubt the usual one."""
    counts = Counter("".join(header.split('"')[::2]))
    if counts["\t"]:
        return "\t"
    best = max(_OTHERS, key=lambda separator: counts[separator])
    return best if counts[best] > counts[usual] else usual


def _ragged(path: Path, form: Form) -> str | None:
    """Which line of a table of untyped text has more fields than the header; None = no line has."""
    if form.separator is None:
        return None
    try:
        with _open(path) as stream, io.TextIOWrapper(stream, form.encoding, newline="") as lines:
            rows = csv.reader(lines, delimiter=form.separator)
            width = len(next(rows, []))
            for row in rows:
                if len(row) > width:
                    return f"line {rows.line_num} has {len(row)} fields, the header {width}"
    except (OSError, UnicodeError, csv.Error) as error:
        return str(error)
    return None
