from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from felid.errors import RequestError
from felid.evaluation import statistics
from felid.evaluation.statistics import (
    Difference,
    bootstrap_ci,
    bootstrap_means,
    pooled_difference,
    retrained_difference,
)


def test_resampled_means_equal_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random((13, 2))
    monkeypatch.setattr(statistics, "CELLS_PER_CHUNK", 13 * 4)
    rng = np.random.default_rng(5)
    expected = []
    for rows in (4, 4, 2):
        for picks in rng.integers(0, 13, (rows, 13)):
            expected += [[sum(values[p, column] for p in picks) / 13 for column in range(2)]]
    assert np.allclose(bootstrap_means(values, draws=10, seed=5), expected)


def test_the_interval_is_the_normal_one_for_many_users() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    low, high = bootstrap_ci(values, draws=4000)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_interval_covers_the_truth_as_often_as_the_normal_one() -> None:
    """400 simulated evaluations with a recall of .08; 95 % +- 4 standard errors of the simulation."""
    rng, covered, covered_by_normal = np.random.default_rng(0), 0, 0
    for seed in range(400):
        hits = (rng.random(400) < 0.08).astype(np.float64)
        low, high = bootstrap_ci(hits, draws=300, seed=seed)
        half = 1.96 * hits.std() / np.sqrt(len(hits))
        covered += low <= 0.08 <= high
        covered_by_normal += abs(hits.mean() - 0.08) <= half
    assert 0.906 <= covered / 400 <= 0.994
    assert abs(covered - covered_by_normal) / 400 < 0.03


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    values = np.random.default_rng(0).random(100)
    assert bootstrap_ci(values, seed=3) == bootstrap_ci(values, seed=3)
    assert bootstrap_ci(values, seed=3) != bootstrap_ci(values, seed=4)


def test_pairing_is_narrower_than_two_separate_samples() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(2000)
    a, b = hard + 0.01 + 0.01 * rng.random(2000), hard
    paired = pooled_difference(a, b, np.arange(len(a)))
    assert paired.mean == pytest.approx((a - b).mean())
    assert 0 < paired.low < paired.mean < paired.high
    low, high = bootstrap_ci(a)
    assert paired.high - paired.low < (high - low) / 10


def test_the_difference_turns_with_its_sides() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(50), rng.random(50)
    there, back = pooled_difference(a, b, np.arange(len(a))), pooled_difference(b, a, np.arange(len(a)))
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))


@pytest.mark.parametrize(
    ("low", "high", "start"),
    [
        (0.001, 0.021, "recall@10: lynx is above markov by 0.0110 (95 % CI +0.0010 to +0.0210, 22,363 users)"),
        (-0.021, -0.001, "recall@10: lynx is below markov by 0.0110 (95 % CI -0.0210 to -0.0010, 22,363 users)"),
        (-0.001, 0.003, "recall@10: no difference between lynx and markov can be claimed, +0.0010"),
        (0.0, 0.02, "recall@10: no difference between lynx and markov can be claimed, +0.0100"),
    ],
)
def test_the_sentence_claims_what_the_interval_allows(low: float, high: float, start: str) -> None:
    sentence = Difference((low + high) / 2, low, high, 0.95, 22_363).sentence("lynx", "markov", "recall@10")
    assert sentence.startswith(start)
    assert "\n" not in sentence


def test_the_sentence_claims_nothing_that_a_test_does_not_allow() -> None:
    sentence = Difference(0.01, 0.001, 0.019, 0.95, 100).sentence("a", "b", "ndcg@5", claimed=False)
    assert sentence == "ndcg@5: no difference between a and b can be claimed, +0.0100 (95 % CI +0.0010 to +0.0190, 100 users)"


def test_a_system_compared_with_itself_allows_no_claim() -> None:
    values = np.random.default_rng(0).random(40)
    assert "no difference" in pooled_difference(values, values, np.arange(40)).sentence("a", "b", "ndcg@5")


