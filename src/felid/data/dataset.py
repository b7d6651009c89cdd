"""The canonical form of every source: who took which item in which order, and what the items are."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from felid.artifacts import read_json, write_json
from felid.data import checks
from felid.data.filters import NO_FILTER, FilterConfig, apply_filters
from felid.data.histories import Sequences
from felid.errors import ArtifactError

BY_POSITION = "the given position, ties in file order"
BY_TIME = "timestamp, ties in file order"
BY_FILE = "the order of the rows in the file (no timestamp and no position given)"

_ROW = "__row"
_OPTIONAL = ("position", "timestamp", "rating")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions and catalogue in canonical order, which does not depend on the order of the input rows.

    Attributes:
        name: what reports call it.
        interactions: user_id, item_id, position (int64, 0-based per user, oldest first), and where known timestamp (unix
            seconds, int64 or float64) and rating (float64); sorted by user_id, position.
        items: item_id and free columns, sorted by item_id; the row is the item_index. Holds every item of the
            interactions and possibly more (cold ones).
        order_rule: what decided the order of a user's items, in words.
        notes: what the checks and filters counted.
    """

    name: str
    interactions: pl.DataFrame
    items: pl.DataFrame
    order_rule: str
    notes: tuple[str, ...] = ()

    @classmethod
    def from_frames(
        cls,
        name: str,
        interactions: pl.DataFrame,
        items: pl.DataFrame | None,
        order_rule: str | None = None,
        notes: tuple[str, ...] = (),
        filters: FilterConfig = NO_FILTER,
    ) -> Dataset:
        """Check two tables and bring them into canonical form.

        Args:
            name: what reports call the data.
            interactions: user_id, item_id (integers or text), optional position, timestamp (unix seconds), rating. A
                user's order is position where given, else timestamp, else the order of the rows; ties keep the order of
                the rows. Other columns are dropped. Rows equal in all of these columns are dropped but one, unless
                only the file order tells them apart.
            items: item_id and free columns; None makes a catalogue of the interactions' ids alone.
            order_rule: overrides the sentence made from the columns.
            notes: notes of the source, put before those of the checks.
            filters: minimum interactions, applied before positions are numbered.

        Raises:
            DataError: a column is missing, a table is empty, ids are missing, repeated, of two types or without an
                item row, times or ratings are unusable, or the filters leave nothing.
        """
        interactions = _checked_interactions(interactions)
        items = _checked_items(items, interactions)
        rule = _order_rule(interactions) if order_rule is None else order_rule
        interactions, repeat_notes = _without_duplicates(interactions)
        interactions, items, filter_notes = apply_filters(interactions, items, filters)
        interactions = _numbered(interactions)
        lengths = interactions["user_id"].rle().struct.field("len")
        found = (*repeat_notes, *filter_notes, *checks.text_notes(items), *checks.short_user_notes(lengths))
        return cls(name, interactions, items.sort("item_id"), rule, (*notes, *found))

    @property
    def item_ids(self) -> NDArray[np.generic]:
        """(N,) item_id by item_index: int64, or objects of str."""
        return _as_array(self.items["item_id"])

    def sequences(self) -> Sequences:
        """All users' items as item_index, users sorted by user_id, oldest item first."""
        runs = self.interactions["user_id"].rle()
        lengths = runs.struct.field("len").to_numpy().astype(np.int64)
        rows = self.items.select("item_id").with_row_index("item_index")
        items = self.interactions.select("item_id").join(rows, on="item_id", how="left", maintain_order="left")
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        return Sequences(_as_array(runs.struct.field("value")), offsets, items["item_index"].to_numpy().astype(np.int64))

    def statistics(self) -> dict[str, Any]:
        """Counts for reports, JSON-able: users, items, interactions, cold and repeated ones, lengths, density."""
        lengths = self.interactions["user_id"].rle().struct.field("len").to_numpy()
        pairs = self.interactions.select("user_id", "item_id").n_unique()
        return {
            "num_users": len(lengths),
            "num_items": len(self.items),
            "num_interactions": len(self.interactions),
            "num_items_without_interactions": len(self.items) - self.interactions["item_id"].n_unique(),
            "num_repeated_interactions": len(self.interactions) - pairs,
            "num_users_too_short": int((lengths < checks.MIN_EVALUATED).sum()),
            "interactions_per_user": {
                "min": int(lengths.min()),
                "median": float(np.median(lengths)),
                "mean": float(lengths.mean()),
                "max": int(lengths.max()),
            },
            "density": pairs / (len(lengths) * len(self.items)),
        }

    def digest(self) -> str:
        """Hex SHA-256 of the content; equal data give equal digests with the same version of polars."""
        sha = hashlib.sha256(f"{self.name}\n{self.order_rule}\n".encode())
        for table in (self.interactions, self.items):
            buffer = io.BytesIO()
            table.rechunk().write_parquet(buffer)
            sha.update(buffer.getbuffer())
        return sha.hexdigest()

    def save(self, folder: Path) -> None:
        """Write `interactions.parquet`, `items.parquet` and `dataset.json` into an existing folder."""
        self.interactions.write_parquet(folder / "interactions.parquet")
        self.items.write_parquet(folder / "items.parquet")
        meta = {"name": self.name, "order_rule": self.order_rule, "notes": list(self.notes), "statistics": self.statistics()}
        write_json(folder / "dataset.json", meta)

    @classmethod
    def load(cls, folder: Path) -> Dataset:
        """Read what `save` wrote, without checking it again."""
        meta = read_json(folder / "dataset.json")
        try:
            interactions = pl.read_parquet(folder / "interactions.parquet")
            items = pl.read_parquet(folder / "items.parquet")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ArtifactError(f"the tables in {folder} cannot be read ({error}); run `felid data` again") from error
        return cls(meta["name"], interactions, items, meta["order_rule"], tuple(meta["notes"]))


