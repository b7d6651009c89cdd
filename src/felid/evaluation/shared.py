"""Ranking for evaluation: processes share the batches, and the rankers of one model share its searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import EvaluationSet, Sequences
from felid.distributed import largest, world
from felid.models.base import Histories
from felid.ranking import ItemRanker, search_together

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
        return _share(self.ranker)


class Together:
    """Lists of several rankers of one model under both policies, out of one search: the first that is asked for finds all.

    Each list is kept until it is taken. All processes must ask for the same ones.

    Args:
        rankers: of one model and catalogue, with the same search but for its mode, and for what is `hybrid` about it.
        done: hears how many lists each batch of this process finished.
    """

    def __init__(self, rankers: Sequence[ItemRanker], done: Callable[[int], None] = lambda lists: None) -> None:
        self._requests = [(_share(ranker), exclude_seen) for ranker in rankers for exclude_seen in (True, False)]
        self._places = {id(ranker): 2 * place for place, ranker in enumerate(rankers)}
        self._done = done
        self._histories: Sequences | None = None
        self._lists: dict[int, NDArray[np.int32]] = {}

    def take(self, ranker: ItemRanker, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than k are eligible."""
        place = self._places[id(ranker)] + (not exclude_seen)
        if self._histories is not histories or place not in self._lists or self._lists[place].shape[1] != k:
            count = len(self._requests)
            lists = [np.full((len(histories), k), -1, np.int32) for _ in range(count)]

            def keep(which: int, rows: Indices, items: Indices, scores: Floats) -> None:
                lists[which][rows] = items

            search_together(self._requests, histories, k, keep, lambda users: self._done(users * count))
            self._histories, self._lists = histories, {which: largest(items) for which, items in enumerate(lists)}
        return self._lists.pop(place).astype(np.int64)


@dataclass(frozen=True)
class TogetherRanker:
    """A ranker under evaluation whose lists are found with those of others."""

    ranker: ItemRanker
    together: Together

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than k are eligible."""
        return self.together.take(self.ranker, histories, k, exclude_seen)

    def recommendable(self) -> NDArray[np.bool_]:
        """(N,) True for items that can stand in a list."""
        return self.ranker.recommendable()


def _share(ranker: ItemRanker) -> ItemRanker:
    return ranker if world().size == 1 else _Share.of(ranker)
