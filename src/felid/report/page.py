"""A tokeniser report as one HTML file that needs no network: plotly.js, figures and items are inside."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from felid.quantize.health import Collisions, HealthReport
from felid.report.figures import Figure
from felid.report.subject import Subject
from felid.report.tree import shortened
from felid.report.verdicts import Verdict, level_rows, summary

MAX_ITEMS = 40_000
"""Most items that the prefix box knows."""
TITLE_LENGTH = 100
"""Most characters of a title in the list of items."""
SIGNS = {"good": "✓ good", "watch": "! watch", "poor": "✗ poor"}


def render(subject: Subject, report: HealthReport, found: list[Verdict], figures: Sequence[Figure]) -> str:
    """The whole page. Everything that comes from the data is escaped for where it stands."""
    heading = f"{report.name}: {report.num_items:,} items"
    places = {
        "title": html.escape(f"{heading} · felid tokeniser report"),
        "heading": html.escape(heading),
        "summary": html.escape(summary(found)),
        "tiles": _tiles(report),
        "findings": "\n".join(_finding(one) for one in found),
        "placeholder": "-".join(map(str, subject.codes[len(subject.codes) // 2, :2].tolist())),
        "tree": "".join(_frame(figure) for figure in figures if figure.key == "tree"),
        "levels": _levels(report),
        "collisions": _collisions(report),
        "figures": "\n".join(_frame(figure) for figure in figures if figure.key != "tree"),
        "notes": "\n".join(f"<li>{html.escape(note)}</li>" for note in (*report.notes, *_item_note(subject))),
        "figure_data": _json([{"key": figure.key, **figure.content} for figure in figures]),
        "item_data": _json(_items(subject)),
        "style": _asset("tokenizer.css"),
        "script": _asset("tokenizer.js"),
        "plotly": get_plotlyjs(),
    }
    parts = _asset("tokenizer.html").split("{{")
    filled = [place.split("}}", 1) for place in parts[1:]]
    return parts[0] + "".join(places[name] + rest for name, rest in filled)


def _asset(name: str) -> str:
    return files("felid.report").joinpath("assets", name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """JSON that may stand in a script element: no character of it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _items(subject: Subject) -> dict[str, Any]:
    """What the prefix box knows: items in the order of their IDs."""
    rows = np.arange(len(subject.codes))
    if len(rows) > MAX_ITEMS:
        rows = np.random.default_rng(0).choice(rows, MAX_ITEMS, replace=False)
    rows = rows[np.lexsort(subject.codes[rows].T[::-1])]
    return {
        "total": len(subject.codes),
        "levels": subject.codes.shape[1],
        "codes": subject.codes[rows].ravel().tolist(),
        "ids": [str(item) for item in subject.item_ids[rows].tolist()],  # a browser rounds integers above 2**53
        "titles": [shortened(subject.titles[row], TITLE_LENGTH) for row in rows],
    }


def _item_note(subject: Subject) -> Iterable[str]:
    if len(subject.codes) > MAX_ITEMS:
        yield f"the box for prefixes knows {MAX_ITEMS:,} of {len(subject.codes):,} items, drawn at random; the figures count all"


def _tiles(report: HealthReport) -> str:
    levels = ", ".join(f"{level.size:,}" for level in report.final)
    collisions = report.before or report.after
    tiles = {"codes per level": levels, "items that share all learnt codes": f"{100 * collisions.rate:.1f} %"}
    if report.reconstruction_error:
        tiles["variance lost"] = f"{100 * report.reconstruction_error[-1]:.1f} %"
    if report.neighbours:
        tiles["neighbours with the same first code"] = f"{100 * report.neighbours.prefixes[0]:.0f} %"
    if report.transductive:
        tiles["fitted on all items"] = "transductive"
    return "\n".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in tiles.items())


def _finding(found: Verdict) -> str:
    remedy = f'<span class="remedy">{html.escape(found.remedy)}</span>' if found.remedy else ""
    sign = f'<span class="status">{SIGNS[found.status]}</span>'
    return f'<li class="{found.status}">{sign}{html.escape(found.text)}{remedy}</li>'


def _frame(figure: Figure) -> str:
    return (
        f'<figure><h2 id="{figure.key}-heading">{html.escape(figure.heading)}</h2>'
        f'<p class="caption">{html.escape(figure.caption)}</p><div class="plot"><div id="plot-{figure.key}"></div></div></figure>'
    )


def _levels(report: HealthReport) -> str:
    head = ("level", "codes", "used", "utilisation", "perplexity", "entropy (nats)", "of maximum", "largest code", "its items")
    names = [*head, *(["variance left"] if report.reconstruction_error else [])]
    rows = []
    for name, level, left in level_rows(report):
        use = f'<span class="meter"><i style="width:{100 * level.utilisation:.1f}%"></i></span>{100 * level.utilisation:.1f} %'
        cells = [
            name,
            f"{level.size:,}",
            f"{level.used:,}",
            use,
            f"{level.perplexity:,.1f}",
            f"{level.entropy:.2f}",
            f"{100 * level.entropy_share:.1f} %",
            f"{level.largest_code}",
            f"{100 * level.largest_share:.1f} %",
            *(["" if left is None else f"{100 * left:.1f} %"] if report.reconstruction_error else []),
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    header = "".join(f"<th>{name}</th>" for name in names)
    return f'<table id="levels-table"><thead><tr>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _collisions(report: HealthReport) -> str:
    def sentence(when: str, found: Collisions) -> str:
        shared = f"{100 * found.rate:.1f} % of the items share theirs" if found.rate else "none is shared"
        return f"<p>{when}: {found.num_ids:,} distinct IDs, {shared}; the largest group has {found.largest_group:,}.</p>"

    before = sentence("Before collisions are resolved", report.before) if report.before else ""
    return before + sentence("Final IDs", report.after)
