"""Item vectors made elsewhere, aligned by item id and never by row."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from felid.artifacts import read_json
from felid.config import Config
from felid.embedding.pickles import read_pickle
from felid.errors import ArtifactError, EmbeddingError, FelidWarning
from felid.rows import RowFile, Rows


class PrecomputedConfig(Config):
    """Files that hold the vectors."""

    kind: Literal["precomputed"] = "precomputed"
    """Tag of this embedder."""
    vectors: Path
    """A `.npy` matrix (rows, D), read block by block; or, read whole, a `.parquet` table with `item_id` and either one list
    column or D numeric columns, or a `.pkl` with arrays, pandas frames and plain containers alone (`felid.embedding.pickles`)."""
    ids: Path | None = None
    """The item id of each row, as `.json` list, `.npy` or `.txt` with one id a line; for `.npy`, and for `.pkl`, where it goes
    before the ids of the file."""
    first_id: int | None = None
    """Where the ids count on, row by row: the id of the first row; instead of `ids`."""

    @model_validator(mode="after")
    def _one_way_to_name_rows(self) -> Self:
        if self.ids is not None and self.first_id is not None:
            raise ValueError("ids and first_id both name the rows; give one of them")
        return self

    @property
    def files(self) -> dict[str, Path]:
        """Name -> file that is read."""
        return {"vectors": self.vectors} | ({"ids": self.ids} if self.ids else {})


def embed_precomputed(config: PrecomputedConfig, item_ids: NDArray[np.generic]) -> Rows:
    """The vectors of the given items.

    Ids are compared as text, so `7` in a text file is item 7. Vectors of other items are ignored, with a warning.

    Returns:
        (N, D) float32, row = position in `item_ids`; those of a `.npy` file stay on disk until they are read.

    Raises:
        EmbeddingError: a file is missing or malformed, an id occurs twice, or an item has no vector.
    """
    ids, matrix = _checked(config)
    rows = _aligned(ids, item_ids)
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        raise EmbeddingError(
            f"{len(missing)} of {len(item_ids)} items have no vector ({_some([str(i) for i in item_ids[missing].tolist()])}); "
            "add their rows or remove the items"
        )
    if isinstance(matrix, np.memmap):
        return RowFile(config.vectors, rows)
    return np.ascontiguousarray(matrix[rows], dtype=np.float32)


def known_vectors(config: PrecomputedConfig, item_ids: NDArray[np.generic]) -> NDArray[np.float32]:
    """(N, D) float32 vectors of the given items, a row of NaN for an item that the file does not know.

    Raises:
        EmbeddingError: as `embed_precomputed`, or no item has a vector.
    """
    ids, matrix = _checked(config)
    rows = _aligned(ids, item_ids)
    if not (rows >= 0).any():
        raise EmbeddingError(f"{config.vectors} has no vector for any of the {len(item_ids)} items; check its item ids")
    found = np.full((len(item_ids), matrix.shape[1]), np.nan, np.float32)
    found[rows >= 0] = matrix[rows[rows >= 0]]
    return found


def check_unseen(config: PrecomputedConfig, item_ids: NDArray[np.generic], warm: NDArray[np.bool_]) -> None:
    """Refuse vectors that another run of felid trained on interactions of items that have none in this training part.

    A run marks the items that it trained on in `known.npy` beside its vectors; nothing is known of other files.

    Args:
        config: the files.
        item_ids: (N,) ids of the catalogue, row = item_index.
        warm: (N,) bool, the items with training interactions.

    Raises:
        EmbeddingError: vectors of other items were trained, or a file is malformed.
    """
    mark = config.vectors.with_name("known.npy")
    if not mark.is_file():
        return
    ids, _ = _checked(config)
    known, rows = _read_npy(mark), _aligned(ids, item_ids)
    if known.shape != (len(ids),) or known.dtype != np.bool_:
        raise EmbeddingError(f"{mark} holds {known.dtype} of shape {known.shape}, expected bool of ({len(ids)},); train again")
    leaked = np.flatnonzero((rows >= 0) & np.asarray(known[rows], np.bool_) & ~warm)
    if len(leaked):
        raise EmbeddingError(
            f"{config.vectors} was trained on interactions of {len(leaked)} items ({_some([str(i) for i in item_ids[leaked]])}) "
            "that have none in the training part of this run; train these vectors on the same data with the same holdout"
        )


def _checked(config: PrecomputedConfig) -> tuple[list[object], NDArray[np.generic]]:
    for path in config.files.values():
        if not path.is_file():
            raise EmbeddingError(f"vector file {path} does not exist; check its path in the recipe")
    ids, matrix = _read(config)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu" or matrix.shape[1] == 0:
        raise EmbeddingError(
            f"{config.vectors} holds {matrix.dtype} of shape {matrix.shape}; expected numbers of shape (rows, D)"
        )
    if len(ids) != len(matrix):
        raise EmbeddingError(f"{len(ids)} ids for {len(matrix)} rows of {config.vectors}; expected one id per row")
    return ids, matrix


def _aligned(ids: Sequence[object], item_ids: NDArray[np.generic]) -> NDArray[np.int64]:
    """(N,) row of each item among `ids`, -1 where it is not there."""
    keys = [str(item) for item in ids]
    rows = {key: row for row, key in enumerate(keys)}
    if len(rows) < len(keys):
        twice = [key for key, count in Counter(keys).items() if count > 1]
        raise EmbeddingError(f"{len(twice)} item ids have several vectors ({_some(twice)}); keep one row per item")
    found = np.fromiter((rows.get(str(item), -1) for item in item_ids.tolist()), np.int64, len(item_ids))
    unused = len(rows) - int((found >= 0).sum())
    if unused:
        warnings.warn(f"{unused} vectors belong to no item of the dataset and are ignored", FelidWarning, stacklevel=4)
    return found


def _read(config: PrecomputedConfig) -> tuple[list[object], NDArray[np.generic]]:
    match config.vectors.suffix:
        case ".npy":
            matrix = _read_npy(config.vectors)
            return _ids_of_rows(config, None, matrix), matrix
        case ".pkl" | ".pickle":
            ids, matrix = read_pickle(config.vectors)
            return _ids_of_rows(config, ids, matrix), matrix
        case ".parquet":
            if config.ids is not None or config.first_id is not None:
                name = "ids" if config.ids is not None else "first_id"
                text = f"embedding.{name} has no effect: a parquet file has its own item_id column"
                warnings.warn(text, FelidWarning, stacklevel=4)
            return _read_parquet(config.vectors)
        case suffix:
            raise EmbeddingError(f"embedding.vectors ends in {suffix!r}; expected .npy, .parquet or .pkl")


def _ids_of_rows(config: PrecomputedConfig, own: list[object] | None, matrix: NDArray[np.generic]) -> list[object]:
    """The id of each row: as the settings say, else as the file itself."""
    if config.ids is not None:
        return _read_ids(config.ids)
    if config.first_id is not None:
        return list(range(config.first_id, config.first_id + (len(matrix) if matrix.ndim else 0)))
    if own is None:
        raise EmbeddingError(
            f"{config.vectors} has no item ids; set ids beside vectors, to a .json, .npy or .txt with one per row, or first_id "
            "where they count on from a number"
        )
    return own


def _read_npy(path: Path) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EmbeddingError(f"{path} is not a readable .npy array ({error}); save it with numpy.save") from error
    return array


def _read_ids(path: Path) -> list[object]:
    match path.suffix:
        case ".json":
            try:
                ids = read_json(path)
            except ArtifactError as error:
                raise EmbeddingError(f"{path} is not valid JSON; expected a list of item ids") from error
        case ".npy":
            ids = _read_npy(path).tolist()
        case ".txt":
            with path.open(encoding="utf-8") as stream:  # str.splitlines() would cut at U+2028 and the like too
                ids = [line.removesuffix("\n") for line in stream]
        case suffix:
            raise EmbeddingError(f"embedding.ids ends in {suffix!r}; expected .json, .npy or .txt")
    if not isinstance(ids, list):
        raise EmbeddingError(f"{path} holds a {type(ids).__name__}; expected a list of item ids")
    return ids


def _read_parquet(path: Path) -> tuple[list[object], NDArray[np.generic]]:
    import polars as pl

    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise EmbeddingError(f"{path} is not a readable parquet table ({str(error).splitlines()[0]}); write it again") from error
    if "item_id" not in table.columns:
        raise EmbeddingError(f"{path} has columns {', '.join(table.columns)}; expected item_id beside the vectors")
    ids = table["item_id"].to_list()
    nested = [name for name, dtype in table.schema.items() if isinstance(dtype, (pl.List, pl.Array))]
    if len(nested) == 1:
        return ids, _stacked(path, table[nested[0]])
    numeric = [name for name, dtype in table.schema.items() if name != "item_id" and dtype.is_numeric()]
    if nested or not numeric:
        raise EmbeddingError(
            f"{path} has {len(nested)} list columns and {len(numeric)} numeric ones; expected one list or D numbers"
        )
    return ids, table.select(pl.col(numeric).cast(pl.Float32).fill_null(float("nan"))).to_numpy()


def _stacked(path: Path, column: object) -> NDArray[np.generic]:
    import polars as pl

    assert isinstance(column, pl.Series)
    vectors = column.cast(pl.List(pl.Float32))
    widths = vectors.list.len().unique()
    if vectors.null_count() or len(widths) != 1:
        raise EmbeddingError(
            f"column {column.name} of {path} has {vectors.null_count()} empty rows and vectors of widths {widths.to_list()}; "
            "expected one vector of the same width per row"
        )
    flat = vectors.explode().fill_null(float("nan")).to_numpy()
    return np.asarray(flat).reshape(len(vectors), -1)


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
