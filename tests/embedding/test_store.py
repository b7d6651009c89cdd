from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from felid.embedding import EmbeddingConfig, LsaConfig, PackagedMiniLMConfig, fingerprint, load_embeddings, save_embeddings
from felid.errors import ArtifactError, EmbeddingError

RAW = np.array([[3, 4], [0, 0], [0, 2]], np.float32)


@pytest.mark.parametrize("ids", [np.array([1, 2, 3], np.int64), np.array(["a", "2", "ü"], object)], ids=["int", "str"])
def test_saved_vectors_come_back(tmp_path: Path, ids: np.ndarray):
    save_embeddings(tmp_path, ids, RAW)
    found, raw = load_embeddings(tmp_path, normalized=False)
    assert found.tolist() == ids.tolist()
    assert found.dtype == ids.dtype
    np.testing.assert_array_equal(raw, RAW)
    _, normalized = load_embeddings(tmp_path, normalized=True)
    np.testing.assert_allclose(normalized, [[0.6, 0.8], [0, 0], [0, 1]], rtol=1e-6)
    assert normalized.dtype == np.float32


def test_statistics_count_zero_rows(tmp_path: Path):
    statistics = save_embeddings(tmp_path, np.arange(3), RAW)
    assert json.loads((tmp_path / "statistics.json").read_text()) == statistics
    assert (statistics["count"], statistics["dim"], statistics["zero_rows"], statistics["distinct_rows"]) == (3, 2, 1, 3)
    assert statistics["mean_norm"] == pytest.approx(7 / 3)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_nan_is_refused_and_nothing_is_written(tmp_path: Path, bad: float):
    raw = RAW.copy()
    raw[2, 0] = bad
    with pytest.raises(EmbeddingError, match=r"1 of 3 item vectors hold NaN or infinity \(7\); embed"):
        save_embeddings(tmp_path, np.array([5, 6, 7]), raw)
    assert not list(tmp_path.iterdir())


def test_wrong_shape_is_refused(tmp_path: Path):
    with pytest.raises(EmbeddingError, match=r"shape \(3, 2\) for 2 items"):
        save_embeddings(tmp_path, np.arange(2), RAW)


def test_damaged_folder_is_refused(tmp_path: Path):
    with pytest.raises(ArtifactError, match="does not exist"):
        load_embeddings(tmp_path, normalized=True)
    save_embeddings(tmp_path, np.arange(3), RAW)
    np.save(tmp_path / "raw.npy", RAW[:2])
    with pytest.raises(ArtifactError, match="2 rows for 3 item ids"):
        load_embeddings(tmp_path, normalized=False)
    (tmp_path / "normalized.npy").unlink()
    with pytest.raises(ArtifactError, match="run `felid embed` again"):
        load_embeddings(tmp_path, normalized=True)


def test_union_is_told_apart_by_kind():
    adapter = TypeAdapter(EmbeddingConfig)
    assert adapter.validate_python({"kind": "lsa", "dim": 8}) == LsaConfig(dim=8)
    assert adapter.validate_python({"kind": "packaged-minilm"}) == PackagedMiniLMConfig()
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "other"})
    assert fingerprint(LsaConfig()) == {}
