"""Leave-one-out evaluation over the whole catalogue, under both policies for seen items.

Anything that ranks can be evaluated: a `Ranker` gets histories and returns lists of items. There are no sampled negatives
(Krichene and Rendle 2020): every item of the catalogue competes, or where that is asked for every one that was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid import metrics
from felid.config import Config
from felid.data.histories import EvaluationSet, LeaveOneOut, Sequences
from felid.errors import RequestError
from felid.evaluation.baselines import BASELINES, BaselineName
from felid.evaluation.lists import ItemFacts, invalid_share_at_k, list_statistics

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
    candidates: Literal["all", "warm"] = Field("all", exclude_if=lambda value: value == "all")
    """Which items compete: the whole catalogue, or its items with training interactions, for all systems and baselines alike; a
    target that is no candidate is a miss. Where it is the default it is not written."""
    ties: Literal["file-order", "pessimistic"] = Field("file-order", exclude_if=lambda value: value == "file-order")
    """Lists of other systems, `--recommendations` with scores: which place a target has among items of its score: the one that it
    has in the file, or the last. The numbers under both, and averaged over all orders, stand beside the headline in any case.
    felid's own systems order equal scores by item_index, blind to the target. Where it is the default it is not written."""
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
    search_error_users: int = Field(100, ge=0)
    """Test users, drawn at random, whose lists are compared with those of a search over the whole catalogue that drops nothing
    (`search_error` of the metrics); fewer where the catalogue is large, 0 = none."""
    baselines: tuple[BaselineName, ...] = BASELINES
    """What stands beside the run; `felid.evaluation.baselines` has them. For the two with `sasrec` a SASRec is trained, once per
    run folder and seed, which can take longer than the run itself: leave both out where that is too long."""


class Ranker(Protocol):
    """What can be evaluated."""

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, no item twice, -1 where fewer than `k` items are eligible."""
        ...


@runtime_checkable
class Selective(Protocol):
    """A `Ranker` that knows which items it can list at all; of others every item of the catalogue may be listed."""

    def recommendable(self) -> NDArray[np.bool_]:
        """(N,) True for items that can stand in a list."""
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
        id_ranks: (U,) int64, place of the first item with the target's semantic ID, 0 = none; None where IDs are not shared.
        lists: what the lists say besides hits (`felid.evaluation.lists`), by name; empty where that was not asked for.
    """

    user_ids: NDArray[np.generic]
    targets: Indices
    ranks: Indices
    ks: tuple[int, ...]
    coverage: Mapping[int, float]
    target_seen: NDArray[np.bool_]
    id_ranks: Indices | None = None
    lists: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the metrics that are means over users, for example `recall@10`."""
        return [f"{name}@{k}" for k in self.ks for name in PER_USER]

    def per_user(self) -> NDArray[np.float64]:
        """(U, M) float64, a column for each of `names`."""
        return np.stack([function(self.ranks, k) for k in self.ks for function in PER_USER.values()], axis=1)

    @property
    def coverage_by_name(self) -> dict[str, float]:
        """`coverage`, such as `coverage@10`."""
        return {f"coverage@{k}": share for k, share in self.coverage.items()}

    def metrics(self) -> dict[str, float | int]:
        """Means over users, coverage and counts, by lower-case name."""
        means = dict(zip(self.names, self.per_user().mean(axis=0).tolist(), strict=True))
        return {
            **means,
            **self.coverage_by_name,
            "num_users": len(self.ranks),
            "users_with_seen_target": int(self.target_seen.sum()),
        }

    def of(self, users: NDArray[np.bool_]) -> Evaluation:
        """The same of the users that (U,) `users` marks; without coverage, which the ranks do not tell."""
        id_ranks = None if self.id_ranks is None else self.id_ranks[users]
        per_user = self.user_ids[users], self.targets[users], self.ranks[users]
        return Evaluation(*per_user, self.ks, {}, self.target_seen[users], id_ranks)

    def id_level(self) -> dict[str, float]:
        """Means over users where every item with the target's semantic ID counts as the target; no more than a side note."""
        assert self.id_ranks is not None, "the semantic IDs are not shared"
        found = replace(self, ranks=self.id_ranks).per_user().mean(axis=0)
        return dict(zip(self.names, found.tolist(), strict=True))


def evaluate(
    ranker: Ranker,
    eval_set: EvaluationSet,
    ks: tuple[int, ...],
    exclude_seen: bool,
    num_items: int,
    id_groups: Indices | None = None,
    facts: ItemFacts | None = None,
) -> Evaluation:
    """Rank the whole catalogue for every user and find the targets.

    Args:
        ranker: the system.
        eval_set: one history and one target per user.
        ks: list lengths to judge.
        exclude_seen: leave the items of the history out of the list; a target that is in the history is then a miss.
        num_items: size of the catalogue.
        id_groups: (N,) which items have the same semantic ID, where several do.
        facts: what statistics of the lists need; None = they are not wanted.

    Raises:
        RequestError: k above the catalogue, no users, lists that break the promises of `Ranker`, or an item in them that the
            system says it cannot recommend.
    """
    ks = tuple(sorted(set(ks)))
    histories = eval_set.histories
    check_request(ks, len(histories), num_items)
    recommended = ranker.rank(histories, ks[-1], exclude_seen)
    _check_lists(recommended, len(histories), ks[-1], num_items)
    recommendable = ranker.recommendable() if isinstance(ranker, Selective) else np.ones(num_items, bool)
    _check_recommendable(recommended, recommendable)
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
        id_ranks=None if id_groups is None else _id_ranks(eval_set.targets, recommended, id_groups),
        lists={} if facts is None else list_statistics(recommended, ks, facts, recommendable),
    )


def _id_ranks(targets: Indices, recommended: Indices, id_groups: Indices) -> Indices:
    return metrics.ranks_of(id_groups[targets], np.where(recommended < 0, -1, id_groups[recommended]))


def candidates_of(config: EvaluationConfig, split: LeaveOneOut, num_items: int) -> NDArray[np.bool_]:
    """(N,) the items that compete."""
    return split.warm_items(num_items) if config.candidates == "warm" else np.ones(num_items, bool)


def check_request(ks: tuple[int, ...], num_users: int, num_items: int) -> None:
    """Refuse what cannot be evaluated, before any work is done."""
    if not ks or min(ks) < 1:
        raise RequestError(f"evaluation.ks is {list(ks)}, expected list lengths of at least 1 such as [5, 10]")
    if max(ks) > num_items:
        raise RequestError(f"k is {max(ks)} but only {num_items} items compete; choose evaluation.ks of at most {num_items}")
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


def _check_recommendable(recommended: Indices, recommendable: NDArray[np.bool_]) -> None:
    """That no list holds an item which the system itself rules out; the items are known to be of the catalogue."""
    share = invalid_share_at_k(recommended, recommendable, recommended.shape[1])
    if share:
        raise RequestError(
            f"{share * recommended.size:,.0f} of {recommended.size:,} places hold items that the system says it cannot list, "
            "expected none; mend its rank() or its recommendable()"
        )
