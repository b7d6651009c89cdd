"""Names of LIGER's logs for metrics of a run."""

from __future__ import annotations

from typing import Any

from felid.evaluation.names import liger_names


def values(start: int) -> dict[str, float]:
    return {
        "recall@5": start + 0.1,
        "ndcg@5": start + 0.2,
        "mrr@5": 9.0,
        "recall@10": start + 0.3,
        "num_users": 7,
        "coverage@10": 9.0,
    }


def run(groups: tuple[str, ...] = ("", "_warm", "_cold")) -> dict[str, Any]:
    """A run of five systems; each part, group and system has numbers of its own."""
    systems = {
        "liger": {"mode": "hybrid", "candidates": 20, "pool": "cold"},
        "liger, generative": {"mode": "generative"},
        "liger, dense": {"mode": "dense"},
        "liger, 40 candidates": {"mode": "hybrid", "candidates": 40, "pool": "cold"},
        "liger, oracle pool": {"mode": "hybrid", "candidates": 20, "pool": "oracle"},
        "liger, fused": {"mode": "fused"},
    }
    _, *others = systems
    metrics: dict[str, Any] = {"system": "liger", "systems": systems}
    for number, part in enumerate(("validation", "test")):
        for place, group in enumerate(groups):
            start = 1000 * number + 100 * place
            which = "variants" if part == "test" else "variants_validation"
            metrics[f"{part}{group}"] = values(start)
            metrics[f"{which}{group}"] = {name: values(start + turn) for turn, name in enumerate(others, 1)}
    return metrics


def test_every_metric_has_its_published_name() -> None:
    found = liger_names(run())
    assert found["uni_in_test/Gen20_Recall@10"] == 1100.3
    assert found["uni_in_test/Recall@10"] == 1100.3, "the plain name is that of the headline"
    assert found["uni_cold_test/Gen40_NDCG@5"] == 1203.2
    assert found["genret_in_test/Recall@10"] == 1101.3
    assert found["genret_cold_val/Recall@5"] == 201.1
    assert found["dense_in_val/NDCG@5"] == 102.2
    assert found["uni_cold_test/Oracle_Gen20_Recall@10"] == 1204.3
    prefixes = {
        f"{way}_{users}_{part}" for way in ("genret", "dense", "uni") for users in ("in", "cold") for part in ("val", "test")
    }
    assert {name.partition("/")[0] for name in found} == prefixes
    shown = {"Recall@5", "NDCG@5", "Recall@10"}
    assert {name.partition("/")[2] for name in found if not name.startswith("uni")} == shown
    of_uni = {f"{mark}{metric}" for mark in ("", "Gen20_", "Gen40_", "Oracle_Gen20_") for metric in shown}
    assert {name.partition("/")[2] for name in found if name.startswith("uni")} == of_uni


def test_without_cold_targets_all_users_are_in() -> None:
    found = liger_names(run(("",)))
    assert found["uni_in_test/Gen20_Recall@10"] == 1000.3
    assert not [name for name in found if "_cold_" in name]


def test_a_group_that_nobody_belongs_to_has_no_metrics() -> None:
    """All targets of the test part are cold: there are none of `in`."""
    metrics = run()
    del metrics["test_warm"], metrics["variants_warm"]
    assert not [name for name in liger_names(metrics) if "_in_test" in name]


def test_runs_of_other_models_have_the_names_that_fit() -> None:
    metrics = {"system": "tiger", "systems": {"tiger": {"mode": "generative"}}, "test": values(0), "validation": values(1)}
    assert liger_names(metrics)["genret_in_test/Recall@10"] == 0.3
    assert all(name.startswith("genret_in_") for name in liger_names(metrics))
