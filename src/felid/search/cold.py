"""TIGER's rule for new items (Rajput et al. 2023, arXiv:2305.05065): they follow the found items whose codes they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from felid.semantic_ids import SemanticIds

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]
ROUNDING = 1e-9
"""What shares may lack of a whole number of items."""


@dataclass(frozen=True, eq=False)
class ColdRelatives:
    """The cold items that have all codes but the last in common with an item.

    Attributes:
        family: (N,) int64 rank of each item's codes but the last, among the F distinct ones.
        cold: cold item_index, family by family and ascending within each.
        start: (F + 1,) int64 first place of each family in `cold`.
    """

    family: Indices
    cold: Indices
    start: Indices

    @classmethod
    def of(cls, ids: SemanticIds, warm: NDArray[np.bool_]) -> ColdRelatives:
        """The families of a catalogue; `warm` (N,) is False for its cold items."""
        first, end = ids.trie.depth_start[-3:-1].tolist()
        family = ids.trie.walk(ids.codes[:, :-1]) - first
        cold = np.flatnonzero(~warm)
        cold = cold[np.argsort(family[cold], kind="stable")]
        return cls(family, cold, np.searchsorted(family[cold], np.arange(end - first + 1)))

    def follow(self, listed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(N,) True for cold items that have a relative among the `listed` (N,) ones."""
        placed = np.zeros_like(listed)
        placed[self.cold] = np.isin(self.family[self.cold], self.family[listed])
        return placed

    def place(self, items: Indices, scores: Floats, share: float, seen: Indices | None = None) -> tuple[Indices, Floats]:
        """Lists of the same length with cold items in them, each behind the first item of its family.

        The share holds for the first p items of a list, whatever p is, so that a list cut short is the list of fewer items:
        a cold item for which there is no room yet waits, and stands where it first may.

        Args:
            items: (B, k) warm items, best first, -1 at the end.
            scores: (B, k); a cold item gets that of the item it stands behind.
            share: of the first p items at most floor(share * p) are cold.
            seen: (B, T) items that are left out, -1 = none.
        """
        user, place = np.nonzero(items >= 0)
        cold, leader = self._followers(user, items[user, place], int(share * items.shape[1] + ROUNDING), seen)
        if len(cold):
            turn = _rank_in_run(user[leader])  # its own place is `turn` + 2 behind that of the item before it, from 0 and 1
            earliest = np.ceil((turn + 1) / share - ROUNDING).astype(np.int64) - turn - 2
            behind = np.maximum(place[leader], earliest)
            fits = behind < np.bincount(user, minlength=len(items))[user[leader]]
            cold, leader = cold[fits], (leader + behind - place[leader])[fits]
        order = np.argsort(np.concatenate((np.arange(len(user)), leader)), kind="stable")
        listed = np.concatenate((items[user, place], cold))[order]
        leader = np.concatenate((np.arange(len(user)), leader))[order]
        rank = _rank_in_run(user[leader])
        kept = rank < items.shape[1]
        result = np.full_like(items, -1), np.full_like(scores, -np.inf)
        at = user[leader][kept], rank[kept]
        result[0][at], result[1][at] = listed[kept], scores[user, place][leader][kept]
        return result

    def _followers(self, user: Indices, items: Indices, limit: int, seen: Indices | None) -> tuple[Indices, Indices]:
        """Cold items, and which of the M (user, item) pairs, ordered by user, each of them follows."""
        family = self.family[items]
        first = np.sort(np.unique(user * len(self.start) + family, return_index=True)[1])
        low, high = self.start[family[first]], self.start[family[first] + 1]
        counts = np.minimum(high - low, limit + (0 if seen is None else seen.shape[1]))  # no more can be wanted
        leader = np.repeat(first, counts)
        cold = self.cold[np.repeat(low, counts) + np.arange(len(leader)) - np.repeat(np.cumsum(counts) - counts, counts)]
        if seen is not None:
            known = np.arange(len(seen))[:, None] * len(self.family) + seen
            new = ~np.isin(user[leader] * len(self.family) + cold, known[seen >= 0])
            cold, leader = cold[new], leader[new]
        kept = _rank_in_run(user[leader]) < limit
        return cold[kept], leader[kept]


def _rank_in_run(keys: Indices) -> Indices:
    """(M,) how many equal keys stand before each, for ascending keys."""
    ranks: Indices = np.arange(len(keys)) - np.searchsorted(keys, keys)
    return ranks
