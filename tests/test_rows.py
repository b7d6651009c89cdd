from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from felid import rows
from felid.errors import ArtifactError
from felid.rows import RowFile, blocks, load_array, write_rows


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


def test_an_array_is_read_if_its_shape_fits(matrix):
    values, path = matrix
    for shape in ((50, 3), (None, 3), (50, None), (None, None)):
        np.testing.assert_array_equal(load_array(path, shape), values)


@pytest.mark.parametrize("shape", [(50,), (50, 3, 1), (49, None), (None, 4), ()])
def test_an_array_of_another_shape_is_refused(matrix, shape: tuple[int | None, ...]):
    wanted = str(shape).replace("None", "any")
    with pytest.raises(ArtifactError) as error:
        load_array(matrix[1], shape)
    assert str(error.value) == f"{matrix[1]} has shape (50, 3), expected {wanted}; run `felid tokenize` again"


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "objects"])
def test_a_file_that_cannot_be_read_names_the_command_that_writes_it(matrix, damage: str):
    path = matrix[1]
    match damage:
        case "absent":
            path.unlink()
        case "objects":
            np.save(path, np.array([{}]))
        case _:
            path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"m\.npy cannot be read .*; run `felid embed` again"):
        load_array(path, (50, 3), "felid embed")


def test_columns_first_and_empty_reads_work_too(tmp_path: Path):
    values = np.asfortranarray(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    np.save(tmp_path / "f.npy", values)
    np.testing.assert_array_equal(RowFile(tmp_path / "f.npy")[np.array([8, 0])], values[[8, 0]])
    np.save(tmp_path / "c.npy", np.ascontiguousarray(values))
    assert RowFile(tmp_path / "c.npy")[np.array([], np.int64)].shape == (0, 4)


def test_a_file_cut_short_is_refused(tmp_path: Path):
    np.save(tmp_path / "m.npy", np.ones((100, 8), np.float32))
    file = RowFile(tmp_path / "m.npy")
    assert file.shape == (100, 8)
    with (tmp_path / "m.npy").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(ArtifactError, match="ends before row 99"):
        file[:]
