"""What a layout gives back: interactions, item vectors and IDs, in felid's own forms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from felid.artifacts import read_json, write_json
from felid.data.dataset import Dataset
from felid.errors import ArtifactError
from felid.layouts.folder import NOTE
from felid.quantize import Vectors
from felid.semantic_ids import SemanticIds

Ids = NDArray[np.generic]
MOST = np.iinfo(np.int32).max
_INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,17})")


@dataclass(frozen=True, eq=False)
class Imported:
    """The content of a folder in some layout.

    Attributes:
        item_ids: (N,) ids, ascending, row = item_index.
        vectors: (N, E) float32 item vectors.
        ids: semantic IDs of the items.
        dataset: interactions and items, None for layouts without interactions.
    """

    item_ids: Ids
    vectors: Vectors
    ids: SemanticIds
    dataset: Dataset | None = None

    def save(self, folder: Path, home: Path) -> None:
        """Write it as tables, a matrix and codes, with a recipe that reads them.

        `semantic_ids.json` (item id -> codes) is what `felid tokenize RUN --ids FILE` reports on, `ids/` what
        `SemanticIds.load` reads.

        Args:
            folder: an existing folder.
            home: where it will stand, for the paths in `recipe.yaml`.
        """
        np.save(folder / "vectors.npy", self.vectors)
        write_json(folder / "vector_ids.json", self.item_ids.tolist())
        write_json(folder / "semantic_ids.json", mapping_of(self.ids))
        (folder / "ids").mkdir()
        self.ids.save(folder / "ids")
        if self.dataset is None:
            return
        self.dataset.interactions.write_parquet(folder / "interactions.parquet")
        self.dataset.items.write_parquet(folder / "items.parquet")
        recipe: dict[str, Any] = {
            "description": f"data and item vectors imported from {self.dataset.name}",
            "dataset": {
                "kind": "files",
                "interactions": str(home / "interactions.parquet"),
                "items": str(home / "items.parquet"),
            },
            "filter": {"min_user_interactions": 0},
            "embedding": {"kind": "precomputed", "vectors": str(home / "vectors.npy"), "ids": str(home / "vector_ids.json")},
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")


def dataset_of(name: str, events: Iterable[tuple[Any, Any, float | None]], items: Mapping[Any, Mapping[str, Any]]) -> Dataset:
    """A data set from (user, item, time) events.

    Args:
        name: what reports call it.
        events: in the order in which users took the items; times are all None or all seconds.
        items: item id -> its columns, of the whole catalogue; the types of its ids count where those of the events are others.

    Raises:
        ArtifactError: there are no events, or one has an item that is not in the catalogue.
    """
    users, taken, times = zip(*events, strict=True) if (events := list(events)) else ((), (), ())
    ids = {str(item): item for item in of_one_type(list(items))}
    unknown = [item for item in taken if str(item) not in ids]
    if not users or unknown:
        found = f"items that are not in its catalogue (first: {unknown[0]!r})" if unknown else "no interactions"
        raise ArtifactError(f"{name} holds {found}; give a whole folder of this layout")
    columns: dict[str, Any] = {"user_id": of_one_type(users), "item_id": [ids[str(item)] for item in taken]}
    columns["position"] = list(range(len(users)))
    if all(time is not None for time in times):
        columns["timestamp"] = times
    names = sorted({column for row in items.values() for column in row})
    rows = {"item_id": list(ids.values()), **{column: [row.get(column) for row in items.values()] for column in names}}
    return Dataset.from_frames(name, pl.DataFrame(columns), pl.DataFrame(rows), order_rule="the order of the imported files")


def of_one_type(ids: Sequence[Any]) -> list[Any]:
    """Ids as a file that knows their type gives them: integers where every one is an integer, else text."""
    return list(ids) if all(isinstance(one, int) for one in ids) else [str(one) for one in ids]


def typed(ids: Iterable[Any]) -> list[Any]:
    """Ids that a file has as text alone, as they come out of a CSV file: integers where every one is written as one."""
    written = [str(one) for one in ids]
    return [int(one) for one in written] if all(_INTEGER.fullmatch(one) for one in written) else written


def aligned(folder: Path, name: str, ids: Sequence[Any], rows: NDArray[Any], item_ids: Ids) -> NDArray[Any]:
    """Rows by item, in the order of `item_ids`.

    Raises:
        ArtifactError: not one row per id, or an item without a row.
    """
    if len(ids) != len(rows):
        raise ArtifactError(f"{folder / name} has {len(rows)} rows for {len(ids)} item ids; expected one each, export it again")
    places = {str(item): place for place, item in enumerate(ids)}
    missing = [item for item in item_ids.tolist() if str(item) not in places]
    if missing:
        raise ArtifactError(
            f"{folder / name} lacks {len(missing)} of {len(item_ids)} items (first: {missing[0]!r}); export it again"
        )
    return rows[[places[str(item)] for item in item_ids.tolist()]]


def catalogue_ids(ids: Sequence[Any]) -> Ids:
    """(N,) ids in felid's order: ascending, integers as numbers, text as text."""
    found = sorted(of_one_type(ids))
    return np.array(found, np.int64 if found and isinstance(found[0], int) else object)


def mapping_of(ids: SemanticIds) -> dict[str, list[int]]:
    """Item id, as text, -> codes."""
    return {str(item): codes for item, codes in zip(ids.item_ids.tolist(), ids.codes.tolist(), strict=True)}


def noted_sizes(folder: Path) -> tuple[int, ...]:
    """Codes per level of the exported run; () in a folder of another program."""
    note = read_json(folder / NOTE) if (folder / NOTE).is_file() else {}
    return tuple(note.get("sizes") or ())


def ids_of(folder: Path, codes: Sequence[Sequence[int]], item_ids: Ids) -> SemanticIds:
    """Semantic IDs from the codes of each item.

    Where some IDs have one code more than the others, the others get a 0 at the end: several of the systems number only items
    that collide. Sizes of levels are those of the exported run; in a folder of another program the largest code plus one.

    Raises:
        ArtifactError: something else than lists of whole numbers from 0, or IDs of quite different lengths.
    """
    wrong = [one for one in codes if not _are_codes(one)]
    if wrong:
        shown = f"{len(wrong)} IDs that are no lists of whole numbers from 0 (first: {str(wrong[0])[:60]})"
        raise ArtifactError(f"{folder} holds {shown}; export it again")
    lengths = {len(one) for one in codes}
    if not codes or max(lengths) - min(lengths) > 1:
        raise ArtifactError(
            f"{folder} holds IDs of {sorted(lengths)} codes; expected the same number, or one more for collisions"
        )
    matrix = np.array([[*one, *[0] * (max(lengths) - len(one))] for one in codes], np.int32)
    sizes = noted_sizes(folder) or tuple((matrix.max(0) + 1).tolist())
    return SemanticIds(matrix, sizes, item_ids, shared=len(np.unique(matrix, axis=0)) < len(matrix))


def _are_codes(found: object) -> bool:
    return isinstance(found, list) and all(type(code) is int and 0 <= code <= MOST for code in found)
