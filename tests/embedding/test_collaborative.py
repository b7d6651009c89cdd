from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from felid.embedding import PrecomputedConfig
from felid.embedding.collaborative import CooccurrenceConfig, collaborative_vectors
from felid.errors import EmbeddingError, FelidWarning


def histories(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([i for row in rows for i in row], np.int64), np.concatenate(([0], np.cumsum([len(r) for r in rows])))


def two_groups(num_users: int = 60, seed: int = 0) -> list[list[int]]:
    """Half of the users takes items 0-4, the other half 5-9; nobody takes item 10."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(5 * (user % 2) + np.arange(5)).tolist() for user in range(num_users)]


def test_items_taken_together_have_near_vectors_and_unseen_items_none():
    found = collaborative_vectors(CooccurrenceConfig(dim=4), np.arange(11), *histories(two_groups()))
    assert found.shape == (11, 4)
    assert found.dtype == np.float32
    assert np.isnan(found[10]).all()
    assert np.isfinite(found[:10]).all()
    unit = found[:10] / np.linalg.norm(found[:10], axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert cosines[:5, :5].min() > 0.3 > cosines[:5, 5:].max()


def test_a_pair_is_not_counted_across_users_or_beyond_the_window():
    rows = [[0, 1, 2], [3, 4, 3]]
    found = collaborative_vectors(CooccurrenceConfig(dim=4, window=1), np.arange(5), *histories(rows))
    np.testing.assert_allclose(found[[0, 1, 2]] @ found[[3, 4]].T, 0, atol=1e-6)  # no user has both
    far = collaborative_vectors(CooccurrenceConfig(dim=2, window=1), np.arange(3), *histories([[0, 1, 2]]))
    near = collaborative_vectors(CooccurrenceConfig(dim=2, window=2), np.arange(3), *histories([[0, 1, 2]]))
    assert not np.allclose(far @ far.T, near @ near.T)


def test_same_seed_gives_the_same_vectors():
    config = CooccurrenceConfig(dim=3)
    a, b = (collaborative_vectors(config, np.arange(11), *histories(two_groups())) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_histories_without_pairs_are_refused():
    with pytest.raises(EmbeddingError, match="only 0 items occur beside another"):
        collaborative_vectors(CooccurrenceConfig(), np.arange(3), *histories([[0], [1], [2, 2]]))


def test_a_file_may_lack_items(tmp_path: Path):
    np.save(tmp_path / "v.npy", np.array([[1, 2], [3, 4]], np.float32))
    (tmp_path / "ids.txt").write_text("12\n10\n")
    config = PrecomputedConfig(vectors=tmp_path / "v.npy", ids=tmp_path / "ids.txt")
    found = collaborative_vectors(config, np.array([10, 11, 12]), *histories([[0, 1]]))
    np.testing.assert_array_equal(found, np.array([[3, 4], [np.nan, np.nan], [1, 2]], np.float32))
    with (
        pytest.warns(FelidWarning, match="2 vectors belong to no item"),
        pytest.raises(EmbeddingError, match="no vector for any of the 2 items"),
    ):
        collaborative_vectors(config, np.array([1, 2]), *histories([[0, 1]]))
