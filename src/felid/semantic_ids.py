"""Semantic IDs of a catalogue: one tuple of codes per item, unique unless items may share theirs, and the way back."""

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
        codes: (N, L) int32, rows unique unless `shared`.
        sizes: number of codes per level.
        item_ids: (N,) ids as the data gives them.
        shared: several items may have one semantic ID (collisions left as they are).
    """

    codes: NDArray[np.int32]
    sizes: tuple[int, ...]
    item_ids: NDArray[np.generic]
    shared: bool = False

    def __post_init__(self) -> None:
        if len(self.codes) != len(self.item_ids):
            raise SemanticIdError(f"{len(self.codes)} rows of codes for {len(self.item_ids)} items; they must match row by row")
        if len(self._rows) != len(self.item_ids):
            raise SemanticIdError(
                f"{len(self.item_ids)} items have {len(self._rows)} different item_ids; every item_id must occur once"
            )
        _ = self.trie  # refuses codes outside their level, and shared IDs where they are not wanted

    @cached_property
    def trie(self) -> Trie:
        """Trie of the whole catalogue: one leaf per distinct ID."""
        return Trie.from_codes(self.codes, self.sizes, shared=self.shared)

    @cached_property
    def groups(self) -> IdGroups:
        """The items of each distinct ID."""
        group = self.trie.leaf(self.codes)
        members = np.argsort(group, kind="stable")
        return IdGroups(group, members, np.searchsorted(group[members], np.arange(self.trie.num_items + 1)))

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
        """The one item that has a semantic ID; an ID of no item or of several is an error, never another item."""
        found = self.items_of(semantic_id)
        if len(found) > 1:
            raise SemanticIdError(f"{len(found)} items share the semantic ID {semantic_id}; items_of gives all of them")
        return found[0]

    def items_of(self, semantic_id: SemanticId) -> list[int | str]:
        """All items that have a semantic ID, in order of item_index; an ID of no item is an error."""
        leaf = int(self.trie.leaf(np.asarray(semantic_id)))
        if leaf < 0:
            raise SemanticIdError(f"no item has the semantic ID {semantic_id}")
        rows = self.groups.of(leaf) if self.shared else self.trie.leaf_item[leaf : leaf + 1]
        found: list[int | str] = self.item_ids[rows].tolist()
        return found

    def save(self, folder: Path) -> None:
        """Write `codes.npy` and `semantic_ids.json`."""
        np.save(folder / "codes.npy", self.codes)
        meta = {"sizes": list(self.sizes), "shared": self.shared, "item_ids": self.item_ids.tolist()}
        write_json(folder / "semantic_ids.json", meta)

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
        return cls(codes, tuple(meta["sizes"]), item_ids, shared=bool(meta.get("shared", False)))


@dataclass(frozen=True, eq=False)
class IdGroups:
    """Which items have the same semantic ID.

    Attributes:
        group: (N,) int64 rank of each item's ID among the G distinct ones, in lexicographic order.
        members: (N,) int64 item_index, group by group and ascending within each.
        start: (G + 1,) int64 first place of each group in `members`.
    """

    group: NDArray[np.int64]
    members: NDArray[np.int64]
    start: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(G,) number of items per group."""
        return np.diff(self.start)

    def of(self, group: int) -> NDArray[np.int64]:
        """The items of a group, ascending."""
        return self.members[self.start[group] : self.start[group + 1]]

    def used_up(self, seen: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B, T) items, -1 = none, to the same without those whose ID has an item that is not in its row, in some order."""
        rows = np.sort(seen, axis=1)
        distinct = rows >= 0
        distinct[:, 1:] &= rows[:, 1:] != rows[:, :-1]
        group = self.group[rows[distinct]]
        keys = np.nonzero(distinct)[0] * len(self.sizes) + group
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        result = np.full_like(rows, -1)
        result[distinct] = np.where(counts[inverse] == self.sizes[group], rows[distinct], -1)
        return result

    def expand(
        self, items: NDArray[np.int64], scores: NDArray[np.float32], k: int, seen: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Lists of IDs to lists of items: each ID gives all its items, in order of item_index, with its score.

        Args:
            items: (B, W) one item of each ID found, best first, -1 at the end.
            scores: (B, W).
            k: length of the lists.
            seen: (B, T) items that are left out, -1 = none.

        Returns:
            Items (B, k), -1 where there are fewer, and scores (B, k), -inf beside -1.
        """
        user, place = np.nonzero(items >= 0)
        group = self.group[items[user, place]]
        counts = np.minimum(self.sizes[group], k + (0 if seen is None else seen.shape[1]))  # no more can be wanted
        step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        found = self.members[np.repeat(self.start[group], counts) + step]
        score, user = np.repeat(scores[user, place], counts), np.repeat(user, counts)
        if seen is not None:
            known = np.arange(len(seen))[:, None] * len(self.group) + seen
            new = ~np.isin(user * len(self.group) + found, known[seen >= 0])
            found, score, user = found[new], score[new], user[new]
        rank = np.arange(len(user)) - np.searchsorted(user, user)
        best, listed = rank < k, (user[rank < k], rank[rank < k])
        result = np.full((len(items), k), -1, np.int64), np.full((len(items), k), -np.inf, np.float32)
        result[0][listed], result[1][listed] = found[best], score[best]
        return result
