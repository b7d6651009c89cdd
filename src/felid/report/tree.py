"""The tree of codes as a treemap: the largest nodes of the first levels, the rest of each parent merged into one node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from felid.quantize.base import Codes
from felid.quantize.resolve_moves import runs

LIMITS = (400, 1500, 2000)
"""Most nodes per depth that are drawn on their own."""
NUM_EXAMPLES = 3
HOVER_LENGTH = 70
"""Most characters of a title beside the pointer, where lines do not wrap."""
ROOT = "all"


@dataclass(frozen=True)
class Node:
    """A prefix, or what is left of its parent.

    Attributes:
        name: the codes with "-" between them; "<parent>-…" for what is left of a parent.
        parent: name of the parent, "all" for the first level, "" for the root.
        label: what stands in the box.
        count: items.
        examples: up to three titles.
        category: the commonest category of its items, "" where unknown.
        share: share of its items with that category.
        is_rest: True for what is left of a parent.
    """

    name: str
    parent: str
    label: str
    count: int
    examples: tuple[str, ...] = ()
    category: str = ""
    share: float = 0.0
    is_rest: bool = False


def code_tree(
    codes: Codes, titles: Sequence[str], labels: Sequence[str | None] = (), limits: tuple[int, ...] = LIMITS
) -> list[Node]:
    """Nodes of the treemap, parents before children; the counts of a node's children add up to its own.

    Args:
        codes: (N, L) codes of the learnt levels, N at least 1.
        titles: N titles.
        labels: N categories, or none at all.
        limits: most nodes per depth; as many levels are drawn, at most L.
    """
    order = np.lexsort(codes.T[::-1])
    rows, nodes = codes[order], [Node(ROOT, "", "all items", len(codes))]
    kept: dict[tuple[int, ...], tuple[int, int]] = {(): (0, len(rows))}
    for depth in range(1, min(len(limits), codes.shape[1]) + 1):
        drawn: dict[tuple[int, ...], tuple[int, int]] = {}
        starts, counts = runs(rows[:, :depth])
        ends = starts + counts
        for run in np.argsort(-counts, kind="stable")[: limits[depth - 1]]:
            prefix = tuple(rows[starts[run], :depth].tolist())
            if prefix[:-1] in kept:
                drawn[prefix] = (int(starts[run]), int(ends[run]))
        for prefix, (start, end) in sorted(drawn.items()):
            nodes.append(_node(prefix, order[start:end], titles, labels))
        nodes += _rests(kept, drawn)
        kept = drawn
    return nodes


def _node(prefix: tuple[int, ...], items: NDArray[np.int64], titles: Sequence[str], labels: Sequence[str | None]) -> Node:
    spread = items[np.linspace(0, len(items) - 1, num=min(len(items), NUM_EXAMPLES)).astype(int)]
    common = Counter(labels[item] or "" for item in items).most_common(1) if labels else [("", 0)]
    return Node(
        name=name_of(prefix),
        parent=name_of(prefix[:-1]) or ROOT,
        label=name_of(prefix),
        count=len(items),
        examples=tuple(shortened(titles[item], HOVER_LENGTH) for item in spread if titles[item]),
        category=common[0][0],
        share=common[0][1] / len(items),
    )


def _rests(parents: dict[tuple[int, ...], tuple[int, int]], drawn: dict[tuple[int, ...], tuple[int, int]]) -> list[Node]:
    """What is left of each parent; a parent of which nothing is drawn stays whole."""
    left = {prefix: end - start for prefix, (start, end) in parents.items()}
    touched = set()
    for prefix, (start, end) in drawn.items():
        left[prefix[:-1]] -= end - start
        touched.add(prefix[:-1])
    rests = []
    for prefix, count in left.items():
        if count and prefix in touched:
            parent = name_of(prefix) or ROOT
            rests.append(Node(f"{parent}-…", parent, "smaller ones", count, is_rest=True))
    return rests


def name_of(prefix: tuple[int, ...]) -> str:
    """A prefix as text, such as 12-7."""
    return "-".join(map(str, prefix))


def shortened(title: str, length: int) -> str:
    """The title, cut after `length` characters."""
    return title if len(title) <= length else title[: length - 1].rstrip() + "…"
