"""Item vectors out of a pickle that may come from anyone: nothing that the file names is called.

A pickle is a program that calls what it names. Here every name of a short list stands for a note (`_Note`) of what the file
would have called with which arguments, every other name is refused, and what can be read of the notes (numpy arrays, pandas
frames and series) is rebuilt by this module. Neither pandas nor numpy's own unpickling takes part, so that a forged dtype or
frame reaches no C code.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from felid.errors import EmbeddingError

Array = NDArray[Any]
_NUMERIC = "fiu"
_DTYPE = re.compile(r"[biufSUO][0-9]*")

_NAMES = {
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy._core.numeric": ("_frombuffer",),
    "pandas": ("DataFrame", "Series", "Index", "RangeIndex", "StringDtype"),
    "pandas.core.frame": ("DataFrame",),
    "pandas.core.series": ("Series",),
    "pandas.core.indexes.base": ("Index", "_new_Index"),
    "pandas.core.indexes.numeric": ("Int64Index", "UInt64Index", "Float64Index"),
    "pandas.core.indexes.range": ("RangeIndex",),
    "pandas.core.internals.managers": ("BlockManager", "SingleBlockManager"),
    "pandas._libs.internals": ("_unpickle_block",),
    "pandas._libs.arrays": ("__pyx_unpickle_NDArrayBacked",),
    "pandas.arrays": ("StringArray",),
    "pandas.core.arrays.string_": ("StringArray", "StringDtype"),
    "collections": ("OrderedDict",),
    "builtins": ("slice", "set", "frozenset", "bytearray"),
    "__builtin__": ("slice", "set", "frozenset", "bytearray"),
    "_codecs": ("encode",),
}
"""What pickles of arrays, frames and plain containers name, by module; numpy 1 and 2, pandas 1.3 to 3."""


class _Note:
    """What a pickle would have made: the `name` it called, with which arguments, state and entries."""

    name = ""
    args: tuple[Any, ...]
    state: Any
    entries: dict[Any, Any]

    def __new__(cls, *args: object) -> _Note:
        self = object.__new__(cls)
        self.args, self.state, self.entries = args, None, {}
        return self

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.entries[key] = value


class _Notes(pickle.Unpickler):
    """Reads a pickle into plain containers and notes."""

    def find_class(self, module: str, name: str) -> Any:
        """A class of its own for every mention, so that what a file does to it ends with the file."""
        if name not in _NAMES.get(module, ()):
            raise EmbeddingError(f"the pickle names {module}.{name}, which is no numpy array, pandas frame or plain container")
        return type(name, (_Note,), {"name": name})


class _UnreadableError(Exception):
    """Notes that do not add up to what they claim to be."""


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
        EmbeddingError: the file is damaged, names anything else (the error says what), or holds no vectors.
    """
    try:
        with path.open("rb") as stream:
            content = _Notes(stream).load()
        return _vectors(content)
    except (EmbeddingError, _UnreadableError) as error:
        remedy = "save the vectors with numpy.save, beside a list of the ids, or as Parquet"
        raise EmbeddingError(f"{path} is refused: {error}; {remedy}") from error
    except Exception as error:  # a damaged pickle may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise EmbeddingError(f"{path} is not a readable pickle ({reason}); write it again") from error


def _vectors(content: object) -> tuple[list[object] | None, Array]:
    if isinstance(content, _Note) and content.name == "OrderedDict":
        content = content.entries
    if isinstance(content, dict):
        return _ids(content), _matrix(list(content.values()))
    if isinstance(content, _Note) and content.name == "DataFrame":
        return _of_frame(_frame(content))
    if isinstance(content, _Note) and content.name == "Series":
        ((index,), (block,), *_) = _manager(content, "SingleBlockManager").state
        values = _array(block)
        return _ids(_index(index, len(values))), _matrix(values)
    return None, _matrix(content)


def _ids(keys: Iterable[object]) -> list[object]:
    return [_scalar(key) for key in (keys.tolist() if isinstance(keys, np.ndarray) else keys)]


def _matrix(content: object) -> Array:
    """(rows, D) numbers from a matrix, or from a list or array of vectors."""
    if isinstance(content, _Note):
        content = _array(content)
    if isinstance(content, np.ndarray) and content.dtype.kind != "O":
        if content.ndim != 2 or content.dtype.kind not in _NUMERIC or not content.shape[1]:
            raise _UnreadableError(f"it holds {content.dtype} of shape {content.shape}, expected numbers of shape (rows, D)")
        return content
    if not isinstance(content, list | tuple | np.ndarray) or not len(content):
        raise _UnreadableError(f"it holds {_what(content)}, expected a matrix, a frame, or vectors in a list or dict")
    rows = [_vector(row) for row in content]
    widths = {len(row) for row in rows if row is not None}
    if len(widths) != 1 or any(row is None for row in rows) or 0 in widths:
        raise _UnreadableError(f"not every row is a vector of one width (widths found: {sorted(widths)})")
    return np.stack([row for row in rows if row is not None])


