"""Equal scores in the lists of another system: what the order in which they stand is worth.

A list that names its target first among items of one score has found nothing, and its file order says that it has. So three
policies stand beside each other: the order of the file, the mean over all orders of the equal items (McSherry and Najork 2008),
and the target behind its equals. Items that a list leaves out have no score, so nothing is known of ties with these.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import EvaluationSet, Sequences
from felid.errors import FelidWarning
from felid.evaluation.conventions import tied
from felid.evaluation.protocol import PER_USER

Indices = NDArray[np.int64]
METRICS = ("recall", "ndcg")
NO_SCORES = "evaluation.ties=pessimistic has no effect where no scores are known; give lists with scores, or leave it out"


@dataclass(frozen=True, eq=False)
class ScoredLists:
    """Lists of another system, best item first.

    Attributes:
        items: item_index, for the users that have a list.
        scores: (sum of lengths,) float64 of each item, equal ones in file order; None = the file gives ranks.
        order: what ordered the lists, in words.
    """

    items: Sequences
    scores: NDArray[np.float64] | None
    order: str

    @property
    def owners(self) -> Indices:
        """(sum of lengths,) row of each item's user."""
        return np.repeat(np.arange(len(self.items)), self.items.lengths)

    def among(self, candidates: NDArray[np.bool_]) -> ScoredLists:
        """The same lists of the items that (N,) `candidates` marks alone."""
        kept = candidates[self.items.items]
        return replace(self, items=self.items.where(kept), scores=None if self.scores is None else self.scores[kept])

    def targets_last(self, test: EvaluationSet) -> ScoredLists:
        """The same lists with each test user's target behind the items of its score; a warning where there are no scores."""
        if self.scores is None:
            warnings.warn(NO_SCORES, FelidWarning, stacklevel=2)
            return self
        targets = dict(zip(test.histories.user_ids.tolist(), test.targets.tolist(), strict=True))
        wanted = np.array([targets.get(user, -1) for user in self.items.user_ids.tolist()], np.int64)
        order = np.lexsort((self.items.items == wanted[self.owners], -self.scores, self.owners))  # stable: else as in the file
        items = replace(self.items, items=self.items.items[order])
        said = f"{self.order}, but a target stands behind all items of its score (evaluation.ties=pessimistic)"
        return ScoredLists(items, self.scores[order], said)


def tie_metrics(lists: ScoredLists, test: EvaluationSet, ks: tuple[int, ...], *, exclude_seen: bool) -> dict[str, Any]:
    """Recall and NDCG on the test users under each policy for ties.

    Args:
        lists: with scores, in file order.
        test: all test users; those without a list are misses.
        ks: list lengths.
        exclude_seen: leave items of the history out of the lists.

    Returns:
        `file_order`, `average`, `pessimistic`: metrics by name; `tied_targets`: how many targets have the score of another item.
    """
    assert lists.scores is not None
    users, ks = len(test.targets), tuple(sorted(set(ks)))
    rows = {user: row for row, user in enumerate(test.histories.user_ids.tolist())}
    owners = np.array([rows.get(user, -1) for user in lists.items.user_ids.tolist()], np.int64)[lists.owners]
    kept = owners >= 0
    if exclude_seen:
        size = int(max(lists.items.items.max(initial=0), test.histories.items.max(initial=0))) + 1
        seen = np.repeat(np.arange(users), test.histories.lengths) * size + test.histories.items
        kept &= ~np.isin(owners * size + lists.items.items, seen)
    owners, items, scores = owners[kept], lists.items.items[kept], lists.scores[kept]
    is_target, own = items == test.targets[owners], np.full(users, np.inf)
    own[owners[is_target]] = scores[is_target]
    above = np.bincount(owners[scores > own[owners]], minlength=users)
    equal = np.bincount(owners[(scores == own[owners]) & ~is_target], minlength=users)
    before = np.bincount(owners[_before(owners, is_target)], minlength=users)
    listed = np.isfinite(own)
    ranks, above = np.where(listed, before + 1, 0), np.where(listed, above, max(ks))
    return {
        "file_order": {f"{name}@{k}": float(PER_USER[name](ranks, k).mean()) for k in ks for name in METRICS},
        "average": tied(above, equal, ks, "average"),
        "pessimistic": tied(above, equal, ks, "pessimistic"),
        "tied_targets": int((equal > 0).sum()),
    }


def _before(owners: Indices, is_target: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Items that stand before the target in a list that holds it; the items of a user stand together."""
    place = np.arange(len(owners))
    target = np.full(int(owners.max(initial=-1)) + 1, -1)
    target[owners[is_target]] = place[is_target]
    return place < target[owners]


def tie_line(metrics: Mapping[str, Any]) -> str | None:
    """The policies for ties beside each other at the largest k; None where no target has the score of another item."""
    found = metrics.get("ties", {})
    if not found.get("tied_targets"):
        return None
    names = [f"{name}@{max(int(key.partition('@')[2]) for key in found['average'])}" for name in METRICS]
    values = "; ".join(
        f"{name} {found['file_order'][name]:.4f} in file order, {found['average'][name]:.4f} averaged over all orders, "
        f"{found['pessimistic'][name]:.4f} behind its equals"
        for name in names
    )
    return f"equal scores: {found['tied_targets']:,} targets have the score of another item; {values}"
