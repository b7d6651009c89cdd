"""Moves within the last level against brute force, and prices against plain Sinkhorn-Knopp."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felid.quantize import resolve_moves
from felid.quantize.resolve import NearestFreeConfig, SinkhornConfig, resolve_collisions
from felid.quantize.resolve_moves import balancing_prices, move_to_free_codes

SIZES = (2, 2, 5)
prefixes = st.lists(st.integers(0, 4), min_size=0, max_size=5)
tables = st.tuples(prefixes, prefixes, prefixes).filter(any)


def table_of(groups: tuple[list[int], ...]) -> np.ndarray:
    """(N, 3) codes: one prefix per group, at most five items each, in mixed order."""
    rows = [[prefix % 2, prefix // 2, code] for prefix, group in enumerate(groups) for code in group]
    return np.random.default_rng(len(rows)).permutation(np.array(rows, np.int32))


def brute_force(codes: np.ndarray, costs: np.ndarray, prices: np.ndarray | None) -> float:
    """Least total cost of the items that may move, prefix by prefix, over all ways to share out the free codes."""
    total, rows = 0.0, codes.tolist()
    for prefix in {tuple(row[:2]) for row in rows}:
        members = [n for n, row in enumerate(rows) if tuple(row[:2]) == prefix]
        alone = [n for n in members if rows.count(rows[n]) == 1]
        if len(alone) == len(members):
            continue
        kept = {rows[n][2] for n in alone} if prices is None else set()
        moving = [n for n in members if n not in alone] if prices is None else members
        free = [code for code in range(SIZES[-1]) if code not in kept]
        price = np.zeros(SIZES[-1]) if prices is None else prices
        total += min(
            sum(costs[n, code] + price[code] for n, code in zip(moving, chosen, strict=True))
            for chosen in itertools.permutations(free, len(moving))
        )
    return total


@settings(deadline=None)  # scipy is imported on the way
@given(groups=tables, seed=st.integers(0, 99))
def test_nearest_free_codes_cost_least(groups, seed):
    codes = table_of(groups)
    costs = np.random.default_rng(seed).integers(0, 9, (len(codes), SIZES[-1])).astype(np.float32)
    found = resolve_collisions(codes, SIZES, NearestFreeConfig(), lambda rows: costs[rows])
    crowded = np.array([codes.tolist().count(row) > 1 for row in codes.tolist()])
    assert np.array_equal(found.codes[~crowded], codes[~crowded]), "an item whose codes are its own has moved"
    spent = costs[np.arange(len(codes)), found.codes[:, 2]][crowded].sum()
    assert spent == brute_force(codes, costs, None)
    assert len({tuple(row) for row in found.codes.tolist()}) == len(codes)


@settings(deadline=None)  # scipy is imported on the way
@given(groups=tables, seed=st.integers(0, 99))
def test_with_prices_all_items_of_a_crowded_prefix_share_out_the_codes(groups, seed):
    codes = table_of(groups)
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, 9, (len(codes), SIZES[-1])).astype(np.float32)
    prices = rng.integers(-4, 5, SIZES[-1]).astype(np.float32)
    found = move_to_free_codes(codes, SIZES, lambda rows: costs[rows], np.arange(len(codes)), prices)
    listed = codes.tolist()
    crowded = np.array([any(row[:2] == other[:2] and listed.count(other) > 1 for other in listed) for row in listed])
    assert np.array_equal(found[~crowded], codes[~crowded])
    spent = (costs + prices)[np.arange(len(codes)), found[:, 2]][crowded].sum()
    assert spent == brute_force(codes, costs, prices)
    assert len({tuple(row) for row in found.tolist()}) == len(codes)


def test_one_of_two_goes_to_its_second_best():
    costs = np.array([[0, 5, 9, 1], [0, 2, 9, 9], [3, 0, 9, 0]], np.float32)
    codes = np.array([[0, 0], [0, 0], [0, 1]], np.int32)
    found = resolve_collisions(codes, (1, 4), NearestFreeConfig(), lambda rows: costs[rows])
    assert found.codes[:, 1].tolist() == [3, 0, 1]
    assert found.moved == 1


def test_equal_items_are_ranked_by_the_given_order():
    costs = np.tile(np.array([[0, 1, 2]], np.float32), (3, 1))
    codes = np.zeros((3, 1), np.int32)
    by_order = {}
    for order in itertools.permutations(range(3)):
        found = resolve_collisions(codes, (3,), NearestFreeConfig(), lambda rows: costs[rows], np.array(order))
        by_order[order] = tuple(found.codes[list(np.argsort(order)), 0].tolist())
    assert len(set(by_order.values())) == 1, "the first by rank does not always get the same code"


def test_costs_are_asked_for_in_blocks_and_only_where_items_collide(monkeypatch):
    rng = np.random.default_rng(0)
    codes = np.column_stack([rng.integers(0, 50, 400), rng.integers(0, 40, 400)]).astype(np.int32)
    table, asked = rng.random((400, 40)).astype(np.float32), []

    def costs(rows):
        asked.append(rows)
        return table[rows]

    whole = resolve_collisions(codes, (50, 40), NearestFreeConfig(), costs)
    assert len(asked) == 1
    asked.clear()
    monkeypatch.setattr(resolve_moves, "BLOCK", 400)
    parts = resolve_collisions(codes, (50, 40), NearestFreeConfig(), costs)
    assert np.array_equal(parts.codes, whole.codes)
    listed = codes.tolist()
    wanted = [n for n, row in enumerate(listed) if listed.count(row) > 1]
    assert sorted(np.concatenate(asked).tolist()) == wanted
    assert len(asked) > 2
    assert max(len(rows) for rows in asked) <= 400 // 40 + 8, "a block may end one prefix later"


@pytest.mark.parametrize("config", [NearestFreeConfig(), SinkhornConfig(iterations=3)], ids=lambda config: config.kind)
def test_pitfall_few_codes_ask_for_the_vectors_of_all_rows(config, monkeypatch):
    """With a last level of 4 codes, the costs' bound would allow four million rows."""
    monkeypatch.setattr(resolve_moves, "ROWS", 50)
    codes = np.repeat(np.arange(200, dtype=np.int32), 2)[:, None] * [1, 0]
    asked = []

    def costs(rows):
        asked.append(len(rows))
        return np.ones((len(rows), 4), np.float32)

    resolve_collisions(codes, (200, 4), config, costs)
    assert sum(asked) == 400 * (1 + (config.kind == "sinkhorn"))
    assert max(asked) <= 50 + 4


