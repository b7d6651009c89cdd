"""Matrices that may be larger than memory: rows of a `.npy` file, read when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from felid.errors import ArtifactError

Vectors = NDArray[np.float32]
"""(N, D) float32, finite unless said otherwise."""
BLOCK = 16_384
"""Rows handled at once: 50 MB at 768 dimensions."""


class Rows(Protocol):
    """What is read block by block: an array in memory, or a `RowFile`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        ...

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> Vectors:
        """Some of the rows."""
        ...


@dataclass(frozen=True, eq=False)
class RowFile:
    """Rows of a `.npy` matrix on disk, as float32.

    Rows are read, not mapped: the kernel maps the neighbours of a page too, and mapped pages count as memory, so that scattered
    rows would soon hold the whole file.

    Attributes:
        path: an existing `.npy` file that holds a matrix of numbers.
        select: (N,) row of the file that stands for each row here; None = all, in order.
    """

    path: Path
    select: NDArray[np.int64] | None = None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(N, D); of whatever dimensionality the file has."""
        shape: tuple[int, ...] = self._file.shape
        return shape if self.select is None else (len(self.select), *shape[1:])

    @cached_property
    def _file(self) -> np.memmap[Any, np.dtype[Any]]:
        """Shape, type and place of the numbers; of the mapping nothing is touched."""
        found: np.memmap[Any, np.dtype[Any]] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return found

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Vectors:
        wanted = np.arange(self.shape[0])[rows]
        source = wanted if self.select is None else self.select[wanted]
        if not self._file.flags.c_contiguous:  # a row lies in pieces
            return np.asarray(self._file[source], np.float32)
        result = np.empty((len(wanted), *self.shape[1:]), np.float32)
        with self.path.open("rb", buffering=0) as stream:
            for block in blocks(len(wanted)):
                result[block] = self._read(stream.fileno(), source[block])
        return result

    def _read(self, descriptor: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        found = np.empty((len(rows), *self._file.shape[1:]), self._file.dtype)
        starts = np.concatenate(([0], np.flatnonzero(np.diff(rows) != 1) + 1, [len(rows)]))  # runs of neighbours are read at once
        size = found.itemsize * int(np.prod(found.shape[1:]))
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            part, place = found[start:end].data.cast("B"), self._file.offset + int(rows[start]) * size
            while part:
                done = os.preadv(descriptor, [part], place)
                if not done:
                    raise ArtifactError(f"{self.path} ends before row {rows[end - 1]}; make it again")
                part, place = part[done:], place + done
        return found


def blocks(count: int, size: int = BLOCK) -> Iterator[slice]:
    """Slices that cover 0..count-1 in order."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def load_array(path: Path, shape: tuple[int | None, ...], command: str = "felid tokenize") -> NDArray[Any]:
    """Read a whole `.npy` file.

    Args:
        path: the file.
        shape: what it must have; None = any length.
        command: what writes the file again.

    Raises:
        ArtifactError: the file is missing, damaged or of another shape.
    """
    try:
        found: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); run `{command}` again") from error
    if len(found.shape) != len(shape) or any(want not in (None, got) for want, got in zip(shape, found.shape, strict=True)):
        wanted = str(shape).replace("None", "any")
        raise ArtifactError(f"{path} has shape {found.shape}, expected {wanted}; run `{command}` again")
    return found


def write_rows(path: Path, shape: tuple[int, ...], parts: Iterable[Vectors]) -> None:
    """Write a float32 `.npy` matrix block by block; the file is the one that `numpy.save` would write."""
    with path.open("wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(np.ascontiguousarray(part, np.float32).data)
