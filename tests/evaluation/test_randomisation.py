from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from felid.errors import RequestError
from felid.evaluation import randomisation
from felid.evaluation.randomisation import holm, randomisation_test

FLIPS = 20_000


def enumerated(sums: np.ndarray) -> float:
    """The p-value over all signs, without chance."""
    seen = abs(sums.sum())
    signs = itertools.product((-1, 1), repeat=len(sums))
    return float(np.mean([abs(np.dot(sign, sums)) >= seen - 1e-12 for sign in signs]))


def error_of(p: float) -> float:
    """Four standard errors of a share of `FLIPS`, and the 1 that is added."""
    return 4 * np.sqrt(p * (1 - p) / FLIPS) + 1 / FLIPS


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("discrete", [True, False])
def test_it_is_the_share_of_all_signs_on_few_users(seed: int, discrete: bool) -> None:
    rng = np.random.default_rng(seed)
    gap = rng.integers(-1, 2, 12).astype(np.float64) if discrete else rng.normal(0.3, 1, 12)
    expected = enumerated(gap)
    found = randomisation_test(gap, np.zeros(12), np.arange(12), FLIPS)
    assert found == pytest.approx(expected, abs=error_of(expected))


def test_sums_that_rounding_parts_are_equal() -> None:
    """Gains of .1 and .3 make the same sums in many ways, which differ in the last bit; without a tolerance p would be .02."""
    gap = np.random.default_rng(9).permutation([0.1] * 9 + [-0.1] * 3 + [0.7, 0.3])
    expected = enumerated(gap)
    assert expected > 0.03
    assert randomisation_test(gap, np.zeros(14), np.arange(14), FLIPS) == pytest.approx(expected, abs=error_of(expected))


def test_it_agrees_with_scipy() -> None:
    rng = np.random.default_rng(5)
    a = rng.random(300)
    b = a + rng.normal(0.01, 0.1, 300)
    theirs = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=4_000, rng=np.random.default_rng(1)
    )
    ours = randomisation_test(a, b, np.arange(300), 4_000)
    assert 0.02 < ours < 0.98
    assert ours == pytest.approx(theirs.pvalue, abs=4 * np.sqrt(2 * ours * (1 - ours) / 4_000))


def test_chunks_of_any_size_are_random_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    gap = np.random.default_rng(2).normal(0.3, 1, 11)
    monkeypatch.setattr(randomisation, "CELLS_PER_CHUNK", 11 * 7)
    assert randomisation_test(gap, np.zeros(11), np.arange(11), FLIPS) == pytest.approx(enumerated(gap), abs=0.02)


def test_rows_of_a_user_flip_together() -> None:
    """Four copies of the same rows are no evidence; flipped row by row they would look like four times as many users."""
    gap = np.random.default_rng(3).normal(0.4, 1, 10)
    once = randomisation_test(gap, np.zeros(10), np.arange(10), FLIPS)
    copies = randomisation_test(np.tile(gap, 4), np.zeros(40), np.tile(np.arange(10), 4), FLIPS)
    by_row = randomisation_test(np.tile(gap, 4), np.zeros(40), np.arange(40), FLIPS)
    assert copies == once
    assert by_row < once / 2


def test_of_equal_systems_one_in_twenty_is_below_a_twentieth() -> None:
    """600 pairs of equal systems; 5 % and at most four standard errors of the simulation more."""
    rng = np.random.default_rng(0)
    found = [randomisation_test(rng.random(40), rng.random(40), np.arange(40), flips=199, seed=seed) for seed in range(600)]
    assert 0.015 <= np.mean(np.array(found) <= 0.05) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 600)


def test_equal_values_and_the_least_p_value() -> None:
    values = np.random.default_rng(0).random(50)
    assert randomisation_test(values, values, np.arange(50), 99) == 1
    assert randomisation_test(values + 1, values, np.arange(50), 99) == 0.01


def test_it_turns_with_its_sides_and_equal_seeds_are_equal() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(60), rng.random(60)
    there = randomisation_test(a, b, np.arange(60), 999, seed=3)
    assert there == randomisation_test(b, a, np.arange(60), 999, seed=3)
    assert there != randomisation_test(a, b, np.arange(60), 999, seed=4)


def test_rows_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(RequestError, match="3 and 4 values of 3 users"):
        randomisation_test(np.ones(3), np.ones(4), np.arange(3))
    with pytest.raises(RequestError, match="0 rows"):
        randomisation_test(np.empty(0), np.empty(0), np.empty(0))


def step_down(p_values: list[float], level: float) -> set[int]:
    """Holm's procedure as it is written: the smallest against level / n, the next against level / (n - 1), until one fails."""
    rejected: set[int] = set()
    for place in sorted(range(len(p_values)), key=lambda place: p_values[place]):
        if p_values[place] * (len(p_values) - len(rejected)) >= level:
            break
        rejected.add(place)
    return rejected


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_claims_what_the_step_down_procedure_does(p_values: list[float], level: float) -> None:
    adjusted = holm(np.array(p_values))
    assert set(np.flatnonzero(adjusted < level)) == step_down(p_values, level)
    assert (adjusted >= p_values).all() and (adjusted <= 1).all()


def test_holm_on_known_values() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
