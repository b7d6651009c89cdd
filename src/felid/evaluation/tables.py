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

from felid.evaluation.audit.finding import check_lines
from felid.evaluation.statistics import Difference
from felid.evaluation.ties import tie_line

Metrics = Mapping[str, Any]
GROUPS = ("_warm", "_cold")
SHOWN = ("recall@", "ndcg@")
FEW = 30
"""Little can be said of fewer users."""
LISTS = {
    "gini": ("gini", ".4f"),
    "average_popularity": ("popularity", ",.1f"),
    "novelty": ("novelty", ".2f"),
    "diversity": ("diversity", ".4f"),
    "invalid": ("invalid", ".4f"),
    "empty": ("empty", ".4f"),
}
"""Statistics of lists in the console: what it calls them, and how it writes them."""


def metrics_table(metrics: Metrics, title: str | None = None) -> Table:
    """Systems x metrics on the test part: headline policy, its warm and cold targets where some are cold, then the other policy.

    Each block ends with the first system's validation.
    """
    shown = [name for name in metrics["test"] if name.startswith(SHOWN)]
    shown.append([name for name in metrics["test"] if name.startswith("coverage@")][-1])
    grouped = any(f"test{group}" in metrics for group in GROUPS)
    table = _table(("system", "seen", "targets") if grouped else ("system", "seen"), shown, title)
    for group, policy in [("", ""), *((group, "") for group in GROUPS), ("", "_seen_kept"), ("", "_seen_removed")]:
        if f"test{group}{policy}" not in metrics:
            continue
        table.add_section()
        for label, values in _block(metrics, f"{group}{policy}").items():
            of = [group.removeprefix("_") or "all"] if grouped else []
            cells = (f"{values[name]:.4f}" if name in values else "" for name in shown)
            table.add_row(label, _seen(metrics, policy), *of, *cells)
    return table


def lists_table(metrics: Metrics) -> Table | None:
    """Systems x statistics of their longest lists on the test part, headline policy; None for metrics without them."""
    lists: Mapping[str, Metrics] = metrics.get("lists", {})
    ends = {int(name.partition("@")[2]) for values in lists.values() for name in values}
    if not ends:
        return None
    found = {name: f"{name}@{max(ends)}" for name in LISTS}
    shown = [name for name in LISTS if any(found[name] in values for values in lists.values())]
    table = _table((f"lists of {max(ends)}",), [LISTS[name][0] for name in shown], None)
    for system, values in lists.items():
        table.add_row(system, *(f"{values[found[n]]:{LISTS[n][1]}}" if found[n] in values else "" for n in shown))
    return table


def policy_lines(metrics: Metrics) -> list[str]:
    """What the numbers mean, one line per topic."""
    lines = [f"{topic}: {text}" for topic, text in metrics["policy"].items()]
    evaluated = f"users: {metrics['num_users']:,} evaluated"
    seen = f"{metrics['test']['users_with_seen_target']:,} with a test item that is already in the history"
    return [*lines, "; ".join([f"{evaluated}, {seen}", *_other_users(metrics.get("users", {}))])]


def _other_users(users: Mapping[str, Any]) -> list[str]:
    """Who is left out, and why; nothing for metrics that do not say."""
    if not users:
        return []
    reasons = ", ".join(f"{count:,} with {reason}" for reason, count in users["left_out"].items())
    lines = [f"left out of {users['total']:,}: {reasons}" if reasons else "nobody left out"]
    if users.get("validation", users["test"]) != users["test"]:
        lines.append(f"{users['validation']:,} in the validation part")
    return lines


