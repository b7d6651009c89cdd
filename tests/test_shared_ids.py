"""Recommending and training where items share semantic IDs (collisions left as they are)."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from felid.evaluation import EvaluationConfig, evaluate_run
from felid.evaluation.report import DataFacts
from felid.evaluation.tables import aside_lines
from felid.models import build_model
from felid.models.base import Catalogue, Mode, TrainingItems
from felid.ranking import trie_of
from felid.recommender import Recommender
from felid.search.config import SearchConfig
from felid.semantic_ids import SemanticIds
from felid.testing import ToyWorld, check_ranker, toy_world
from felid.training import Examples, TrainingConfig, TrainingData, train
from tests.tiny import AnyKind, all_warm, any_model, config_of

WORLD = toy_world(num_users=24)
EVERYONE = list(range(100, 124))
SYSTEMS: list[tuple[AnyKind, Mode]] = [
    *[("lynx", "generative"), ("tiger", "generative"), ("lynx", "fused"), ("lynx", "dense"), ("lynx", "hybrid")],
    ("liger", "hybrid"),
]
systems = pytest.mark.parametrize(("kind", "mode"), SYSTEMS)


def shared_ids(world: ToyWorld = WORLD) -> SemanticIds:
    """The IDs of the world without their last level: 24 items share at most 16."""
    return SemanticIds(world.codes[:, :2], world.sizes[:2], np.arange(100, 100 + world.num_items), shared=True)


def recommender(
    kind: AnyKind = "lynx", mode: Mode = "generative", ids: SemanticIds | None = None, world: ToyWorld = WORLD, **search: object
) -> Recommender:
    """Lynx is trained without a share of the softmax over all codes: it cannot score IDs of cold items."""
    catalogue = Catalogue(world.vectors, world.split.warm_items(24), shared_ids() if ids is None else ids)
    model = any_model(kind, catalogue, **({"level_share": 0.0} if kind == "lynx" else {}))
    return Recommender(
        model, catalogue, world.sequences, None, SearchConfig.model_validate({"mode": mode, "hybrid_candidates": 24, **search})
    )


def family(size: int, ids: SemanticIds) -> list[int]:
    """The items of an ID that so many share."""
    return next(found for row in ids.codes.tolist() if len(found := ids.items_of(tuple(row))) == size)


@systems
def test_it_keeps_the_contract_of_rankers(kind: AnyKind, mode: Mode) -> None:
    some = WORLD.split.evaluation("test")
    few = type(some)(some.histories.take(np.arange(6)), some.targets[:6])
    for k, beams in ((7, 50), (WORLD.num_items, 50), (3, 1)):
        model = recommender(kind, mode, num_beams=beams, batch_users=4, candidates=k)
        check_ranker(model, few, WORLD.num_items, k=k)


@systems
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_lists_are_all_items_by_score_then_by_place_in_the_catalogue(kind: AnyKind, mode: Mode, exclude_seen: bool) -> None:
    """The items of an ID have one generative score and each its own dense one."""
    model, history = recommender(kind, mode), [103, 108, 120]
    scores = model.score(history, EVERYONE)
    assert np.isfinite(scores).all()
    assert len(set(scores.round(4).tolist())) == (24 if mode != "generative" else len(set(model.ids.groups.group)))
    wanted = sorted(EVERYONE, key=lambda item: (-round(float(scores[item - 100]), 4), item))
    wanted = [item for item in wanted if not exclude_seen or item not in history]
    found = model.recommend(history, k=WORLD.num_items, exclude_seen=exclude_seen)
    assert [one.item_id for one in found] == wanted
    assert [one.score for one in found] == pytest.approx([scores[item - 100] for item in wanted], abs=1e-5)
    assert [one.semantic_id for one in found] == [model.ids.of(item) for item in wanted]
    assert [one.item_id for one in model.recommend(history, k=5, exclude_seen=exclude_seen)] == wanted[:5]


def test_the_probabilities_of_the_ids_sum_to_one() -> None:
    model = recommender("lynx")
    by_id = {model.ids.of(item): score for item, score in zip(EVERYONE, model.score([103], EVERYONE), strict=True)}
    assert np.exp(list(by_id.values())).sum() == pytest.approx(1, abs=1e-5)


def test_an_id_is_left_out_only_when_all_its_items_are_seen() -> None:
    model = recommender()
    some = family(2, model.ids)
    assert some[1] in {one.item_id for one in model.recommend([some[0]] * 5, k=WORLD.num_items)}, "seen five times is seen once"
    found = {one.item_id for one in model.recommend(some, k=WORLD.num_items)}
    assert found == set(EVERYONE) - set(some)
    assert model.recommend(EVERYONE, k=3) == []


def test_pitfall_every_item_of_a_shared_id_counts_as_found() -> None:
    """A target's rank is its own place in the list, not that of its ID."""
    model = recommender()
    ranks = model.rank(WORLD.sequences, WORLD.num_items, False)
    first = model.rank(WORLD.sequences, 1, False)[:, 0]
    for row in range(len(ranks)):
        place = {item: rank for rank, item in enumerate(ranks[row].tolist())}
        assert sorted(place) == list(range(WORLD.num_items))
        assert place[int(first[row])] == 0
        mates = [item - 100 for item in model.ids.items_of(tuple(model.ids.codes[first[row]].tolist()))]
        assert [place[item] for item in mates] == list(range(len(mates)))