def test_bad_requests_are_refused() -> None:
    with pytest.raises(RequestError, match="0 users"):
        bootstrap_ci(np.empty(0))
    with pytest.raises(RequestError, match="pair the rows first"):
        pooled_difference(np.ones(3), np.ones(4), np.arange(3))
    with pytest.raises(RequestError, match="confidence level is 95"):
        bootstrap_ci(np.ones(3), level=95)


def retrained(a: np.ndarray, b: np.ndarray, *, paired: bool, draws: int = 2000) -> Difference:
    means = bootstrap_means(np.concatenate([a, b]).T, draws)
    return retrained_difference(a, b, (means[:, : len(a)], means[:, len(a) :]), paired=paired)


def over_users(means: list[float]) -> np.ndarray:
    """Trainings that do the same for each of 50 users: nothing depends on who is drawn."""
    return np.tile(np.array(means)[:, None], 50)


A, B = [0.31, 0.35, 0.30, 0.36], [0.30, 0.29, 0.33]


def test_without_variance_between_users_it_is_the_t_interval_of_the_seeds() -> None:
    found = retrained(over_users(A), over_users(B), paired=False, draws=20_000)
    expected = stats.ttest_ind(A, B, equal_var=False).confidence_interval()
    assert found.mean == pytest.approx(np.mean(A) - np.mean(B))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.05 * (expected.high - expected.low))
    paired, expected = retrained(over_users(A[:3]), over_users(B), paired=True, draws=20_000), stats.ttest_rel(A[:3], B)
    low, high = expected.confidence_interval()
    assert (paired.low, paired.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_a_side_of_one_row_does_not_vary() -> None:
    found, expected = retrained(over_users(A), over_users([0.3]), paired=False, draws=20_000), stats.ttest_1samp(A, 0.3)
    low, high = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((low - 0.3, high - 0.3), abs=0.05 * (high - low))


def test_without_variance_between_seeds_it_is_the_normal_interval_over_users() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(400), rng.random(400)
    found = retrained(np.tile(a, (3, 1)), np.tile(b, (3, 1)), paired=True)
    half = 1.96 * (a - b).std() / 20
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.1 * half)


def test_variances_of_seeds_and_users_add_up() -> None:
    users, seeds = np.random.default_rng(0).normal(0, 1, 400), np.array([[0.0], [0.1]])
    found = retrained(seeds + users, np.zeros((2, 400)), paired=True, draws=20_000)
    between, total = 0.1**2 / 4, 0.1**2 / 4 + users.var() / 400
    half = stats.t.ppf(0.975, total**2 / between**2) * total**0.5
    assert found.high - found.mean == pytest.approx(half, rel=0.04)


def test_pairing_by_seed_takes_out_what_seeds_share() -> None:
    rng = np.random.default_rng(0)
    shared, users = rng.normal(0, 0.1, (4, 1)), rng.random(200)
    a, b = (users + shared + rng.normal(0, 0.001, (4, 200)) for _ in range(2))
    paired, apart = (retrained(a, b, paired=paired) for paired in (True, False))
    assert paired.high - paired.low < (apart.high - apart.low) / 20


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_it_covers_the_truth_of_new_trainings_and_the_interval_over_users_does_not(seeds: int) -> None:
    """200 simulated comparisons without a difference, where users, seeds and both together matter."""
    rng, covered, by_users = np.random.default_rng(seeds), 0, 0
    for _ in range(200):
        users, shape = rng.normal(0, 0.5, 100), (seeds, 1)
        a, b = (rng.normal(0, 0.1, shape) + rng.normal(0, 1, (seeds, 100)) + scale * users for scale in (1, 0))
        found = retrained(a, b, paired=False, draws=200)
        covered += found.low <= 0 <= found.high
        gap = a.mean(axis=0) - b.mean(axis=0)
        by_users += abs(gap.mean()) <= 1.96 * gap.std() / 10
    assert covered / 200 >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / 200)
    assert by_users < covered - 20


def test_trainings_that_cannot_vary_or_be_paired_are_refused() -> None:
    one, two = np.ones((1, 5)), np.ones((2, 5))
    with pytest.raises(RequestError, match="1 trainings against 1"):
        retrained(one, one, paired=False)
    with pytest.raises(RequestError, match="2 trainings against 1"):
        retrained(two, one, paired=True)
