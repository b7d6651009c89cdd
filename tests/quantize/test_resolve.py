from __future__ import annotations

from collections import Counter
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from felid.config import as_tree
from felid.errors import SemanticIdError
from felid.quantize.resolve import (
    CollisionConfig,
    NearestFreeConfig,
    NoCollisionConfig,
    Resolution,
    SinkhornConfig,
    SuffixConfig,
    collision_statistics,
    resolve_collisions,
)
from felid.semantic_ids import SemanticIds

code_rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=60)
UNIQUE = [SuffixConfig(), NearestFreeConfig(), SinkhornConfig(iterations=5)]
EVERY = [*UNIQUE, NoCollisionConfig()]


def by_kind(config: CollisionConfig) -> str:
    return config.kind


def costs_of(count: int, size: int, seed: int) -> np.ndarray:
    """(N, K) small whole numbers, so that ties are common."""
    return np.random.default_rng(seed).integers(0, 4, (count, size)).astype(np.float32)


def resolve(rows, config: CollisionConfig, seed: int = 0, order=None, sizes=(3, 60)) -> Resolution:
    costs = costs_of(len(rows), sizes[-1], seed)
    return resolve_collisions(np.asarray(rows, np.int32), sizes, config, lambda some: costs[some], order)


@given(code_rows)
def test_ranks_count_up_within_each_group_in_item_order(rows):
    found = resolve_collisions(np.array(rows, np.int32), (3, 4), SuffixConfig())
    seen: Counter[tuple[int, int]] = Counter()
    for row, code in zip(rows, found.codes.tolist(), strict=True):
        assert code == [*row, seen[row]]
        seen[row] += 1
    assert found.codes.dtype == np.int32
    assert found.sizes == (3, 4, max(seen.values()))
    assert found.moved == 0


@pytest.mark.parametrize("config", UNIQUE, ids=by_kind)
@settings(deadline=None)  # scipy is imported on the way
@given(rows=code_rows, seed=st.integers(0, 9))
def test_pitfall_collided_items_overwrite_each_other(config, rows, seed):
    """Every item keeps an ID of its own, and the ID leads back to it."""
    found = resolve(rows, config, seed)
    ids = SemanticIds(found.codes, found.sizes, np.arange(100, 100 + len(rows)))
    assert [ids.item_id(tuple(code)) for code in found.codes.tolist()] == list(range(100, 100 + len(rows)))
    assert np.array_equal(found.codes[:, :1], np.array(rows)[:, :1])
    if config.kind != "suffix":
        assert found.sizes == (3, 60)
        assert found.moved == (found.codes[:, 1] != np.array(rows)[:, 1]).sum()


@pytest.mark.parametrize("config", EVERY, ids=by_kind)
@settings(deadline=None)  # scipy is imported on the way
@given(rows=code_rows, seed=st.integers(0, 9), random=st.randoms())
def test_the_order_of_the_rows_changes_no_items_id(config, rows, seed, random):
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    order = np.random.default_rng(seed).permutation(len(rows)) * 3 - 5  # ranks that belong to the items
    codes, costs = np.array(rows, np.int32), costs_of(len(rows), 60, seed)
    straight = resolve_collisions(codes, (3, 60), config, lambda some: costs[some], order)
    moved, their = codes[shuffled], costs[shuffled]
    other = resolve_collisions(moved, (3, 60), config, lambda some: their[some], order[shuffled])
    assert np.array_equal(straight.codes[shuffled], other.codes)
    assert (straight.sizes, straight.moved) == (other.sizes, other.moved)


@pytest.mark.parametrize("config", EVERY, ids=by_kind)
@settings(deadline=None)  # scipy is imported on the way
@given(rows=code_rows, seed=st.integers(0, 9), data=st.data())
def test_pitfall_cold_items_change_the_ids_of_warm_ones(config, rows, seed, data):
    """Learnt rows have the IDs that they would have alone, and the others' do not depend on the order of the rows."""
    count = len(rows)
    learnt = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    order, codes = np.random.default_rng(seed).permutation(count), np.array(rows, np.int32)
    costs = costs_of(count, 60, seed)
    found = resolve_collisions(codes, (3, 60), config, lambda some: costs[some], order, learnt)
    alone = resolve_collisions(codes[learnt], (3, 60), config, lambda some: costs[learnt][some], order[learnt])
    assert np.array_equal(found.codes[learnt], alone.codes)
    back = np.arange(count)[::-1]
    other = resolve_collisions(codes[back], (3, 60), config, lambda some: costs[back][some], order[back], learnt[back])
    assert np.array_equal(found.codes[back], other.codes)
    assert (found.sizes, found.moved) == (other.sizes, other.moved)
    if config.kind != "none":
        assert len(np.unique(found.codes, axis=0)) == count
    if config.kind == "nearest-free":
        ours = {tuple(code) for code in alone.codes.tolist()}
        kept = [row not in ours and rows.count(row) - sum(learnt[n] for n in range(count) if rows[n] == row) == 1 for row in rows]
        stays = ~learnt & np.array(kept)
        assert np.array_equal(found.codes[stays], codes[stays]), "an item has moved from a code that is its own"


