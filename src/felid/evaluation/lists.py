"""What recommended lists say besides hits: how much of the catalogue they show, how known, how new, how alike the items are.

Pure functions of `recommended`, (U, R) item_index, best first, -1 = an empty place; only its first `k` places count. None of them
looks at targets. All read the lists in blocks of users, so memory is bounded whatever U and k are. Where no list has what a
statistic is about (items, or pairs of items), it is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from felid.errors import RequestError

Indices = NDArray[np.int64]
Values = NDArray[np.float64]
CELLS_PER_BLOCK = 2**21
"""Numbers of a statistic that are held at once."""


@dataclass(frozen=True, eq=False)
class ItemFacts:
    """What statistics of lists know of the items.

    Attributes:
        counts: (N,) int64 training interactions.
        vectors: (N, D) float32 item embeddings of any length; None = there are none, and no diversity.
    """

    counts: Indices
    vectors: NDArray[np.float32] | None = None


def list_statistics(
    recommended: Indices, ks: tuple[int, ...], facts: ItemFacts, recommendable: NDArray[np.bool_]
) -> Mapping[str, float]:
    """Every statistic at each length by name, such as `gini@10`; those that are NaN are left out, JSON has no word for them.

    Catalogue coverage, the one other statistic of this kind, is `felid.metrics.coverage_at_k`.
    """
    news, num_items = self_information(facts.counts), len(facts.counts)
    found: dict[str, float] = {}
    for k in ks:
        found |= {
            f"gini@{k}": gini_at_k(recommended, num_items, k),
            f"average_popularity@{k}": mean_over_lists(recommended, facts.counts.astype(np.float64), k),
            f"novelty@{k}": mean_over_lists(recommended, news, k),
            f"invalid@{k}": invalid_share_at_k(recommended, recommendable, k),
            f"empty@{k}": empty_share_at_k(recommended, k),
        }
        if facts.vectors is not None:
            found[f"diversity@{k}"] = diversity_at_k(recommended, facts.vectors, k)
    return {name: value for name, value in found.items() if not np.isnan(value)}


def gini_at_k(recommended: Indices, num_items: int, k: int) -> float:
    """Gini coefficient of how often each item of the catalogue is recommended, items that never are among them.

    sum_i (2 i - N - 1) c_i / (N sum_i c_i), c ascending, i from 1. 0 = all N items equally often, 1 - 1/N = one item alone
    (Castells, Hurley and Vargas 2015, Recommender Systems Handbook, section 26.3).
    """
    counts = np.zeros(num_items, np.int64)
    for block in _blocks(recommended, k):
        counts += np.bincount(block[block >= 0], minlength=num_items)
    counts.sort()
    weights = 2 * np.arange(1, num_items + 1) - num_items - 1
    total = counts.sum()
    return float((weights * counts).sum() / (num_items * total)) if total else float("nan")


def mean_over_lists(recommended: Indices, values: Values, k: int) -> float:
    """Mean over the lists that hold an item of the mean of their items' values.

    With `values` the training interactions of each item this is the *average popularity* (ARP; Yin et al. 2012, "Challenging the
    long tail recommendation"), with `self_information` it is the *novelty* (Vargas and Castells 2011).

    Args:
        recommended: (U, R) lists.
        values: (N,) of each item.
        k: places that count.
    """
    total, lists = 0.0, 0
    for block in _blocks(recommended, k):
        real = block >= 0
        sizes = real.sum(axis=1)
        sums = np.where(real, values[block], 0.0).sum(axis=1)
        total += float((sums / np.maximum(sizes, 1)).sum())
        lists += int((sizes > 0).sum())
    return total / lists if lists else float("nan")


def self_information(counts: Indices) -> Values:
    """(N,) -log2 of each item's share of the training interactions, in bits (Zhou et al. 2010, PNAS 107).

    An item without training interactions has no finite value; it gets that of an item with one, a lower bound.
    """
    shares: Values = np.maximum(counts, 1) / max(int(counts.sum()), 1)
    return -np.log2(shares)


def diversity_at_k(recommended: Indices, vectors: NDArray[np.float32], k: int) -> float:
    """1 - mean cosine over the pairs of items of a list, averaged over the lists with at least two items.

    The complement of the intra-list similarity of Ziegler et al. 2005, "Improving recommendation lists through topic
    diversification". No pair is visited: for unit vectors u the cosines of all pairs add up to (|sum u|^2 - sum |u|^2) / 2.

    Args:
        recommended: (U, R) lists.
        vectors: (N, D) of any length; an item whose vector is 0 has the cosine 0 with every other.
        k: places that count.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    scales = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    total, lists = 0.0, 0
    for block in _blocks(recommended, k, vectors.shape[1]):
        real = block >= 0
        sizes = real.sum(axis=1)
        ends, items = np.concatenate(([0], np.cumsum(sizes))), block[real]
        sums = (sparse.csr_array((scales[items], items, ends), shape=(len(block), len(vectors))) @ vectors).astype(np.float64)
        units = (real & (scales[block] > 0)).sum(axis=1)
        cosines = ((sums**2).sum(axis=1) - units) / np.maximum(sizes * (sizes - 1), 1)
        total += float((1.0 - cosines)[sizes > 1].sum())
        lists += int((sizes > 1).sum())
    return total / lists if lists else float("nan")


def invalid_share_at_k(recommended: Indices, recommendable: NDArray[np.bool_], k: int) -> float:
    """Share of the first `k` places that hold what is no item of the catalogue, or an item that the system cannot recommend.

    TIGER's invalid IDs (Rajput et al. 2023, section 4.5), at the level of items. Empty places are not invalid.

    Args:
        recommended: (U, R) lists; anything below -1 is no item.
        recommendable: (N,) the items that can stand in a list.
        k: places that count.
    """
    wrong = 0
    for block in _blocks(recommended, k):
        inside = (block >= 0) & (block < len(recommendable))
        wrong += int((inside & ~recommendable[np.where(inside, block, 0)]).sum() + (~inside & (block != -1)).sum())
    return wrong / (len(recommended) * k)


def empty_share_at_k(recommended: Indices, k: int) -> float:
    """Share of the first `k` places that no item stands in, because the system found fewer; each is a miss in all metrics."""
    filled = sum(int((block != -1).sum()) for block in _blocks(recommended, k))
    return 1.0 - filled / (len(recommended) * k)


def _blocks(recommended: Indices, k: int, width: int = 1) -> Iterator[Indices]:
    """The first `k` places of so many users at once that `k` or `width` numbers for each of them stay within the limit."""
    if k < 1:
        raise RequestError(f"k is {k}, expected at least 1; ask for one place or more")
    if not len(recommended):
        raise RequestError("statistics of no lists were asked for, expected one list per user; evaluate some users")
    rows = max(1, CELLS_PER_BLOCK // max(k, width))
    for start in range(0, len(recommended), rows):
        yield recommended[start : start + rows, :k]
