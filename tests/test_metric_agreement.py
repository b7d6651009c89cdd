"""Metrics held against libraries that others measure with."""

from __future__ import annotations

import json
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from felid import metrics

NAMES = ("recall", "ndcg", "mrr")
LENGTH, NUM_ITEMS = 20, 30


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """(U,) targets and (U, 20) lists of 30 items."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    users = draw(st.integers(1, 30))
    lists = rng.permuted(np.tile(np.arange(NUM_ITEMS), (users, 1)), axis=1)[:, :LENGTH]
    return rng.integers(0, NUM_ITEMS, users), lists


def per_user(targets: np.ndarray, lists: np.ndarray, k: int) -> dict[str, np.ndarray]:
    ranks = metrics.ranks_of(targets, lists)
    functions = (metrics.recall_per_user, metrics.ndcg_per_user, metrics.mrr_per_user)
    return {name: function(ranks, k) for name, function in zip(NAMES, functions, strict=True)}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rankings(), st.integers(1, LENGTH + 5))
def test_metrics_are_those_of_ir_measures(ranking: tuple[np.ndarray, np.ndarray], k: int) -> None:
    targets, lists = ranking
    qrels = [ir_measures.Qrel(f"{user:02}", str(target), 1) for user, target in enumerate(targets)]
    run = [
        ir_measures.ScoredDoc(f"{user:02}", str(item), float(-place))
        for user, items in enumerate(lists)
        for place, item in enumerate(items)
    ]
    measures = {ir_measures.R @ k: "recall", ir_measures.nDCG @ k: "ndcg", ir_measures.RR @ k: "mrr"}
    theirs: dict[str, dict[str, float]] = {name: {} for name in NAMES}
    for found in ir_measures.iter_calc(list(measures), qrels, run):
        theirs[measures[found.measure]][found.query_id] = found.value
    for name, values in per_user(targets, lists, k).items():
        assert len(theirs[name]) == len(targets)
        assert values == pytest.approx([value for _, value in sorted(theirs[name].items())], abs=1e-9)


@pytest.mark.slow
def test_metrics_are_those_of_ranx() -> None:
    """Numba compiles them, which takes a while."""
    import ranx

    scores = np.arange(LENGTH, 0, -1, dtype=np.float64)

    @settings(max_examples=100, deadline=None)
    @given(rankings(), st.integers(1, LENGTH))
    def check(ranking: tuple[np.ndarray, np.ndarray], k: int) -> None:
        targets, lists = ranking
        qrels = np.stack([targets, np.ones(len(targets))], axis=1)[:, None]
        run = np.stack([lists, np.broadcast_to(scores, lists.shape)], axis=2)
        theirs = ranx.evaluate(qrels, run, [f"{name}@{k}" for name in NAMES], return_mean=False)
        for name, values in per_user(targets, lists, k).items():
            assert values == pytest.approx(theirs[f"{name}@{k}"], abs=1e-9)

    check()


@pytest.mark.slow
def test_the_benchmark_measures_contestants_that_agree_and_stops_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import benchmarks.metrics as benchmark

    options = ["--users", "250", "--ranks", "15", "--block", "100", "--rounds", "1", "--threads", "1", "--out", str(tmp_path)]
    benchmark.main(options)
    rows = json.loads((tmp_path / "metric-code.json").read_text())["rows"]
    assert rows["ranx"]["largest_difference"] <= 1e-9
    assert {name: row["ratio"]["median"] > 0 for name, row in rows.items()} == dict.fromkeys(
        ("felid", "ranx", "torchmetrics"), True
    )
    wrong = {**benchmark.CONTESTANTS, "ranx": (lambda block, k: dict.fromkeys(NAMES, 0.5), 1e-9, "")}
    monkeypatch.setattr(benchmark, "CONTESTANTS", wrong)
    with pytest.raises(AssertionError, match="ranx finds"):
        benchmark.main(options)
