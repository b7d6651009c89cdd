"""Times and numbers as people write them: unix time of any unit, ISO dates, the day or the month first, decimal commas."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import polars as pl

Order = Literal["day", "month"]
_UNITS = ((1e17, 1e9, "nanoseconds"), (1e14, 1e6, "microseconds"), (1e11, 1e3, "milliseconds"))
"""Numeric timestamps above the first number are taken for that unit: 1e11 seconds are in the year 5138."""
_DAYS = (1.9e7, 2.1e7)
"""Numeric timestamps between these, which would be seconds of 1970, are days without marks between year, month and day."""
_DATE = re.compile(
    r"(\d{1,4})([./-])(\d{1,2})\2(\d{1,4})(?:[T, ]+(\d{1,2}:\d{2})(:\d{2})?(?:\.\d*)?(?: ?([AP]M))?)?", re.IGNORECASE
)
_COMMA = r"^-?(\d{1,3}(\.\d{3})+|\d+)(,\d{1,2})?$"


def parse_times(times: pl.Series) -> tuple[pl.Series, tuple[str, ...]]:
    """Unix seconds from numbers (unit told by their size), dates, or text (UTC unless it says otherwise).

    Text is ISO dates, or dates such as 24.3.2023 and 3/24/2023 5:30 PM. Whether the day or the month stands first is told by all
    values together: by a number above 12, or by dots, which stand between days and months in this order. Where nothing tells it,
    or values contradict each other, none of these is read.

    Unreadable values become null, for the check that follows to count. The notes say which unit or form was recognised.
    """
    if times.dtype in (pl.Date, pl.Datetime):
        return times.dt.epoch("us") / 1e6, ()
    if times.dtype == pl.String:
        numbers = times.cast(pl.Float64, strict=False)
        if 2 * numbers.count() >= times.count():
            return parse_times(numbers)
        return _of_text([(text or "").strip() for text in times.to_list()], times.name)
    if times.dtype.is_numeric():
        values = times.cast(pl.Float64).to_numpy()
        middle = np.median(values[np.isfinite(values)]) if np.isfinite(values).any() else 0.0
        if _DAYS[0] <= middle <= _DAYS[1]:
            days = times.cast(pl.Int64, strict=False).cast(pl.String).str.to_date("%Y%m%d", strict=False)
            if days.count() == times.count():
                return days.dt.epoch("us") / 1e6, ("timestamps read as days such as 20230324",)
        for above, divisor, unit in _UNITS:
            if middle > above:
                return times / divisor, (f"timestamps read as {unit}",)
    return times, ()


def parse_numbers(column: pl.Series) -> pl.Series:
    """Float64 from text that is all numbers, with decimal points or decimal commas ("1.299,90"); else the column itself."""
    if column.dtype != pl.String:
        return column
    plain = column.str.strip_chars()
    if plain.str.contains(_COMMA).all() and plain.str.contains(",", literal=True).any():
        plain = plain.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    numbers = plain.cast(pl.Float64, strict=False)
    return numbers if numbers.count() == column.count() else column


def _of_text(texts: Sequence[str], name: str) -> tuple[pl.Series, tuple[str, ...]]:
    seconds = [_iso_seconds(text) for text in texts]
    missing = [place for place, found in enumerate(seconds) if found is None]
    dates = {place: match for place in missing if (match := _DATE.fullmatch(texts[place]))}
    order = _order(list(dates.values()))
    for place, match in dates.items():
        seconds[place] = _iso_seconds(_as_iso(match, order))
    form = "ISO dates" if 2 * len(dates) <= len(texts) else f"dates with the {order or 'year'} first"
    read = any(found is not None for found in seconds)
    note = f"timestamps read as {form}" if read else f"timestamps cannot be read, the first is {next(filter(None, texts), '')!r}"
    return pl.Series(name, seconds, pl.Float64), (note,)


def _order(dates: Sequence[re.Match[str]]) -> Order | None:
    """What stands first in dates that do not begin with the year; None = they do not tell."""
    written = [(int(match[1]), int(match[3]), match[2]) for match in dates if len(match[1]) < 3]
    if written and all(dot == "." for *_, dot in written):
        return "day"
    told = Counter("day" if a > 12 else "month" for a, b, _ in written if (a > 12) != (b > 12))
    return None if len(told) != 1 else ("day" if told["day"] else "month")


def _as_iso(match: re.Match[str], order: Order | None) -> str:
    """An ISO date, or what none reads."""
    first, _, second, third, clock, seconds, half = match.groups()
    year, month, day = (first, second, third) if len(first) == 4 else (third, first, second)
    if len(first) < 4 and order == "day":
        month, day = day, month
    if len(year) != 4 or (len(first) < 4 and order is None):
        return ""
    hour, _, minutes = (clock or "0:00").partition(":")
    of_day = int(hour) if half is None else int(hour) % 12 + 12 * (half.upper() == "PM")
    return f"{year}-{month:>02}-{day:>02}T{of_day:02}:{minutes}{seconds or ''}"


def _iso_seconds(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
