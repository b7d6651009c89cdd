"""Pickles that would harm whoever reads them without calling anything: by depth, by memory, by time."""

from __future__ import annotations

import pickle
import pickletools
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from felid.embedding.opcodes import check_opcodes
from felid.embedding.pickles import read_pickle
from felid.errors import EmbeddingError

MANY = 400_000
ROW = np.zeros(200_000, np.uint8)
TEXT = np.array(["x" * 100_000])[0]
DTYPE = b"cnumpy\ndtype\nq\x00"


def shared(count: int) -> bytes:
    """A list of `count` arrays whose bytes are those of one text, in the way of pickles of protocol 2."""
    encoded = b"c_codecs\nencode\n(X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000 + b"U\x06latin1tRq\x01"
    made = b"cnumpy.core.multiarray\n_reconstruct\nq\x02(cnumpy\nndarray\nK\x00tR"
    kind = b"cnumpy\ndtype\n(U\x02u1tR(K\x03U\x01|NNNtb"
    array = made + b"(K\x01J" + struct.pack("<i", 1_000_000) + b"\x85" + kind + b"I00\nh\x01tb"
    return b"\x80\x02" + encoded + b"0(" + array * count + b"l."


HARMFUL = {
    "a tuple of tuples for a key": (b"\x80\x04}N" + b"\x85" * MANY + b"K\x01s.", "has a tuple, list or dict for a key"),
    "among several": (b"\x80\x04}(K\x01NN" + b"\x85" * MANY + b"Nu.", "has a tuple, list or dict for a key"),
    "in one step": (b"\x80\x04(N" + b"\x85" * MANY + b"Nd.", "has a tuple, list or dict for a key"),
    "in a set": (b"\x80\x04\x8f(N" + b"\x85" * MANY + b"\x90.", "it holds a set, expected a matrix"),
    "from the memo": (b"\x80\x04N" + b"\x85" * MANY + b"\x94]0}h\x00K\x01s.", "has a tuple, list or dict for a key"),
    "after no state": (b"\x80\x04}N" + b"\x85" * MANY + b"NbK\x01s.", "has a tuple, list or dict for a key"),
    "of an ordered dict": (b"\x80\x04ccollections\nOrderedDict\n)RN" + b"\x85" * MANY + b"K\x01s.", "tuple, list or dict for a"),
    "each twice the last": (b"\x80\x04}N" + b"2\x86" * 64 + b"K\x01s.", "has a tuple, list or dict for a key"),
    "not for a key": (b"\x80\x04N" + b"\x85" * MANY + b".", "not every row is a vector"),
    "notes of notes": (b"\x80\x04" + DTYPE + b"N" + b"\x85q\x01h\x00h\x01R" * 100_000 + b".", "it holds a note of dtype"),
    "a high memo index": (b"\x80\x04Nr" + struct.pack("<I", 0x04000000) + b".", "memo index 67108864 at byte 4"),
    "one in text": (b"Np67108864\n.", "memo index 67108864 at byte 2"),
    "a long frame": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 33) + b"N.", "longer than the file"),
    "long bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 33) + b".", "ends too early"),
    "one row often": (pickle.dumps([ROW] * 5000), r"more than 4,6\d\d,\d\d\d numbers, too many for its size"),
    "one list often": (pickle.dumps([[0] * 40_000] * 2000), "too many for its size"),
    "one row under many ids": (pickle.dumps(dict.fromkeys(range(5000), ROW)), "too many for its size"),
    "one text for many rows": (shared(100), "too many for its size"),
    "one scalar often": (pickle.dumps([[TEXT] * 5000]), "not every row is a vector"),
    "many names": (b"\x80\x04(" + DTYPE + b"cnumpy\ndtype\n" * 50_000 + b"l.", "not every row is a vector"),
}
"""Content, and what is said. Each would take a crash, minutes, or 300 MB and more; the files have 2 MB at most."""


