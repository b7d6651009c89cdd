from __future__ import annotations

import tracemalloc

import faiss
import numpy as np
import pytest

from felid.errors import FelidWarning, SemanticIdError
from felid.quantize import PQ, PQConfig, distortion


def correlated(count: int = 800, dim: int = 12, seed: int = 0) -> np.ndarray:
    """Vectors whose variance lies in few directions that cut across the parts."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(dim, dim)) * np.geomspace(4, 0.05, dim)[:, None]
    return (rng.normal(size=(count, dim)) @ mix + 2).astype(np.float32)


def test_reference_each_level_codes_its_own_part_by_the_double_loop():
    x = correlated(200, 7)
    quantizer = PQ(PQConfig(sizes=(6, 5, 3))).fit(x)
    codes, start = quantizer.encode(x), 0
    for level, width in enumerate((3, 2, 2)):
        codebook = quantizer.codebook(level)
        outside = np.delete(np.arange(7), np.s_[start : start + width])
        assert not codebook[:, outside].any()
        part, centres = x[:, start : start + width].astype(np.float64), codebook[:, start : start + width]
        nearest = [min(range(len(centres)), key=lambda k: float(((row - centres[k]) ** 2).sum())) for row in part]
        assert codes[:, level].tolist() == nearest
        start += width


@pytest.mark.parametrize("rotate", [False, True])
def test_decoding_is_the_sum_of_the_codes_vectors(rotate):
    x = correlated()
    quantizer = PQ(PQConfig(sizes=(9, 7, 5), rotate=rotate)).fit(x)
    codes = quantizer.encode(x)
    expected = sum(quantizer.codebook(level)[codes[:, level]] for level in range(3))
    np.testing.assert_allclose(quantizer.decode(codes), expected, rtol=1e-5)
    np.testing.assert_array_equal(quantizer.decode(codes[:, :1]), quantizer.codebook(0)[codes[:, 0]])


def test_rotated_levels_are_orthogonal_and_costs_are_those_of_the_decoded_vector():
    x = correlated()
    quantizer = PQ(PQConfig(sizes=(8, 8), rotate=True)).fit(x)
    scale = np.linalg.norm(quantizer.codebook(0)) * np.linalg.norm(quantizer.codebook(1))
    assert np.abs(quantizer.codebook(0) @ quantizer.codebook(1).T).max() < 1e-5 * scale
    codes = quantizer.encode(x)
    own = quantizer.last_level_costs(x, codes)
    other = codes.copy()
    other[:, 1] = (codes[:, 1] + 3) % 8
    error, moved = (((x - quantizer.decode(choice)) ** 2).sum(1) for choice in (codes, other))
    rows = np.arange(len(x))
    np.testing.assert_allclose(own[rows, other[:, 1]] - own[rows, codes[:, 1]], moved - error, rtol=1e-3, atol=1e-2)


def test_rotation_leaves_less():
    x = correlated()
    plain, rotated = (distortion(PQ(PQConfig(sizes=(16,) * 3, rotate=rotate)).fit(x), x)[-1] for rotate in (False, True))
    assert rotated < 0.8 * plain


def test_reference_faiss_leaves_no_less():
    x = correlated(1000)
    theirs = faiss.OPQMatrix(12, 3)
    theirs.pq = faiss.ProductQuantizer(12, 3, 4)
    theirs.train(x)
    turned = theirs.apply_py(x)
    theirs.pq.train(turned)
    left = ((turned - theirs.pq.decode(theirs.pq.compute_codes(turned))) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert distortion(PQ(PQConfig(sizes=(16,) * 3, rotate=True)).fit(x), x)[-1] < 1.03 * left


def test_more_levels_than_dimensions_are_refused():
    with pytest.raises(SemanticIdError, match=r"2 dimensions for 3 levels; give quantizer\.sizes at most 2"):
        PQ(PQConfig(sizes=(2, 2, 2))).fit(correlated(50, 2))


def test_rotations_without_rotate_are_warned_of():
    with pytest.warns(FelidWarning, match="rotations of the quantiser: no effect with rotate=false"):
        PQ(PQConfig(sizes=(2, 2), rotations=3)).fit(correlated(50))


def test_a_part_that_hardly_varies_leaves_codes_unused():
    x = correlated(60, 4)
    x[:, 2:] = np.arange(60)[:, None] % 2
    quantizer = PQ(PQConfig(sizes=(4, 4)))
    with pytest.warns(FelidWarning, match="level 1 has 4 codes for 2 distinct"):
        quantizer.fit(x)
    assert set(quantizer.encode(x)[:, 1].tolist()) == {0, 1}


def test_pitfall_rotating_in_float64_needs_several_copies_of_the_vectors():
    x = correlated(60_000, 32)
    tracemalloc.start()
    try:
        PQ(PQConfig(sizes=(2, 2), rotate=True, rotations=1, iterations=1)).fit(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3.3 * x.nbytes
