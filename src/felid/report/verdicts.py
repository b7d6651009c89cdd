"""A health report in words: what is good, what to watch, what is poor, and what to change.

The bounds are rules of thumb, meant to point at a cause; what counts is the recommender's validation recall.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from felid.quantize.health import HealthReport, LevelHealth

Status = Literal["good", "watch", "poor"]


@dataclass(frozen=True)
class Verdict:
    """One finding: status, what was found, and what to do about it ("" where nothing is to be done)."""

    status: Status
    text: str
    remedy: str = ""


def verdicts(report: HealthReport) -> list[Verdict]:
    """All findings, in the order of the report."""
    return [
        *_use(report),
        *_collisions(report),
        *_reconstruction(report),
        *_neighbours(report),
        *_categories(report),
        *_stability(report),
    ]


def summary(found: Sequence[Verdict]) -> str:
    """One sentence over all findings."""
    poor, watch = (sum(one.status == status for one in found) for status in ("poor", "watch"))
    if poor:
        return f"{poor} of {len(found)} findings {'is' if poor == 1 else 'are'} poor" + (f", {watch} to watch." if watch else ".")
    return f"Sound, with {watch} of {len(found)} findings to watch." if watch else f"Healthy: all {len(found)} findings are good."


def level_rows(report: HealthReport) -> list[tuple[str, LevelHealth, float | None]]:
    """Name, use and share of variance left of each learnt level, then of the final levels that differ or are new."""
    errors = report.reconstruction_error or (None,) * len(report.levels)
    found = [(str(level), health, errors[level]) for level, health in enumerate(report.levels)]
    found += [(f"{level} (moved)", report.final[level], None) for level in report.changed]
    added = range(len(report.levels), len(report.final))
    return found + [(f"{level} (suffix)", report.final[level], None) for level in added]


def _status(value: float, good: float, watch: float) -> Status:
    """Of a value that should be high."""
    return "good" if value >= good else "watch" if value >= watch else "poor"


def _use(report: HealthReport) -> Iterator[Verdict]:
    for level, health in enumerate(report.levels):
        reachable = min(health.size, report.num_items)
        share = health.used / reachable
        text = f"Level {level} uses {_percent(share)} of its codes ({health.used:,} of {reachable:,})"
        even = health.perplexity / reachable
        status = _status(share, 0.95, 0.7)
        if status == "good" and even < 0.15:
            status = "watch"
        text += f", as evenly as {health.perplexity:,.0f} codes used alike."
        yield Verdict(status, text, _use_remedy(level, status, share))


def _use_remedy(level: int, status: Status, share: float) -> str:
    if status == "good":
        return ""
    if share < 0.95:
        return (
            f"Lower quantizer.sizes at level {level}, or use a quantiser that does not collapse (rkmeans); for rqvae: "
            "start=kmeans, standardize=true, reseed_every above 0."
        )
    return "Some codes hold most items: try quantizer.balanced=true (rkmeans)."


def _collisions(report: HealthReport) -> Iterator[Verdict]:
    found = report.before or report.after
    when = "Before collisions are resolved, " if report.before else ""
    text = f"{when}{_percent(found.rate)} of the items share all their codes; the largest group has {found.largest_group:,}."
    if found.largest_group < 2:
        text = f"{when}no two items share all their codes."
    status: Status = "poor" if found.rate > 0.5 or found.largest_group > 100 else "watch"
    if found.rate <= 0.3 and found.largest_group <= 25:
        status = "good"
    more = "Use more or larger levels (quantizer.sizes), or give items with equal texts distinct ones."
    yield Verdict(status, _capital(text), "" if status == "good" else more)
    if not report.before:
        return
    if report.after.num_ids == report.num_items:
        yield Verdict("good", "After that, every item has an ID of its own.")
    else:
        shared = report.num_items - report.after.num_ids
        yield Verdict(
            "watch", f"{shared:,} items have no ID of their own.", "For training, choose collision.kind=suffix or nearest-free."
        )


def _reconstruction(report: HealthReport) -> Iterator[Verdict]:
    if report.reconstruction_error:
        error = report.reconstruction_error[-1]
        first = _percent(report.reconstruction_error[0])
        text = f"The codes lose {_percent(error)} of the variance of the vectors ({first} with the first code alone)."
        remedy = "" if error <= 0.5 else "Use more or larger levels, or a quantiser with a lower error (rkmeans)."
        yield Verdict(_status(-error, -0.5, -0.8), text, remedy)


def _neighbours(report: HealthReport) -> Iterator[Verdict]:
    found = report.neighbours
    if found is None:
        return
    first, chance = found.prefixes[0], found.chance[0]
    ratio = first / max(chance, 1 / report.num_items)
    text = f"{_percent(first)} of an item's {found.k} nearest neighbours share its first code, {ratio:,.3g} times chance."
    remedy = (
        "Level 0 does not follow the vectors: fit the quantiser again, or check that IDs and vectors belong to the same items."
    )
    status = _status(ratio, 5, 2)
    yield Verdict(status, text, "" if status == "good" else remedy)
    if found.decoded is not None:
        text = f"{_percent(found.decoded)} of the {found.k} nearest neighbours are still nearest after decoding."
        status = _status(found.decoded, 0.2, 0.1)
        yield Verdict(status, text, "" if status == "good" else "More or larger levels keep more of the neighbourhoods.")


def _categories(report: HealthReport) -> Iterator[Verdict]:
    if report.categories and report.largest_category is not None:
        first = report.categories[0]
        text = (
            f"With the first code alone, {_percent(first.purity)} of the items are in the commonest category of their code "
            f"({_percent(report.largest_category)} if all were one group; adjusted mutual information {first.adjusted:z.2f})."
        )
        status = _status(first.adjusted, 0.2, 0.05)
        remedy = "The codes say little about this column: check text.columns and the embedder, or choose another --category."
        yield Verdict(status, text, "" if status == "good" else remedy)


def _stability(report: HealthReport) -> Iterator[Verdict]:
    if report.stability:
        first, last = report.stability[0].adjusted, report.stability[-1].adjusted
        status = _status(first, 0.5, 0.2)
        text = f"With another seed, groups by first code agree to {first:z.2f} (1 = same, 0 = chance), by all to {last:z.2f}."
        remedy = "Report results over several seeds of the quantiser; more restarts or fewer codes in level 0 make it steadier."
        yield Verdict(status, text, "" if status == "good" else remedy)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.1 or 0.99 < share < 1 else f"{100 * share:.0f} %"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