def _checked_interactions(frame: pl.DataFrame) -> pl.DataFrame:
    checks.require_columns(frame, ("user_id", "item_id"), "interactions")
    checks.require_rows(frame, "interactions")
    frame = frame.select("user_id", "item_id", *(name for name in _OPTIONAL if name in frame.columns))
    for column in ("user_id", "item_id"):
        frame = checks.canonical_ids(frame, column, "interactions")
    if "position" in frame.columns:
        frame = checks.require_positions(frame)
    if "timestamp" in frame.columns:
        frame = checks.require_times(frame)
    return checks.require_ratings(frame) if "rating" in frame.columns else frame


def _checked_items(items: pl.DataFrame | None, interactions: pl.DataFrame) -> pl.DataFrame:
    if items is None:
        return interactions.select("item_id").unique()
    checks.require_columns(items, ("item_id",), "items")
    checks.require_rows(items, "items")
    items = checks.canonical_ids(items.select("item_id", pl.exclude("item_id")), "item_id", "items")
    checks.require_same_type(interactions, items)
    checks.require_unique_items(items)
    checks.require_known_items(interactions, items)
    return items


def _order_rule(interactions: pl.DataFrame) -> str:
    if "position" in interactions.columns:
        return BY_POSITION
    return BY_TIME if "timestamp" in interactions.columns else BY_FILE


def _without_duplicates(interactions: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Drop rows that are equal in every column, and count what repeats."""
    notes = []
    kept = interactions
    if "position" in interactions.columns or "timestamp" in interactions.columns:
        kept = interactions.unique(keep="first", maintain_order=True)
    if len(kept) < len(interactions):
        notes.append(f"identical interaction rows dropped: {len(interactions) - len(kept)} of {len(interactions)}")
    repeats = len(kept) - kept.select("user_id", "item_id").n_unique()
    if repeats:
        notes.append(f"interactions that repeat an item of the same user: {repeats} of {len(kept)}, kept")
    return kept, tuple(notes)


def _numbered(interactions: pl.DataFrame) -> pl.DataFrame:
    """Sort by user and the user's order, rows of the file last, and number the positions from 0."""
    order = [name for name in ("position", "timestamp") if name in interactions.columns][:1]
    ordered = interactions.with_row_index(_ROW).sort("user_id", *order, _ROW)
    position = pl.int_range(pl.len(), dtype=pl.Int64).over("user_id").alias("position")
    rest = [name for name in ("timestamp", "rating") if name in interactions.columns]
    return ordered.with_columns(position).select("user_id", "item_id", "position", *rest)


def _as_array(ids: pl.Series) -> NDArray[np.generic]:
    return np.array(ids.to_list(), dtype=np.int64 if ids.dtype == pl.Int64 else object)
