"""Cold start: how often a new item is found, and how much room new items get in the lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from felid.evaluation.tables import FEW, systems_of
from felid.report.blocks import Block, Cell, Prose, Row, Section, Table
from felid.report.runs.entrants import Entrant, length_of, users
from felid.report.runs.examples import Asked

SAMPLE = 500
"""Most users whose lists are counted."""
SEED = 0


def cold_section(entrants: Sequence[Entrant], asked: Sequence[Asked]) -> Section | None:
    """Warm and cold targets side by side; None where no run has a cold target.

    Args:
        entrants: the systems whose metrics are shown.
        asked: systems whose lists can be asked for; their lists are searched for cold items.
    """
    shown = [one for one in entrants if one.system in systems_of(one.run.metrics, "_cold")]
    if not shown:
        return None
    metrics = shown[0].run.metrics
    k = length_of(metrics)
    said = [metrics["policy"]["cold"]] if "cold" in metrics["policy"] else []
    count = metrics["test_cold"]["num_users"]
    few = [f"{users(count)} with a cold target: too few to say how well cold items are found."] if count < FEW else []
    blocks: list[Block] = [Prose([*said, *few], soft=True), _table(shown, k)]
    exposed = [row for one in asked if (row := _exposure(one, k)) is not None]
    if exposed:
        caption = (
            f"What items without training interactions get in the lists of {k}, of up to {SAMPLE} test users drawn with seed "
            f"{SEED}; their share of the catalogue and of the targets says what to hold it against."
        )
        head = ["system", "places of the lists", "of the catalogue", "of the targets", "users drawn"]
        blocks.append(Table("exposure", caption, head, [("", exposed)]))
    return Section("cold", "Cold start", "Cold start", blocks)


def _table(entrants: Sequence[Entrant], k: int) -> Table:
    rows: list[Row] = []
    for one in entrants:
        cells: list[str | Cell] = [one.name]
        for suffix in ("", "_warm", "_cold"):
            values = systems_of(one.run.metrics, suffix).get(one.system, {})
            found = one.run.metrics.get(f"intervals{suffix}", {}) if one.system == one.run.system else {}
            for name in (f"recall@{k}", f"ndcg@{k}"):
                text = f"{values[name]:.4f}" if name in values else ""
                cells.append(
                    Cell(text, f"{found[name]['low']:.4f} to {found[name]['high']:.4f}") if text and name in found else text
                )
        rows.append(cells)
    counts = [systems_of(entrants[0].run.metrics, suffix)[entrants[0].system]["num_users"] for suffix in ("", "_warm", "_cold")]
    head = ["system", *(f"{name}@{k}, {who}" for who in ("all", "warm", "cold") for name in ("recall", "ndcg"))]
    caption = "All {:,} test users, the {:,} with a warm target and {:,} with a cold one, under the headline policy.".format(
        *counts
    )
    return Table("cold", caption, head, [("", rows)])


def _exposure(one: Asked, k: int) -> Row | None:
    """Shares of cold items; None where all items are warm."""
    is_cold = ~one.recommender.ranker.catalogue.warm
    if not is_cold.any():
        return None
    targets = one.opened.test.targets
    rows = np.sort(np.random.default_rng(SEED).permutation(len(targets))[:SAMPLE])
    found = one.opened.rank(one.recommender, rows, k)
    shares = is_cold[found[found >= 0]].mean(), is_cold.mean(), is_cold[targets].mean()
    return [one.name, *(f"{100 * share:.2f} %" for share in shares), f"{len(rows):,}"]
