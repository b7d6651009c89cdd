"""Collisions resolved within the last level: items move to codes that no other item of their prefix has.

Per prefix (the codes before the last level) this is an assignment problem, solved exactly by the Hungarian method (Kuhn,
Naval Research Logistics Quarterly 1955). Prices that make scarce codes dear come from Sinkhorn-Knopp iterations (Cuturi,
NeurIPS 2013), as in the uniform semantic mapping of LC-Rec (Zheng et al., ICDE 2024).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from felid.errors import SemanticIdError
from felid.quantize.base import Codes
from felid.rows import BLOCK as ROWS
from felid.rows import Vectors

Costs = Callable[[NDArray[np.int64]], Vectors]
"""Rows (n,) int64 -> (n, K) float32 cost of each code of the last level for these rows, finite."""

BLOCK = 2**24
"""Most costs held at once while moving: rows x codes, 64 MiB; a prefix is never cut, though."""
SAMPLE = 65_536
"""Most rows that the prices are learnt from."""
SAMPLE_COSTS = 2**26
"""Most costs that the prices are learnt from, 256 MiB; never fewer rows than codes for it."""


def sorted_rows(codes: Codes) -> NDArray[np.int64]:
    """(N,) rows in lexicographic order of their codes, equal ones in the order they have."""
    return np.lexsort((np.arange(len(codes)), *codes.T[::-1]))


def runs(table: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First place and length of each run of equal rows in a sorted table; without columns all rows are equal."""
    new = np.ones(len(table), bool)
    new[1:] = (table[1:] != table[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    return starts, np.diff(np.append(starts, len(table)))


def move_to_free_codes(
    codes: Codes,
    sizes: tuple[int, ...],
    costs: Costs,
    ranks: NDArray[np.int64],
    prices: Vectors | None = None,
    learnt: NDArray[np.bool_] | None = None,
) -> Codes:
    """Make rows unique by other codes in the last level, at the least total cost per prefix.

    A prefix without a collision stays as it is. In another one, without prices the items whose codes are theirs alone keep
    them and the colliding items share out the other codes; with prices (K,), which are added to the costs, all items of the
    prefix share out all codes. First this is done for the learnt rows, as if there were no others; then for the others, with
    the codes that the learnt ones leave.

    Returns:
        (N, L) int32. Does not depend on the order of the rows if costs and ranks go with them.

    Raises:
        SemanticIdError: a prefix has more items than the last level has codes.
    """
    _check_room(codes, sizes)
    result, rows = codes.astype(np.int32), np.argsort(ranks)
    step = _rows_at_once(sizes[-1])
    first = np.ones(len(codes), bool) if learnt is None else learnt
    for present, free in ((rows[first[rows]], first), (rows, ~first)):
        if free.any():
            _move(result, present, free, costs, prices, step)
    return result


def _move(
    codes: Codes, rows: NDArray[np.int64], free: NDArray[np.bool_], costs: Costs, prices: Vectors | None, step: int
) -> None:
    """Make the codes of `rows`, given in the order of their ranks, unique in place; only rows in `free` (N,) move."""
    rows = rows[sorted_rows(codes[rows])]
    table, free = codes[rows], free[rows]
    starts, lengths = runs(table[:, :-1])
    counts = runs(table)[1]
    collides = np.repeat(counts > 1, counts) & free
    prefix = np.repeat(np.arange(len(starts)), lengths)
    crowded = np.zeros(len(starts), bool)
    crowded[prefix[collides]] = True
    moving = collides if prices is None else crowded[prefix] & free
    for places in _blocks(np.flatnonzero(moving), prefix, step):
        cost = costs(rows[places]) if prices is None else costs(rows[places]) + prices
        for first, count in zip(*runs(prefix[places][:, None]), strict=True):
            own = prefix[places[first]]
            members = slice(starts[own], starts[own] + lengths[own])
            kept = table[members, -1][~moving[members]]
            table[places[first : first + count], -1] = _assign(cost[first : first + count], kept)
    codes[rows] = table


def balancing_prices(costs: Costs, rows: NDArray[np.int64], size: int, epsilon: float, iterations: int) -> Vectors:
    """(K,) prices of the last level's codes under which they are used about equally.

    Duals of the entropic transport from a sample of `rows` (evenly weighted) to the codes (evenly weighted): each iteration
    shares every row out by softmax of -(cost + price) / epsilon and raises the prices of codes with more than their part.

    Args:
        costs: see `Costs`.
        rows: (N,) the rows to learn from in the order of their ranks; the sample depends on it alone. Without any, prices are 0.
        size: K.
        epsilon: in units of the mean cost.
        iterations: how often.
    """
    if not len(rows):
        return np.zeros(size, np.float32)
    count = min(len(rows), SAMPLE, max(SAMPLE_COSTS // size, size))
    chosen = rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:count])]
    step = _rows_at_once(size)
    scaled = np.empty((count, size), np.float32)
    for start in range(0, count, step):
        scaled[start : start + step] = costs(chosen[start : start + step])
    unit = epsilon * max(float(scaled.mean(dtype=np.float64)), float(np.finfo(np.float32).tiny))
    scaled /= np.float32(-unit)
    prices = np.zeros(size, np.float32)  # in the same unit
    for _ in range(iterations):
        load = np.zeros(size)
        for start in range(0, count, step):
            share = scaled[start : start + step] - prices
            share -= share.max(axis=1, keepdims=True)
            np.exp(share, out=share)
            load += (share / share.sum(axis=1, keepdims=True)).sum(axis=0, dtype=np.float64)
        prices += np.log(np.maximum(load * size / count, 1e-30)).astype(np.float32)
    return prices * np.float32(unit)


def _assign(cost: Vectors, kept: NDArray[np.int32]) -> NDArray[np.int32]:
    """(n,) distinct codes of least total cost for the rows of `cost` (n, K), none of them among `kept`."""
    from scipy.optimize import linear_sum_assignment

    free = np.delete(np.arange(cost.shape[1], dtype=np.int32), kept)
    chosen: NDArray[np.int64] = linear_sum_assignment(cost[:, free])[1]
    return free[chosen]


def _blocks(places: NDArray[np.int64], prefix: NDArray[np.int64], rows: int) -> list[NDArray[np.int64]]:
    """Cut sorted places into blocks of `rows` or, since cuts lie between prefixes only, up to one prefix more."""
    starts = runs(prefix[places][:, None])[0]
    block = starts // rows
    cuts = starts[1:][block[1:] != block[:-1]]
    return [part for part in np.split(places, cuts) if len(part)]


def _rows_at_once(size: int) -> int:
    """How many rows the costs of `size` codes are asked for together: few enough for their vectors, too."""
    return max(min(BLOCK // size, ROWS), 1)


def _check_room(codes: Codes, sizes: tuple[int, ...]) -> None:
    """Refuse a prefix with more items than the last level has codes."""
    prefixes = codes[:, :-1]
    prefixes = prefixes[sorted_rows(prefixes)]
    starts, lengths = runs(prefixes)
    largest = int(lengths.max(initial=0))
    if largest > sizes[-1]:
        example = tuple(prefixes[starts[lengths.argmax()]].tolist())
        shared = f"share the codes {example}" if example else "are to be told apart by one level"
        raise SemanticIdError(
            f"{largest} items {shared} but the last level has only {sizes[-1]} codes, so they cannot all differ; use "
            "collision.kind suffix, or more or larger levels (quantizer.sizes)"
        )