@settings(deadline=None)  # scipy is imported on the way
@given(groups=tables, seed=st.integers(0, 99), data=st.data())
def test_others_take_the_codes_left_at_the_least_cost(groups, seed, data):
    codes = table_of(groups)
    costs = np.random.default_rng(seed).integers(0, 9, (len(codes), SIZES[-1])).astype(np.float32)
    learnt = np.array(data.draw(st.lists(st.booleans(), min_size=len(codes), max_size=len(codes))))
    found = resolve_collisions(codes, SIZES, NearestFreeConfig(), lambda rows: costs[rows], learnt=learnt)
    before = np.where(learnt[:, None], found.codes, codes).tolist()
    for prefix in {tuple(row[:2]) for row in before}:
        members = [n for n, row in enumerate(before) if tuple(row[:2]) == prefix]
        moving = [n for n in members if not learnt[n] and before.count(before[n]) > 1]
        free = sorted(set(range(SIZES[-1])) - {before[n][2] for n in members if n not in moving})
        least = min(
            sum(costs[n, code] for n, code in zip(moving, chosen, strict=True))
            for chosen in itertools.permutations(free, len(moving))
        )
        assert costs[moving, found.codes[moving, 2]].sum() == least


def plain_sinkhorn(costs: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Prices by scaling rows and columns of exp(-cost / epsilon) in turn, in float64."""
    count, size = costs.shape
    unit = epsilon * costs.mean(dtype=np.float64)
    kernel, columns = np.exp(-costs.astype(np.float64) / unit), np.ones(size)
    for _ in range(iterations):
        rows = np.array([1 / count / sum(kernel[i, k] * columns[k] for k in range(size)) for i in range(count)])
        columns = np.array([1 / size / sum(kernel[i, k] * rows[i] for i in range(count)) for k in range(size)])
    return -unit * np.log(columns)


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_prices_equal_plain_sinkhorn_knopp(iterations):
    costs = np.random.default_rng(0).random((30, 6)).astype(np.float32)
    found = balancing_prices(lambda rows: costs[rows], np.arange(30), 6, 0.05, iterations)
    wanted = plain_sinkhorn(costs, 0.05, iterations)
    assert found.dtype == np.float32
    assert found - found.mean() == pytest.approx(wanted - wanted.mean(), abs=1e-5)


def test_prices_do_not_see_the_other_rows():
    costs, learnt = np.random.default_rng(0).random((40, 6)).astype(np.float32), np.arange(40) % 3 > 0

    def never_others(rows):
        assert learnt[rows].all()
        return costs[rows]

    codes = np.arange(40, dtype=np.int32)[:, None] * [1, 0]  # no collision: prices alone ask for costs
    assert resolve_collisions(codes, (40, 6), SinkhornConfig(), never_others, learnt=learnt).moved == 0
    assert not balancing_prices(never_others, np.arange(0), 6, 0.05, 3).any()


def test_prices_even_out_the_use_of_codes():
    rng = np.random.default_rng(0)
    points, centres = rng.normal(size=(4000, 4)), rng.normal(size=(16, 4)) + np.linspace(0, 2, 16)[:, None]
    costs = ((points[:, None] - centres) ** 2).sum(2).astype(np.float32)
    prices = balancing_prices(lambda rows: costs[rows], np.arange(4000), 16, 0.01, 300)
    before, after = (np.bincount(index.argmin(1), minlength=16) for index in (costs, costs + prices))
    assert before.min() == 0
    assert before.max() > 2.5 * 250
    assert after.min() > 0.8 * 250
    assert after.max() < 1.2 * 250


def test_a_code_that_is_far_from_all_rows_becomes_cheap_and_nothing_overflows():
    costs = np.ones((50, 3), np.float32) * [1, 2, 1e4]
    with np.errstate(all="raise", under="ignore"):
        prices = balancing_prices(lambda rows: costs[rows].astype(np.float32), np.arange(50), 3, 0.001, 10)
    assert np.isfinite(prices).all()
    assert prices[2] < prices[1] < prices[0]
    assert np.array_equal(balancing_prices(lambda rows: np.zeros((len(rows), 3), np.float32), np.arange(5), 3, 0.1, 4), [0, 0, 0])


def test_prices_come_from_a_bounded_sample(monkeypatch):
    costs, asked = np.random.default_rng(0).random((500, 8)).astype(np.float32), []

    def some(rows):
        asked.append(len(rows))
        return costs[rows]

    monkeypatch.setattr(resolve_moves, "SAMPLE", 200)
    monkeypatch.setattr(resolve_moves, "BLOCK", 512)
    sample = balancing_prices(some, np.arange(500), 8, 0.05, 5)
    assert sum(asked) == 200
    assert max(asked) == 64
    monkeypatch.undo()
    assert np.abs(sample - balancing_prices(some, np.arange(500), 8, 0.05, 5)).max() < 0.1


def test_balanced_moves_use_more_codes_than_nearest_ones():
    rng = np.random.default_rng(1)
    points, centres = rng.normal(size=(1500, 3)), np.concatenate([rng.normal(size=(4, 3)), 4 + rng.normal(size=(12, 3))])
    costs = ((points[:, None] - centres) ** 2).sum(2).astype(np.float32)
    codes = np.column_stack([rng.integers(0, 400, 1500), costs.argmin(1)]).astype(np.int32)
    spread = {}
    for config in (NearestFreeConfig(), SinkhornConfig()):
        found = resolve_collisions(codes, (400, 16), config, lambda rows: costs[rows])
        share = np.bincount(found.codes[:, 1], minlength=16) / 1500
        spread[config.kind] = np.exp(-(share[share > 0] * np.log(share[share > 0])).sum())
    assert spread["sinkhorn"] > 1.2 * spread["nearest-free"]
