from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from felid.config import as_tree
from felid.errors import FelidWarning
from felid.quantize import RKMeans, RKMeansConfig, distortion, kmeans
from felid.quantize.kmeans import assign, first_codes, improve, means


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
    with pytest.warns(FelidWarning, match="1 distinct vectors; the other 3 stay unused"):
        quantizer.fit(x)
    assert quantizer.encode(x).tolist() == [[0, 0], [1, 0]]
    assert quantizer.encode(np.zeros((1, 2), np.float32)).tolist() == [[0, 0]]
    assert distortion(quantizer, x) == (0.0, 0.0)


@pytest.mark.parametrize("balanced", [False, True])
def test_number_of_threads_changes_nothing(balanced):
    x = blobs(1000)
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            results.append(RKMeans(RKMeansConfig(sizes=(16, 16), balanced=balanced)).fit(x))
    for level in range(2):
        np.testing.assert_array_equal(results[0].codebook(level), results[1].codebook(level))


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple),
    count=st.integers(12, 80),
    iterations=st.integers(1, 6),
    refinements=st.sampled_from([0, 1, 6]),
    seed=st.integers(0, 999),
)
@pytest.mark.filterwarnings("ignore::felid.errors.FelidWarning")
def test_adding_a_level_never_raises_the_training_distortion(sizes, count, iterations, refinements, seed):
    """Neither the level's own nor that of the whole against a quantiser fitted without it."""
    x = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    config = RKMeansConfig(sizes=sizes, iterations=iterations, refinements=refinements, seed=seed)
    left = distortion(RKMeans(config).fit(x), x)
    shorter = distortion(RKMeans(config.model_copy(update={"sizes": sizes[:-1]})).fit(x), x)
    slack = 1e-6
    assert all(after <= before + slack for before, after in pairwise((1.0, *left)))
    assert left[-1] <= shorter[-1] + slack


def test_refinement_leaves_less_and_prefixes_stay_useful():
    x = blobs(1500, 16)
    greedy, refined = (distortion(RKMeans(RKMeansConfig(sizes=(16,) * 3, refinements=n)).fit(x), x) for n in (0, 6))
    assert refined[-1] < 0.99 * greedy[-1]
    assert refined[0] < 1.1 * greedy[0]


def perplexity(codes: np.ndarray) -> float:
    share = np.bincount(codes) / len(codes)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def uneven(count: int, seed: int) -> np.ndarray:
    """Half of the rows in one narrow cluster, the others spread out."""
    rng = np.random.default_rng(seed)
    spread = rng.choice([0.3, 3.0], size=(count, 1))
    return (rng.normal(size=(count, 6)) * spread).astype(np.float32)


def test_balanced_levels_are_used_evenly_also_by_rows_not_fitted():
    x, new = uneven(1600, 0), uneven(1600, 1)
    plain, balanced = (RKMeans(RKMeansConfig(sizes=(16, 16), balanced=balanced)).fit(x) for balanced in (False, True))
    for level in range(2):
        even = perplexity(balanced.encode(x)[:, level])
        assert even > 15
        assert even > perplexity(plain.encode(x)[:, level]) + 1
        assert perplexity(balanced.encode(new)[:, level]) > perplexity(plain.encode(new)[:, level]) + 1
    assert distortion(plain, x)[-1] < distortion(balanced, x)[-1] < 2 * distortion(plain, x)[-1]


def test_prices_are_part_of_the_last_level_costs():
    x = uneven(400, 0)
    quantizer = RKMeans(RKMeansConfig(sizes=(8,), balanced=True)).fit(x)
    codes = quantizer.encode(x)
    distances = ((x[:, None] - quantizer.codebook(0)) ** 2).sum(-1)
    prices = quantizer.last_level_costs(x, codes) - distances
    np.testing.assert_allclose(prices, np.broadcast_to(prices[0], prices.shape), atol=1e-4)
    assert np.ptp(prices[0]) > 0.1
    assert (distances.argmin(1) != codes[:, 0]).any()


def test_nearest_codes_are_exact_far_from_the_origin_and_between_near_equals():
    """Rounding of |x|^2 - 2xc + |c|^2 must not decide."""
    rng = np.random.default_rng(0)
    codebook = (rng.normal(size=(40, 8)) + 3000).astype(np.float32)
    codebook[20:30] = np.nextafter(codebook[:10], np.float32(np.inf))  # one unit in the last place away
    codebook[30:] = codebook[:10]
    x = (rng.normal(size=(300, 8)) + 3000).astype(np.float32)
    x[:10] = codebook[20:30]
    exact = ((x[:, None].astype(np.float64) - codebook) ** 2).sum(-1)
    found = assign(x, codebook)
    np.testing.assert_array_equal(found.codes, exact.argmin(1))
    np.testing.assert_allclose(found.costs, exact.min(1), rtol=1e-3, atol=1e-3)


