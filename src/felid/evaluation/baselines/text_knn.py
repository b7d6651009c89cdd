"""Text-kNN: the items whose texts are nearest to what a user took last. It learns nothing, so new items rank like others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from felid.data.histories import Sequences
from felid.evaluation.baselines.counted import Popularity
from felid.evaluation.baselines.merging import Indices, user_batches
from felid.evaluation.baselines.names import RECENT
from felid.rows import Vectors
from felid.search.top import best

MOST_SCORES = 2**23
"""Cosines that are kept at once."""
DIGITS = 6
"""Decimals in which cosines are compared: those that differ by rounding alone are equal."""
NO_TEXT = -2.0
"""Below all cosines."""


@dataclass(frozen=True, eq=False)
class TextKnn:
    """Items ordered by the cosine of their text vector to the mean of those of the last items of the history.

    Ties go by popularity, then item_index. Items without a text come last; a history without any gets the popular items.

    Attributes:
        popularity: decides ties.
        vectors: (N, D) float32 text vectors at unit length, those of popular items first; a row of zeros = no text.
        recent: how many items of a history are read.
    """

    popularity: Popularity
    vectors: Tensor
    recent: int

    @classmethod
    def of(cls, embeddings: Vectors, popularity: Popularity, recent: int = RECENT) -> TextKnn:
        """Take the text vectors (N, D) of a catalogue, at unit length, row = item_index."""
        return cls(popularity, torch.from_numpy(embeddings[popularity.order]), recent)

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than `k` items are eligible."""
        return np.concatenate([np.empty((0, k), np.int64), *self._batches(histories, k, exclude_seen)])

    def _batches(self, histories: Sequences, k: int, exclude_seen: bool) -> Iterator[Indices]:
        order, place = self.popularity.order, self.popularity.place
        without = ~self.vectors.any(1)
        for batch in user_batches(histories, max(1, MOST_SCORES // len(order))):
            cosines = self._means(batch, place) @ self.vectors.T
            cosines.round_(decimals=DIGITS)
            cosines[:, without] = NO_TEXT
            if exclude_seen:
                users = np.repeat(np.arange(len(batch)), batch.lengths)
                cosines[torch.from_numpy(users), torch.from_numpy(place[batch.items])] = -torch.inf
            places, found = best(cosines, k)
            yield np.where(found.numpy() > -np.inf, order[places.numpy()], -1)

    def _means(self, histories: Sequences, place: Indices) -> Tensor:
        """(B, D) direction of the mean text vector of each history, zeros where there is none."""
        recent = histories.padded(np.arange(len(histories)), self.recent, -1)
        items = torch.from_numpy(np.where(recent < 0, -1, place[recent]))
        vectors = self.vectors[items].masked_fill((items < 0)[:, :, None], 0)
        return torch.nn.functional.normalize(vectors.sum(1), dim=1)