@systems
def test_unique_ids_give_the_same_lists_whether_or_not_items_may_share(kind: AnyKind, mode: Mode) -> None:
    plain = SemanticIds(WORLD.codes, WORLD.sizes, np.arange(100, 124))
    allowed = SemanticIds(WORLD.codes, WORLD.sizes, np.arange(100, 124), shared=True)
    for exclude_seen in (True, False):
        a, b = (recommender(kind, mode, ids).search_items(WORLD.sequences, 9, exclude_seen) for ids in (plain, allowed))
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1])


def test_a_cold_item_is_found_if_a_warm_one_has_its_id() -> None:
    few = toy_world(num_users=3)
    warm = few.split.warm_items(WORLD.num_items)
    ids = shared_ids(few)
    reachable = {item for row in np.flatnonzero(warm) for item in ids.items_of(tuple(ids.codes[row].tolist()))}
    cold = {100 + row for row in np.flatnonzero(~warm).tolist()}
    assert reachable & cold
    assert cold - reachable
    model = recommender("lynx", "generative", ids, few)
    found = model.recommend([103], k=WORLD.num_items, exclude_seen=False)
    assert {one.item_id for one in found} == reachable
    assert set(np.array(EVERYONE)[np.isfinite(model.score([103], EVERYONE))]) == reachable


def test_training_on_shared_ids_learns_the_right_id(tmp_path: Path) -> None:
    world = toy_world()
    ids, sequences = shared_ids(world), world.split.train()
    torch.manual_seed(0)
    catalogue = all_warm(ids, world.vectors)
    model = build_model(config_of("lynx", dropout=0.0, dense_weight=0.0), catalogue)
    items = TrainingItems(torch.from_numpy(np.bincount(sequences.items, minlength=24)).float(), trie_of(ids, np.ones(24, bool)))
    data = TrainingData(Examples.of(sequences, model.history, causal=model.causal), items, None)
    config = TrainingConfig(epochs=6, batch_targets=32, learning_rate=1e-2, patience=0, precision="fp32")
    steps = itertools.count(1)
    train(model, data, config, tmp_path, lambda _: {"ndcg@10": next(steps)}, seed=0, console=Console(file=io.StringIO()))
    part = world.split.evaluation("test")
    best = Recommender(model, catalogue, world.sequences).rank(part.histories, 1, False)[:, 0]
    right = (ids.codes[best] == ids.codes[part.targets]).all(1)
    assert right.mean() > 0.9
    assert (best == part.targets).mean() < right.mean(), "no two items share an ID here"


def test_the_semantic_id_level_stands_beside_the_item_level() -> None:
    """There any item with the target's ID counts; all other figures are those without it."""
    model, split, ids = recommender(num_beams=24), WORLD.split, shared_ids()
    config = EvaluationConfig(ks=(1, 5), bootstrap=20)
    facts = DataFacts(id_groups=ids.groups.group)
    found = evaluate_run({"lynx": model}, split, ids.item_ids, config, facts=facts).metrics
    plain = evaluate_run({"lynx": model}, split, ids.item_ids, config).metrics
    assert found["test"] == plain["test"]
    assert found["differences"] == plain["differences"]
    assert "semantic_id_level" not in plain
    part = split.evaluation("test")
    for policy, key in ((True, "semantic_id_level"), (False, "semantic_id_level_seen_kept")):
        lists = model.rank(part.histories, 5, policy)
        hits = [
            any((ids.codes[item] == ids.codes[target]).all() for item in row if item >= 0)
            for row, target in zip(lists.tolist(), part.targets.tolist(), strict=True)
        ]
        assert found[key]["lynx"]["recall@5"] == pytest.approx(np.mean(hits))
        assert found[key].keys() == {"lynx", "popularity", "markov"}
    assert found["semantic_id_level"]["lynx"]["ndcg@5"] > found["test"]["ndcg@5"]
    assert found["semantic_id_level"]["lynx"].keys() < found["test"].keys()
    assert f"24 items share {len(set(ids.groups.group))} IDs" in found["policy"]["semantic IDs"]
    (line,) = aside_lines(found)
    assert f"recall@5 {found['semantic_id_level']['lynx']['recall@5']:.4f} ({found['test']['recall@5']:.4f} by item)" in line
