"""Item vectors on disk: as embedded, at unit length, and what is known about them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from felid.artifacts import read_json, write_json
from felid.errors import ArtifactError, EmbeddingError
from felid.rows import RowFile, Rows, blocks, write_rows


def check_vectors(item_ids: NDArray[np.generic], vectors: Rows) -> None:
    """Refuse vectors that are not one finite row per item.

    Raises:
        EmbeddingError: wrong shape, or NaN or infinity in some row.
    """
    if len(vectors.shape) != 2 or vectors.shape[0] != len(item_ids):
        raise EmbeddingError(f"vectors of shape {vectors.shape} for {len(item_ids)} items; expected one row per item")
    finite = [np.isfinite(vectors[block]).all(1) for block in blocks(len(item_ids))]
    bad = np.flatnonzero(~np.concatenate(finite)) if finite else np.empty(0, np.int64)
    if len(bad):
        examples = ", ".join(str(item) for item in item_ids[bad[:3]].tolist()) + (", ..." if len(bad) > 3 else "")
        raise EmbeddingError(
            f"{len(bad)} of {len(item_ids)} item vectors hold NaN or infinity ({examples}); embed these items again"
        )


def save_embeddings(folder: Path, item_ids: NDArray[np.generic], raw: Rows) -> dict[str, Any]:
    """Write `raw.npy`, `normalized.npy`, `item_ids.json` and `statistics.json` into an existing folder, block by block.

    Args:
        folder: where to write.
        item_ids: (N,) ids, row = item_index.
        raw: (N, D) float32, in memory or on disk. Rows are divided by their L2 norm for `normalized.npy`; zero rows stay zero.

    Returns:
        What `statistics.json` holds: count, dim, mean_norm, std_norm, std (of all numbers), zero_rows, distinct_rows.

    Raises:
        EmbeddingError: wrong shape or numbers that are not finite; nothing is written.
    """
    check_vectors(item_ids, raw)
    count, dim = raw.shape
    norms, distinct, sums = np.zeros(count), set[bytes](), np.zeros(2)
    for block in blocks(count):
        part = raw[block]
        rows = part.astype(np.float64)
        norms[block] = np.linalg.norm(rows, axis=1)
        sums += rows.sum(), (rows * rows).sum()
        distinct.update(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in part)
    mean, square = sums / max(count * dim, 1)
    statistics = {
        "count": count,
        "dim": dim,
        "mean_norm": float(norms.mean()) if count else 0.0,
        "std_norm": float(norms.std()) if count else 0.0,
        "std": float(np.sqrt(max(square - mean * mean, 0.0))),
        "zero_rows": int((norms == 0).sum()),
        "distinct_rows": len(distinct),
    }
    divisors = np.where(norms > 0, norms, 1.0)[:, None]
    write_rows(folder / "raw.npy", (count, dim), (raw[block] for block in blocks(count)))
    write_rows(
        folder / "normalized.npy", (count, dim), ((raw[block] / divisors[block]).astype(np.float32) for block in blocks(count))
    )
    write_json(folder / "item_ids.json", item_ids.tolist())
    write_json(folder / "statistics.json", statistics)
    return statistics


def open_embeddings(folder: Path, normalized: bool) -> RowFile:
    """The raw or the unit-length vectors (N, D), read from disk when they are asked for; the file must exist."""
    return RowFile(folder / ("normalized.npy" if normalized else "raw.npy"))


def load_embeddings(folder: Path, normalized: bool) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Read the item ids (N,) and the raw or the unit-length vectors (N, D) float32 into memory.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    ids = read_json(folder / "item_ids.json")
    path = folder / ("normalized.npy" if normalized else "raw.npy")
    try:
        vectors: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); run `felid embed` again") from error
    item_ids = np.asarray(ids, np.int64 if all(isinstance(item, int) for item in ids) else object)
    if len(item_ids) != len(vectors):
        raise ArtifactError(f"{path} has {len(vectors)} rows for {len(item_ids)} item ids; run `felid embed` again")
    return item_ids, vectors
