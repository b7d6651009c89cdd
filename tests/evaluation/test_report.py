from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from felid.data.histories import HeldOut, LeaveOneOut, Sequences
from felid.errors import RequestError
from felid.evaluation import EvaluationConfig, Markov, Popularity, Report, evaluate_run, print_metrics, tables
from felid.evaluation.lists import diversity_at_k, gini_at_k
from felid.evaluation.report import DataFacts
from felid.metrics import ndcg_at_k, recall_per_user
from felid.testing import toy_world
from tests.evaluation.dumb import paired_difference

ITEM_IDS = np.array([f"B{number:03}" for number in range(24)], object)
CONFIG = EvaluationConfig(ks=(5, 10), bootstrap=200)


@pytest.fixture(scope="module")
def report() -> Report:
    world = toy_world()
    facts = DataFacts(order_rule="by position", vectors=world.vectors, target_ages=np.arange(96) * 86_400.0)
    return evaluate_run({"lynx": Markov.fit(world.split.train(), 24)}, world.split, ITEM_IDS, CONFIG, facts=facts)


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
        {"lynx": Markov.fit(world.split.train(), 24)},
        world.split,
        ITEM_IDS,
        EvaluationConfig(ks=(5, 10), bootstrap=200, exclude_seen=False),
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
    assert ranks.columns == ["system", "part", "policy", "user_id", "target", "group", "rank"]
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
    metrics = evaluate_run({"lynx": popularity}, split, np.arange(6), EvaluationConfig(ks=(6,), bootstrap=10)).metrics
    assert metrics["num_users"] == 2
    assert metrics["test"]["users_with_seen_target"] == 1
    assert metrics["test"]["recall@6"] == 0.5
    assert metrics["test_seen_kept"]["recall@6"] == 1


def test_other_systems_of_the_run_stand_beside_the_first(report: Report) -> None:
    world = toy_world()
    train = world.split.train()
    found = evaluate_run({"lynx": Markov.fit(train, 24), "lynx, dense": Popularity.fit(train, 24)}, world.split, ITEM_IDS, CONFIG)
    metrics = found.metrics
    assert metrics["system"] == "lynx"
    assert metrics["test"] == report.metrics["test"]
    assert metrics["variants"] == {"lynx, dense": metrics["baselines"]["popularity"]}
    assert metrics["variants_validation_seen_kept"]["lynx, dense"] == metrics["baselines_validation_seen_kept"]["popularity"]
    assert metrics["differences"]["lynx, dense"] == metrics["differences"]["popularity"]
    assert "test recall@10: lynx is above lynx, dense by" in printed(metrics)
    assert report.metrics["variants"] == {}


class Favourites:
    """Recommends the items that it was given, in that order."""

    def __init__(self, items: list[int]) -> None:
        self.items = items

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> np.ndarray:
        lists = [[i for i in self.items if not exclude_seen or i not in histories[row]] for row in range(len(histories))]
        return np.array([(row + [-1] * k)[:k] for row in lists], np.int64)


@pytest.fixture(scope="module")
def cold_report() -> Report:
    """Test targets of five users: 9 twice (cold), 8 (cold for validation), 1, 2 (not held out, but not in training either)."""
    rows = [[0, 1, 3, 9], [1, 0, 8, 9], [0, 1, 3, 8], [3, 0, 4, 1], [0, 3, 1, 2], [1, 3]]
    sequences = Sequences.from_lists(np.arange(6), [np.array(row) for row in rows])
    marks = np.zeros((2, 10), bool)
    marks[0, 8] = marks[1, 9] = True
    split = LeaveOneOut(sequences, HeldOut(marks[0], marks[1], "by hand"))
    systems = {"lynx": Favourites([9, 8, 1]), "lynx, dense": Favourites([1, 9])}
    return evaluate_run(systems, split, np.arange(10), EvaluationConfig(ks=(1, 3), bootstrap=50))


