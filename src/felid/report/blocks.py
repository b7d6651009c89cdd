"""What a page is made of: plain data, which the templates in `assets` lay out and escape.

A block's `kind` names the macro of `assets/blocks.html` that shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from felid.report.drawing import Figure


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says.
        note: said smaller, on a line of its own.
        meter: a share from 0 to 1 that is also drawn; None = there is none.
        strong: whether it stands out.
    """

    text: str
    note: str = ""
    meter: float | None = None
    strong: bool = False


Row = Sequence[str | Cell]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its name.

    Attributes:
        key: its HTML id is `<key>-table`.
        caption: what it shows.
        head: names of the columns.
        groups: rows under a heading each; "" = no heading.
        words: whether the cells are text; numbers stand at the right.
    """

    kind: ClassVar[str] = "table"
    key: str
    caption: str
    head: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Row]]]
    words: bool = False


@dataclass(frozen=True)
class Prose:
    """Paragraphs; `soft` ones explain."""

    kind: ClassVar[str] = "prose"
    paragraphs: Sequence[str]
    soft: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    key: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Tiles:
    """Numbers by what they are."""

    kind: ClassVar[str] = "tiles"
    numbers: Mapping[str, str | Cell]


@dataclass(frozen=True)
class Finding:
    """A verdict: `colour` is good, watch or poor, `sign` says it in a word."""

    colour: str
    sign: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Findings:
    """A list of verdicts."""

    kind: ClassVar[str] = "findings"
    key: str
    found: Sequence[Finding]


@dataclass(frozen=True)
class Figures:
    """Figures side by side where there is room."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Code:
    """Text as a file has it."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Shown:
    """An item in a list: its title, its id where that is not the title, and whether it is what the user took."""

    title: str
    item_id: str = ""
    is_hit: bool = False


@dataclass(frozen=True)
class Lists:
    """A user: the last items of the history, how many came before, and what each system recommends."""

    kind: ClassVar[str] = "lists"
    history: Sequence[Shown]
    earlier: int
    target: Shown
    systems: Sequence[tuple[str, Sequence[Shown]]]


@dataclass(frozen=True)
class Details:
    """Blocks that open on demand."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]
    is_open: bool = False


Block = Table | Prose | Bullets | Tiles | Findings | Figures | Figure | Code | Lists | Details


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own; `key` is its HTML id, `short` its name in the contents."""

    key: str
    heading: str
    short: str
    blocks: Sequence[Block]


def figures_of(blocks: Iterable[Block]) -> Iterator[Figure]:
    """The figures among blocks, in the order of the page; those of `Details` stay closed and have none."""
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Figures):
            yield from block.figures
