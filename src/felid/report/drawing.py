"""What all figures are drawn with; the page gives them the colours of its theme."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import plotly.graph_objects as go

PALETTE = ("#3573c4", "#bf651a", "#268a5e", "#b04a8e", "#7a5ec4", "#8f7518", "#2a8492", "#bf4d4d", "#64801c", "#96614a")
"""Enough for a model of three modes beside all baselines. Readable on light and dark grounds and under white text; neighbours
differ in lightness or hue also for the colour-blind."""
REST = "#757d88"
POINTS = 400
"""Most points of a line."""


@dataclass(frozen=True)
class Figure:
    """A figure of the page: key (also its HTML id), heading, how to read it, and plotly's data and layout."""

    kind: ClassVar[str] = "figure"
    key: str
    heading: str
    caption: str
    content: Mapping[str, Any]


def figure(key: str, heading: str, caption: str, traces: Sequence[object], layout: Mapping[str, Any]) -> Figure:
    """A figure of plotly's traces, as plain JSON: what is not finite is null."""
    made = go.Figure(list(traces), {"template": "none", **layout})
    return Figure(key, heading, caption, json.loads(made.to_json(engine="json")))


def axes(x: str, y: str, *, percent: bool = False) -> dict[str, Any]:
    """The layout of a figure with two axes, the legend above it."""
    return {
        "height": 340,
        "margin": {"l": 56, "r": 10, "t": 10, "b": 44},
        "xaxis": {"title": {"text": x, "font": {"size": 13}}, "fixedrange": True, "showgrid": False, "automargin": True},
        "yaxis": {
            "title": {"text": y, "font": {"size": 13}, "standoff": 8},
            "fixedrange": True,
            "automargin": True,
            "rangemode": "tozero",
            **({"tickformat": ".0%", "range": [0, 1.02]} if percent else {}),
        },
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
        "bargap": 0.25,
        "showlegend": True,
    }


def bar(names: Sequence[str], values: Sequence[float], name: str, colour: str) -> go.Bar:
    """Shares, a bar for each name; what plotly would read as markup in the series' own name is text."""
    return go.Bar(
        x=list(names),
        y=list(values),
        name=html.escape(name),
        marker={"color": colour},
        hovertemplate="%{y:.1%}<extra>%{fullData.name}</extra>",
    )


def line(x: Sequence[float], y: Sequence[float | None], name: str, place: int, *, dashed: bool = False) -> go.Scatter:
    """A line in the colour of its place; what plotly would read as markup in its name is text."""
    return go.Scatter(
        x=list(x),
        y=list(y),
        name=html.escape(name),
        mode="lines+markers" if len(x) < 3 else "lines",
        line={"color": colour_of(place), "width": 2.5, **({"dash": "dot"} if dashed else {})},
        hovertemplate="%{y:.4g}<extra>%{fullData.name}</extra>",
    )


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], place: int) -> go.Scatter:
    """The area between two lines, in the colour of its place; it is not in the legend."""
    return go.Scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=f"{colour_of(place)}33",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )


def colour_of(place: int) -> str:
    """Of a line or a group of bars."""
    return PALETTE[place % len(PALETTE)]