def test_learnt_items_come_first_and_others_take_what_is_left():
    codes, learnt = np.zeros((4, 1), np.int32), np.array([False, True, False, True])
    costs = np.array([[0, 9, 1, 9], [0, 1, 9, 9], [0, 9, 2, 3], [0, 3, 9, 9]], np.float32)
    found = [resolve_collisions(codes, (4,), config, lambda rows: costs[rows], learnt=learnt) for config in UNIQUE[:2]]
    assert found[0].codes[:, 1].tolist() == [2, 0, 3, 1]
    assert found[1].codes[:, 0].tolist() == [2, 1, 3, 0], "least for 1 and 3 is 4 of 3 and 1; then 1 + 3 for 0 and 2"


@pytest.mark.parametrize("config", UNIQUE[1:], ids=by_kind)
def test_a_prefix_overfilled_by_the_others_is_refused(config):
    codes, learnt = np.array([[1, n % 3] for n in range(5)], np.int32), np.arange(5) < 3
    with pytest.raises(SemanticIdError, match=r"5 items share the codes \(1,\) but the last level has only 4 codes.*kind suffix"):
        resolve_collisions(codes, (2, 4), config, lambda rows: np.ones((len(rows), 4), np.float32), learnt=learnt)
    with pytest.raises(SemanticIdError, match="5 items share the codes"):
        resolve_collisions(codes * [[1, 0]], (2, 4), SuffixConfig(max_size=4), learnt=learnt)


@pytest.mark.parametrize("config", EVERY, ids=by_kind)
@pytest.mark.parametrize("learns", [True, False])
def test_all_alike_is_all_learnt_or_none(config, learns):
    rows = np.array([[0, 0], [0, 0], [1, 2], [0, 0]], np.int32)
    costs = costs_of(4, 60, 0)
    found = resolve_collisions(rows, (3, 60), config, lambda some: costs[some], learnt=np.full(4, learns))
    if learns:
        assert np.array_equal(found.codes, resolve(rows, config).codes)
    assert len(np.unique(found.codes, axis=0)) == (2 if config.kind == "none" else 4)


@pytest.mark.parametrize("config", EVERY, ids=by_kind)
def test_what_is_given_is_not_changed(config):
    rows = np.array([[0, 0], [0, 0], [1, 2]], np.int32)
    kept = rows.copy()
    first, second = resolve(rows, config), resolve(rows, config)
    assert np.array_equal(rows, kept)
    assert np.array_equal(first.codes, second.codes)


@pytest.mark.parametrize("config", EVERY, ids=by_kind)
def test_codes_without_a_collision_stay(config):
    codes = np.array([[0, 0], [0, 1], [2, 3], [1, 1]], np.int32)

    def never(rows):
        assert config.kind == "sinkhorn", "costs of items that do not collide"
        return np.ones((len(rows), 4), np.float32)

    found = resolve_collisions(codes, (3, 4), config, never)
    assert np.array_equal(found.codes[:, :2], codes)
    assert found.moved == 0


def test_pitfall_unbounded_collision_digit():
    codes = np.zeros((10, 2), np.int32)
    codes[0] = 1
    found = resolve_collisions(codes, (2, 2), SuffixConfig(max_size=9))
    assert found.sizes == (2, 2, 9)
    assert found.codes[:, 2].max() == 8
    with pytest.raises(SemanticIdError, match=r"9 items share the codes \(0, 0\), collision\.max_size allows 8; use more"):
        resolve_collisions(codes, (2, 2), SuffixConfig(max_size=8))


def test_a_suffix_level_of_a_given_size():
    """The same codes, other sizes: only what the model makes of them changes."""
    codes = np.zeros((10, 2), np.int32)
    codes[0] = 1
    free, fixed = (resolve_collisions(codes, (2, 2), SuffixConfig(size=size)) for size in (None, 64))
    assert np.array_equal(free.codes, fixed.codes)
    assert (free.sizes, fixed.sizes) == ((2, 2, 9), (2, 2, 64))
    assert resolve_collisions(codes, (2, 2), SuffixConfig(size=9)).sizes == free.sizes
    with pytest.raises(SemanticIdError, match=r"9 items share the codes \(0, 0\), collision\.size allows 8; use more or larger"):
        resolve_collisions(codes, (2, 2), SuffixConfig(size=8))
    with pytest.raises(SemanticIdError, match=r"collision\.max_size allows 8"):
        resolve_collisions(codes, (2, 2), SuffixConfig(size=64, max_size=8))


