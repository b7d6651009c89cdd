"""Item-kNN: what the users of a history's items took as well, by cosine (Sarwar et al. 2001; Deshpande and Karypis 2004).

The neighbours are those that the `implicit` library finds. That a user took an item more than once counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from felid.data.histories import Sequences
from felid.evaluation.baselines.counted import Popularity
from felid.evaluation.baselines.merging import Indices, merge, user_batches
from felid.evaluation.baselines.names import ITEM_NEIGHBOURS

MOST_SCORES = 2**23
"""Scores that are kept at once; users are taken in smaller batches where their histories are long."""
DIGITS = 10
"""Decimals in which scores are compared: sums that differ by rounding alone are equal."""


@dataclass(frozen=True, eq=False)
class ItemKnn:
    """Items ordered by the sum of their similarities to the items of the history; after those with any, the popular ones.

    An item is no neighbour of itself: what was seen comes again only where other items of the history speak for it. Ties go by
    popularity, then item_index. Items without training interactions have no neighbours and are nobody's.

    Attributes:
        popularity: decides ties and fills the list.
        similarity: (N, N) cosines of each item (row) to its neighbours; items are numbered by their place in `popularity.order`.
    """

    popularity: Popularity
    similarity: csr_matrix

    @classmethod
    def fit(cls, train: Sequences, num_items: int, neighbours: int = ITEM_NEIGHBOURS) -> ItemKnn:
        """Find the nearest items of each item.

        Args:
            train: training sequences.
            num_items: N.
            neighbours: kept for each item; which of equally near ones are, where not all can be, is `implicit`'s to say (always
                the same).
        """
        from implicit.nearest_neighbours import ItemItemRecommender  # loads all its models

        popularity = Popularity.fit(train, num_items)
        taken = _taken(train, popularity.place)
        taken.data /= np.sqrt(np.bincount(taken.indices, minlength=num_items))[taken.indices]  # products are cosines
        knn = ItemItemRecommender(K=neighbours + 1)  # the nearest one is the item itself
        knn.fit(taken, show_progress=False)
        found = knn.similarity.tocoo()
        other = (found.row != found.col) & (found.data > 0)
        cosines = found.data[other], (found.row[other], found.col[other])
        return cls(popularity, csr_matrix(cosines, shape=(num_items, num_items)))

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than `k` items are eligible."""
        return np.concatenate([np.empty((0, k), np.int64), *self._batches(histories, k, exclude_seen)])

    def _batches(self, histories: Sequences, k: int, exclude_seen: bool) -> Iterator[Indices]:
        order, place = self.popularity.order, self.popularity.place
        widest = int(np.diff(self.similarity.indptr).max() * histories.lengths.max(initial=0))
        for batch in user_batches(histories, max(1, MOST_SCORES // max(1, min(widest, len(order))))):
            scores = _taken(batch, place) @ self.similarity
            scores.sort_indices()
            users = np.repeat(np.arange(len(batch)), np.diff(scores.indptr))
            best_first = np.lexsort((-np.round(scores.data, DIGITS), users))
            starts, lengths = scores.indptr[:-1].astype(np.int64), np.diff(scores.indptr).astype(np.int64)
            yield merge(batch, k, exclude_seen, order, (starts, lengths, order[scores.indices[best_first]]))


def _taken(sequences: Sequences, place: Indices) -> csr_matrix:
    """(U, N) 1 where a user has an item, whose column is its place."""
    num_items = len(place)
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    row, column = np.divmod(np.unique(users * num_items + place[sequences.items]), num_items)
    return csr_matrix((np.ones(len(row)), (row, column)), shape=(len(sequences), num_items))
