from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from felid.data.histories import LeaveOneOut
from felid.data.holdout import HoldoutConfig, hold_out
from felid.errors import RequestError
from felid.evaluation import (
    EvaluationConfig,
    Markov,
    Popularity,
    compare_runs,
    evaluate_run,
    pooled_difference,
)
from felid.metrics import ndcg_per_user, recall_per_user
from felid.testing import toy_world
from tests.evaluation.dumb import paired_difference

CONFIG = EvaluationConfig(ks=(5, 10), bootstrap=10)


def draw(seed: int) -> pl.DataFrame:
    """Ranks of one draw of held-out items."""
    world = toy_world()
    held = hold_out(HoldoutConfig(rule="random", share=0.2, validation_share=0.1, seed=seed), world.split, 24)
    split = LeaveOneOut(world.sequences, held)
    train = split.train()
    systems = {"ours": Markov.fit(world.split.train(), 24), "theirs": Markov.fit(train, 24)}  # ours knows what it should not
    return evaluate_run(systems, split, np.arange(24), CONFIG).ranks


@pytest.fixture(scope="module")
def draws() -> list[pl.DataFrame]:
    return [draw(seed) for seed in range(3)]


def assert_equal(one: Difference, other: Difference) -> None:
    assert (one.level, one.users) == (other.level, other.users)
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high), abs=1e-12)


def test_one_row_per_user_is_the_paired_difference() -> None:
    rng = np.random.default_rng(0)
    a, b, users = rng.random(50), rng.random(50), np.array([f"user {row:02}" for row in range(50)])
    assert_equal(pooled_difference(a, b, users, draws=300), paired_difference(a, b, draws=300))


def test_a_user_is_resampled_with_all_rows() -> None:
    """Copies of the same rows are no evidence: the interval stays what it was, which a bootstrap over rows would halve."""
    rng = np.random.default_rng(0)
    a, b = rng.random(80), rng.random(80)
    once = pooled_difference(a, b, np.arange(80), draws=300)
    four_times = pooled_difference(np.tile(a, 4), np.tile(b, 4), np.tile(np.arange(80), 4), draws=300)
    assert (four_times.low, four_times.high, four_times.users) == (pytest.approx(once.low), pytest.approx(once.high), 80)


def test_users_with_more_rows_weigh_more() -> None:
    a, users = np.array([1.0, 1.0, 1.0, 0.0]), np.array([5, 5, 5, 7])
    found = pooled_difference(a, np.zeros(4), users, draws=4000)
    assert found.mean == 0.75
    assert (found.low, found.high) == (0, 1)  # both draws are user 5, or both are user 7


def test_runs_are_pooled_over_the_rows_of_the_group(draws: list[pl.DataFrame]) -> None:
    ours, theirs, difference = compare_runs(
        [(ranks, "ours") for ranks in draws], [(ranks, "theirs") for ranks in draws], "ndcg@5", group="cold"
    )
    values = {}
    for system in ("ours", "theirs"):
        cold = [r.filter(system=system, part="test", policy="seen_removed", group="cold")["rank"].to_numpy() for r in draws]
        values[system] = ndcg_per_user(np.concatenate(cold), 5).mean()
    assert (ours, theirs) == (values["ours"], values["theirs"])
    assert difference.mean == pytest.approx(values["ours"] - values["theirs"])
    assert difference.low > 0


def test_all_users_of_one_run_give_the_paired_difference(draws: list[pl.DataFrame]) -> None:
    ranks = draws[0].filter(part="validation", policy="seen_kept")
    values = [recall_per_user(ranks.filter(system=name)["rank"].to_numpy(), 10) for name in ("ours", "popularity")]
    found = compare_runs([(draws[0], "ours")], [(draws[0], "popularity")], part="validation", policy="seen_kept")
    assert_equal(found[2], paired_difference(*values))


def test_runs_that_cannot_be_paired_are_refused(draws: list[pl.DataFrame]) -> None:
    one, other = (draws[0], "ours"), (draws[1], "theirs")
    with pytest.raises(RequestError, match="pair 0 have other users, targets or held-out items"):
        compare_runs([one], [other])
    with pytest.raises(RequestError, match="1 runs against 2"):
        compare_runs([one], [other, other])
    with pytest.raises(RequestError, match="hold markov, ours, popularity, theirs, not 'lynx'"):
        compare_runs([one], [(draws[0], "lynx")])
    with pytest.raises(RequestError, match="metric is 'hits@10'"):
        compare_runs([one], [one], "hits@10")
    split = toy_world().split
    plain = evaluate_run({"ours": Popularity.fit(split.train(), 24)}, split, np.arange(24), CONFIG).ranks
    with pytest.raises(RequestError, match="no user of the test part has a cold target"):
        compare_runs([(plain, "ours")], [(plain, "markov")], group="cold")