def difference_lines(metrics: Metrics) -> list[str]:
    """The first system against each other one on test, all and cold targets, headline policy, largest k: what may be claimed."""
    lines = []
    cold = metrics.get("test_cold", {}).get("num_users", 0)
    for suffix, what in (("", "test"), ("_cold", "test, cold targets,")):
        if suffix and cold < FEW:
            lines += [f"test, cold targets: {cold} user{'s' * (cold > 1)} with one, too few to claim anything"] if cold else []
            continue
        for other, cells in metrics.get(f"differences{suffix}", {}).items():
            largest = max(int(name.split("@")[1]) for name in cells)
            for name in (n for n in cells if n.startswith(SHOWN) and n.endswith(f"@{largest}")):
                cell = cells[name]
                difference = Difference(cell["difference"], cell["low"], cell["high"], cell["level"], cell["num_users"])
                lines.append(difference.sentence(metrics["system"], other, f"{what} {name}"))
    return lines


def aside_lines(metrics: Metrics) -> list[str]:
    """What searches miss of the exact lists at the largest k, ties, and the first system by semantic ID, where they are known."""
    told = []
    for name, error in metrics.get("search_error", {}).items():
        k = max(int(key.partition("@")[2]) for key in error if key.startswith("error@"))
        same = f"lists equal for {error[f'same_list@{k}']:.1%} of {error['users']:,} users"
        told.append(f"{name} with {error['num_beams']:,} beams misses {error[f'error@{k}']:.2%} of the exact first {k}, {same}")
    lines = [f"search error: {'; '.join(told)}"] if told else []
    lines += [] if (ties := tie_line(metrics)) is None else [ties]
    if (found := metrics.get("semantic_id_level", {}).get(metrics["system"])) is not None:
        shown = [name for name in found if name.startswith(SHOWN)]
        values = ", ".join(f"{name} {found[name]:.4f} ({metrics['test'][name]:.4f} by item)" for name in shown)
        lines.append(f"semantic-ID level, any item with the target's ID counts: {metrics['system']} {values}")
    return lines


def loss_line(metrics: Metrics) -> str | None:
    """`Test | loss 3.1594 | R@10 0.0220 | R@100 0.0560`, under the headline policy; None for metrics without a loss."""
    test = metrics["test"]
    if "loss" not in test:
        return None
    recalls = [f"R@{name.removeprefix('recall@')} {value:.4f}" for name, value in test.items() if name.startswith("recall@")]
    return " | ".join(["Test", f"loss {test['loss']:.4f}", *recalls])


def print_metrics(metrics: Metrics, console: Console, title: str | None = None) -> None:
    """Print tables, policy, checks and differences, and the line with the loss where there is one."""
    for table in (metrics_table(metrics, title), lists_table(metrics)):
        if table is not None:
            unlimited = console.options.update(width=1000)
            table.width = Measurement.get(console, unlimited, table).maximum  # a narrow console wraps lines and cuts no number
            console.print(table, crop=False)
    for line in (*policy_lines(metrics), *aside_lines(metrics), *check_lines(metrics), *difference_lines(metrics)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if (last := loss_line(metrics)) is not None:
        console.print(last, markup=False, highlight=False, soft_wrap=True)


def _table(texts: tuple[str, ...], numbers: list[str], title: str | None) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in texts:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def systems_of(metrics: Metrics, suffix: str = "") -> dict[str, Metrics]:
    """The test metrics of every system, the first one first; `suffix` is that of group and policy, such as `_cold_seen_kept`.

    Nothing where the run has no such group or policy.
    """
    if f"test{suffix}" not in metrics:
        return {}
    others = (metrics.get(f"{name}{suffix}", {}) for name in ("variants", "baselines"))
    return {metrics["system"]: metrics[f"test{suffix}"]} | {name: values for part in others for name, values in part.items()}


def _block(metrics: Metrics, suffix: str) -> dict[str, Metrics]:
    validation = metrics.get(f"validation{suffix}")  # a group may have no target there
    systems = systems_of(metrics, suffix)
    return systems if validation is None else {**systems, f"{metrics['system']}, validation": validation}


def _seen(metrics: Metrics, suffix: str) -> str:
    other = {"_seen_kept": "kept", "_seen_removed": "removed"}
    if suffix:
        return other[suffix]
    return "removed" if "test_seen_kept" in metrics else "kept"