def test_warm_and_cold_targets_are_reported_by_themselves(cold_report: Report) -> None:
    metrics = cold_report.metrics
    counts = {name: metrics[name]["num_users"] for name in ("test", "test_warm", "test_cold", "validation_cold")}
    assert counts == {"test": 5, "test_warm": 1, "test_cold": 2, "validation_cold": 1}
    assert metrics["test"]["recall@1"] == pytest.approx(2 / 5)
    assert metrics["test"]["recall@3"] == pytest.approx(4 / 5)
    assert (metrics["test_cold"]["recall@1"], metrics["test_warm"]["recall@1"]) == (1, 0)
    assert metrics["test_warm"]["mrr@3"] == pytest.approx(1 / 3)
    assert metrics["test_cold_seen_kept"]["recall@1"] == 1
    assert metrics["validation_cold"]["recall@1"] == 0
    assert metrics["variants_cold"]["lynx, dense"]["ndcg@3"] == 1
    assert metrics["variants_cold_seen_kept"]["lynx, dense"]["ndcg@3"] == pytest.approx(1 / np.log2(3))
    assert metrics["baselines_cold"]["popularity"]["recall@3"] == 0
    assert "coverage@1" not in metrics["test_cold"]
    assert metrics["intervals_cold"]["recall@1"] == {"low": 1, "high": 1}
    assert metrics["differences_cold"]["markov"]["recall@1"] == {
        "difference": 1,
        "low": 1,
        "high": 1,
        "level": 0.95,
        "num_users": 2,
    }


def test_ranks_say_which_group_each_target_is_of(cold_report: Report) -> None:
    rows = cold_report.ranks.filter(system="lynx", policy="seen_removed")
    assert rows.filter(part="test")["group"].to_list() == ["cold", "cold", "other", "warm", "other"]
    assert rows.filter(part="validation")["group"].to_list() == ["warm", "cold", "warm", "other", "warm"]
    assert "0 validation users have a target of the test items" in cold_report.metrics["policy"]["validation"]


def test_the_policy_says_how_many_validation_targets_no_choice_has_seen() -> None:
    """Users 0 and 1 meet item 5, of the test group, in their validation; user 2 in the test."""
    rows = [[0, 1, 5, 2], [1, 0, 5, 2], [0, 2, 1, 5]]
    test = np.arange(6) == 5
    sequences = Sequences.from_lists(np.arange(3), [np.array(row) for row in rows])
    split = LeaveOneOut(sequences, HeldOut(np.zeros(6, bool), test, "by hand"))
    metrics = evaluate_run({"lynx": Favourites([5])}, split, np.arange(6), EvaluationConfig(ks=(1,), bootstrap=10)).metrics
    assert metrics["policy"]["validation"].startswith("2 validation users have a target of the test items: they count in ")
    assert metrics["validation_seen_kept"]["recall@1"] == 2 / 3
    assert len(split.selection().targets) == 1


