"""For whom, and for which targets, the systems are good: grouped bars with intervals."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go

from felid.evaluation.tables import FEW
from felid.report.blocks import Block, Cell, Details, Figures, Prose, Row, Section, Table
from felid.report.drawing import REST, Figure, axes, colour_of, figure
from felid.report.runs.entrants import Entrant, users

HEADINGS = {
    "popularity": "By how popular the target is",
    "history_length": "By the length of the history",
    "item_age": "By the age of the target",
    "warm_cold": "Warm and cold targets",
}
METRICS = ("recall", "ndcg")
BESIDE = 0.5
"""Opacity of the bars of baselines."""
LABEL_WIDTH = 8
"""Most characters of a line under a group of bars, but for longer words; the number of users of few groups takes one line."""
MANY = 5
"""Groups from which on their labels are smaller and narrower, so that they fit side by side on a phone."""
Groups = Sequence[Mapping[str, Any]]


def slices_section(entrants: Sequence[Entrant], k: int) -> Section | None:
    """The slices of the first run's evaluation; None where it has none. Other runs stand beside on equal groups."""
    first = entrants[0].run
    found: Mapping[str, Groups] = first.metrics.get("slices", {})
    names = [name for name, groups in found.items() if groups]
    if not names:
        return None
    shown = {name: _beside(name, found[name], entrants) for name in names}
    figures = [_figure(name, found[name], shown[name], k) for name in names]
    numbers = [_table(name, found[name], shown[name]) for name in names]
    said = (
        "Bars are means, the lines on them intervals over the users of a group. Groups differ in how hard they are: compare "
        "systems within a group, not groups."
    )
    small = [f"{group['group']} ({group['num_users']})" for name in names for group in found[name] if group["num_users"] < FEW]
    note = [f"Little can be said of groups of fewer than {FEW} users: {', '.join(dict.fromkeys(small))}."] if small else []
    blocks: list[Block] = [Prose([said, *note], soft=True), Figures(figures), Details("The numbers of these figures", numbers)]
    return Section("slices", "Slices", "Slices", blocks)


def _beside(name: str, groups: Groups, entrants: Sequence[Entrant]) -> list[tuple[Entrant, Groups]]:
    """The systems that have this slice over the same groups of as many users."""
    shape = [(group["group"], group["num_users"]) for group in groups]
    found = [(entrant, entrant.run.metrics.get("slices", {}).get(name, [])) for entrant in entrants]
    return [
        (entrant, own)
        for entrant, own in found
        if [(group["group"], group["num_users"]) for group in own] == shape
        and all(entrant.system in group["systems"] for group in own)
    ]


def _figure(name: str, groups: Groups, shown: Sequence[tuple[Entrant, Groups]], k: int) -> Figure:
    labels = [_label(group, few=len(groups) < MANY) for group in groups]
    metric = f"recall@{k}"
    traces = []
    for place, (entrant, own) in enumerate(shown):
        cells = [group["systems"][entrant.system].get(metric) for group in own]
        traces.append(
            go.Bar(
                x=labels,
                y=[cell and cell["value"] for cell in cells],
                name=html.escape(entrant.name),
                marker={"color": colour_of(place), "opacity": BESIDE if entrant.is_baseline else 1},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [cell and cell["high"] - cell["value"] for cell in cells],
                    "arrayminus": [cell and cell["value"] - cell["low"] for cell in cells],
                    "color": REST,
                    "thickness": 1.2,
                    "width": 2,
                },
                hovertemplate="%{y:.4f}<extra>%{fullData.name}</extra>",
            )
        )
    layout = axes("", metric)
    layout["xaxis"] |= {"type": "category", "tickangle": 0, "tickfont": {"size": 10 if len(labels) < MANY else 9}}
    meanings = [f"{group['group']}: {group['meaning']}" for group in groups if group.get("meaning")]
    text = "; ".join(meanings) if len({group.get("meaning") for group in groups}) > 1 else str(groups[0].get("meaning", ""))
    return figure(f"slice-{_plain(name)}", HEADINGS.get(name, name), text[:1].upper() + text[1:], traces, layout)


def _label(group: Mapping[str, Any], *, few: bool) -> str:
    """The name of a group in lines that fit beside others on a phone, and its users."""
    count = users(group["num_users"])
    lines = [*wrap(str(group["group"]), LABEL_WIDTH), *([count] if few else wrap(count, LABEL_WIDTH))]
    return "<br>".join(map(html.escape, lines))


def _table(name: str, groups: Groups, shown: Sequence[tuple[Entrant, Groups]]) -> Table:
    metrics = list(dict.fromkeys(m for _, own in shown for group in own for one in group["systems"].values() for m in one))
    columns = [metric for metric in metrics if metric.startswith(METRICS)]
    rows: list[tuple[str, Sequence[Row]]] = []
    for place, group in enumerate(groups):
        cells: list[Row] = [
            [entrant.name, *(_cell(own[place]["systems"][entrant.system].get(metric)) for metric in columns)]
            for entrant, own in shown
        ]
        rows.append((f"{group['group']} ({users(group['num_users'])})", cells))
    return Table(f"slice-{_plain(name)}", f"{HEADINGS.get(name, name)}, with intervals.", ["system", *columns], rows)


def _cell(found: Mapping[str, float] | None) -> str | Cell:
    return "" if found is None else Cell(f"{found['value']:.4f}", f"{found['low']:.4f} to {found['high']:.4f}")


def _plain(name: str) -> str:
    """A name as part of an HTML id."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
