"""The figures of a tokeniser report."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from felid.quantize.health import HealthReport, LevelHealth
from felid.report.drawing import PALETTE, POINTS, REST, Figure, axes, bar, figure, line
from felid.report.subject import Subject
from felid.report.tree import Node


def all_figures(report: HealthReport, nodes: Sequence[Node], subject: Subject) -> list[Figure]:
    """Every figure for which there are numbers."""
    found = [tree_figure(report, nodes), usage_figure(report, subject)]
    if report.neighbours:
        found.append(_prefix_figure(report))
    if report.categories:
        found.append(_category_figure(report))
    if report.stability:
        found.append(_stability_figure(report))
    return found + _curves(subject.log)


def tree_figure(report: HealthReport, nodes: Sequence[Node]) -> Figure:
    """The treemap; with categories the colour is the commonest one."""
    common = Counter[str]()
    for node in nodes:
        if node.category and "-" not in node.name:
            common[node.category] += node.count
    top = [name for name, _ in common.most_common(len(PALETTE))]
    colours = dict(zip(top, PALETTE, strict=False))
    trace = go.Treemap(
        ids=[node.name for node in nodes],
        labels=[html.escape(node.label) for node in nodes],
        parents=[node.parent for node in nodes],
        values=[node.count for node in nodes],
        customdata=[node.name for node in nodes],
        hovertext=[_hover(node, report.category) for node in nodes],
        hovertemplate="%{hovertext}<extra></extra>",
        textinfo="label+value",
        branchvalues="total",
        maxdepth=2,
        pathbar={"visible": True, "thickness": 26},
        tiling={"pad": 1},
        textfont={"color": "#ffffff"},
        marker={"line": {"width": 0}, **({"colors": [_colour(node, colours) for node in nodes]} if top else {})},
    )
    legend = [
        go.Scatter(
            x=[None], y=[None], mode="markers", name=html.escape(name), marker={"size": 11, "symbol": "square", "color": colour}
        )
        for name, colour in [*colours.items(), *([("others", REST)] if len(common) > len(top) else [])]
    ]
    layout: dict[str, Any] = {
        "margin": {"l": 0, "r": 0, "t": 30, "b": 0},
        "height": 560,
        "treemapcolorway": list(PALETTE),
        "showlegend": bool(legend),
        "legend": {"orientation": "h", "y": -0.02, "yanchor": "top", "x": 0, "itemclick": False, "itemdoubleclick": False},
        "xaxis": {"visible": False, "fixedrange": True},
        "yaxis": {"visible": False, "fixedrange": True},
    }
    moved = " These are the final IDs, after items of equal codes moved to free ones." if report.changed else ""
    coloured = f" The colour is the commonest value of {report.category}." if top else ""
    text = (
        "Each box is a code of the first level, its area the number of items. Click or tap to go down, the bar on top to go up."
    )
    return figure("tree", "The tree of codes", text + moved + coloured, [trace, *legend], layout)


def _colour(node: Node, colours: Mapping[str, str]) -> str:
    if node.parent == "":
        return REST
    return colours.get(node.category, REST)


def _hover(node: Node, category: str) -> str:
    lines = [f"<b>{html.escape(node.name)}</b>: {node.count:,} item{'' if node.count == 1 else 's'}"]
    if node.is_rest:
        lines = [f"<b>{node.count:,} items</b> in smaller groups; the box below the figure finds them"]
    if node.category and category:
        lines.append(f"{100 * node.share:.0f} % {html.escape(node.category)}")
    return "<br>".join([*lines, *(f"· {html.escape(title)}" for title in node.examples)])


def usage_figure(report: HealthReport, subject: Subject) -> Figure:
    """Items per code, codes sorted, relative to even use; dotted where resolving collisions changed it."""
    lines = [_usage(subject.learned[:, level], health, level) for level, health in enumerate(report.levels)]
    lines += [_usage(subject.codes[:, level], report.final[level], level, resolved=True) for level in report.changed]
    layout = axes("codes of a level, most used first (%)", "items per code / even use")
    layout["shapes"] = [
        {"type": "line", "x0": 0, "x1": 100, "y0": 1, "y1": 1, "line": {"dash": "dot", "width": 1.5, "color": REST}}
    ]
    text = "A flat line at 1 is even use; a line at 0 is unused codes; a peak on the left is many items in few codes."
    text += " Solid: as the quantiser gave them; dotted: after collisions were resolved." if report.changed else ""
    return figure("usage", "Use of the codes", text, lines, layout)


def _usage(column: NDArray[np.int32], health: LevelHealth, level: int, *, resolved: bool = False) -> go.Scatter:
    size = health.size
    counts = np.sort(np.bincount(column, minlength=size))[::-1] * size / len(column)
    places = np.unique(np.linspace(0, size - 1, num=min(size, POINTS)).astype(int))
    form = {"shape": "hvh" if size <= POINTS else "linear", **({"dash": "dot"} if resolved else {})}
    return go.Scatter(
        x=(100 * (places + 0.5) / size).round(2).tolist(),
        y=counts[places].round(3).tolist(),
        mode="lines",
        fill="tozeroy" if level == 0 and not resolved else "none",
        name=f"level {level}{', moved' if resolved else ''} ({health.used:,} of {size:,} used)",
        line={"color": PALETTE[level % len(PALETTE)], "width": 2.5, **form},
        hovertemplate="%{y:.2f} times even use<extra>%{fullData.name}</extra>",
    )


def _prefix_figure(report: HealthReport) -> Figure:
    found = report.neighbours
    assert found is not None
    names = _prefix_names(len(found.prefixes))
    bars = [
        bar(names, found.prefixes, f"nearest {found.k} by content", PALETTE[0]),
        bar(names, found.chance, "any two items", REST),
    ]
    asked = f"{found.num_sampled:,} items asked, {found.num_searched:,} searched"
    text = f"How many of an item's {found.k} nearest neighbours by content ({asked}) share its prefix."
    return figure("neighbours", "Neighbours that share a prefix", text, bars, axes("", "share of neighbours", percent=True))


def _category_figure(report: HealthReport) -> Figure:
    assert report.categories is not None
    names = _prefix_names(len(report.categories))
    bars = [
        bar(names, [one.purity for one in report.categories], "purity", PALETTE[0]),
        bar(names, [one.normalized for one in report.categories], "normalised mutual information", PALETTE[1]),
        bar(names, [one.adjusted for one in report.categories], "adjusted mutual information", PALETTE[2]),
    ]
    text = (
        "Purity and normalised mutual information rise with the number of groups by themselves; the adjusted one is 0 by chance."
    )
    return figure("categories", f"Prefixes and {report.category}", text, bars, axes("", "agreement", percent=True))


def _stability_figure(report: HealthReport) -> Figure:
    assert report.stability is not None
    names = _prefix_names(len(report.stability))
    bars = [
        bar(names, [one.normalized for one in report.stability], "normalised mutual information", PALETTE[1]),
        bar(names, [one.adjusted for one in report.stability], "adjusted mutual information", PALETTE[2]),
    ]
    text = "The same quantiser with the next seed, fitted on the same rows: do the same items fall together? 100 % = same groups."
    return figure("stability", "Agreement of two seeds", text, bars, axes("", "agreement", percent=True))


def _curves(log: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Learning curves of a quantiser that learns in epochs."""
    if not log:
        return []
    shown = [log[i] for i in np.unique(np.linspace(0, len(log) - 1, num=min(len(log), POINTS)).astype(int))]
    epochs = [record["epoch"] for record in shown]
    names = [
        name for name in ("loss", "reconstruction", "commitment", "alignment", "diversity") if any(r.get(name) for r in shown)
    ]
    losses = [line(epochs, [record.get(name) for record in shown], name, place) for place, name in enumerate(names)]
    found = [
        figure(
            "losses",
            "Learning curves",
            "Losses per epoch, logarithmic.",
            losses,
            {**axes("epoch", "loss"), "yaxis": {"type": "log", "dtick": "D2"}},
        )
    ]
    if "utilisation" in log[0]:
        levels = range(len(log[0]["utilisation"]))
        use = [line(epochs, [record["utilisation"][level] for record in shown], f"level {level}", level) for level in levels]
        text = "Share of a level's codes that items chose in the epoch. A falling line is collapse."
        found.append(
            figure("utilisation", "Use of the codes while learning", text, use, axes("epoch", "codes in use", percent=True))
        )
    return found


def _prefix_names(count: int) -> list[str]:
    return [f"first {length} codes" if length > 1 else "first code" for length in range(1, count + 1)]