def test_the_console_shows_warm_and_cold_where_some_are_cold(
    cold_report: Report, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(cold_report.metrics)
    rows = [line.split() for line in text.splitlines()]
    assert ["lynx", "removed", "cold", "1.0000", "1.0000", "1.0000", "1.0000"] in rows
    assert ["lynx,", "dense", "removed", "warm", "1.0000", "1.0000", "1.0000", "1.0000"] in rows
    assert "1 items for test and 1 others for validation (by hand); 2 test users" in text
    assert "test, cold targets: 2 users with one, too few to claim anything" in text
    assert "cold targets, recall@3" not in text
    monkeypatch.setattr(tables, "FEW", 2)
    assert "test, cold targets, recall@3: lynx is above markov by 1.0000" in printed(cold_report.metrics)
    assert "targets" not in printed(report.metrics).split("candidates")[0]
    assert not any("cold" in key or "warm" in key for key in report.metrics)


def test_a_k_above_the_catalogue_is_refused_before_the_system_is_asked() -> None:
    class Unasked:
        def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> np.ndarray:
            raise AssertionError("asked")

    with pytest.raises(RequestError, match="k is 25 but only 24 items compete"):
        evaluate_run({"lynx": Unasked()}, toy_world().split, ITEM_IDS, EvaluationConfig(ks=(25,)))


def printed(metrics: dict, width: int = 120) -> str:
    stream = StringIO()
    print_metrics(metrics, Console(file=stream, width=width), title="toy")
    return stream.getvalue()


def test_the_console_shows_systems_policies_and_differences(report: Report) -> None:
    text = printed(report.metrics)
    assert "; nobody left out" in text
    for words in (
        *("recall@5", "ndcg@10", "coverage@10", "popularity", "markov", "removed", "kept", "validation"),
        *("candidates: all 24 items", "ties:", "the test history includes the validation item", "order: by position"),
        *("95 % bootstrap over users", "users: 96 evaluated, 0 with a test item that is already in the history"),
        *("test recall@10: lynx is above popularity by", "no difference between lynx and markov can be claimed"),
    ):
        assert words in text
    firsts = [line.split()[0] for line in text.splitlines() if line.strip()]
    systems = ["lynx", "popularity", "markov"]
    wanted = [*systems, "lynx,", *systems, "lynx,", *systems]  # both policies, then what the lists say
    assert [name for name in firsts if name.startswith(("lynx", "pop", "mark"))] == wanted


def test_the_lists_of_every_system_are_judged_besides_hits(report: Report) -> None:
    world = toy_world()
    part, train = world.split.evaluation("test"), world.split.train()
    for name, system in {"lynx": Markov.fit(train, 24), "popularity": Popularity.fit(train, 24)}.items():
        lists, found = system.rank(part.histories, 10, True), report.metrics["lists"][name]
        assert found["gini@5"] == gini_at_k(lists, 24, 5)
        assert found["diversity@10"] == diversity_at_k(lists, world.vectors, 10)
        assert (found["invalid@10"], found["empty@10"]) == (0, 0)
    assert report.metrics["lists"]["lynx"]["coverage@10"] == report.metrics["test"]["coverage@10"]
    assert report.metrics["lists"]["popularity"]["gini@5"] > report.metrics["lists"]["lynx"]["gini@5"]
    assert list(report.metrics["lists"]) == ["lynx", "popularity", "markov"]
    head, *rows = [line.split() for line in printed(report.metrics).split("lists of 10")[1].splitlines()]
    assert head == ["gini", "popularity", "novelty", "diversity", "invalid", "empty"]
    assert rows[1][0] == "lynx" and rows[1][-2:] == ["0.0000", "0.0000"]


def test_the_users_are_sliced_by_target_and_history(report: Report) -> None:
    slices = report.metrics["slices"]
    assert set(slices) == {"popularity", "history_length", "item_age"}  # all targets are warm
    for entries in slices.values():
        assert sum(entry["num_users"] for entry in entries) == 96
        mean = sum(entry["num_users"] * entry["systems"]["popularity"]["ndcg@10"]["value"] for entry in entries) / 96
        assert mean == pytest.approx(report.metrics["baselines"]["popularity"]["ndcg@10"])
    assert [entry["num_users"] for entry in slices["item_age"]] == [1, 6, 23, 60, 6]


def test_slices_follow_warm_and_cold_targets(cold_report: Report) -> None:
    slices = cold_report.metrics["slices"]
    assert {entry["group"]: entry["num_users"] for entry in slices["warm_cold"]} == {"warm": 1, "cold": 2, "other": 2}
    values = {entry["group"]: entry["systems"]["lynx"]["recall@3"]["value"] for entry in slices["warm_cold"]}
    assert values["cold"] == cold_report.metrics["test_cold"]["recall@3"]
    assert {entry["group"] for entry in slices["popularity"]} > {"cold"}
    assert "item_age" not in slices and "no timestamps" in cold_report.metrics["policy"]["slices"]
    assert "diversity@3" not in cold_report.metrics["lists"]["lynx"]


def test_users_without_a_test_target_are_counted_with_the_reason() -> None:
    rows = [np.array([0, 1, 2, 0]), np.array([3, 4, 5]), np.array([1, 2]), np.array([4])]
    split = LeaveOneOut(Sequences.from_lists(np.arange(4), rows))
    popularity, config = Popularity.fit(split.train(), 6), EvaluationConfig(ks=(2,), bootstrap=10)
    metrics = evaluate_run({"lynx": popularity}, split, np.arange(6), config).metrics
    assert metrics["users"] == {"total": 4, "left_out": {"fewer than three interactions": 2}, "validation": 2, "test": 2}
    assert "in the history; left out of 4: 2 with fewer than three interactions" in printed(metrics)


def test_metrics_of_earlier_versions_are_printed(report: Report) -> None:
    old = {name: value for name, value in report.metrics.items() if name not in ("lists", "slices", "users")}
    text = printed(old)
    assert "lists of" not in text and "96 evaluated, 0 with a test item that is already in the history\n" in text


def test_a_narrow_console_cuts_no_number(report: Report) -> None:
    assert max(map(len, printed(report.metrics).split("candidates")[0].splitlines())) <= 80
    assert printed(report.metrics, width=30) == printed(report.metrics)


def test_a_cached_run_prints_the_same(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    assert printed(json.loads((tmp_path / "metrics.json").read_text())) == printed(report.metrics)
