from __future__ import annotations

import faiss
import numpy as np
import pytest
from sklearn.cluster import KMeans

from felid.errors import FelidWarning
from felid.quantize import RKMeans, RKMeansConfig, distortion


def blobs(count: int = 600, dim: int = 8, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(15, dim))[rng.integers(15, size=count)] * 4 + rng.normal(size=(count, dim))).astype(np.float32)


def slow_encode(x: np.ndarray, codebooks: list[np.ndarray]) -> list[list[int]]:
    codes = []
    for row in x.astype(np.float64):
        residual, code = row.copy(), []
        for codebook in codebooks:
            code.append(min(range(len(codebook)), key=lambda k: float(((residual - codebook[k]) ** 2).sum())))
            residual = residual - codebook[code[-1]]
        codes.append(code)
    return codes


def test_reference_scikit_learn_reaches_the_same_distortion():
    x = blobs()
    sizes = (12, 10, 8)
    ours = distortion(RKMeans(RKMeansConfig(sizes=sizes, restarts=30, refinements=0)).fit(x), x)
    residual, variance = x.copy(), ((x - x.mean(0)) ** 2).sum(1).mean()
    for level, size in enumerate(sizes):
        reference = KMeans(size, n_init=10, random_state=level).fit(residual)
        residual = residual - reference.cluster_centers_[reference.labels_].astype(np.float32)
        assert ours[level] == pytest.approx((residual**2).sum(1).mean() / variance, rel=0.05)


def test_codes_are_the_nearest_ones_by_the_double_loop():
    x = blobs(200)
    quantizer = RKMeans(RKMeansConfig(sizes=(10, 6))).fit(x[:120])
    assert quantizer.encode(x).tolist() == slow_encode(x, [quantizer.codebook(0), quantizer.codebook(1)])


def test_decoding_is_the_sum_of_the_codes_vectors():
    x = blobs()
    quantizer = RKMeans(RKMeansConfig(sizes=(9, 7, 5))).fit(x)
    codes = quantizer.encode(x)
    expected = sum(quantizer.codebook(level)[codes[:, level]] for level in range(3))
    np.testing.assert_allclose(quantizer.decode(codes), expected, rtol=1e-6)
    np.testing.assert_array_equal(quantizer.decode(codes[:, :1]), quantizer.codebook(0)[codes[:, 0]])
    np.testing.assert_array_equal(quantizer.decode(codes[:, :0]), np.zeros_like(x))


def test_each_centroid_is_the_mean_of_its_residuals():
    x = blobs()
    quantizer = RKMeans(RKMeansConfig(sizes=(6, 6), iterations=200, refinements=0)).fit(x)
    codes = quantizer.encode(x)
    residual = x - quantizer.codebook(0)[codes[:, 0]]
    for code in range(6):
        np.testing.assert_allclose(quantizer.codebook(0)[code], x[codes[:, 0] == code].mean(0), atol=1e-4)
        np.testing.assert_allclose(quantizer.codebook(1)[code], residual[codes[:, 1] == code].mean(0), atol=1e-4)


def test_ties_go_to_the_lowest_code():
    quantizer = RKMeans(RKMeansConfig(sizes=(2, 4)))
    x = np.array([[1, 0], [-1, 0]], np.float32)
    with pytest.warns(FelidWarning, match="1 distinct residuals; the other 3 stay unused"):
        quantizer.fit(x)
    assert quantizer.encode(x).tolist() == [[0, 0], [1, 0]]
    assert quantizer.encode(np.zeros((1, 2), np.float32)).tolist() == [[0, 0]]
    assert distortion(quantizer, x) == (0.0, 0.0)


def test_number_of_threads_changes_nothing():
    x, before = blobs(1000), faiss.omp_get_max_threads()
    try:
        results = []
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            results.append(RKMeans(RKMeansConfig(sizes=(16, 16))).fit(x))
    finally:
        faiss.omp_set_num_threads(before)
    for level in range(2):
        np.testing.assert_array_equal(results[0].codebook(level), results[1].codebook(level))


def test_seed_changes_the_codebooks():
    x = blobs()
    first, second = (RKMeans(RKMeansConfig(sizes=(16,), iterations=1, restarts=1, seed=seed)).fit(x) for seed in (0, 1))
    assert not np.array_equal(first.codebook(0), second.codebook(0))
