"""Vectors out of pickles: what is read, and that nothing that a pickle names is ever called."""

from __future__ import annotations

import base64
import json
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from felid.embedding import ItemTexts, PrecomputedConfig, embed
from felid.embedding.pickles import read_pickle
from felid.errors import EmbeddingError, FelidWarning, RecipeError
from tests.raw_files import RAW

FRAMES = json.loads((RAW / "frames.json").read_text())
"""Pickles written by three versions of pandas (tests need none of them): rows 12, 10, 11 or c, a, b of `VECTORS`."""
VECTORS = np.array([[0, 1], [2, 3], [4, 5]], np.float32)
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Calls:
    """Pickles into a call."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def write(folder: Path, content: object, protocol: int = 4) -> Path:
    path = folder / "v.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("name", FRAMES)
def test_frames_of_every_pandas(tmp_path: Path, name: str) -> None:
    ids, vectors = read_pickle(write(tmp_path, base64.b64decode(FRAMES[name])))
    assert ids == (["c", "a", "b"] if name.endswith("lists") else [12, 10, 11])
    np.testing.assert_array_equal(vectors, VECTORS)


@pytest.mark.parametrize("name", [name for name in FRAMES if name.endswith("numbers")])
def test_columns_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    content = base64.b64decode(FRAMES[name])
    assert content.count(b"d1") == 1
    with pytest.raises(EmbeddingError, match=r"the frame has 1 column names several times \(first: 'd0'\), expected one each"):
        read_pickle(write(tmp_path, content.replace(b"d1", b"d0")))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "content",
    [
        VECTORS,
        np.asfortranarray(VECTORS.astype(">f8")),
        VECTORS.astype(np.int16),
        VECTORS.tolist(),
        tuple(VECTORS),
        np.array([VECTORS[0], VECTORS[1], VECTORS[2], None], object)[:3],
        {12: VECTORS[0], 10: VECTORS[1].tolist(), 11: tuple(VECTORS[2])},
        {np.int64(12): VECTORS[0], np.int64(10): list(VECTORS[1]), np.int64(11): VECTORS[2]},
        OrderedDict(zip("cab", VECTORS, strict=True)),
    ],
    ids=["matrix", "fortran", "int16", "lists", "tuple", "objects", "dict", "numpy scalars", "ordered"],
)
def test_arrays_and_plain_containers(tmp_path: Path, content: object, protocol: int) -> None:
    ids, vectors = read_pickle(write(tmp_path, content, protocol))
    np.testing.assert_array_equal(vectors, VECTORS)
    wanted = [getattr(key, "item", lambda key=key: key)() for key in content] if isinstance(content, dict) else None
    assert ids == wanted


def malicious(marker: Path) -> dict[str, tuple[object, str]]:
    """Pickles that would make the marker, and the name that is refused."""
    command = f"open({str(marker)!r}, 'w')"
    system = Calls(os.system, f"touch {marker}")
    column = np.empty(2, object)
    column[0], column[1] = [0.0, 1.0], system
    by_name = b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(Vos\ntRVsystem\ntR(Vtouch " + str(marker).encode() + b"\ntR."
    return {
        "call": (system, r"\w+\.system"),
        "eval": (Calls(eval, command), r"\w+\.eval"),
        "exec": (Calls(exec, command), r"\w+\.exec"),
        "getattr": (Calls(getattr, VECTORS, "tofile"), r"\w+\.getattr"),
        "nested": (by_name, r"__builtin__\.getattr"),
        "value": ({10: VECTORS[0], 11: system}, r"\w+\.system"),
        "key": ({Calls(eval, command): VECTORS[0]}, r"\w+\.eval"),
        "objects": (column, r"\w+\.system"),
        "objects in objects": (np.array([column, None], object), r"\w+\.system"),
        "subtype": (Calls(np.array([0]).__reduce__()[0], Calls(eval, command), (0,), b"b"), r"\w+\.eval"),
        "state": (Calls(OrderedDict, [(1, system)]), r"\w+\.system"),
        "import": (Calls(__import__, "antigravity"), r"\w+\.__import__"),
        "load": (Calls(np.load, str(marker)), r"numpy\.load"),
        "codec": (b"c_codecs\ndecode\n(V70\nVhex\ntR.", r"_codecs\.decode"),
        "inst": (f"(S'touch {marker}'\nios\nsystem\n.".encode(), r"os\.system"),
        "attribute": (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", r"numpy\.ndarray\.__class__"),
        "tensor": ({10: torch.zeros(2)}, r"torch\._utils\._rebuild_tensor_v2"),
    }


@pytest.mark.parametrize("name", malicious(Path("x")))
def test_nothing_else_is_called_and_the_refusal_names_it(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    content, refused = malicious(marker)[name]
    for protocol in (4,) if isinstance(content, bytes) else PROTOCOLS:
        with pytest.raises(EmbeddingError, match=rf"v\.pkl is refused: the pickle names {refused}, which .*; save the vectors"):
            read_pickle(write(tmp_path, content, protocol))
    assert not marker.exists()


def test_the_planted_pickles_work_where_they_are_not_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for name in ("call", "eval", "exec", "nested", "value", "key", "objects", "inst"):
        content, _ = malicious(marker)[name]
        pickle.loads(write(tmp_path, content).read_bytes())
        assert marker.exists(), name
        marker.unlink()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "fromfile"),
        ("numpy", "memmap"),
        ("numpy._core.multiarray", "fromfile"),
        ("pandas", "read_pickle"),
        ("pandas.core.frame", "DataFrame.eval"),
        ("builtins", "object"),
        ("copyreg", "_reconstructor"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        ("felid.embedding.pickles", "_Note"),
        ("types", "CodeType"),
    ],
)
def test_other_names_of_known_modules_are_refused(tmp_path: Path, module: str, name: str) -> None:
    named = b"".join(b"\x8c" + struct.pack("B", len(text)) + text.encode() for text in (module, name))
    with pytest.raises(EmbeddingError, match=f"the pickle names {module}.{name}, which is no numpy array"):
        read_pickle(write(tmp_path, b"\x80\x04" + named + b"\x93."))


def array_of(dtype_state: bytes, data: bytes) -> bytes:
    """A protocol-2 pickle of an array of shape (1, 1) whose dtype is O with the given state."""
    dtype = b"cnumpy\ndtype\n(U\x02O8I00\nI01\ntR(" + dtype_state + b"tb"
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x01K\x01t"
        + dtype
        + b"I00\n"
        + data
        + b"tb."
    )


def test_forged_object_pointers_are_refused(tmp_path: Path) -> None:
    """numpy itself would take these bytes for the address of an object when the dtype says that it has none."""
    state = b"K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
    with pytest.raises(EmbeddingError, match="an array of objects comes as a bytes, expected a list"):
        read_pickle(write(tmp_path, array_of(state, b"C\x08AAAAAAAA")))


def test_a_file_leaves_nothing_behind_for_the_next(tmp_path: Path) -> None:
    """Attributes set on the class that stands for a name (BUILD on the class itself) end with the file."""
    forged = b"\x80\x02cnumpy\ndtype\n(N}U\x04nameU\x05wrongstb."
    with pytest.raises(EmbeddingError):
        read_pickle(write(tmp_path, forged))
    np.testing.assert_array_equal(read_pickle(write(tmp_path, VECTORS))[1], VECTORS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a readable pickle"),
        (b"\x80\x04N", "is not a readable pickle"),
        (b"nothing\n", "is not a readable pickle"),
        (b"\x80\x04P1\n.", "is not a readable pickle"),
        (pickle.dumps(VECTORS)[:-20], "is not a readable pickle"),
        (pickle.dumps("text"), "it holds a str, expected a matrix"),
        (pickle.dumps({1, 2}), "it holds a set, expected a matrix"),
        (pickle.dumps([]), "it holds a list, expected a matrix"),
        (pickle.dumps(VECTORS[:, 0]), r"float32 of shape \(3,\), expected numbers of shape"),
        (pickle.dumps(VECTORS.astype(complex)), "none of numbers, text or objects"),
        (pickle.dumps(np.zeros((2, 0))), r"shape \(2, 0\)"),
        (pickle.dumps(np.zeros(2, "M8[s]")), "none of numbers, text or objects"),
        (pickle.dumps(np.zeros(2, [("a", "f4")])), "none of numbers, text or objects"),
        (pickle.dumps([[1.0], [1.0, 2.0]]), r"not every row is a vector of one width \(widths found: \[1, 2\]\)"),
        (pickle.dumps([[1.0], "no"]), "not every row is a vector"),
        (pickle.dumps({"a": [True, False]}), "not every row is a vector"),
        (pickle.dumps([[[1.0]], [[2.0]]]), "not every row is a vector"),
    ],
)
def test_what_holds_no_vectors_is_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(EmbeddingError, match=says) as caught:
        read_pickle(write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_lists_that_hold_themselves_end(tmp_path: Path) -> None:
    knot: list[object] = []
    knot.append(knot)
    with pytest.raises(EmbeddingError, match="not every row is a vector"):
        read_pickle(write(tmp_path, knot))


def items(*ids: object) -> ItemTexts:
    return ItemTexts(np.array(ids, object), [""] * len(ids), np.ones(len(ids), bool))


def test_a_pickle_is_an_embedding_aligned_by_id(tmp_path: Path) -> None:
    frame = PrecomputedConfig(vectors=write(tmp_path, base64.b64decode(next(iter(FRAMES.values())))))
    np.testing.assert_array_equal(embed(frame, items(10, 11, 12))[:], VECTORS[[1, 2, 0]])
    with pytest.raises(EmbeddingError, match=r"1 of 4 items have no vector \(13\)"):
        embed(frame, items(10, 11, 12, 13))


def test_rows_without_ids_count_on_from_the_first_or_are_named_by_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, VECTORS)
    with pytest.raises(EmbeddingError, match=r"v\.pkl has no item ids; set ids beside vectors, .* or first_id"):
        embed(PrecomputedConfig(vectors=path), items(1, 2))
    counted = PrecomputedConfig(vectors=path, first_id=1)
    np.testing.assert_array_equal(embed(counted, items(1, 2, 3))[:], VECTORS)
    with pytest.warns(FelidWarning, match="1 vectors belong to no item"):
        np.testing.assert_array_equal(embed(counted, items(3, 1))[:], VECTORS[[2, 0]])
    (tmp_path / "ids.txt").write_text("b\na\nc\n")
    named = PrecomputedConfig(vectors=path, ids=tmp_path / "ids.txt")
    np.testing.assert_array_equal(embed(named, items("a", "b", "c"))[:], VECTORS[[1, 0, 2]])
    np.save(tmp_path / "v.npy", VECTORS)
    np.testing.assert_array_equal(
        embed(PrecomputedConfig(vectors=tmp_path / "v.npy", first_id=5), items(7, 5, 6))[:], VECTORS[[2, 0, 1]]
    )


def test_settings_name_rows_before_the_file_does(tmp_path: Path) -> None:
    path = write(tmp_path, base64.b64decode(FRAMES["pandas 3.1.1 series"]))
    np.testing.assert_array_equal(embed(PrecomputedConfig(vectors=path, first_id=1), items(1, 2, 3))[:], VECTORS)
    with pytest.raises((RecipeError, ValueError), match="ids and first_id both name the rows"):
        PrecomputedConfig(vectors=path, first_id=1, ids=path)
