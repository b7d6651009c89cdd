"""The Recommender over toy worlds, built without the pipeline."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from felid.data.histories import Sequences
from felid.errors import FelidWarning, RequestError
from felid.models.base import Mode
from felid.recommender import Recommendation, Recommender
from felid.search.config import SearchConfig
from felid.search.transitions import TransitionMemory
from felid.semantic_ids import SemanticIds
from felid.testing import ToyWorld, check_ranker, toy_world
from tests.search.dumb import dumb_evidence
from tests.tiny import ALL_KINDS, AnyKind, all_warm, any_model

WORLD = toy_world(num_users=24)
Names = Literal["int", "str"]
SYSTEMS: list[tuple[AnyKind, Mode]] = [
    ("lynx", "fused"),
    ("lynx", "generative"),
    ("lynx", "dense"),
    ("tiger", "generative"),
    ("sasrec", "dense"),
    ("sasrec", "fused"),
    ("liger", "hybrid"),
    ("liger", "generative"),
]
systems = pytest.mark.parametrize(("kind", "mode"), SYSTEMS)


def item_ids(names: Names) -> np.ndarray:
    """Ids that are no row numbers: 100, 107, ... or "i00", "i01", ..."""
    numbers = range(WORLD.num_items)
    if names == "int":
        return np.array([100 + 7 * n for n in numbers])
    return np.array([f"i{n:02d}" for n in numbers], object)


def recommender(kind: AnyKind = "lynx", names: Names = "int", world: ToyWorld = WORLD, **search: object) -> Recommender:
    ids = SemanticIds(world.codes, world.sizes, item_ids(names))
    titles = [f"title {n}" if n else "" for n in range(world.num_items)]
    users = np.array([f"u{n:02d}" for n in range(len(world.sequences))], object)
    known = Sequences(users if names == "str" else world.sequences.user_ids, world.sequences.offsets, world.sequences.items)
    catalogue, memory = all_warm(ids, world.vectors), TransitionMemory.of(world.split.train(), world.num_items)
    settings = SearchConfig.model_validate({"memory_weight": 0.6, "hybrid_candidates": world.num_items, **search})
    return Recommender(any_model(kind, catalogue, spread=0.7), catalogue, known, titles, settings, memory)


def assert_alike(some: list[Recommendation], others: list[Recommendation]) -> None:
    """Equal items in equal order; scores may differ by rounding, which depends on the batch."""
    assert [found.item_id for found in some] == [found.item_id for found in others]
    assert [found.score for found in some] == pytest.approx([found.score for found in others], abs=1e-5, rel=1e-5)


@systems
@pytest.mark.parametrize("part", ["validation", "test"])
def test_it_keeps_the_contract_of_rankers(kind: AnyKind, mode: Mode, part: Literal["validation", "test"]) -> None:
    some = WORLD.split.evaluation(part)
    few = type(some)(some.histories.take(np.arange(6)), some.targets[:6])
    check_ranker(recommender(kind, mode=mode), few, WORLD.num_items, k=7)
    narrow = recommender(kind, mode=mode, num_beams=3, batch_users=4, candidates=3)
    check_ranker(narrow, few, WORLD.num_items, k=WORLD.num_items)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("names", ["int", "str"])
def test_one_history_gives_a_list_and_several_give_a_list_of_lists(kind: AnyKind, names: Names) -> None:
    model, ids = recommender(kind, names), item_ids(names).tolist()
    one = model.recommend([ids[3], ids[8]], k=5)
    assert len(one) == 5
    assert all(isinstance(found, Recommendation) for found in one)
    many = model.recommend([[ids[3], ids[8]], [ids[0]]], k=5)
    assert_alike(many[0], one)
    assert len(many) == 2
    assert_alike(model.recommend(((ids[0],),), k=5)[0], many[1])
    for found in one:
        row = ids.index(found.item_id)
        assert type(found.item_id) is type(ids[0])
        assert found.semantic_id == tuple(WORLD.codes[row].tolist()) == model.ids.of(found.item_id)
        assert found.title == model.title_of(found.item_id) == (f"title {row}" if row else "")
    assert [found.score for found in one] == sorted((found.score for found in one), reverse=True)


def test_histories_may_be_arrays() -> None:
    model, ids = recommender(), item_ids("int")
    wanted = model.recommend(ids[[3, 8]].tolist(), k=5)
    assert model.recommend(ids[[3, 8]], k=5) == wanted
    assert_alike(model.recommend(ids[[[3, 8], [1, 2]]], k=5)[0], wanted)


def test_an_item_beside_a_history_is_refused() -> None:
    with pytest.raises(RequestError, match="item 107 beside a history"):
        recommender().recommend([[100], 107])


@systems
def test_scores_of_recommended_items_are_those_of_score(kind: AnyKind, mode: Mode) -> None:
    model, ids = recommender(kind, mode=mode, fusion_weight=0.3), item_ids("int").tolist()
    history = [ids[3], ids[8], ids[20]]
    found = model.recommend(history, k=WORLD.num_items, exclude_seen=False)
    assert len(found) == WORLD.num_items
    scores = model.score(history, [one.item_id for one in found])
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx([one.score for one in found], abs=1e-5)
    assert model.score(history, []).shape == (0,)
    if kind != "tiger" and mode != "fused" and (kind, mode) != ("liger", "generative"):  # the vocabulary holds more than items
        assert np.exp(model.score(history, ids)).sum() == pytest.approx(1, abs=1e-5)


@systems
def test_seen_items_are_left_out_unless_they_are_wanted(kind: AnyKind, mode: Mode) -> None:
    """Also those beyond the last items that the model reads (its history is 8 items long)."""
    model, ids = recommender(kind, mode=mode), item_ids("int").tolist()
    history = ids[:20]
    without = model.recommend(history, k=10)
    assert {found.item_id for found in without} == set(ids[20:]), "shorter than k where fewer are eligible"
    everything = model.recommend(history, k=WORLD.num_items, exclude_seen=False)
    assert {found.item_id for found in everything} == set(ids)
    kept = [found for found in everything if found.item_id not in history]
    assert [found.item_id for found in kept] == [found.item_id for found in without]
    assert model.recommend(ids, k=3) == []


@systems
def test_only_the_last_items_are_read(kind: AnyKind, mode: Mode) -> None:
    model, ids = recommender(kind, mode=mode), item_ids("int").tolist()
    long, short = ids[:20], ids[12:20]
    a, b = (model.recommend(history, k=5, exclude_seen=False) for history in (long, short))
    assert_alike(a, b)
    assert model.score(long, ids).tolist() == pytest.approx(model.score(short, ids).tolist(), abs=1e-5)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("mode", ["generative", "fused"])
def test_beams_and_candidates_are_raised_to_k(width: int, mode: Mode) -> None:
    """Beams fewer than k (pitfalls: GRID, Geodezik)."""
    model = recommender(mode=mode, num_beams=width, candidates=width)
    assert len(model.recommend([100], k=12)) == 12
    wide = recommender(mode=mode, num_beams=12, candidates=12).recommend([100], k=12)
    assert model.recommend([100], k=12) == wide


def test_the_same_model_ranks_in_every_mode_it_knows() -> None:
    """Also by way of another mode, which must not lose the memory."""
    model, history = recommender(fusion_weight=0.2, num_beams=24), [100, 107]
    lists = {mode: model.in_mode(mode).recommend(history, k=24) for mode in ("fused", "generative", "dense")}
    assert lists["fused"] == model.recommend(history, k=24) == model.in_mode("dense").in_mode("fused").recommend(history, k=24)
    scores = {mode: {one.item_id: one.score for one in found} for mode, found in lists.items()}
    evidence = evidence_of([0, 1])
    assert max(evidence.values()) > 1
    for item, score in scores["fused"].items():
        wanted = 0.2 * scores["generative"][item] + 0.8 * scores["dense"][item] + 0.6 * evidence[item]
        assert score == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(RequestError, match="ranks under dense and fused, not generative"):
        recommender("sasrec").in_mode("generative")


def evidence_of(history: list[int]) -> dict[int, float]:
    """What transitions of the training part say of each item id."""
    train = WORLD.split.train()
    found = dumb_evidence([train[row].tolist() for row in range(len(train))], history, WORLD.num_items)
    return dict(zip(item_ids("int").tolist(), found, strict=True))


def test_sasrec_is_fused_with_the_memory_where_that_is_asked_for() -> None:
    model, ids = recommender("sasrec"), item_ids("int").tolist()
    assert model.ranker.mode == "dense"
    dense, evidence = model.score([100, 107], ids), evidence_of([0, 1])
    wanted = [score + 0.6 * evidence[item] for score, item in zip(dense.tolist(), ids, strict=True)]
    assert model.in_mode("fused").score([100, 107], ids).tolist() == pytest.approx(wanted, abs=1e-4)


def test_unknown_items_are_reported_and_skipped() -> None:
    """An unknown item is no padding target and no item 0 (pitfalls: XiaoLongtaoo, LIGER)."""
    model = recommender()
    wanted = model.recommend([107, 114], k=5)
    with pytest.warns(FelidWarning, match=r"2 history items are not in the catalogue .* \(first: 5\)"):
        assert model.recommend([107, 5, 114, "107"], k=5) == wanted
    with pytest.warns(FelidWarning, match="1 history items"):
        many = model.recommend([[107, 114], [999, 100]], k=5)
    assert_alike(many[0], wanted)
    with pytest.warns(FelidWarning, match="1 history items"):
        assert model.score([107, 5, 114], [100])[0] == pytest.approx(model.score([107, 114], [100])[0])


@pytest.mark.parametrize("history", [[], [[]], [[100], []]])
def test_an_empty_history_is_refused(history: list[object]) -> None:
    with pytest.raises(RequestError, match=r"history \d has no item of the catalogue; give at least one"):
        recommender().recommend(history)


def test_a_history_of_unknown_items_only_is_refused() -> None:
    with (
        pytest.warns(FelidWarning, match="skipped"),
        pytest.raises(RequestError, match="history 0 has no item of the catalogue"),
    ):
        recommender().recommend([1, 2])


@pytest.mark.parametrize("k", [0, -1, WORLD.num_items + 1])
def test_k_outside_the_catalogue_is_refused(k: int) -> None:
    model = recommender()
    for call in (
        lambda: model.recommend([100], k=k),
        lambda: model.similar(100, k=k),
        lambda: model.rank(WORLD.sequences, k, True),
    ):
        with pytest.raises(RequestError, match=rf"k is {k}, expected 1 to 24"):
            call()


def test_scoring_an_unknown_item_is_refused() -> None:
    with pytest.raises(RequestError, match=r"2 of 3 items are not in the catalogue \(first: 5\)"):
        recommender().score([100], [100, 5, 6])


def test_similar_items_are_nearest_in_content() -> None:
    model, ids = recommender(), item_ids("int").tolist()
    cosines = {other: float(WORLD.vectors[4] @ WORLD.vectors[row]) for row, other in enumerate(ids) if row != 4}
    wanted = sorted(cosines.items(), key=lambda pair: -pair[1])
    found = model.similar(ids[4], k=6)
    assert [item for item, _ in found] == [item for item, _ in wanted[:6]]
    assert [cosine for _, cosine in found] == pytest.approx([cosine for _, cosine in wanted[:6]], abs=1e-6)
    assert len(model.similar(ids[4], k=WORLD.num_items)) == WORLD.num_items - 1
    with pytest.raises(RequestError, match="item 5 is not in the catalogue of 24 items"):
        model.similar(5)


@pytest.mark.parametrize("names", ["int", "str"])
def test_history_of_a_known_user(names: Names) -> None:
    model, ids = recommender(names=names), item_ids(names)
    user = "u05" if names == "str" else 5
    assert model.history_of(user) == ids[WORLD.sequences[5]].tolist()
    for unknown in (-1, "nobody"):
        with pytest.raises(RequestError, match="is not in the data of this run; give a history"):
            model.history_of(unknown)


def test_search_reports_what_is_done_and_reads_user_tokens() -> None:
    model, done = recommender("tiger", batch_users=10), []
    items, scores = model.search_items(WORLD.sequences, 4, True, done.append)
    assert done == [10, 10, 4]
    assert items.shape == scores.shape == (24, 4)
    assert (items.dtype, scores.dtype) == (np.int64, np.float32)
    strangers = Sequences(np.full(24, None, object), WORLD.sequences.offsets, WORLD.sequences.items)
    assert not np.allclose(model.search_items(strangers, 4, True)[1], scores, atol=1e-3)
