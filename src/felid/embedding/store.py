"""Item vectors on disk: as embedded, at unit length, and what is known about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from felid.artifacts import read_json, write_json
from felid.errors import ArtifactError, EmbeddingError


def check_vectors(item_ids: NDArray[np.generic], vectors: NDArray[np.float32]) -> None:
    """Refuse vectors that are not one finite row per item.

    Raises:
        EmbeddingError: wrong shape, or NaN or infinity in some row.
    """
    if vectors.ndim != 2 or len(vectors) != len(item_ids):
        raise EmbeddingError(f"vectors of shape {vectors.shape} for {len(item_ids)} items; expected one row per item")
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(bad):
        examples = ", ".join(str(item) for item in item_ids[bad[:3]].tolist()) + (", ..." if len(bad) > 3 else "")
        raise EmbeddingError(
            f"{len(bad)} of {len(vectors)} item vectors hold NaN or infinity ({examples}); embed these items again"
        )


def save_embeddings(folder: Path, item_ids: NDArray[np.generic], raw: NDArray[np.float32]) -> dict[str, Any]:
    """Write `raw.npy`, `normalized.npy`, `item_ids.json` and `statistics.json` into an existing folder.

    Args:
        folder: where to write.
        item_ids: (N,) ids, row = item_index.
        raw: (N, D) float32. Rows are divided by their L2 norm for `normalized.npy`; zero rows stay zero.

    Returns:
        What `statistics.json` holds: count, dim, mean_norm, std_norm, std (of all numbers), zero_rows, distinct_rows.

    Raises:
        EmbeddingError: wrong shape or numbers that are not finite; nothing is written.
    """
    check_vectors(item_ids, raw)
    norms = np.linalg.norm(raw.astype(np.float64), axis=1)
    normalized = (raw / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)
    statistics = {
        "count": len(raw),
        "dim": raw.shape[1],
        "mean_norm": float(norms.mean()) if len(raw) else 0.0,
        "std_norm": float(norms.std()) if len(raw) else 0.0,
        "std": float(raw.std(dtype=np.float64)) if raw.size else 0.0,
        "zero_rows": int((norms == 0).sum()),
        "distinct_rows": len({row.tobytes() for row in raw}),
    }
    np.save(folder / "raw.npy", np.asarray(raw, np.float32))
    np.save(folder / "normalized.npy", normalized)
    write_json(folder / "item_ids.json", item_ids.tolist())
    write_json(folder / "statistics.json", statistics)
    return statistics


def load_embeddings(folder: Path, normalized: bool) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Read the item ids (N,) and the raw or the unit-length vectors (N, D) float32.

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
