from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felid.errors import FelidWarning, SemanticIdError
from felid.quantize import ItemNumberCodes, ItemNumberConfig, RandomCodes, RandomConfig
from felid.quantize.base import FitContext


def vectors(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)


def random_codes(sizes: tuple[int, ...], count: int, seed: int = 0) -> np.ndarray:
    x = vectors(count)
    return RandomCodes(RandomConfig(sizes=sizes, seed=seed)).fit(x).encode(x)


def splitmix64(state: int) -> int:
    """First output of splitmix64 from a state, in Python's own integers."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_reference_splitmix64_in_python():
    assert splitmix64(1234567) == 6457827717110365317  # the first number of the author's test vector
    for item, row in enumerate(random_codes((7, 300), 20, seed=5).tolist()):
        keys = [splitmix64(splitmix64(5) ^ level) for level in range(2)]
        assert row == [splitmix64(splitmix64(item) ^ key) % size for key, size in zip(keys, (7, 300), strict=True)]


def test_random_codes_are_uniform_and_levels_independent():
    codes = random_codes((16, 16), 25_600)
    for level in range(2):
        counts = np.bincount(codes[:, level], minlength=16)
        assert ((counts - 1600) ** 2 / 1600).sum() < 37.7  # chi-squared of 15 degrees, 0.1 %
    pairs = np.bincount(codes[:, 0] * 16 + codes[:, 1], minlength=256)
    assert ((pairs - 100) ** 2 / 100).sum() < 330.5  # of 255 degrees, 0.1 %


def test_another_seed_gives_other_random_codes():
    assert (random_codes((256,), 1000, 0) == random_codes((256,), 1000, 1)).mean() < 0.02


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple), start=st.integers(0, 10**6))
def test_item_numbers_count_up_in_mixed_radix_and_wrap(sizes, start):
    count = int(np.prod(sizes))
    x, items = vectors(count), np.arange(start, start + count)
    quantizer = ItemNumberCodes(ItemNumberConfig(sizes=sizes)).fit(x, FitContext(items=items))
    expected = np.column_stack(np.unravel_index(items % count, sizes))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(quantizer.encode(x, items), expected)
    beyond = min(start, count)
    texts = [f"{beyond} of {count} items have an item_index above {count - 1}"] if beyond else []
    assert [str(warning.message)[: len(texts[0])] for warning in caught] == texts
    assert all(warning.category is FelidWarning for warning in caught)


def test_sizes_beyond_64_bits_are_allowed():
    x = vectors(5)
    quantizer = ItemNumberCodes(ItemNumberConfig(sizes=(2**16,) * 6)).fit(x)
    assert quantizer.encode(x).tolist() == [[0, 0, 0, 0, 0, item] for item in range(5)]


def test_more_items_than_numbers_are_refused():
    with pytest.raises(SemanticIdError, match=r"\(2, 3\) can number 6 items but 7 are to be fitted; use more or larger"):
        ItemNumberCodes(ItemNumberConfig(sizes=(2, 3))).fit(vectors(7))


def test_item_indices_must_match_the_rows():
    quantizer = RandomCodes(RandomConfig(sizes=(4,))).fit(vectors(4))
    with pytest.raises(SemanticIdError, match="got 2 item indices for 4 rows"):
        quantizer.encode(vectors(4), np.arange(2))
    with pytest.raises(SemanticIdError, match="none negative"):
        quantizer.encode(vectors(1), np.array([-1]))


def test_vectors_of_a_level_are_means_of_what_is_left():
    x = vectors(40)
    quantizer = RandomCodes(RandomConfig(sizes=(5, 64))).fit(x)
    codes = quantizer.encode(x)
    for code in range(5):
        np.testing.assert_allclose(quantizer.codebook(0)[code], x[codes[:, 0] == code].mean(0), atol=1e-6)
    unseen = np.setdiff1d(np.arange(64), codes[:, 1])
    assert len(unseen)
    assert not quantizer.codebook(1)[unseen].any()


def test_any_other_last_code_costs_the_same():
    x = vectors(6)
    quantizer = ItemNumberCodes(ItemNumberConfig(sizes=(2, 3))).fit(x)
    costs = quantizer.last_level_costs(x, quantizer.encode(x))
    np.testing.assert_array_equal(costs, 1 - np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]])


def test_fitting_holds_one_copy_of_the_vectors():
    x = np.random.default_rng(0).normal(size=(60_000, 32)).astype(np.float32)
    tracemalloc.start()
    try:
        RandomCodes(RandomConfig(sizes=(4, 4))).fit(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.6 * x.nbytes
