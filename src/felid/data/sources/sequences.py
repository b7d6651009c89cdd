"""One line per user, `user item item ...`, oldest item first: the form of S3-Rec, SASRec and many that follow them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from felid.config import Config
from felid.data.dataset import Dataset
from felid.data.filters import FilterConfig
from felid.data.sources.files import read_items, typed_ids
from felid.data.sources.literals import numbered_lines
from felid.data.sources.tables import form_of
from felid.errors import DataError


class SequencesConfig(Config):
    """A text file of users' sequences, such as `all_data.txt`; there are no timestamps, the given order is the order."""

    kind: Literal["sequences"] = "sequences"
    """Source."""
    path: Path
    """The file (.gz allowed): ids between blanks, the user first."""
    items: Path | None = None
    """Table with one item per row, as in `dataset.kind=files`; None = a catalogue of bare ids, whose vectors are precomputed."""
    item_columns: dict[str, str] = Field(default_factory=dict)
    """Our name: the items table's name, for item_id, title and others; unnamed columns keep theirs."""


def locate(config: SequencesConfig) -> dict[str, Path]:
    """The files named by the config; a missing one is a `DataError`."""
    paths = {"path": config.path} | ({"items": config.items} if config.items else {})
    for name, path in paths.items():
        if not path.is_file():
            raise DataError(f"{path} does not exist (looked from {Path.cwd()}); correct dataset.{name}")
    return paths


def load(config: SequencesConfig, filters: FilterConfig) -> Dataset:
    """Read the files. Ids are integers if all of a kind are written as such."""
    locate(config)
    interactions, empty = _read(config.path)
    items = read_items(config.items, config.item_columns) if config.items else None
    untyped = ["interactions", *(["items"] if config.items and form_of(config.items).separator else [])]
    interactions, items = typed_ids(interactions, items, untyped)
    notes = (f"users without items, left out: {empty}",) if empty else ()
    rule = "the order of the items in each user's line"
    return Dataset.from_frames(config.path.name.split(".")[0], interactions, items, rule, notes, filters)


def _read(path: Path) -> tuple[pl.DataFrame, int]:
    """user_id and item_id as text, position; and how many lines have a user and nothing else."""
    lines, empty = dict[str, int](), 0
    users, items, positions = list[str](), list[str](), list[int]()
    for number, line in numbered_lines(path):
        user, *taken = line.split()
        if user in lines:
            raise DataError(f"line {number} of {path} repeats user {user!r} of line {lines[user]}; give each user one line")
        lines[user] = number
        empty += not taken
        users += [user] * len(taken)
        items += taken
        positions += range(len(taken))
    if not items:
        raise DataError(f"{path} has no items, expected lines `user item item ...`; check that the file is complete")
    return pl.DataFrame({"user_id": users, "item_id": items, "position": positions}), empty
