"""Lists under every mode against the scores of the whole catalogue, cold items among it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from felid import ranking
from felid.data.histories import Sequences
from felid.errors import RequestError
from felid.models.base import Catalogue, DenseModel, Mode
from felid.ranking import ItemRanker, search_together
from felid.search.config import SearchConfig
from felid.search.neighbours import Neighbours
from felid.semantic_ids import SemanticIds
from tests.search.dumb import dumb_evidence
from tests.tiny import AnyKind, any_model, catalogue, dense_model, random_histories, random_memory, tiny_catalogue

IDS = catalogue(18, (4, 3, 5))
COLD = (2, 7, 8)
ITEMS = tiny_catalogue(IDS, cold=COLD)
HISTORIES = Sequences.from_lists(np.arange(4), [np.array(row) for row in random_histories(IDS)])
EVERYTHING = np.arange(18)
MEMORY, TRAIN = random_memory()
ONE_HEAD = {"generative_weight": 0.0}
"""A lynx that is dense only."""
SYSTEMS: list[tuple[AnyKind, Mode]] = [
    ("lynx", "fused"),
    ("lynx", "generative"),
    ("lynx", "dense"),
    ("tiger", "generative"),
    ("sasrec", "dense"),
    ("sasrec", "fused"),
    ("liger", "hybrid"),
    ("liger", "generative"),
    ("liger", "dense"),
    ("lynx", "hybrid"),
]
WITHOUT_COLD = ("sasrec", {}), ("lynx", {"level_share": 0.0}), ("liger", {"embedding_loss_weight": 0, "normalize": "trie"})
"""Models that cannot score items without training interactions, in their best mode."""


def ranker(
    kind: AnyKind = "lynx", some: Catalogue = ITEMS, changes: dict[str, object] | None = None, **search: object
) -> ItemRanker:
    """With a memory that counts only where `memory_weight` is given."""
    return ItemRanker(any_model(kind, some, spread=0.5, **(changes or {})), some, SearchConfig.model_validate(search), MEMORY)


def scores_of(one: ItemRanker, row: int) -> np.ndarray:
    return one.score_items(HISTORIES.take(np.array([row])), EVERYTHING)


def lists_of(rows: list[list[int]]) -> Sequences:
    return Sequences.from_lists(np.arange(len(rows)), [np.array(row) for row in rows])


def wanted_list(scores: np.ndarray, banned: set[int]) -> list[int]:
    able = [item for item in range(18) if np.isfinite(scores[item]) and item not in banned]
    return sorted(able, key=lambda item: (-float(scores[item]), item))


@pytest.mark.parametrize(("kind", "mode"), SYSTEMS)
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_lists_are_all_items_by_their_score(kind: AnyKind, mode: Mode, exclude_seen: bool) -> None:
    one = ranker(kind, mode=mode, fusion_weight=0.3, memory_weight=0.8, batch_users=3)
    items, scores = one.search_items(HISTORIES, 18, exclude_seen)
    for row in range(4):
        single = scores_of(one, row)
        wanted = wanted_list(single, set(HISTORIES[row].tolist()) if exclude_seen else set())
        found = items[row][items[row] >= 0].tolist()
        assert found == wanted
        assert scores[row][: len(found)].tolist() == pytest.approx(single[wanted].tolist(), abs=1e-4)
        assert np.array_equal(np.flatnonzero(np.isfinite(single)), np.flatnonzero(one.recommendable()))
    assert one.recommendable()[list(COLD)].all() == (kind != "sasrec")


def in_modes(changes: dict[str, dict[str, object]], kind: AnyKind, some: Catalogue) -> dict[str, ItemRanker]:
    """Rankers of one model under several settings of the search."""
    one, base = (
        ranker(kind, some),
        {"fusion_weight": 0.3, "memory_weight": 0.8, "num_beams": 3, "candidates": 4, "batch_users": 3},
    )
    search = {name: SearchConfig.model_validate(base | change) for name, change in changes.items()}
    return {name: ItemRanker(one.model, some, settings, MEMORY) for name, settings in search.items()}


def found_together(
    requests: list[tuple[ItemRanker, bool]], k: int, done: Callable[[int], None] = lambda users: None
) -> list[tuple[np.ndarray, np.ndarray]]:
    lists = [(np.full((4, k), -7), np.full((4, k), np.nan)) for _ in requests]

    def keep(place: int, rows: np.ndarray, items: np.ndarray, scores: np.ndarray) -> None:
        lists[place][0][rows], lists[place][1][rows] = items, scores

    search_together(requests, HISTORIES, k, keep, done)
    return lists


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ["lynx", "liger"])
def test_rankers_of_one_model_that_search_together_find_what_each_finds_alone(kind: AnyKind, shared: bool) -> None:
    some = ITEMS
    if shared:
        some = tiny_catalogue(SemanticIds(IDS.codes[:, :2], IDS.sizes[:2], IDS.item_ids, shared=True), cold=COLD)
    changes: dict[str, dict[str, object]] = {mode: {"mode": mode} for mode in ("generative", "dense", "hybrid")}
    changes |= {f"{count} candidates": {"mode": "hybrid", "hybrid_candidates": count} for count in (2, 9)}
    changes |= {"fused": {"mode": "fused"}} if kind == "lynx" else {}
    rankers = in_modes(changes, kind, some)
    requests = [(one, exclude_seen) for one in rankers.values() for exclude_seen in (True, False)]
    heard: list[int] = []
    together = found_together(requests, 5, heard.append)
    assert heard == [3, 1]
    for (one, exclude_seen), (items, scores) in zip(requests, together, strict=True):
        alone = one.search_items(HISTORIES, 5, exclude_seen)
        assert np.array_equal(alone[0], items)
        np.testing.assert_allclose(alone[1], scores, atol=1e-5)
    wide, narrow = rankers["9 candidates"].rank(HISTORIES, 5, True), rankers["2 candidates"].rank(HISTORIES, 5, True)
    assert not np.array_equal(wide, narrow)


def test_rankers_of_two_models_or_searches_cannot_search_together() -> None:
    wide = in_modes({"wide": {"num_beams": 9}, "narrow": {"num_beams": 8}}, "lynx", ITEMS)
    for rankers in ([ranker(), ranker()], list(wide.values())):
        with pytest.raises(AssertionError, match="not of one model"):
            found_together([(one, True) for one in rankers], 5)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_cold_items_keep_their_places_in_lists_found_together(share: float) -> None:
    rankers = in_modes({"generative": {"mode": "generative", "cold_share": share}}, "tiger", ITEMS)
    requests = [(rankers["generative"], exclude_seen) for exclude_seen in (True, False)]
    for (one, exclude_seen), (items, _) in zip(requests, found_together(requests, 8), strict=True):
        assert np.array_equal(one.rank(HISTORIES, 8, exclude_seen), items)
        assert np.isin(items, COLD).any() == (share > 0)


def test_fused_scores_are_the_weighted_sum_of_all_voices() -> None:
    dense, generative = (scores_of(ranker(mode=mode), 1) for mode in ("dense", "generative"))
    evidence = np.array(dumb_evidence(TRAIN, HISTORIES[1].tolist(), 18))
    assert len(set(evidence.round(3).tolist())) > 5
    for weight, factor in ((0.0, 0.0), (0.25, 0.7), (1.0, 2.0)):
        fused = scores_of(ranker(fusion_weight=weight, memory_weight=factor), 1)
        np.testing.assert_allclose(fused, (1 - weight) * dense + weight * generative + factor * evidence, atol=1e-5)
    np.testing.assert_allclose(scores_of(ranker(), 1), (dense + generative) / 2, atol=1e-5)


@pytest.mark.parametrize(("kind", "changes"), [("sasrec", {}), ("lynx", ONE_HEAD)])
def test_a_model_with_one_head_is_fused_with_the_memory_alone(kind: AnyKind, changes: dict[str, object]) -> None:
    """Its lists are exact among any number of candidates."""
    dense, evidence = scores_of(ranker(kind, changes=changes, mode="dense"), 1), dumb_evidence(TRAIN, HISTORIES[1].tolist(), 18)
    one = ranker(kind, changes=changes, mode="fused", memory_weight=1.5, candidates=2)
    np.testing.assert_allclose(scores_of(one, 1), dense + 1.5 * np.array(evidence), atol=1e-5)
    np.testing.assert_allclose(scores_of(ranker(kind, changes=changes, mode="fused"), 1), dense, atol=1e-5)
    given = ranker(kind, changes=changes, mode="fused", memory_weight=1.5, fusion_weight=0.9)
    np.testing.assert_allclose(scores_of(given, 1), scores_of(one, 1), atol=1e-5)
    assert one.rank(HISTORIES, 4, False)[1].tolist() == wanted_list(scores_of(one, 1), set())[:4]


@pytest.mark.parametrize(("kind", "mode"), [system for system in SYSTEMS if system[1] != "fused"])
def test_the_memory_has_no_say_in_what_the_model_alone_ranks(kind: AnyKind, mode: Mode) -> None:
    one, without = ranker(kind, mode=mode, memory_weight=3.0), ranker(kind, mode=mode)
    for found, wanted in zip(one.search_items(HISTORIES, 6, True), without.search_items(HISTORIES, 6, True), strict=True):
        assert np.array_equal(found, wanted)
    assert np.array_equal(scores_of(one, 0), scores_of(without, 0))


@pytest.mark.parametrize(("kind", "changes"), WITHOUT_COLD)
def test_items_that_a_head_cannot_score_are_never_recommended(kind: AnyKind, changes: dict[str, object]) -> None:
    one = ranker(kind, changes=changes)
    assert np.array_equal(one.recommendable(), ITEMS.warm)
    assert np.isneginf(scores_of(one, 0)[list(COLD)]).all()
    assert not set(one.rank(HISTORIES, 18, False).flatten().tolist()) & set(COLD)


def test_auto_is_the_best_mode_and_others_must_be_known() -> None:
    assert [ranker(kind).mode for kind in ("lynx", "tiger", "sasrec", "liger")] == ["fused", "generative", "dense", "hybrid"]
    assert ranker("lynx", changes=ONE_HEAD).mode == "fused"
    with pytest.raises(
        RequestError, match=r"ranks under dense and fused, not generative; set search\.mode to one of these or auto"
    ):
        ranker("sasrec", mode="generative")
    with pytest.raises(RequestError, match="ranks under generative, not dense"):
        ranker("tiger", mode="dense")
    for kind in ("tiger", "sasrec"):
        with pytest.raises(RequestError, match="not hybrid; set"):
            ranker(kind, mode="hybrid")


def test_a_dense_model_needs_no_ids() -> None:
    bare = Catalogue(ITEMS.embeddings, ITEMS.warm)
    for mode in ("dense", "fused"):
        lists = [ranker("sasrec", some, mode=mode, memory_weight=1.0).rank(HISTORIES, 5, True) for some in (bare, ITEMS)]
        assert np.array_equal(*lists)


def test_item_vectors_are_those_of_the_moment() -> None:
    """A ranker that validation keeps during training must not remember vectors of earlier weights."""
    one = ranker("sasrec")
    before = one.search_items(HISTORIES, 5, True)[1]
    with torch.no_grad():
        next(iter(one.model.parameters())).mul_(2)
    assert not np.allclose(one.search_items(HISTORIES, 5, True)[1], before)


def test_large_catalogues_are_ranked_for_fewer_users_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, done = ranker("sasrec"), []
    monkeypatch.setattr(ranking, "MOST_LOGITS", 40)
    few = one.search_items(HISTORIES, 5, True, done.append)
    monkeypatch.undo()
    assert done == [2, 2]
    assert np.array_equal(few[0], one.rank(HISTORIES, 5, True))


@pytest.mark.parametrize("bias", [-3.0, 2.0])
def test_a_bias_moves_cold_items_alone(bias: float) -> None:
    plain, moved = (np.exp(scores_of(ranker(mode="dense", cold_bias=value), 0)) for value in (0.0, bias))
    wanted = plain * np.where(ITEMS.warm, 1.0, np.exp(bias))
    np.testing.assert_allclose(moved, wanted / wanted.sum(), rtol=1e-4)


def test_neighbours_give_cold_items_a_vector() -> None:
    one = ranker("sasrec", cold_neighbours=2)
    assert one.recommendable().all()
    model = dense_model("sasrec", ITEMS)
    with torch.no_grad():
        vectors = Neighbours.of(ITEMS.embeddings, ITEMS.warm, 2).fill(model.item_vectors(), unit=False).numpy()
        history = torch.from_numpy(HISTORIES[1])[None]
        contexts = model.contexts(ranking.Histories(history, torch.tensor([3]))).numpy()
    logits = (contexts @ vectors.T)[0]
    np.testing.assert_allclose(scores_of(one, 1), logits - np.log(np.exp(logits).sum()), atol=1e-4)


@pytest.mark.parametrize("bias", [-3.0, 2.0])
def test_a_bias_moves_the_generative_part_of_fused_scores_as_well(bias: float) -> None:
    """Otherwise it would weigh less, the larger that part is."""
    plain, moved = (ranker(mode="fused", fusion_weight=1.0, memory_weight=0.7, cold_bias=value) for value in (0.0, bias))
    difference = scores_of(moved, 0) - scores_of(plain, 0)
    np.testing.assert_allclose(difference, np.where(ITEMS.warm, 0.0, bias), atol=1e-4)
    items, scores = moved.search_items(HISTORIES, 18, False)
    for row in range(len(HISTORIES)):
        assert items[row].tolist() == wanted_list(scores_of(moved, row), set())
        np.testing.assert_allclose(scores[row], scores_of(moved, row)[items[row]], atol=1e-4)


@pytest.mark.parametrize("mode", ["dense", "generative", "fused"])
def test_neighbours_speak_for_cold_items_in_every_voice(mode: Mode) -> None:
    """Of the vectors, of the nodes above the items, and of the transitions."""
    one, plain = (ranker(mode=mode, memory_weight=0.7, cold_neighbours=count) for count in (2, 0))
    near = Neighbours.of(ITEMS.embeddings, ITEMS.warm, 2)
    assert np.array_equal(near.cold.numpy(), np.flatnonzero(~ITEMS.warm))
    assert isinstance(one.model, DenseModel)
    assert mode == "dense" or one.codes is not None
    with torch.no_grad():
        vectors = near.fill(one.model.item_vectors(), unit=False)
    if one.vectors is not None:
        torch.testing.assert_close(one.vectors.vectors, vectors)
    if one.codes is not None and plain.codes is not None:
        assert one.codes.vectors is not None and plain.codes.vectors is not None
        leaves = one.codes.trie.leaf_item
        torch.testing.assert_close(one.codes.vectors[-1], vectors[leaves])
        torch.testing.assert_close(plain.codes.vectors[-1][ITEMS.warm[leaves]], vectors[leaves][ITEMS.warm[leaves]])
    if mode == "fused":
        assert one.voices is not None and plain.voices is not None
        batch = next(iter(one.batches(HISTORIES, False)))[1]
        torch.testing.assert_close(one.voices.evidence(batch), near.share(plain.voices.evidence(batch)))
    items, scores = one.search_items(HISTORIES, 5, True)
    exact = np.stack([scores_of(one, row)[items[row]] for row in range(len(HISTORIES))])
    np.testing.assert_allclose(scores, exact, atol=1e-4)


def test_an_empty_history_is_refused() -> None:
    for mode in ("dense", "generative", "fused"):
        with pytest.raises(RequestError, match="user 1 in the list has no history, expected one"):
            ranker(mode=mode).rank(lists_of([[1, 2], []]), 5, True)


@pytest.mark.parametrize("mode", ["dense", "fused"])
@pytest.mark.parametrize("neighbours", [0, 2])
def test_items_without_a_vector_are_left_out_of_histories(mode: Mode, neighbours: int) -> None:
    """A cold item changes nothing, also at the end of a history, unless it is all there is; it is still seen."""
    one = ranker("sasrec", mode=mode, memory_weight=0.7, cold_neighbours=neighbours)
    warm, rows = [[0, 1], [3], list(range(9, 18))], [[0, 2, 1, 7], [8, 3, 2], [*range(9, 17), 2, 17, 8], [7, 2]]
    items, scores = one.search_items(lists_of(rows), 18, False)
    wanted = one.search_items(lists_of(warm), 18, False)
    assert np.array_equal(items[:3], wanted[0])
    np.testing.assert_allclose(scores[:3], wanted[1], atol=1e-5)
    for row, history in zip(rows[:3], warm, strict=True):
        single = [one.score_items(lists_of([some]), EVERYTHING) for some in (row, history)]
        np.testing.assert_allclose(*single, atol=1e-5)
    assert (items[3] >= 0).any(), "a history of cold items alone is still answered"
    for row, found in zip(rows, one.rank(lists_of(rows), 18, True).tolist(), strict=True):
        assert not set(row) & set(found)


def test_cold_items_that_a_model_can_read_stay_in_histories() -> None:
    for kind, changes in (("lynx", {}), ("tiger", {}), ("liger", {}), ("sasrec", {"text": True})):
        found = [ranker(kind, changes=changes).search_items(lists_of([row]), 5, False)[1] for row in ([0, 1], [0, 1, 2])]
        assert not np.allclose(*found, atol=1e-3)


@pytest.mark.parametrize(("kind", "mode"), SYSTEMS)
def test_a_share_of_zero_keeps_cold_items_out(kind: AnyKind, mode: Mode) -> None:
    one = ranker(kind, mode=mode, cold_share=0.0)
    assert not set(one.rank(HISTORIES, 18, False).flatten().tolist()) & set(COLD)


@pytest.mark.parametrize(("kind", "mode"), SYSTEMS)
def test_a_share_of_cold_items_follows_the_items_they_resemble(kind: AnyKind, mode: Mode) -> None:
    codes = IDS.codes.copy()
    codes[[2, 7]] = codes[[0, 1]]
    codes[[2, 7], 2] = [next(c for c in range(5) if not (codes == [*codes[i][:2], c]).all(1).any()) for i in (0, 1)]
    some = Catalogue(ITEMS.embeddings, ITEMS.warm, SemanticIds(codes, IDS.sizes, IDS.item_ids))
    alone, placed = (ranker(kind, some, mode=mode, memory_weight=0.5, cold_share=share) for share in (0.0, 0.3))
    warm_lists, lists = alone.search_items(HISTORIES, 10, False), placed.search_items(HISTORIES, 10, False)
    assert not set(warm_lists[0].flatten().tolist()) & set(COLD)
    relatives = {cold: {i for i in range(18) if some.warm[i] and (codes[i, :2] == codes[cold, :2]).all()} for cold in COLD}
    seen_cold = 0
    for row in range(4):
        found, scores = lists[0][row].tolist(), lists[1][row].tolist()
        cold = [item for item in found if item in COLD]
        seen_cold += len(cold)
        assert all(len(set(found[:place]) & set(COLD)) <= int(0.3 * place + 1e-9) for place in range(1, 11))
        assert [item for item in found if item not in COLD] == warm_lists[0][row].tolist()[: 10 - len(cold)]
        for item in cold:
            leader = next(i for i in found if i in relatives[item])
            assert found.index(leader) < found.index(item)
            assert scores[found.index(item)] == scores[found.index(item) - 1]
    assert seen_cold
    assert set(np.flatnonzero(placed.recommendable())) == set(np.flatnonzero(ITEMS.warm)) | {c for c in COLD if relatives[c]}
    assert np.isneginf(placed.score_items(HISTORIES.take(np.array([0])), np.array(COLD))).all()
    assert not (set(placed.rank(HISTORIES, 18, True)[2].tolist()) & set(HISTORIES[2].tolist()))


@pytest.mark.parametrize("mode", ["dense", "fused"])
def test_nothing_is_recommended_where_nothing_can_be(mode: Mode) -> None:
    one = ranker("sasrec", replace(ITEMS, warm=np.zeros_like(ITEMS.warm)), mode=mode, memory_weight=1.0)
    items, scores = one.search_items(HISTORIES, 5, True)
    assert (items == -1).all() and np.isneginf(scores).all()
    assert np.isneginf(scores_of(one, 0)).all() and not one.recommendable().any()


@pytest.mark.parametrize(("kind", "search"), [("sasrec", {"cold_neighbours": 2}), ("lynx", {"mode": "dense"})])
@pytest.mark.parametrize("part", ["items.own", "dense.project.bias"])
def test_a_model_that_is_not_finite_is_refused(kind: AnyKind, search: dict[str, object], part: str) -> None:
    """Rather than lists of whatever comes first."""
    one = ranker(kind, **search)
    with torch.no_grad():
        dict(one.model.named_parameters())[part][0] = torch.nan
    with pytest.raises(RequestError, match=r"model's (vectors of warm items|contexts) are not finite.* train again"):
        one.rank(HISTORIES, 5, True)


def test_neighbours_give_cold_items_a_vector_of_the_length_of_others() -> None:
    cosine = {"dense": {"similarity": "cosine"}}
    one = ranker("sasrec", changes=cosine, cold_neighbours=5)
    assert one.vectors is not None
    torch.testing.assert_close(one.vectors.vectors.norm(dim=1), torch.ones(18))


def test_a_share_of_cold_items_needs_an_id_for_each() -> None:
    with pytest.raises(RequestError, match=r"cold_share .* needs an ID of its own .* has no semantic IDs"):
        ranker("sasrec", Catalogue(ITEMS.embeddings, ITEMS.warm), cold_share=0.1)
    shared = SemanticIds(IDS.codes[:, :2], IDS.sizes[:2], IDS.item_ids, shared=True)
    with pytest.raises(RequestError, match="has semantic IDs that several items share"):
        ranker("lynx", tiny_catalogue(shared, cold=COLD), cold_share=0.1)
