"""Metrics of a run under the names that LIGER's published code logs them by (Yang et al. 2024, arXiv:2411.18814)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METHODS = {"generative": "genret", "dense": "dense", "hybrid": "uni"}
"""Published names of ways to rank; others have none."""
PARTS = {"validation": "val", "test": "test"}
GROUPS = {"warm": "in", "cold": "cold"}
METRICS = {"recall": "Recall", "ndcg": "NDCG"}


def liger_names(metrics: Mapping[str, Any]) -> dict[str, float]:
    """`{genret|dense|uni}_{in|cold}_{val|test}/{Recall|NDCG}@k` of everything in a `metrics.json` that has such a name.

    `in` are users with a warm target, where a part has no cold ones all of its users. Metrics of `uni` carry the number of
    generated candidates (`uni_in_test/Gen20_Recall@10`); the plain name is that of the first such system. A pool that no system
    can know is marked: `uni_cold_test/Oracle_Gen20_Recall@10`.

    Args:
        metrics: as `felid.judging.judge` leaves them; under the headline policy.
    """
    found: dict[str, float] = {}
    for name, system in metrics["systems"].items():
        if system["mode"] not in METHODS:
            continue
        for part, short in PARTS.items():
            for group, label in GROUPS.items():
                prefix = f"{METHODS[system['mode']]}_{label}_{short}"
                for metric, value in _shown(_values(metrics, name, part, group)).items():
                    for key in _keys(system, metric):
                        found.setdefault(f"{prefix}/{key}", value)
    return found


def _values(metrics: Mapping[str, Any], name: str, part: str, group: str) -> Mapping[str, float]:
    """Metrics of a system on a group of a part; nothing where nobody belongs to it."""
    if f"{part}_cold" in metrics:
        suffix = f"_{group}"
    elif group == "cold":
        return {}
    else:
        suffix = ""
    if name == metrics["system"]:
        return dict(metrics.get(f"{part}{suffix}", {}))
    variants = "variants" if part == "test" else f"variants_{part}"
    return dict(metrics.get(f"{variants}{suffix}", {}).get(name, {}))


def _shown(values: Mapping[str, float]) -> dict[str, float]:
    """Recall and NDCG by their published names."""
    split = ((name.partition("@"), value) for name, value in values.items())
    return {f"{METRICS[metric]}@{k}": value for (metric, at, k), value in split if at and metric in METRICS}


def _keys(system: Mapping[str, Any], metric: str) -> tuple[str, ...]:
    """What a metric of a system is called."""
    if system["mode"] != "hybrid":
        return (metric,)
    numbered = f"Gen{system['candidates']}_{metric}"
    return (f"Oracle_{numbered}",) if system["pool"] == "oracle" else (numbered, metric)
