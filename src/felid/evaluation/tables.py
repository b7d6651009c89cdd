"""The console view of `metrics.json`: one table, the policy under it, the differences with their intervals.

Everything is read from the metrics, so a cached run prints what the first run printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from felid.evaluation.statistics import Difference

Metrics = Mapping[str, Any]
GROUPS = ("_warm", "_cold")
SHOWN = ("recall@", "ndcg@")


def metrics_table(metrics: Metrics, title: str | None = None) -> Table:
    """Systems x metrics on the test part: headline policy, its warm and cold targets where some are cold, then the other policy.

    Each block ends with the first system's validation.
    """
    shown = [name for name in metrics["test"] if name.startswith(SHOWN)]
    shown.append([name for name in metrics["test"] if name.startswith("coverage@")][-1])
    grouped = any(f"test{group}" in metrics for group in GROUPS)
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("system", "seen", "targets") if grouped else ("system", "seen"):
        table.add_column(name, no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for group, policy in [("", ""), *((group, "") for group in GROUPS), ("", "_seen_kept"), ("", "_seen_removed")]:
        if f"test{group}{policy}" not in metrics:
            continue
        table.add_section()
        for label, values in _block(metrics, f"{group}{policy}").items():
            of = [group.removeprefix("_") or "all"] if grouped else []
            cells = (f"{values[name]:.4f}" if name in values else "" for name in shown)
            table.add_row(label, _seen(metrics, policy), *of, *cells)
    return table


def policy_lines(metrics: Metrics) -> list[str]:
    """What the numbers mean, one line per topic."""
    lines = [f"{topic}: {text}" for topic, text in metrics["policy"].items()]
    users = f"users: {metrics['num_users']:,} evaluated"
    return [*lines, f"{users}, {metrics['test']['users_with_seen_target']:,} with a test item that is already in the history"]


def difference_lines(metrics: Metrics) -> list[str]:
    """The first system against each other one on test, all and cold targets, headline policy, largest k: what may be claimed."""
    lines = []
    for suffix, what in (("", "test"), ("_cold", "test, cold targets,")):
        for other, cells in metrics.get(f"differences{suffix}", {}).items():
            largest = max(int(name.split("@")[1]) for name in cells)
            for name in (n for n in cells if n.startswith(SHOWN) and n.endswith(f"@{largest}")):
                cell = cells[name]
                difference = Difference(cell["difference"], cell["low"], cell["high"], cell["level"], cell["num_users"])
                lines.append(difference.sentence(metrics["system"], other, f"{what} {name}"))
    return lines


def loss_line(metrics: Metrics) -> str | None:
    """`Test | loss 3.1594 | R@10 0.0220 | R@100 0.0560`, under the headline policy; None for metrics without a loss."""
    test = metrics["test"]
    if "loss" not in test:
        return None
    recalls = [f"R@{name.removeprefix('recall@')} {value:.4f}" for name, value in test.items() if name.startswith("recall@")]
    return " | ".join(["Test", f"loss {test['loss']:.4f}", *recalls])


def print_metrics(metrics: Metrics, console: Console, title: str | None = None) -> None:
    """Print table, policy and differences, and the line with the loss where there is one."""
    table = metrics_table(metrics, title)
    unlimited = console.options.update(width=1000)
    table.width = Measurement.get(console, unlimited, table).maximum  # a console too narrow wraps the lines and cuts no number
    console.print(table, crop=False)
    for line in (*policy_lines(metrics), *difference_lines(metrics)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if (last := loss_line(metrics)) is not None:
        console.print(last, markup=False, highlight=False, soft_wrap=True)


def _block(metrics: Metrics, suffix: str) -> dict[str, Metrics]:
    name = metrics["system"]
    systems = {name: metrics[f"test{suffix}"], **metrics[f"variants{suffix}"], **metrics[f"baselines{suffix}"]}
    validation = metrics.get(f"validation{suffix}")  # a group may have no target there
    return systems if validation is None else {**systems, f"{name}, validation": validation}


def _seen(metrics: Metrics, suffix: str) -> str:
    other = {"_seen_kept": "kept", "_seen_removed": "removed"}
    if suffix:
        return other[suffix]
    return "removed" if "test_seen_kept" in metrics else "kept"
