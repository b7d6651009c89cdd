"""The README of a record, made of its content alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from felid.evaluation.audit.finding import check_lines

Record = Mapping[str, Any]
METRICS = ("recall", "ndcg")
GROUPS = {"all": "Test", "warm": "Test, targets with training interactions", "cold": "Test, new items"}


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table, a line each."""
    return [f"| {' | '.join(map(str, line))} |" for line in (header, ["---"] * len(header), *rows)]


def cell(value: Mapping[str, Any]) -> str:
    """A mean, and of several runs that differ their extent."""
    runs = [run for run in value.get("runs", []) if run is not None]
    extent = f" ({min(runs):.4f}-{max(runs):.4f})" if runs and min(runs) != max(runs) else ""
    return f"{value['mean']:.4f}{extent}"


def interval(value: Mapping[str, Any]) -> str:
    """`[0.1015, 0.1092]`; "" where it is not known."""
    return "" if value.get("low") is None else f"[{value['low']:.4f}, {value['high']:.4f}]"


def page(record: Record) -> str:
    """Markdown: how it was made, the figures on test under both policies, what they mean."""
    lines = [f"# {record['recipe'].get('description') or record['name']}", "", "Made by `felid record`; do not edit.", ""]
    lines += [f"- note: {record['note']}"] if "note" in record else []
    lines += [f"- {line}" for line in (*_how(record), _data(record))]
    for group, title in GROUPS.items():
        rows = _rows(record, group)
        if rows:
            names = _metrics(record)
            last = names[-len(METRICS) :]
            level = f"{record['level'] * 100:g} % CI"
            lines += ["", f"## {title}", "", *markdown(("system", "seen", *names, *(f"{name}, {level}" for name in last)), rows)]
    lines += [
        "",
        "Means over the runs, in brackets their extent; intervals: bootstrap over users.",
        "",
        "## What the figures mean",
        "",
    ]
    lines += [f"- {topic}: {text}" for topic, text in record["policy"].items()]
    return "\n".join(lines) + "\n"


def _how(record: Record) -> list[str]:
    found = []
    for run in record["runs"]:
        what, trained, made = f"seed {run['seed']}: ", run.get("trained_with"), run.get("evaluated_with")
        if made is None:
            found.append(f"{what}made before runs told by which command and code")
            continue
        if trained is not None and (trained["command"], trained["commit"]) != (made["command"], made["commit"]):
            found += [f"{what}trained by {_by(trained)}", f"{what}evaluated by {_by(made)}"]
        else:
            found.append(f"{what}{_by(made)}")
    found += [f"seed {run['seed']}: {line}" for run in record["runs"] for line in check_lines(run)]
    minutes = [f"seed {run['seed']}: {_listed(run['wall_minutes'])}" for run in record["runs"] if run.get("wall_minutes")]
    if minutes:
        found.append(f"wall minutes: {'; '.join(minutes)}")
    cpu = [f"seed {run['seed']}: {_listed(run['cpu_minutes'])}" for run in record["runs"] if run.get("cpu_minutes")]
    if cpu:
        found.append(f"CPU minutes: {'; '.join(cpu)}")
    memory = [max(run["peak_rss_mib"].values()) for run in record["runs"] if run.get("peak_rss_mib")]
    if memory:
        found.append(f"peak memory: {max(memory):,} MiB")
    versions = record["runs"][0].get("versions") or {}
    if versions:
        found.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return found


def _by(made: Mapping[str, Any]) -> str:
    """Command, code and machine of a process."""
    commit = made["commit"] or "unknown"
    changed = " with changes" if made["changed"] else ""
    threads = f", {made['threads']} thread{'s' * (made['threads'] != 1)}" if made["threads"] else ""
    load = f", load {made['load']}" if made.get("load") is not None else ""
    return f"`{made['command']}`, commit {commit}{changed}, {made['cpu']}{threads}{load}, {made['when'][:10]}"


def _listed(minutes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in minutes.items())


def _data(record: Record) -> str:
    data = record["data"]
    counts = data.get("statistics") or {}
    text = f"data: {data['name']}, {record['num_users']:,} users evaluated, {record['num_items']:,} items"
    if "num_interactions" in counts:
        text += f", {counts['num_interactions']:,} interactions of {counts['num_users']:,} users"
    return text + (f"; fingerprint {data['digest'][:12]}" if data.get("digest") else "")


def _metrics(record: Record) -> list[str]:
    of_test = next(iter(record["figures"].values()))["test"]["all"]
    policy = next(name for name in of_test if name.startswith("seen_"))
    return [name for name in of_test[policy] if name.startswith(METRICS)]


def _rows(record: Record, group: str) -> list[list[str]]:
    rows, names = [], _metrics(record)
    for policy in ("seen_removed", "seen_kept"):
        for system, figures in record["figures"].items():
            values = figures["test"].get(group, {}).get(policy)
            if values is not None:
                cells = [cell(values[name]) for name in names]
                last = [interval(values[name]) for name in names[-len(METRICS) :]]
                rows.append([system, policy.removeprefix("seen_"), *cells, *last])
    return rows
