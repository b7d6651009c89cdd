"""Lines of Python literals, as the review data of UCSD come: read without running them, faults named by line."""

from __future__ import annotations

import ast
import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from felid.errors import DataError

_STRING = r"""u?(?:'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")"""
_VALUE = rf"(?:{_STRING}|-?[0-9.]+(?:e[+-]?[0-9]+)?|True|False|None)"
_PAIR = re.compile(rf"({_STRING}): ({_VALUE})")
_FLAT = re.compile(rf"\{{{_STRING}: {_VALUE}(?:, {_STRING}: {_VALUE})*\}}\s*")
"""A whole line as `repr` writes a dict of strings, numbers, True, False and None: the regular part of Python's grammar."""


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file, gzipped where its name ends in .gz, numbered from 1; blank ones are left out.

    Raises:
        DataError: the file is cut, or no UTF-8 text.
    """
    is_gzip = path.suffix == ".gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8") if is_gzip else path.open(encoding="utf-8") as stream:
            yield from ((number, line) for number, line in enumerate(stream, start=1) if line.strip())
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        what = "whole gzip file of UTF-8 text" if is_gzip else "file of UTF-8 text"
        raise DataError(f"{path} is not a {what} ({error}); delete it and run again") from error


def mapping(line: str, where: str) -> dict[str, Any]:
    """The dict that a line holds as a Python literal, which JSON parsers refuse.

    Args:
        line: the text.
        where: names the line in errors.

    Raises:
        DataError: the line is anything else, for example a call.
    """
    try:
        found = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"{where} is not a Python literal ({error}); replace the file") from error
    if not isinstance(found, dict):
        raise DataError(f"{where} holds a {type(found).__name__}, expected a dict; replace the file")
    return found


def spellings(names: tuple[str, ...]) -> dict[str, str]:
    """Each way in which `repr` of Python 2 or 3 writes these keys, and the key."""
    return {f"{prefix}{quote}{name}{quote}": name for name in names for prefix in ("", "u") for quote in "'\""}


def some_fields(line: str, keys: Mapping[str, str], where: str) -> dict[str, Any]:
    """The wanted fields of a line's dict, several times as fast as `mapping`, which reads what is not a flat dict.

    Args:
        line: the text.
        keys: `spellings` of the wanted names; fields that the line lacks are left out.
        where: names the line in errors.

    Raises:
        DataError: as `mapping`. Escapes that Python would refuse are noticed in the wanted fields alone.
    """
    if not _FLAT.fullmatch(line):
        found = mapping(line, where)
        return {name: found[name] for name in set(keys.values()) if name in found}
    wanted = {keys[key]: value for key, value in _PAIR.findall(line) if key in keys}
    return {name: _value(text, where) for name, text in wanted.items()}


def _value(text: str, where: str) -> Any:
    if text[-1] in "'\"" and "\\" not in text:
        return text[2:-1] if text[0] == "u" else text[1:-1]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise DataError(f"{where} is not a Python literal ({error}); replace the file") from error
