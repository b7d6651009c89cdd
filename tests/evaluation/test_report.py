from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from felid.data.histories import LeaveOneOut, Sequences
from felid.errors import RequestError
from felid.evaluation import EvaluationConfig, Markov, Popularity, Report, evaluate_run, paired_difference, print_metrics
from felid.metrics import ndcg_at_k, recall_per_user
from felid.testing import toy_world

ITEM_IDS = np.array([f"B{number:03}" for number in range(24)], object)
CONFIG = EvaluationConfig(ks=(5, 10), bootstrap=200)


@pytest.fixture(scope="module")
def report() -> Report:
    world = toy_world()
    return evaluate_run(
        Markov.fit(world.split.train(), 24), world.split, ITEM_IDS, CONFIG, system="lynx", order_rule="by position"
    )


def test_metrics_have_the_agreed_shape(report: Report) -> None:
    metrics = report.metrics
    for part in ("validation", "test", "validation_seen_kept", "test_seen_kept"):
        assert {"recall@5", "ndcg@5", "recall@10", "ndcg@10", "mrr@10", "coverage@10", "num_users"} <= metrics[part].keys()
    for key in ("baselines", "baselines_seen_kept", "baselines_validation", "baselines_validation_seen_kept"):
        assert metrics[key].keys() == {"popularity", "markov"}
    assert metrics["differences"]["popularity"]["recall@10"].keys() == {"difference", "low", "high", "level", "num_users"}
    assert metrics["intervals"]["ndcg@10"].keys() == {"low", "high"}
    assert (metrics["num_users"], metrics["num_items"], metrics["system"]) == (96, 24, "lynx")
    assert metrics["test"] == metrics["baselines"]["markov"]
    assert metrics["test"]["recall@5"] == 1


def test_the_headline_policy_can_be_turned_round(report: Report) -> None:
    world = toy_world()
    turned = evaluate_run(
        Markov.fit(world.split.train(), 24),
        world.split,
        ITEM_IDS,
        EvaluationConfig(ks=(5, 10), bootstrap=200, exclude_seen=False),
        system="lynx",
    ).metrics
    assert turned["test"] == report.metrics["test_seen_kept"]
    assert turned["test_seen_removed"] == report.metrics["test"]
    assert turned["baselines"] == report.metrics["baselines_seen_kept"]
    assert "kept in `test`, removed in `test_seen_removed`" in turned["policy"]["seen"]


def test_differences_equal_the_paired_bootstrap(report: Report) -> None:
    ranks = {
        name: report.ranks.filter(system=name, part="test", policy="seen_removed")["rank"].to_numpy()
        for name in ("lynx", "popularity")
    }
    values = [recall_per_user(ranks[name], 5) for name in ("lynx", "popularity")]
    expected = paired_difference(*values, draws=200)
    cell = report.metrics["differences"]["popularity"]["recall@5"]
    assert (cell["difference"], cell["low"], cell["high"]) == pytest.approx((expected.mean, expected.low, expected.high))


def test_saved_ranks_give_the_saved_metrics(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    ranks = pl.read_parquet(tmp_path / "ranks.parquet")
    assert metrics == report.metrics
    assert ranks.columns == ["system", "part", "policy", "user_id", "target", "rank"]
    assert len(ranks) == 3 * 2 * 2 * 96
    for part, policy, key in (("test", "seen_removed", "test"), ("validation", "seen_kept", "validation_seen_kept")):
        rows = ranks.filter(system="lynx", part=part, policy=policy)
        assert ndcg_at_k(rows["rank"].to_numpy(), 10) == pytest.approx(metrics[key]["ndcg@10"])
    world = toy_world()
    expected = ITEM_IDS[world.split.evaluation("test").targets].tolist()
    assert ranks.filter(system="markov", part="test", policy="seen_kept")["target"].to_list() == expected


def test_repeats_and_short_users_are_counted() -> None:
    rows = [np.array([0, 1, 2, 0]), np.array([3, 4, 5]), np.array([1, 2])]
    split = LeaveOneOut(Sequences.from_lists(np.arange(3), rows))
    popularity = Popularity.fit(split.train(), 6)
    metrics = evaluate_run(popularity, split, np.arange(6), EvaluationConfig(ks=(6,), bootstrap=10)).metrics
    assert metrics["num_users"] == 2
    assert metrics["test"]["users_with_seen_target"] == 1
    assert metrics["test"]["recall@6"] == 0.5
    assert metrics["test_seen_kept"]["recall@6"] == 1


def test_a_k_above_the_catalogue_is_refused_before_the_system_is_asked() -> None:
    class Unasked:
        def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> np.ndarray:
            raise AssertionError("asked")

    with pytest.raises(RequestError, match="k is 25 but the catalogue has 24 items"):
        evaluate_run(Unasked(), toy_world().split, ITEM_IDS, EvaluationConfig(ks=(25,)))


def printed(metrics: dict, width: int = 120) -> str:
    stream = StringIO()
    print_metrics(metrics, Console(file=stream, width=width), title="toy")
    return stream.getvalue()


def test_the_console_shows_systems_policies_and_differences(report: Report) -> None:
    text = printed(report.metrics)
    for words in (
        *("recall@5", "ndcg@10", "coverage@10", "popularity", "markov", "removed", "kept", "validation"),
        *("candidates: all 24 items", "ties:", "the test history includes the validation item", "order: by position"),
        *("95 % bootstrap over users", "users: 96 evaluated, 0 with a test item that is already in the history"),
        *("test recall@10: lynx is above popularity by", "no difference between lynx and markov can be claimed"),
    ):
        assert words in text
    firsts = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert [name for name in firsts if name.startswith(("lynx", "pop", "mark"))] == ["lynx", "popularity", "markov", "lynx,"] * 2


def test_a_narrow_console_cuts_no_number(report: Report) -> None:
    assert max(map(len, printed(report.metrics).split("candidates")[0].splitlines())) <= 80
    assert printed(report.metrics, width=30) == printed(report.metrics)


def test_a_cached_run_prints_the_same(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    assert printed(json.loads((tmp_path / "metrics.json").read_text())) == printed(report.metrics)
