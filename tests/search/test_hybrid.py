"""Hybrid lists against the generated lists and dense scores that they are made of."""

from __future__ import annotations

import numpy as np
import pytest

from felid.data.histories import Sequences
from felid.models.base import Catalogue, Mode
from felid.ranking import ItemRanker
from felid.search.config import SearchConfig
from felid.semantic_ids import SemanticIds
from tests.tiny import AnyKind, any_model, catalogue, random_histories, tiny_catalogue

IDS = catalogue(18, (4, 3, 5))
COLD = (2, 7, 8)
ITEMS = tiny_catalogue(IDS, cold=COLD)
ROWS = random_histories(IDS)
HISTORIES = Sequences.from_lists(np.arange(4), [np.array(row) for row in ROWS])
SYSTEMS: dict[str, tuple[AnyKind, dict[str, object]]] = {
    "liger": ("liger", {}),
    "liger that generates warm items only": ("liger", {"normalize": "trie"}),
    "lynx": ("lynx", {}),
    "lynx that generates warm items only": ("lynx", {"level_share": 0.0}),
}


def ranker(
    mode: Mode, system: str = "liger", some: Catalogue = ITEMS, pool: np.ndarray | None = None, **search: object
) -> ItemRanker:
    kind, changes = SYSTEMS[system]
    settings = SearchConfig.model_validate({"mode": mode, "num_beams": 25, **search})
    return ItemRanker(any_model(kind, some, spread=0.5, **changes), some, settings, pool=pool)


def scores_of(one: ItemRanker, row: int) -> np.ndarray:
    return one.score_items(HISTORIES.take(np.array([row])), np.arange(18))


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize(("generated", "k"), [(1, 1), (4, 3), (4, 4), (18, 18), (2, 16)])
def test_they_are_generated_and_cold_items_by_dense_score(
    system: str, shared: bool, exclude_seen: bool, generated: int, k: int
) -> None:
    some = ITEMS
    if shared:
        some = tiny_catalogue(SemanticIds(IDS.codes[:, :2], IDS.sizes[:2], IDS.item_ids, shared=True), cold=COLD)
    hybrid, dense = ranker("hybrid", system, some, hybrid_candidates=generated), ranker("dense", system, some)
    lists, scores = hybrid.search_items(HISTORIES, k, exclude_seen)
    beams = ranker("generative", system, some).rank(HISTORIES, generated, exclude_seen)
    for row, history in enumerate(ROWS):
        by_dense = scores_of(dense, row)
        banned = set(history) if exclude_seen else set()
        able = {item for item in beams[row].tolist() if item >= 0} | (set(COLD) - banned)
        wanted = sorted(able, key=lambda item: (-float(by_dense[item]), item))[:k]
        found = lists[row][lists[row] >= 0].tolist()
        assert found == wanted and lists[row][len(found) :].tolist() == [-1] * (k - len(found))
        assert scores[row][: len(found)].tolist() == pytest.approx(by_dense[found].tolist(), abs=1e-5)
        np.testing.assert_allclose(scores_of(hybrid, row), by_dense, atol=1e-5)
    assert hybrid.recommendable().all()


def test_cold_items_need_not_be_generated() -> None:
    """The beams of a model that compares warm items alone hold none of them; a fourth of a pool of all items is ranked so."""
    system = "liger that generates warm items only"
    generative, hybrid = ranker("generative", system), ranker("hybrid", system, hybrid_candidates=1)
    assert not set(generative.rank(HISTORIES, 18, False).flatten().tolist()) & set(COLD)
    assert not generative.recommendable()[list(COLD)].any()
    lists = hybrid.rank(HISTORIES, 2, False)
    assert np.isin(lists, COLD).any()
    best = [max(COLD, key=lambda item: float(scores_of(hybrid, row)[item])) for row in range(4)]
    longer = hybrid.rank(HISTORIES, 4, False)
    assert all(item in found for item, found in zip(best, longer.tolist(), strict=True))


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_pool_may_be_given(system: str) -> None:
    """Only its cold items are sure to be candidates; what cannot be generated either is never recommended."""
    oracle = np.isin(np.arange(18), [7])
    one, whole = ranker("hybrid", system, pool=oracle, hybrid_candidates=1), ranker("hybrid", system, hybrid_candidates=1)
    for row, found in enumerate(one.rank(HISTORIES, 3, False).tolist()):
        beams = ranker("generative", system).rank(HISTORIES, 1, False)[row].tolist()
        wanted = sorted({7, *beams}, key=lambda item: (-float(scores_of(one, row)[item]), item))
        assert found == [*wanted, -1, -1][:3]
    out = [item for item in COLD if item != 7]
    generated = "warm items only" not in system
    assert one.recommendable()[out].all() == generated
    assert np.isfinite(scores_of(one, 0)[out]).all() == generated
    assert whole.recommendable().all()


def test_the_length_of_the_list_does_not_change_how_it_begins() -> None:
    """Otherwise Recall@10 of 20 candidates would be that of 100 where Recall@100 is asked for as well."""
    one = ranker("hybrid", hybrid_candidates=4)
    short, long = (one.rank(HISTORIES, k, True) for k in (4, 16))
    assert np.array_equal(short, long[:, :4])


def test_more_generated_candidates_end_at_the_dense_list() -> None:
    dense = ranker("dense").rank(HISTORIES, 3, True)
    agree = [float((ranker("hybrid", hybrid_candidates=count).rank(HISTORIES, 3, True) == dense).mean()) for count in (3, 8, 18)]
    assert agree == sorted(agree)
    assert agree[0] < agree[-1] == 1.0


def test_a_share_of_cold_items_keeps_them_out_of_the_pool() -> None:
    one = ranker("hybrid", cold_share=0.0)
    assert not set(one.rank(HISTORIES, 18, False).flatten().tolist()) & set(COLD)
    assert np.isneginf(scores_of(one, 0)[list(COLD)]).all()