def _vector(value: object) -> Array | None:
    """A row of numbers; None for anything else."""
    if isinstance(value, _Note) and value.name in ("_reconstruct", "_frombuffer"):
        value = _array(value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        value = value.tolist()
    if isinstance(value, list | tuple) and value:
        numbers = [_scalar(number) for number in value]
        return np.asarray(numbers, np.float64) if all(type(number) in (int, float) for number in numbers) else None
    is_row = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in _NUMERIC
    return np.asarray(value) if is_row else None


def _of_frame(table: _Table) -> tuple[list[object], Array]:
    columns = dict(table.columns)
    ids = _ids(columns.pop("item_id", table.index))
    nested = [
        name for name, values in columns.items() if values.dtype.kind == "O" and _vector(values[:1].tolist()[0]) is not None
    ]
    numeric = [name for name, values in columns.items() if values.dtype.kind in _NUMERIC]
    if len(nested) == 1:
        return ids, _matrix(columns[nested[0]])
    if nested or not numeric:
        text = f"the frame has {len(nested)} columns of vectors and {len(numeric)} of numbers beside item_id"
        raise _UnreadableError(f"{text}, expected one of vectors or D of numbers")
    return ids, np.stack([columns[name] for name in numeric], axis=1)


# pandas: a manager holds blocks, (columns of one type, N) each, and an axis of names for columns and rows


def _frame(note: _Note) -> _Table:
    blocks, (names, index) = _manager(note, "BlockManager").args
    columns: dict[int, Array] = {}
    for block in blocks:
        values, places = _array(block.args[0]), _places(block.args[1])
        values = values[None] if values.ndim == 1 else values
        if len(places) != len(values):
            raise _UnreadableError(f"a block of {len(values)} columns has {len(places)} places")
        columns |= dict(zip(places, values, strict=True))
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or sorted(columns) != list(range(len(columns))):
        raise _UnreadableError("the frame's columns do not make a table")
    labels = _index(names, len(columns)).tolist()
    return _Table({labels[place]: columns[place] for place in range(len(columns))}, _index(index, lengths.pop()))


def _manager(note: _Note, kind: str) -> _Note:
    """What holds the blocks and axes of a frame (in its arguments) or of a series (in its state)."""
    manager = (note.state or {}).get("_mgr")
    is_known = isinstance(manager, _Note) and manager.name == kind and len(manager.args) == (2 if kind == "BlockManager" else 0)
    if not is_known:
        raise _UnreadableError("it holds a frame of an unknown version of pandas (1.3 to 3 are known)")
    assert isinstance(manager, _Note)
    return manager


def _places(note: object) -> Sequence[int]:
    if isinstance(note, _Note) and note.name == "slice":
        return range(*note.args)
    return [int(place) for place in _array(note).tolist()]


def _index(note: object, count: int) -> Array:
    """(count,) labels of an axis."""
    given = note.args[1] if isinstance(note, _Note) and note.name == "_new_Index" else {}
    if "data" in given:
        labels = _array(given["data"])
    elif {"start", "stop", "step"} <= set(given):
        steps = range(given["start"], given["stop"], given["step"])
        labels = np.array(steps[: count + 1])  # a forged end costs nothing
    else:
        raise _UnreadableError("the frame's index is of an unknown kind")
    if labels.shape != (count,):
        raise _UnreadableError(f"an index of shape {labels.shape} for {count} rows or columns")
    return labels


# numpy


def _array(note: object) -> Array:
    """The array of a note; of pandas' arrays of strings the strings."""
    if isinstance(note, np.ndarray):
        return note
    match note:
        case _Note(name="_reconstruct", state=(_, shape, dtype, is_fortran, data)):
            return _decoded(shape, dtype, data, "F" if is_fortran else "C")
        case _Note(name="_frombuffer", args=(data, dtype, shape, order)):
            return _decoded(shape, dtype, data, order)
        case _Note(name="__pyx_unpickle_NDArrayBacked", state=state) if isinstance(state, Sequence):
            for part in state:
                if isinstance(part, _Note) and part.name == "_reconstruct":
                    return _array(part)
    raise _UnreadableError(f"it holds {_what(note)}, expected an array")


def _scalar(value: object) -> object:
    """The number or text of a note of a numpy scalar; anything else as it is."""
    if isinstance(value, _Note) and value.name == "scalar":
        dtype, data = value.args
        found: object = _decoded((), dtype, data, "C").item()
        return found
    return value


def _decoded(shape: tuple[int, ...], dtype: object, data: object, order: Any) -> Array:
    """An array from its bytes; one of objects from the list of them."""
    code = _code(dtype)
    if code[-1] == "O":
        if not isinstance(data, list):
            raise _UnreadableError(f"an array of objects comes as {_what(data)}, expected a list")
        found = np.empty(len(data), object)
        for place, value in enumerate(data):  # numpy would take lists of one length for a matrix
            found[place] = value
        return found.reshape(shape, order=order)
    if isinstance(data, _Note) and data.name == "encode" and data.args[1:] == ("latin1",):
        data = str(data.args[0]).encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise _UnreadableError(f"an array of {code} comes as {_what(data)}, expected bytes")
    return np.frombuffer(data, np.dtype(code)).reshape(shape, order=order)


def _code(note: object) -> str:
    """The type of an array's numbers, such as `<f4`; objects are `O`."""
    if isinstance(note, _Note) and note.name == "dtype" and isinstance(note.args[0], str) and _DTYPE.fullmatch(note.args[0]):
        code, state = note.args[0], note.state
        if code[0] == "O":
            return "O"
        if isinstance(state, tuple) and len(state) > 4 and state[1] in ("<", ">", "|", "=") and state[2:5] == (None, None, None):
            return str(state[1]) + code
    raise _UnreadableError("an array's type is none of numbers, text or objects")


def _what(value: object) -> str:
    return f"a note of {value.name}" if isinstance(value, _Note) else f"a {type(value).__name__}"
