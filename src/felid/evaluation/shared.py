"""Ranking by several processes: each searches some of the batches, and all of them get all lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import Sequences
from felid.distributed import largest, world
from felid.models.base import Histories
from felid.ranking import ItemRanker

if TYPE_CHECKING:
    from torch import Tensor

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

    def _batches(self, histories: Sequences, exclude_seen: bool) -> Iterator[tuple[Indices, Histories, Tensor | None]]:
        here = world()
        return islice(super()._batches(histories, exclude_seen), here.rank, None, here.size)


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
        ranker = self.ranker if world().size == 1 else _Share.of(self.ranker)
        return largest(ranker.search_items(histories, k, exclude_seen, self.done)[0])  # others left -1 in these rows
