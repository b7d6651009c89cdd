from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from felid import rows
from felid.rows import RowFile, blocks, write_rows


@pytest.fixture
def matrix(tmp_path: Path) -> tuple[np.ndarray, Path]:
    values = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.save(tmp_path / "m.npy", values)
    return values, tmp_path / "m.npy"


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
def test_rows_of_a_file_are_those_of_the_matrix(matrix, block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows.blocks, "__defaults__", (block,))
    values, path = matrix
    file = RowFile(path)
    assert file.shape == (50, 3)
    some = np.array([40, 3, 3, 49])
    for wanted in (slice(None), slice(10, 20), slice(45, 60), some):
        np.testing.assert_array_equal(file[wanted], values[wanted])


def test_a_selection_stands_in_for_the_rows(matrix):
    values, path = matrix
    order = np.random.default_rng(1).permutation(50)[:30]
    file = RowFile(path, order)
    assert file.shape == (30, 3)
    np.testing.assert_array_equal(file[:], values[order])
    np.testing.assert_array_equal(file[np.array([29, 0])], values[order[[29, 0]]])


def test_other_numbers_become_float32(tmp_path: Path):
    np.save(tmp_path / "i.npy", np.arange(6).reshape(3, 2))
    assert RowFile(tmp_path / "i.npy")[:].dtype == np.float32


def test_written_file_is_the_one_of_numpy(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    write_rows(tmp_path / "w.npy", values.shape, (values[block] for block in blocks(10, 3)))
    expected = io.BytesIO()
    np.save(expected, values)
    assert (tmp_path / "w.npy").read_bytes() == expected.getvalue()


def test_blocks_cover_everything_once():
    assert [list(range(10))[block] for block in blocks(10, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(blocks(0)) == []
