"""A pickle as notes of what it would have called, and the numpy arrays that can be read of them.

Every name of a short list stands for a `Note`, every other name is refused, and nothing is called.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from felid.errors import EmbeddingError

Array = NDArray[Any]
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


class Note:
    """What a pickle would have made: the `name` it called, with which arguments, state and entries; `made` once it was read."""

    __slots__ = ("args", "entries", "made", "state")
    name = ""
    args: tuple[Any, ...]
    state: Any
    entries: dict[Any, Any] | None
    made: Any

    def __new__(cls, *args: object) -> Note:
        self = object.__new__(cls)
        self.args, self.state, self.entries, self.made = args, None, None, None
        return self

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.entries = self.entries or {}
        self.entries[key] = value


class Notes(pickle.Unpickler):
    """Reads a pickle into plain containers and notes."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self._classes: dict[str, type[Note]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The class of a name, made for this file, so that what the file does to it ends with the file."""
        if name not in _NAMES.get(module, ()):
            raise EmbeddingError(f"the pickle names {module}.{name}, which is no numpy array, pandas frame or plain container")
        if name not in self._classes:
            self._classes[name] = type(name, (Note,), {"name": name, "__slots__": ()})
        return self._classes[name]


class UnreadableError(Exception):
    """Notes that do not add up to what they claim to be."""


def array_of(note: object) -> Array:
    """The array of a note, made once however often the file names it; of pandas' arrays of strings the strings."""
    if isinstance(note, np.ndarray):
        return note
    if isinstance(note, Note) and note.made is None:
        note.made = _array(note)
    if isinstance(note, Note) and isinstance(note.made, np.ndarray):
        return note.made
    raise UnreadableError(f"it holds {what(note)}, expected an array")


def _array(note: Note) -> Array | None:
    match note:
        case Note(name="_reconstruct", state=(_, shape, dtype, is_fortran, data)):
            return _decoded(shape, dtype, data, "F" if is_fortran else "C")
        case Note(name="_frombuffer", args=(data, dtype, shape, order)):
            return _decoded(shape, dtype, data, order)
        case Note(name="__pyx_unpickle_NDArrayBacked", state=state) if isinstance(state, Sequence):
            for part in state:
                if isinstance(part, Note) and part.name == "_reconstruct":
                    return array_of(part)
    return None


def scalar_of(value: object) -> object:
    """The number or text of a note of a numpy scalar, made once; anything else as it is."""
    if not isinstance(value, Note) or value.name != "scalar":
        return value
    if value.made is None:
        dtype, data = value.args
        value.made = _decoded((), dtype, data, "C").item()
    found: object = value.made
    return found


def _decoded(shape: tuple[int, ...], dtype: object, data: object, order: Any) -> Array:
    """An array from its bytes; one of objects from the list of them."""
    code = _code(dtype)
    if code[-1] == "O":
        if not isinstance(data, list):
            raise UnreadableError(f"an array of objects comes as {what(data)}, expected a list")
        found = np.empty(len(data), object)
        for place, value in enumerate(data):  # numpy would take lists of one length for a matrix
            found[place] = value
        return found.reshape(shape, order=order)
    if isinstance(data, Note) and data.name == "encode":
        data = _encoded(data)
    if not isinstance(data, bytes | bytearray):
        raise UnreadableError(f"an array of {code} comes as {what(data)}, expected bytes")
    return np.frombuffer(data, np.dtype(code)).reshape(shape, order=order)


def _encoded(note: Note) -> object:
    """The bytes of a note that older pickles have for them, made once."""
    if note.made is None and len(note.args) == 2 and isinstance(note.args[0], str) and note.args[1] == "latin1":
        note.made = note.args[0].encode("latin-1")
    return note.made


def _code(note: object) -> str:
    """The type of an array's numbers, such as `<f4`; objects are `O`."""
    if isinstance(note, Note) and note.name == "dtype" and isinstance(note.args[0], str) and _DTYPE.fullmatch(note.args[0]):
        code, state = note.args[0], note.state
        if code[0] == "O":
            return "O"
        if isinstance(state, tuple) and len(state) > 4 and state[1] in ("<", ">", "|", "=") and state[2:5] == (None, None, None):
            return str(state[1]) + code
    raise UnreadableError("an array's type is none of numbers, text or objects")


def what(value: object) -> str:
    """The kind of a value, for errors; never the value, which may be of any size."""
    return f"a note of {value.name}" if isinstance(value, Note) else f"a {type(value).__name__}"