def test_settings_without_a_size_are_those_of_earlier_versions():
    assert "size" not in as_tree(SuffixConfig())
    assert as_tree(SuffixConfig(size=256))["size"] == 256


def test_unique_codes_get_zero_and_one_code():
    found = resolve_collisions(np.array([[0], [1], [2]], np.int32), (3,), SuffixConfig(max_size=1))
    assert found.codes.tolist() == [[0, 0], [1, 0], [2, 0]]
    assert found.sizes == (3, 1)


def test_none_leaves_the_codes_as_they_are():
    codes = np.array([[0, 1], [0, 1], [1, 0]], np.int32)
    found = resolve_collisions(codes, (2, 2), NoCollisionConfig())
    assert np.array_equal(found.codes, codes)
    assert (found.sizes, found.moved) == ((2, 2), 0)


@pytest.mark.parametrize("config", UNIQUE[1:], ids=by_kind)
def test_more_items_than_codes_are_refused(config):
    crowd = [[1, n % 3] for n in range(5)]
    with pytest.raises(SemanticIdError, match=r"5 items share the codes \(1,\) but the last level has only 4 codes.*kind suffix"):
        resolve(crowd, config, sizes=(2, 4))
    assert len(np.unique(resolve(crowd[:4], config, sizes=(2, 4)).codes[:, 1])) == 4
    with pytest.raises(SemanticIdError, match="3 items are to be told apart by one level but the last level has only 2 codes"):
        resolve([[0], [0], [1]], config, sizes=(2,))


@pytest.mark.parametrize("config", UNIQUE[1:], ids=by_kind)
def test_codes_without_their_quantiser_cannot_move(config):
    with pytest.raises(SemanticIdError, match=rf"collision\.kind '{config.kind}' needs the costs .*; use collision\.kind suffix"):
        resolve_collisions(np.zeros((2, 1), np.int32), (4,), config)


@pytest.mark.parametrize(
    ("codes", "order", "message"),
    [
        ([[0], [3]], None, "code 3 of row 1 is outside level 0"),
        (np.zeros((2, 0), int), None, "codes have 0 levels for 1 sizes"),
        ([[0], [1]], [0, 0], "give every row a rank of its own"),
        ([[0], [1]], [0, 1, 2], r"order has shape \(3,\) for 2 rows"),
    ],
)
def test_what_does_not_fit_is_refused(codes, order, message):
    ranks = None if order is None else np.array(order)
    with pytest.raises(SemanticIdError, match=message):
        resolve_collisions(np.asarray(codes, np.int32), (3,), SuffixConfig(), order=ranks)


def test_learnt_says_it_for_every_row():
    with pytest.raises(SemanticIdError, match=r"learnt has shape \(3,\) for 2 rows; give every row True or False"):
        resolve_collisions(np.zeros((2, 1), np.int32), (3,), SuffixConfig(), learnt=np.ones(3, bool))


def test_the_kind_chooses_the_resolver():
    adapter = TypeAdapter(CollisionConfig)
    for config in EVERY:
        assert adapter.validate_python(config.model_dump()) == config
    assert {cls().kind for cls in get_args(get_args(CollisionConfig)[0])} == {config.kind for config in EVERY}
    assert NoCollisionConfig().allow_training is False
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        adapter.validate_python({"kind": "nearest-free", "max_size": 3})


def test_statistics_of_a_known_case():
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0]], np.int32)
    found = collision_statistics(codes, (2, 4))
    assert (found["num_items"], found["num_unique"], found["largest_group"]) == (4, 3, 2)
    assert found["collision_rate"] == 0.5
    first, second = found["levels"]
    assert (first["size"], first["used"], first["utilisation"]) == (2, 2, 1.0)
    assert (second["used"], second["utilisation"]) == (2, 0.5)
    assert first["perplexity"] == pytest.approx(4 / 27**0.25)


@given(code_rows)
def test_statistics_equal_counting(rows):
    found, groups = collision_statistics(np.array(rows, np.int32), (3, 4)), Counter(rows)
    assert (found["num_unique"], found["largest_group"]) == (len(groups), max(groups.values()))
    assert found["collision_rate"] == sum(count for count in groups.values() if count > 1) / len(rows)


def test_evenly_used_codes_have_perplexity_of_their_number():
    codes = np.arange(12, dtype=np.int32)[:, None] % 4
    assert collision_statistics(codes, (8,))["levels"][0]["perplexity"] == pytest.approx(4)
