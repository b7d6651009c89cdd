"""Rankings that wait for a beam search, so that one pass through the decoder serves several of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch

from felid.models.base import Histories
from felid.search.beam import Query, Results

T = TypeVar("T")
U = TypeVar("U")
NOTHING = Results(torch.empty(0, 0), torch.empty(0, 0))
"""What a plan without a query is given."""


@dataclass(frozen=True)
class Plan(Generic[T]):
    """A ranking of some users that wants a beam search.

    Attributes:
        query: the search; None = it wants none.
        finish: makes the ranking of what was found (`NOTHING` without a query).
    """

    query: Query | None
    finish: Callable[[Results], T]

    def then(self, change: Callable[[T], U]) -> Plan[U]:
        """A plan whose ranking is `change` of this one's."""
        return Plan(self.query, lambda found: change(self.finish(found)))


@runtime_checkable
class Searcher(Protocol):
    """What can carry out queries."""

    def search(self, histories: Histories, queries: Sequence[Query]) -> tuple[Results, ...]:
        """What beam searches for the same users find."""
        ...


@torch.inference_mode()
def carry_out(plans: Sequence[Plan[T]], histories: Histories, searcher: Searcher | None) -> list[T]:
    """The rankings of some plans for the same users, with one pass through the decoder for the searches of all of them.

    Args:
        plans: made for `histories`.
        histories: B users.
        searcher: the generative head; None where no plan has a query.
    """
    queries = [plan.query for plan in plans if plan.query is not None]
    assert searcher is not None or not queries, "a query needs a generative head"
    found = iter(searcher.search(histories, queries) if searcher is not None and queries else ())
    return [plan.finish(NOTHING if plan.query is None else next(found)) for plan in plans]
