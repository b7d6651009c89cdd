"""What the page of a tokeniser report shows, beside its figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from felid.quantize.health import Collisions, HealthReport
from felid.report.blocks import Bullets, Cell, Figures, Finding, Findings, Prose, Row, Table, Tiles
from felid.report.drawing import Figure
from felid.report.page import render
from felid.report.subject import Subject
from felid.report.tree import shortened
from felid.report.verdicts import Verdict, level_rows, summary

MAX_ITEMS = 40_000
"""Most items that the prefix box knows."""
TITLE_LENGTH = 100
"""Most characters of a title in the list of items."""
SIGNS = {"good": "✓ good", "watch": "! watch", "poor": "✗ poor"}


def tokenizer_page(subject: Subject, report: HealthReport, found: Sequence[Verdict], figures: Sequence[Figure]) -> str:
    """The whole page; the first figure is the tree."""
    tree, *others = figures
    return render(
        "tokenizer.html",
        figures,
        styles=("tokenizer.css",),
        scripts=("tokenizer.js",),
        title="tokeniser report",
        heading=f"{report.name}: {report.num_items:,} items",
        summary=summary(found),
        tiles=_tiles(report),
        findings=findings_of(found),
        placeholder="-".join(map(str, subject.codes[len(subject.codes) // 2, :2].tolist())),
        tree=tree,
        levels=(levels_table(report), collisions_of(report)),
        others=Figures(others),
        notes=Bullets("notes", (*report.notes, *_item_note(subject))),
        item_data=_items(subject),
    )


def findings_of(found: Sequence[Verdict], key: str = "findings") -> Findings:
    """Verdicts as a list of the page."""
    return Findings(key, [Finding(one.status, SIGNS[one.status], one.text, one.remedy) for one in found])


def levels_table(report: HealthReport, key: str = "levels") -> Table:
    """How each level is used."""
    head = ("level", "codes", "used", "utilisation", "perplexity", "entropy (nats)", "of maximum", "largest code", "its items")
    rows: list[Row] = []
    for name, level, left in level_rows(report):
        cells: list[str | Cell] = [
            name,
            f"{level.size:,}",
            f"{level.used:,}",
            Cell(f"{100 * level.utilisation:.1f} %", meter=level.utilisation),
            f"{level.perplexity:,.1f}",
            f"{level.entropy:.2f}",
            f"{100 * level.entropy_share:.1f} %",
            f"{level.largest_code}",
            f"{100 * level.largest_share:.1f} %",
            *(["" if left is None else f"{100 * left:.1f} %"] if report.reconstruction_error else []),
        ]
        rows.append(cells)
    return Table(
        key, "Use of the codes of each level.", [*head, *(["variance left"] if report.reconstruction_error else [])], [("", rows)]
    )


def collisions_of(report: HealthReport) -> Prose:
    """How many items share their IDs."""

    def sentence(when: str, found: Collisions) -> str:
        shared = f"{100 * found.rate:.1f} % of the items share theirs" if found.rate else "none is shared"
        return f"{when}: {found.num_ids:,} distinct IDs, {shared}; the largest group has {found.largest_group:,}."

    before = [sentence("Before collisions are resolved", report.before)] if report.before else []
    return Prose([*before, sentence("Final IDs", report.after)])


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


def _tiles(report: HealthReport) -> Tiles:
    levels = ", ".join(f"{level.size:,}" for level in report.final)
    collisions = report.before or report.after
    tiles: dict[str, str | Cell] = {
        "codes per level": levels,
        "items that share all learnt codes": f"{100 * collisions.rate:.1f} %",
    }
    if report.reconstruction_error:
        tiles["variance lost"] = f"{100 * report.reconstruction_error[-1]:.1f} %"
    if report.neighbours:
        tiles["neighbours with the same first code"] = f"{100 * report.neighbours.prefixes[0]:.0f} %"
    if report.transductive:
        tiles["fitted on all items"] = "transductive"
    return Tiles(tiles)
