"""Lists of some items of the catalogue: what a system would list if no other item were there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import Sequences
from felid.evaluation.protocol import Indices, Ranker, Selective


@dataclass(frozen=True, eq=False)
class Filtered:
    """A ranker whose lists keep some items alone (the protocol of `felid.evaluation`); it is asked for that much longer ones.

    Attributes:
        ranker: the system.
        candidates: (N,) bool, the items that are kept.
    """

    ranker: Ranker
    candidates: NDArray[np.bool_]

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than k are eligible."""
        longer = min(len(self.candidates), k + int((~self.candidates).sum()))
        lists = self.ranker.rank(histories, longer, exclude_seen)
        kept = (lists >= 0) & self.candidates[lists]
        order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
        return np.where(np.take_along_axis(kept, order, axis=1), np.take_along_axis(lists, order, axis=1), -1)

    def recommendable(self) -> NDArray[np.bool_]:
        """(N,) True for items that can stand in a list."""
        return self.candidates & self.ranker.recommendable() if isinstance(self.ranker, Selective) else self.candidates


def filtered(ranker: Ranker, candidates: NDArray[np.bool_]) -> Ranker:
    """The ranker, as it is where it lists no other items anyway."""
    others = isinstance(ranker, Selective) and not (ranker.recommendable() & ~candidates).any()
    return ranker if others else Filtered(ranker, candidates)