@given(st.integers(2, 30), st.integers(1, 12), st.integers(0, 99), st.booleans())
def test_assignment_is_that_of_the_double_loop(count, size, seed, priced):
    rng = np.random.default_rng(seed)
    x, codebook = (rng.integers(-3, 4, size=(n, 2)).astype(np.float32) for n in (count, size))  # many ties
    prices = rng.integers(0, 3, size=size).astype(np.float32) if priced else None
    costs = ((x[:, None] - codebook) ** 2).sum(-1) + (0 if prices is None else prices)
    found = assign(x, codebook, prices)
    assert found.codes.tolist() == costs.argmin(1).tolist()
    ordered = np.sort(costs, 1)
    np.testing.assert_allclose(found.costs, ordered[:, 0], atol=1e-4)
    np.testing.assert_allclose(found.margins, ordered[:, 1] - ordered[:, 0] if size > 1 else np.inf, atol=1e-4)


def test_moves_find_the_clusters_that_a_bad_start_misses():
    rng = np.random.default_rng(0)
    centres = np.arange(12)[:, None] * 10 * np.ones(2)
    x = (np.repeat(centres, 50, axis=0) + rng.normal(size=(600, 2))).astype(np.float32)
    start = x[:12]  # all in one cluster
    assert assign(x, improve(x, start, 40, rng)).costs.mean() < 2.5  # 2 = the noise, about 1,200 = without moves


@pytest.mark.parametrize("iterations", range(1, 8))
def test_moves_never_come_last(iterations, monkeypatch):
    """A code that has just moved is no mean of any rows."""
    averages = []

    def spy(*arguments):
        averages.append(means(*arguments))
        return averages[-1].copy()

    monkeypatch.setattr(kmeans, "means", spy)
    x = blobs()
    found = improve(x, x[:20], iterations, np.random.default_rng(0))
    np.testing.assert_array_equal(found, averages[-1])


def test_pitfall_float32_sums_of_many_rows():
    """Far from the origin a float32 sum of many rows is off by a good part of what they differ."""
    x = (5.013 + 0.02 * np.random.default_rng(0).normal(size=(262_144, 2))).astype(np.float32)
    quantizer = RKMeans(RKMeansConfig(sizes=(1,), iterations=1)).fit(x)
    np.testing.assert_allclose(quantizer.codebook(0)[0], x.mean(0, dtype=np.float64), atol=1e-5)
    assert distortion(quantizer, x)[0] == pytest.approx(1, abs=1e-5)


def test_pitfall_starts_far_from_the_origin():
    """|x|^2 - 2xc + |c|^2 must not drown the distances of k-means++: each of 12 far apart groups gets a code."""
    rng = np.random.default_rng(0)
    x = (np.repeat(np.eye(12), 40, axis=0) * 4 + rng.normal(size=(480, 12)) * 0.01).astype(np.float32)
    for shift in (0, 20_000):
        moved = x + np.float32(shift)
        starts = first_codes(moved, 12, np.random.default_rng(1))
        rows = [int(np.flatnonzero((moved == start).all(1))[0]) for start in starts]
        assert len({row // 40 for row in rows}) == 12


@pytest.mark.parametrize(
    ("option", "names"), [({"restarts": 2}, "restarts"), ({"refinements": 2, "restarts": 3}, "restarts and refinements")]
)
def test_options_without_effect_on_balanced_levels_are_warned_of(option, names):
    x = blobs(100)
    with pytest.warns(FelidWarning, match=f"^{names} of the quantiser: no effect with balanced=true"):
        RKMeans(RKMeansConfig(sizes=(4,), balanced=True, **option)).fit(x)
    RKMeans(RKMeansConfig(sizes=(4,), balanced=True, refinements=0)).fit(x)  # says what is done: no warning
    RKMeans(RKMeansConfig.model_validate(as_tree(RKMeansConfig(sizes=(4,), balanced=True)))).fit(x)


LARGE = """
import numpy as np
from felid.artifacts import peak_rss_mib
from felid.quantize.rkmeans import RKMeans, RKMeansConfig
x = np.random.default_rng(0).normal(size=(131_072, 32)).astype(np.float32)
before = peak_rss_mib()
quantizer = RKMeans(RKMeansConfig(sizes=(8192,), iterations=2)).fit(x)
print(len(np.unique(quantizer.encode(x)[:, 0])), peak_rss_mib() - before)
"""


@pytest.mark.slow
def test_large_codebooks_fit_in_bounded_memory():
    """8,192 codes of 131,072 x 32 rows: a (N, K) matrix would hold 4 GiB."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    used, mib = map(int, done.stdout.split())
    assert used > 8000 and mib < 512


def test_seed_changes_the_codebooks():
    x = blobs()
    first, second = (RKMeans(RKMeansConfig(sizes=(16,), iterations=1, restarts=1, seed=seed)).fit(x) for seed in (0, 1))
    assert not np.array_equal(first.codebook(0), second.codebook(0))
