"""One table of the metrics of several runs: data sets and settings in rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from felid.layouts.folder import write_lines
from felid.layouts.source import RunSource

HEAD = ("run", "data", "IDs", "split", "held out", "system", "users")


def write_comparison(path: Path, runs: Sequence[RunSource]) -> None:
    """Write a Markdown table of the test metrics of all evaluated runs, their baselines among them; no file without any."""
    rows = [row for run in runs for row in _rows(run)]
    if not rows:
        return
    names = list(
        dict.fromkeys(name for _, values in rows for name in values if name == "loss" or ("@" in name and "coverage" not in name))
    )
    lines = ["| " + " | ".join((*HEAD, *names)) + " |", "|" + "---|" * (len(HEAD) + len(names))]
    for labels, values in rows:
        cells = [f"{values[name]:.4f}" if name in values else "" for name in names]
        lines.append("| " + " | ".join((*labels, *cells)) + " |")
    note = "Test part, seen items as the run's headline policy has them; one seed each; intervals: metrics.json."
    write_lines(path, ["# Comparison", "", *lines, "", note])


def _rows(run: RunSource) -> list[tuple[tuple[str, ...], dict[str, float]]]:
    metrics = run.metrics
    if metrics is None:
        return []
    quantizer = run.settings("tokenize")["quantizer"]
    levels = "x".join(map(str, quantizer["sizes"])) if "sizes" in quantizer else ""
    labels = (run.root.name, run.dataset_name, f"{quantizer['kind']} {levels}".strip(), run.rule.kind, run.holdout.rule)
    systems = {metrics["system"]: metrics["test"], **metrics.get("variants", {}), **metrics["baselines"]}
    found: list[tuple[tuple[str, ...], dict[str, float]]]
    found = [((*labels, name, str(metrics["num_users"])), values) for name, values in systems.items()]
    if "test_cold" in metrics:
        found.append(((*labels, f"{metrics['system']}, cold targets", ""), metrics["test_cold"]))
    return found
