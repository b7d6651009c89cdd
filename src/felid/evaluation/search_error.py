"""What a beam search misses: its lists beside those of the same scores over the whole catalogue.

A beam drops prefixes before it knows how good their best items are, and under `fused` only proposed items are scored. Here the
same search runs once more with nothing dropped: as many beams, and as many candidates of each head, as the catalogue has items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from felid.data.histories import EvaluationSet, Sequences
from felid.distributed import world
from felid.evaluation.protocol import EvaluationConfig
from felid.evaluation.shared import SharedRanker
from felid.models.base import Mode
from felid.progress import progress_bar
from felid.ranking import ItemRanker

Indices = NDArray[np.int64]
AT_ONCE = 2**15
"""Users x items of a batch of the exact search; a single user may have more."""
MOST_ITEMS = 2**18
"""Of larger catalogues the exact search of one user may not fit into memory; nothing is measured there."""
MOST_CELLS = 2**21
"""Users x items that are searched exactly for each system: about ten seconds of one core."""


def search_errors(
    rankers: Mapping[str, ItemRanker], test: EvaluationSet, config: EvaluationConfig, console: Console
) -> dict[str, dict[str, float | int]]:
    """`search_error` of a `metrics.json`: of the first system of each mode that searches, under the headline policy.

    All processes must ask together.

    Args:
        rankers: the systems by name.
        test: users to draw from.
        config: list lengths, seed, and how many users; fewer where the catalogue is large, none above `MOST_ITEMS`.
        console: where progress goes.
    """
    systems: dict[Mode, tuple[str, ItemRanker]] = {}
    for name, ranker in rankers.items():
        if ranker.codes is not None:
            systems.setdefault(ranker.mode, (name, ranker))
    num_items = max((len(ranker.catalogue.warm) for _, ranker in systems.values()), default=MOST_ITEMS + 1)
    users = 0 if num_items > MOST_ITEMS else min(config.search_error_users, max(1, MOST_CELLS // num_items))
    if not users:
        return {}
    histories, found = sample(test.histories, users, config.seed), {}
    total = len(histories) * len(systems) // world().size
    with progress_bar(console, "search error", total=total, unit="users") as bar:
        for name, ranker in systems.values():
            found[name] = search_error(ranker, histories, config.ks, config.exclude_seen, bar.advance)
    return found


def sample(histories: Sequences, users: int, seed: int) -> Sequences:
    """So many of the users drawn at random, in their order; all of them where there are no more."""
    rows = np.random.default_rng(seed).permutation(len(histories))[:users]
    return histories.take(np.sort(rows))


def unpruned(ranker: ItemRanker) -> ItemRanker:
    """A ranker of the same scores whose search drops nothing."""
    num_items, search = len(ranker.catalogue.warm), ranker.search
    batch = min(search.batch_users, max(1, AT_ONCE // num_items))
    whole = copy(ranker)  # item vectors and vectors of the trie's nodes are the same
    whole.search = search.model_copy(update={"num_beams": num_items, "candidates": num_items, "batch_users": batch})
    return whole


def search_error(
    ranker: ItemRanker,
    histories: Sequences,
    ks: tuple[int, ...],
    exclude_seen: bool,
    done: Callable[[int], None] = lambda users: None,
) -> dict[str, float | int]:
    """How much of the exact lists a search finds.

    Args:
        ranker: one that searches.
        histories: U users.
        ks: list lengths.
        exclude_seen: leave out the items of the histories, in both lists.
        done: hears how many users each batch of the exact search finished.

    Returns:
        `error@k`, the share of the exact first k that the search does not list among its first k; `same_list@k`, the share of
        users with equal lists; `num_beams` of the search, raised where lists want more; `users`.
    """
    k = max(ks)
    mine = SharedRanker(ranker).rank(histories, k, exclude_seen)
    exact = SharedRanker(unpruned(ranker), done).rank(histories, k, exclude_seen)
    found: dict[str, float | int] = {}
    for length in sorted(set(ks)):
        found[f"error@{length}"] = _missed(mine[:, :length], exact[:, :length])
        found[f"same_list@{length}"] = float((mine[:, :length] == exact[:, :length]).all(axis=1).mean())
    return {**found, "num_beams": _beams(ranker, k), "users": len(histories)}


def _beams(ranker: ItemRanker, k: int) -> int:
    search = ranker.search
    wanted = {"fused": max(search.candidates, k), "hybrid": search.hybrid_candidates}
    return max(search.num_beams, wanted.get(ranker.mode, k))


def _missed(mine: Indices, exact: Indices) -> float:
    """Share of the items of the exact lists that are not in the user's own list; 0 where these are empty."""
    real = exact >= 0
    among = (exact[:, :, None] == mine[:, None, :]).any(axis=2)
    return float((real & ~among).sum() / max(int(real.sum()), 1))
