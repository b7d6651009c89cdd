"""From IDs and what is known about their items to a health report; large catalogues are sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from felid.errors import RequestError
from felid.quantize.base import Codes
from felid.quantize.health import (
    HealthReport,
    Neighbours,
    category_agreement,
    code_health,
    neighbour_overlap,
    reconstruction_error,
    stability,
)
from felid.report.subject import Progress, Subject

POOL = 50_000
"""Most items whose vectors, categories and codes of two seeds are compared."""
CATEGORY_COLUMNS = ("category", "categories", "genre", "genres")
"""Columns that are looked for when none is named."""
SEPARATORS = (">", "|", ", ")
"""Between the parts of a category path; the first that a third of the values hold."""
COMMON = 0.9
"""A part of category paths that more than this share of the items have in common says nothing."""


def measure(
    subject: Subject, category: str | None, *, with_stability: bool, progress: Progress = lambda d, t: None
) -> HealthReport:
    """Measure everything that can be measured about a set of IDs.

    Args:
        subject: the IDs.
        category: a column of the catalogue; None = one that looks like categories, if there is any.
        with_stability: fit the quantiser once more, with the next seed.
        progress: hears (steps done, steps in all) of that fit.

    Raises:
        RequestError: the catalogue has no such column.
    """
    notes = list(subject.notes)
    pool = _pool(len(subject.codes))
    if len(pool) < len(subject.codes):
        notes.append(
            f"reconstruction, neighbours, categories and stability are measured on {len(pool):,} of {len(subject.codes):,} items "
            "drawn at random"
        )
    learned = subject.learned
    final, after = code_health(subject.codes, subject.sizes)
    levels, before = (final, None) if subject.quantized is None else code_health(learned, subject.sizes[: learned.shape[1]])
    errors, neighbours = _vectors(subject, learned, pool)
    column, labels, of_path = categories_of(subject, category)
    if column:
        notes.append(f"categories are {of_path} column {column!r}")
    if with_stability and subject.refit is None:
        notes.append("no stability: there is no seed to change")
    return HealthReport(
        source=subject.source,
        num_items=len(subject.codes),
        levels=levels,
        final=final,
        before=before,
        after=after,
        reconstruction_error=errors,
        neighbours=neighbours,
        category=column,
        categories=category_agreement(learned[pool], [labels[row] for row in pool]) if column else None,
        largest_category=_largest(labels) if column else None,
        stability=stability(learned[pool], subject.refit(progress, pool)) if with_stability and subject.refit else None,
        transductive=subject.transductive,
        notes=tuple(notes),
    )


def _pool(count: int) -> NDArray[np.int64]:
    if count <= POOL:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, POOL, replace=False))


def _vectors(subject: Subject, learned: Codes, pool: NDArray[np.int64]) -> tuple[tuple[float, ...] | None, Neighbours | None]:
    if subject.vectors is None or len(pool) < 2:
        return None, None
    x, codes = subject.vectors[pool], learned[pool]
    if subject.quantizer is None:
        return None, neighbour_overlap(x, codes)
    errors = [reconstruction_error(x, subject.quantizer.decode(codes[:, :length])) for length in range(1, codes.shape[1] + 1)]
    return tuple(errors), neighbour_overlap(x, codes, subject.quantizer.decode(codes))


def categories_of(subject: Subject, column: str | None) -> tuple[str, list[str | None], str]:
    """The column with the categories ("" for none), a category or None per item, and how it was read, in words.

    Of paths ("Beauty > Hair Care > Shampoo", "Action|Drama", "Action, Drama", or lists) the first part that the items do not
    have in common.
    """
    names = [column] if column else [name for name in CATEGORY_COLUMNS if name in subject.columns]
    if column and column not in subject.columns:
        known = ", ".join(subject.columns) or "none"
        raise RequestError(f"--category {column!r} is no column of the catalogue; columns: {known}")
    for name in names:
        paths = _paths(subject.columns[name])
        depth = _depth(paths)
        labels = [path[depth] if depth < len(path) else None for path in paths]
        if column or len(set(labels) - {None}) > 1:
            return name, labels, "the" if max(map(len, paths)) < 2 else f"part {depth + 1} of the paths in"
    return "", [], ""


def _paths(values: Sequence[object]) -> list[list[str]]:
    """The parts of each value: of a list its entries, of a text what stands between the separator that the column uses."""
    texts = ["" if value is None or isinstance(value, list) else str(value) for value in values]
    used = [mark for mark in SEPARATORS if sum(mark in text for text in texts) > len(texts) / 3]
    parts = [text.split(used[0]) if used else [text] for text in texts]
    entries = [list(map(str, value)) if isinstance(value, list) else part for value, part in zip(values, parts, strict=True)]
    return [[part.strip() for part in path if part.strip()] for path in entries]


def _depth(paths: Sequence[list[str]]) -> int:
    longest = max(map(len, paths), default=0)
    for depth, _ in pairwise(range(longest + 1)):
        counts = Counter(path[depth] for path in paths if depth < len(path))
        if counts.most_common(1)[0][1] <= COMMON * sum(map(bool, paths)):
            return depth
    return 0


def _largest(labels: Sequence[str | None]) -> float:
    counts = Counter(label for label in labels if label)
    return counts.most_common(1)[0][1] / counts.total() if counts else 0.0
