"""Semantic IDs of a catalogue: one unique tuple of codes per item, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from felid.artifacts import read_json, write_json
from felid.errors import ArtifactError, SemanticIdError
from felid.trie import Trie

SemanticId = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """The codes of all items, row = item_index.

    Attributes:
        codes: (N, L) int32, rows unique.
        sizes: number of codes per level.
        item_ids: (N,) ids as the data gives them.
    """

    codes: NDArray[np.int32]
    sizes: tuple[int, ...]
    item_ids: NDArray[np.generic]

    def __post_init__(self) -> None:
        if len(self.codes) != len(self.item_ids):
            raise SemanticIdError(f"{len(self.codes)} rows of codes for {len(self.item_ids)} items; they must match row by row")
        if len(self._rows) != len(self.item_ids):
            raise SemanticIdError(
                f"{len(self.item_ids)} items have {len(self._rows)} different item_ids; every item_id must occur once"
            )
        _ = self.trie  # refuses shared IDs and codes outside their level

    @cached_property
    def trie(self) -> Trie:
        """Trie of the whole catalogue."""
        return Trie.from_codes(self.codes, self.sizes)

    @cached_property
    def _rows(self) -> dict[object, int]:
        return {item: row for row, item in enumerate(self.item_ids.tolist())}

    @property
    def num_items(self) -> int:
        return len(self.codes)

    @property
    def num_levels(self) -> int:
        return len(self.sizes)

    def of(self, item_id: int | str) -> SemanticId:
        """The semantic ID of an item."""
        if item_id not in self._rows:
            raise SemanticIdError(f"item {item_id!r} is not in this catalogue of {self.num_items} items")
        return tuple(self.codes[self._rows[item_id]].tolist())

    def item_id(self, semantic_id: SemanticId) -> int | str:
        """The item that has a semantic ID; an ID of no item is an error, never another item."""
        row = int(self.trie.item(np.asarray(semantic_id)))
        if row < 0:
            raise SemanticIdError(f"no item has the semantic ID {semantic_id}")
        found: int | str = self.item_ids[row].item() if isinstance(self.item_ids[row], np.generic) else self.item_ids[row]
        return found

    def save(self, folder: Path) -> None:
        """Write `codes.npy` and `semantic_ids.json`."""
        np.save(folder / "codes.npy", self.codes)
        write_json(folder / "semantic_ids.json", {"sizes": list(self.sizes), "item_ids": self.item_ids.tolist()})

    @classmethod
    def load(cls, folder: Path) -> SemanticIds:
        """Read what `save` wrote."""
        meta = read_json(folder / "semantic_ids.json", ("sizes", "item_ids"))
        try:
            codes = np.load(folder / "codes.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ArtifactError(f"{folder / 'codes.npy'} cannot be read ({error}); run `felid tokenize` again") from error
        ids = meta["item_ids"]
        item_ids = np.asarray(ids, np.int64 if all(isinstance(i, int) for i in ids) else object)
        return cls(codes, tuple(meta["sizes"]), item_ids)