def write(folder: Path, content: bytes) -> Path:
    path = folder / "v.pkl"
    path.write_bytes(content)
    return path


READ = """
import sys
from pathlib import Path
from felid.artifacts import peak_rss_mib
from felid.embedding.pickles import read_pickle
from felid.errors import EmbeddingError
for path in sorted(Path(sys.argv[1]).iterdir()):
    before = peak_rss_mib()
    try:
        read_pickle(path)
    except EmbeddingError:
        print(path.name, peak_rss_mib() - before, flush=True)
"""


def test_no_file_ends_the_process_or_fills_memory(tmp_path: Path) -> None:
    for number, (content, _) in enumerate(HARMFUL.values()):
        (tmp_path / f"{number:02d}").write_bytes(content)
    found = subprocess.run([sys.executable, "-c", READ, tmp_path], capture_output=True, text=True, timeout=300, check=False)
    lines = [line.split() for line in found.stdout.splitlines()]
    assert found.returncode == 0 and len(lines) == len(HARMFUL), (found.returncode, found.stderr, lines)
    assert max(int(grown) for _, grown in lines) < 150, lines


@pytest.mark.parametrize("name", HARMFUL)
def test_the_refusal_is_one_short_sentence(tmp_path: Path, name: str) -> None:
    content, says = HARMFUL[name]
    with pytest.raises(EmbeddingError, match=says) as caught:
        read_pickle(write(tmp_path, content))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("key", [(1, 2), None, 2**80])
def test_ids_are_numbers_or_text(tmp_path: Path, key: object) -> None:
    with pytest.raises(EmbeddingError, match=r"expected (numbers or text|text or a number of 64 bits)"):
        read_pickle(write(tmp_path, pickle.dumps({key: [1.0]})))


def test_honest_files_pass_whatever_wrote_them(tmp_path: Path) -> None:
    """Rows that some items share, small numbers, numpy scalars, optimised memos, the pickler in Python."""
    rows = np.random.default_rng(0).random((60, 16), np.float32)
    for content in (
        dict(enumerate([*rows, *[rows[0]] * 60])),
        OrderedDict((str(item), row.tolist()) for item, row in enumerate(rows)),
        [list(row) for row in rows[:20]],
        [[int(9 * value) for value in row] for row in rows],
        [[0] * 300] * 100,
        list(np.zeros((200, 300), np.uint8)),
    ):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            for written in (pickle.dumps, pickle._dumps):
                plain = written(content, protocol=protocol)
                for data in (plain, pickletools.optimize(plain)):
                    _, found = read_pickle(write(tmp_path, data))
                    np.testing.assert_array_equal(found, list(content.values()) if isinstance(content, dict) else content)


def test_the_walk_follows_the_stack_as_the_unpickler_does() -> None:
    """Marks, pops and the memo: what is a key here is one there."""
    refused = [b"}((K\x01t0(K\x01\x85K\x02u.", b"}N\x85q\x050h\x05K\x02s.", b"}(0N\x85(1K\x02s.", b"}(N\x85Nu.", b"}]2as."]
    for program in refused:
        with pytest.raises(EmbeddingError, match="for a key"):
            check_opcodes(b"\x80\x04" + program)
    for program in (
        b"}(K\x01N\x85K\x02]u.",
        b"}N\x850K\x01K\x02s.",
        b"}(N\x85K\x01\x851K\x01]s.",
        b"}K\x01q\x00]q\x000h\x000K\x02s.",
    ):
        check_opcodes(b"\x80\x04" + program)
        pickle.loads(b"\x80\x04" + program)
    for program in (b"0.", b"(\x85.", b"}(s.", b"1.", b"h\x00.", b"N\xff.", b"N", b"gx\n.", b"K"):
        with pytest.raises((pickle.UnpicklingError, ValueError)):
            check_opcodes(b"\x80\x04" + program)
