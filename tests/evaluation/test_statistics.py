from __future__ import annotations

import numpy as np
import pytest

from felid.errors import RequestError
from felid.evaluation import statistics
from felid.evaluation.statistics import Difference, bootstrap_ci, bootstrap_means, pooled_difference


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
