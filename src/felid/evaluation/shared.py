"""Ranking by several processes: each searches some of the batches, and all of them get all lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import EvaluationSet, Sequences
from felid.distributed import largest, world
from felid.models.base import Histories
from felid.ranking import ItemRanker

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class _Share(ItemRanker):
    """A ranker that fills only the lists of its process's users.

    Whole batches are shared out, those that one process would make: a score can depend in its last bit on who else is in the
    batch, and metrics are to be equal to those of one process.
    """

    @classmethod
    def of(cls, ranker: ItemRanker) -> _Share:
        """The same ranker, with its vectors."""
        share = cls.__new__(cls)
        vars(share).update(vars(ranker))
        return share

    def batches(self, histories: Sequences, exclude_seen: bool) -> Iterator[tuple[Indices, Histories, Tensor | None]]:
        here = world()
        return islice(super().batches(histories, exclude_seen), here.rank, None, here.size)


@dataclass(frozen=True)
class SharedRanker:
    """A ranker under evaluation (the protocol of `felid.evaluation`); all processes must ask it together.

    Attributes:
        ranker: ranks items; in a single process, all of them.
        done: hears how many users each batch of this process finished.
    """

    ranker: ItemRanker
    done: Callable[[int], None] = lambda users: None

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than k are eligible."""
        return largest(self._share.search_items(histories, k, exclude_seen, self.done)[0])  # others left -1 in these rows

    def recommendable(self) -> NDArray[np.bool_]:
        """(N,) True for items that can stand in a list."""
        return self.ranker.recommendable()

    def score_targets(self, part: EvaluationSet) -> Floats:
        """(U,) log-probability of each target's codes given its history, natural; -inf for items that cannot be generated.

        The ranker must be one that generates codes.
        """
        share, found = self._share, np.full(len(part.targets), -np.inf, np.float32)
        assert share.codes is not None
        for rows, batch, _ in share.batches(part.histories, exclude_seen=False):
            found[rows] = share.codes.score_targets(batch, part.targets[rows])
            self.done(len(rows))
        return largest(found)  # others left -inf in these rows

    @property
    def _share(self) -> ItemRanker:
        return self.ranker if world().size == 1 else _Share.of(self.ranker)
