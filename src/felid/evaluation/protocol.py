"""Leave-one-out evaluation over the whole catalogue, under both policies for seen items.

Anything that ranks can be evaluated: a `Ranker` gets histories and returns lists of items. There are no sampled negatives
and no candidate pool (Krichene and Rendle 2020): every item of the catalogue competes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid import metrics
from felid.config import Config
from felid.data.histories import EvaluationSet, Sequences
from felid.errors import RequestError

Indices = NDArray[np.int64]
Policy = Literal["seen_removed", "seen_kept"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
PER_USER = {"recall": metrics.recall_per_user, "ndcg": metrics.ndcg_per_user, "mrr": metrics.mrr_per_user}


class EvaluationConfig(Config):
    """How runs are evaluated."""

    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field((5, 10), min_length=1)
    """Lengths of the lists that are judged, in items."""
    exclude_seen: bool = True
    """Headline policy: items of the history are removed from the list. The other policy is reported beside it."""
    bootstrap: int = Field(2000, ge=1)
    """Resamples of the users for each confidence interval."""
    level: float = Field(0.95, gt=0, lt=1)
    """Share of a confidence interval."""
    seed: int = 0
    """Seed of the bootstrap."""
    variants: bool = True
    """Whether the other modes of the model are evaluated as well, and not only the one that it ranks with."""
    hybrid_candidates: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Numbers of generated candidates that a system under `search.mode: hybrid` is evaluated with, beside that of the search."""
    oracle_pool: bool = False
    """Whether such a system is also evaluated with a pool that no system can know, of cold items only those that are
    targets, as in LIGER's published code; these rows say `oracle pool`."""
    loss: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Whether the loss on the targets is reported too, for models that generate codes (see `felid.evaluation.loss`). Where it is
    false it is not written, so that evaluations of versions without it are still known."""


class Ranker(Protocol):
    """What can be evaluated."""

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, no item twice, -1 where fewer than `k` items are eligible."""
        ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Ranks of one system on one part under one policy.

    Attributes:
        user_ids: (U,) ids as the data gives them.
        targets: (U,) int64 item_index.
        ranks: (U,) int64, 1-based, 0 = not among the first max(ks).
        ks: list lengths, ascending.
        coverage: share of the catalogue recommended to anyone, per k; empty for some of the users.
        target_seen: (U,) bool, users whose target is in their history; with seen items removed these are misses.
    """

    user_ids: NDArray[np.generic]
    targets: Indices
    ranks: Indices
    ks: tuple[int, ...]
    coverage: Mapping[int, float]
    target_seen: NDArray[np.bool_]

    @property
    def names(self) -> list[str]:
        """Names of the metrics that are means over users, for example `recall@10`."""
        return [f"{name}@{k}" for k in self.ks for name in PER_USER]

    def per_user(self) -> NDArray[np.float64]:
        """(U, M) float64, a column for each of `names`."""
        return np.stack([function(self.ranks, k) for k in self.ks for function in PER_USER.values()], axis=1)

    def metrics(self) -> dict[str, float | int]:
        """Means over users, coverage and counts, by lower-case name."""
        means = dict(zip(self.names, self.per_user().mean(axis=0).tolist(), strict=True))
        coverage = {f"coverage@{k}": share for k, share in self.coverage.items()}
        return {**means, **coverage, "num_users": len(self.ranks), "users_with_seen_target": int(self.target_seen.sum())}

    def of(self, users: NDArray[np.bool_]) -> Evaluation:
        """The same of the users that (U,) `users` marks; without coverage, which the ranks do not tell."""
        return Evaluation(self.user_ids[users], self.targets[users], self.ranks[users], self.ks, {}, self.target_seen[users])


def evaluate(ranker: Ranker, eval_set: EvaluationSet, ks: tuple[int, ...], exclude_seen: bool, num_items: int) -> Evaluation:
    """Rank the whole catalogue for every user and find the targets.

    Args:
        ranker: the system.
        eval_set: one history and one target per user.
        ks: list lengths to judge.
        exclude_seen: leave the items of the history out of the list; a target that is in the history is then a miss.
        num_items: size of the catalogue.

    Raises:
        RequestError: k above the catalogue, no users, or lists that break the promises of `Ranker`.
    """
    ks = tuple(sorted(set(ks)))
    histories = eval_set.histories
    check_request(ks, len(histories), num_items)
    recommended = ranker.rank(histories, ks[-1], exclude_seen)
    _check_lists(recommended, len(histories), ks[-1], num_items)
    seen = _seen_keys(histories, num_items)
    users = np.arange(len(histories))
    if exclude_seen and np.isin((users[:, None] * num_items + recommended)[recommended >= 0], seen).any():
        raise RequestError("the system recommends items of the history although they were to be removed; mend its rank()")
    return Evaluation(
        user_ids=histories.user_ids,
        targets=eval_set.targets,
        ranks=metrics.ranks_of(eval_set.targets, recommended),
        ks=ks,
        coverage={k: metrics.coverage_at_k(recommended, num_items, k) for k in ks},
        target_seen=np.isin(users * num_items + eval_set.targets, seen),
    )


def check_request(ks: tuple[int, ...], num_users: int, num_items: int) -> None:
    """Refuse what cannot be evaluated, before any work is done."""
    if not ks or min(ks) < 1:
        raise RequestError(f"evaluation.ks is {list(ks)}, expected list lengths of at least 1 such as [5, 10]")
    if max(ks) > num_items:
        raise RequestError(f"k is {max(ks)} but the catalogue has {num_items} items; choose evaluation.ks of at most {num_items}")
    if not num_users:
        raise RequestError("no user has the three items that a held-out test needs; give longer histories")


def _seen_keys(histories: Sequences, num_items: int) -> Indices:
    return np.repeat(np.arange(len(histories)), histories.lengths) * num_items + histories.items


def _check_lists(recommended: Indices, num_users: int, k: int, num_items: int) -> None:
    if recommended.shape != (num_users, k):
        raise RequestError(f"the system returned lists of shape {recommended.shape}, expected {(num_users, k)}; mend its rank()")
    if recommended.min() < -1 or recommended.max() >= num_items:
        raise RequestError(f"the system returned items outside -1..{num_items - 1}; mend its rank()")
    ordered = np.sort(recommended, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise RequestError("the system recommends an item twice to one user; mend its rank()")
