"""Item vectors out of a pickle that may come from anyone: nothing that the file names is called.

A pickle is a program that calls what it names. Here `felid.embedding.opcodes` looks at the file first, for what would harm the
unpickler itself, `felid.embedding.notes` takes the calls down as notes and makes arrays of them, and this module finds rows and
ids in these, also in pandas' frames and series. Neither pandas nor numpy's own unpickling takes part, so that a forged dtype or
frame reaches no C code. Rows that a file holds once and names many times are refused: memory stays in proportion to the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np

from felid.embedding.notes import Array, Note, Notes, UnreadableError, array_of, scalar_of, what
from felid.embedding.opcodes import check_opcodes
from felid.errors import EmbeddingError

_NUMERIC = "fiu"
_ID_BITS = 64
_NUMBERS_PER_BYTE, _NUMBERS = 2, 2**22
"""Rows have this many numbers at most for every byte of the file, and this many more. Written out, a number takes a byte or more;
a row that items share, such as that of unknown ones, takes two."""


@dataclass(frozen=True)
class _Table:
    """A frame: (N,) columns by name, and the index."""

    columns: Mapping[object, Array]
    index: Array


def read_pickle(path: Path) -> tuple[list[object] | None, Array]:
    """Item ids and item vectors of a pickle.

    Taken are a matrix of numbers; a list or array of equally long vectors; a dict or series, item -> vector; a frame whose rows
    are items, with one column of vectors or D columns of numbers, and the ids in a column `item_id`, else in the index.

    Args:
        path: the file. Its content is not trusted.

    Returns:
        The id of each row, None where the pickle has none, and (rows, D) numbers.

    Raises:
        EmbeddingError: the file is damaged, names anything else (the error says what), would take memory out of proportion to
            its size, or holds no vectors.
    """
    try:
        with path.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
            check_opcodes(data)
            return _vectors(Notes(stream).load(), _NUMBERS_PER_BYTE * len(data) + _NUMBERS)
    except (EmbeddingError, UnreadableError) as error:
        remedy = "save the vectors with numpy.save, beside a list of the ids, or as Parquet"
        raise EmbeddingError(f"{path} is refused: {error}; {remedy}") from error
    except Exception as error:  # a damaged pickle may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}"[:200].split())
        raise EmbeddingError(f"{path} is not a readable pickle ({reason}); write it again") from error


def _vectors(content: object, room: int) -> tuple[list[object] | None, Array]:
    """Ids and rows; rows that lie one by one in the file have `room` numbers at most."""
    if isinstance(content, Note) and content.name == "OrderedDict":
        content = content.entries or {}
    if isinstance(content, dict):
        return _ids(content), _matrix(list(content.values()), room)
    if isinstance(content, Note) and content.name == "DataFrame":
        return _of_frame(_frame(content), room)
    if isinstance(content, Note) and content.name == "Series":
        ((index,), (block,), *_) = _manager(content, "SingleBlockManager").state
        values = array_of(block)
        return _ids(_index(index, len(values))), _matrix(values, room)
    return None, _matrix(content, room)


def _ids(keys: Iterable[object]) -> list[object]:
    """Numbers or texts; what else may name a row or a column is neither compared nor shown."""
    found = [scalar_of(key) for key in (keys.tolist() if isinstance(keys, np.ndarray) else keys)]
    for key in found:
        if not isinstance(key, int | float | str | bytes) or (isinstance(key, int) and key.bit_length() > _ID_BITS):
            raise UnreadableError(f"a row or column is named by {what(key)}, expected text or a number of 64 bits")
    return found


def _matrix(content: object, room: int) -> Array:
    """(rows, D) numbers from a matrix, or from a list or array of vectors."""
    if isinstance(content, Note):
        content = array_of(content)
    if isinstance(content, np.ndarray) and content.dtype.kind != "O":
        if content.ndim != 2 or content.dtype.kind not in _NUMERIC or not content.shape[1]:
            raise UnreadableError(f"it holds {content.dtype} of shape {content.shape}, expected numbers of shape (rows, D)")
        return content
    if not isinstance(content, list | tuple | np.ndarray) or not len(content):
        raise UnreadableError(f"it holds {what(content)}, expected a matrix, a frame, or vectors in a list or dict")
    rows, numbers = list[Array](), 0
    for value in content:
        row = _vector(value)
        widths = {len(found) for found in (*rows[:1], row) if found is not None}
        if row is None or len(widths) > 1 or not len(row):
            raise UnreadableError(f"not every row is a vector of one width (widths found: {sorted(widths)})")
        numbers += len(row)
        _check_room(numbers, room)
        rows.append(row)
    return np.stack(rows)


def _check_room(numbers: int, room: int) -> None:
    if numbers > room:
        raise UnreadableError(
            f"its rows have more than {room:,} numbers, too many for its size; expected rows that are written out"
        )


def _vector(value: object, head: int | None = None) -> Array | None:
    """A row of numbers, of a list the first few alone if so wanted; None for anything else."""
    if isinstance(value, Note) and value.name in ("_reconstruct", "_frombuffer"):
        value = array_of(value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        value = value[:head].tolist()
    if isinstance(value, list | tuple) and value:
        numbers = [scalar_of(number) for number in value[:head]]
        return np.asarray(numbers, np.float64) if all(type(number) in (int, float) for number in numbers) else None
    is_row = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in _NUMERIC
    return np.asarray(value) if is_row else None


def _of_frame(table: _Table, room: int) -> tuple[list[object], Array]:
    columns = dict(table.columns)
    ids = _ids(columns.pop("item_id", table.index))
    nested = [
        name for name, values in columns.items() if values.dtype.kind == "O" and _vector(values[:1].tolist()[0], 1) is not None
    ]
    numeric = [name for name, values in columns.items() if values.dtype.kind in _NUMERIC]
    if len(nested) == 1:
        return ids, _matrix(columns[nested[0]], room)
    if nested or not numeric:
        text = f"the frame has {len(nested)} columns of vectors and {len(numeric)} of numbers beside item_id"
        raise UnreadableError(f"{text}, expected one of vectors or D of numbers")
    _check_room(len(numeric) * len(ids), room)
    return ids, np.stack([columns[name] for name in numeric], axis=1)


# pandas: a manager holds blocks, (columns of one type, N) each, and an axis of names for columns and rows


def _frame(note: Note) -> _Table:
    blocks, (names, index) = _manager(note, "BlockManager").args
    columns: dict[int, Array] = {}
    for block in blocks:
        values, places = array_of(block.args[0]), _places(block.args[1])
        values = values[None] if values.ndim == 1 else values
        if len(places) != len(values) or len({*places} - columns.keys()) != len(values):
            raise UnreadableError(f"a block of {len(values)} columns has {len(places)} places, or those of other columns")
        columns |= dict(zip(places, values, strict=True))
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or sorted(columns) != list(range(len(columns))):
        raise UnreadableError("the frame's columns do not make a table")
    labels = _ids(_index(names, len(columns)))
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise UnreadableError(f"the frame has {len(twice)} column names several times (first: {twice[0]!r}), expected one each")
    return _Table({labels[place]: columns[place] for place in range(len(columns))}, _index(index, lengths.pop()))


def _manager(note: Note, kind: str) -> Note:
    """What holds the blocks and axes of a frame (in its arguments) or of a series (in its state)."""
    manager = (note.state or {}).get("_mgr")
    is_known = isinstance(manager, Note) and manager.name == kind and len(manager.args) == (2 if kind == "BlockManager" else 0)
    if not is_known:
        raise UnreadableError("it holds a frame of an unknown version of pandas (1.3 to 3 are known)")
    assert isinstance(manager, Note)
    return manager


def _places(note: object) -> Sequence[int]:
    if isinstance(note, Note) and note.name == "slice":
        return range(*note.args)
    return [int(place) for place in array_of(note).tolist()]


def _index(note: object, count: int) -> Array:
    """(count,) labels of an axis."""
    given = note.args[1] if isinstance(note, Note) and note.name == "_new_Index" else {}
    if "data" in given:
        labels = array_of(given["data"])
    elif {"start", "stop", "step"} <= set(given):
        steps = range(given["start"], given["stop"], given["step"])
        labels = np.array(steps[: count + 1])  # a forged end costs nothing
    else:
        raise UnreadableError("the frame's index is of an unknown kind")
    if labels.shape != (count,):
        raise UnreadableError(f"an index of shape {labels.shape} for {count} rows or columns")
    return labels
