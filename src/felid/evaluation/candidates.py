"""Lists of some items of the catalogue: what a system would list if no other item were there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import Sequences
from felid.evaluation.protocol import Indices, Ranker, Selective
from felid.rows import blocks

PLACES = 2**25
"""Places of the longer lists that are in memory at once."""


@dataclass(frozen=True, eq=False)
class Filtered:
    """A ranker whose lists keep some items alone (the protocol of `felid.evaluation`); it is asked for that much longer ones.

    That is what it would list if no other item were there, where its longer lists begin as the shorter ones do: not for beams.

    Attributes:
        ranker: the system.
        candidates: (N,) bool, the items that are kept.
    """

    ranker: Ranker
    candidates: NDArray[np.bool_]

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than k are eligible."""
        longer = min(len(self.candidates), k + int((~self.candidates).sum()))
        found = np.full((len(histories), k), -1, np.int64)
        for block in blocks(len(histories), max(1, PLACES // longer)):
            lists = self.ranker.rank(histories.take(np.arange(block.start, block.stop)), longer, exclude_seen)
            kept = (lists >= 0) & self.candidates[lists]
            order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
            found[block] = np.where(np.take_along_axis(kept, order, axis=1), np.take_along_axis(lists, order, axis=1), -1)
        return found

    def recommendable(self) -> NDArray[np.bool_]:
        """(N,) True for items that can stand in a list."""
        return self.candidates & self.ranker.recommendable() if isinstance(self.ranker, Selective) else self.candidates


def filtered(ranker: Ranker, candidates: NDArray[np.bool_]) -> Ranker:
    """The ranker, as it is where it lists no other items anyway."""
    unable = isinstance(ranker, Selective) and not (ranker.recommendable() & ~candidates).any()
    return ranker if unable or candidates.all() else Filtered(ranker, candidates)
