"""One table of the metrics of several runs: data sets and settings in rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from felid.config import as_tree
from felid.evaluation.tables import systems_of
from felid.layouts.folder import write_lines
from felid.layouts.source import RunSource

HEAD = ("run", "data", "IDs", "split", "held out", "system", "users")
IN_COLUMNS = {"dataset.kind", "dataset.name", "quantizer.kind", "quantizer.sizes", "split.kind", "holdout.rule"}
"""Settings that have a column of their own."""
DECIDING = {"exclude_seen", "candidates"}
"""Settings of the evaluation that its metrics depend on; the others say what is reported."""
GROUPS = {"": "", "_cold": ", cold targets"}
"""Groups of users in a `metrics.json`, and how their rows are marked."""


def write_comparison(path: Path, runs: Sequence[RunSource]) -> None:
    """Write a Markdown table of the test metrics of all evaluated runs, their baselines among them; no file without any.

    Below it stand the settings that not all of the runs share, but for those that have a column.
    """
    evaluated = [run for run in runs if run.metrics is not None]
    if not evaluated:
        return
    rows = [row for run in evaluated for row in _rows(run)]
    names = list(
        dict.fromkeys(name for _, values in rows for name in values if name == "loss" or ("@" in name and "coverage" not in name))
    )
    lines = ["| " + " | ".join((*HEAD, *names)) + " |", "|" + "---|" * (len(HEAD) + len(names))]
    for labels, values in rows:
        cells = [f"{values[name]:.4f}" if name in values else "" for name in names]
        lines.append("| " + " | ".join((*labels, *cells)) + " |")
    note = "Test part, seen items as the run's headline policy has them; one seed each; intervals: metrics.json."
    found = zip(evaluated, map(_written, different([_settings(run) for run in evaluated])), strict=True)
    settings = [f"- {run.root.name}: {shown}" for run, shown in found if shown]
    below = ["", "Settings that differ:", "", *settings] if settings else []
    write_lines(path, ["# Comparison", "", *lines, "", note, *below])


def different(trees: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each tree the values that not all trees share, by dotted path; of sections of different kinds the kind alone."""
    found: list[dict[str, Any]] = [{} for _ in trees]
    for key in dict.fromkeys(key for tree in trees for key in tree):
        values = [tree.get(key) for tree in trees]
        sections = [value for value in values if isinstance(value, Mapping)]
        if len(sections) == len(trees) and len({section.get("kind") for section in sections}) == 1:
            for own, inner in zip(found, different(sections), strict=True):
                own.update({f"{key}.{name}": value for name, value in inner.items()})
        elif any(value != values[0] for value in values):
            for own, tree in zip(found, trees, strict=True):
                own.update(_value(key, tree[key]) if key in tree else {})
    return found


def _value(key: str, value: Any) -> dict[str, Any]:
    return {f"{key}.kind": value.get("kind")} if isinstance(value, Mapping) else {key: value}


def _settings(run: RunSource) -> dict[str, Any]:
    """All settings that a run was made with, and those of the evaluation that decide its metrics."""
    settings = {name: section for stage in run.stages for name, section in run.settings(stage).items()}
    judged = {name: value for name, value in settings.pop("evaluation", {}).items() if name in DECIDING}
    return {**settings, "evaluation": judged, "split": as_tree(run.rule), "holdout": as_tree(run.holdout.effective)}


def _written(settings: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in settings.items() if name not in IN_COLUMNS}
    return ", ".join(f"`{name}={value if isinstance(value, str) else json.dumps(value)}`" for name, value in shown.items())


def _rows(run: RunSource) -> list[tuple[tuple[str, ...], Mapping[str, float]]]:
    metrics = run.metrics
    assert metrics is not None
    quantizer = run.settings("tokenize")["quantizer"]
    levels = "x".join(map(str, quantizer["sizes"])) if "sizes" in quantizer else ""
    labels = (run.root.name, run.dataset_name, f"{quantizer['kind']} {levels}".strip(), run.rule.kind, run.holdout.rule)
    return [
        ((*labels, f"{name}{mark}", str(values["num_users"])), values)
        for suffix, mark in GROUPS.items()
        for name, values in systems_of(metrics, suffix).items()
    ]
