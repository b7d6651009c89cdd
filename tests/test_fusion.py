"""The choice of the weights of fused ranking against an evaluation for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from felid.errors import FelidError
from felid.evaluation import evaluate
from felid.fusion import GRID, MEMORY, SHARES, FusionChoice, choose_fusion
from felid.models.lynx import Lynx
from felid.ranking import ItemRanker
from felid.search.config import SearchConfig
from felid.search.fused import Weights
from felid.search.transitions import TransitionMemory
from felid.semantic_ids import SemanticIds
from felid.testing import toy_world
from tests.tiny import AnyKind, all_warm, any_model

WORLD = toy_world(num_users=24)
CATALOGUE = all_warm(SemanticIds(WORLD.codes, WORLD.sizes, np.arange(24)), WORLD.vectors)
VALIDATION = WORLD.split.evaluation("validation")
TRANSITIONS = TransitionMemory.of(WORLD.split.train(), 24)
FEW = tuple(Weights(share, memory) for memory in (0.0, 0.2, 2.0) for share in (0.0, 0.4, 1.0))
SAME = tuple(Weights(share, 0.5) for share in (0.0, 0.4, 1.0))
"""With the factor that candidates are proposed with."""


def ranker(kind: AnyKind = "lynx", *, memory: bool = True, search: SearchConfig | None = None, **changes: object) -> ItemRanker:
    search = search or SearchConfig(mode="fused", memory_weight=0.5)
    return ItemRanker(any_model(kind, CATALOGUE, spread=0.5, **changes), CATALOGUE, search, TRANSITIONS if memory else None)


def tried(choice: FusionChoice) -> list[tuple[float, float]]:
    return [(share, memory) for share, memory, _ in choice.curve]


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize(("candidates", "grid"), [(24, FEW), (4, SAME)], ids=["all", "few"])
@pytest.mark.parametrize(("kind", "changes"), [("lynx", {}), ("lynx", {"generative_weight": 0.0}), ("sasrec", {})])
def test_they_are_the_weights_with_the_best_ndcg(
    kind: AnyKind, changes: dict[str, object], candidates: int, grid: Sequence[Weights], exclude_seen: bool
) -> None:
    search = SearchConfig(mode="fused", memory_weight=0.5, candidates=candidates, batch_users=7)
    choice = choose_fusion(ranker(kind, search=search, **changes), VALIDATION, exclude_seen, grid)
    asked = [w for w in grid if not w.generative or (kind == "lynx" and not changes)]
    assert tried(choice) == [(w.generative, w.memory) for w in asked]
    wanted = []
    for w in asked:
        weights = {"fusion_weight": w.generative, "memory_weight": w.memory}
        one = ranker(kind, search=search.model_copy(update=weights), **changes)
        wanted.append(evaluate(one, VALIDATION, (10,), exclude_seen, 24).metrics()["ndcg@10"])
    assert [ndcg for *_, ndcg in choice.curve] == pytest.approx(wanted)
    assert len(set(wanted)) == len(asked)
    assert (choice.weight, choice.memory_weight) == tried(choice)[int(np.argmax(wanted))]


def test_without_more_said_the_whole_grid_is_tried_as_far_as_there_are_voices() -> None:
    assert tuple(step / 10 for step in range(11)) == SHARES
    assert MEMORY[0] == 0, "a memory that does not help must be able to be silent"
    assert len(GRID) == len(SHARES) * len(MEMORY)
    found = [
        tried(choose_fusion(one, VALIDATION, True))
        for one in (ranker(), ranker(memory=False), ranker("sasrec"), ranker("sasrec", memory=False))
    ]
    assert set(found[0]) == {(share, memory) for share in SHARES for memory in MEMORY}
    assert found[1:] == [[(share, 0.0) for share in SHARES], [(0.0, memory) for memory in MEMORY], [(0.0, 0.0)]]


def test_each_voice_scores_each_user_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, users = ranker(), {"start": 0, "contexts": 0, "scores": 0}
    assert isinstance(one.model, Lynx)
    for owner, name in ((one.model, "start"), (one.model, "contexts"), (TransitionMemory, "scores")):
        real = getattr(owner, name)

        def counted(*arguments: object, name: str = name, real: object = real) -> object:
            users[name] += len(arguments[-1].items)
            return real(*arguments)

        monkeypatch.setattr(owner, name, counted)
    choose_fusion(one, VALIDATION, True)
    assert users == {"start": 24, "contexts": 24, "scores": 24}


def test_of_equal_weights_the_smallest_are_taken() -> None:
    """Where the lists do not depend on the weights; the grid is in ascending order."""
    assert [*GRID] == sorted(GRID, key=lambda w: (w.memory, w.generative))
    for grid in ((Weights(0.7, 0.0), Weights(0.7, 0.0)), (Weights(0.2, 0.5), Weights(0.2 + 1e-12, 0.5 + 1e-12))):
        choice = choose_fusion(ranker(), VALIDATION, True, grid)
        assert Weights(choice.weight, choice.memory_weight) == grid[0]


def test_what_was_chosen_stands_in_for_what_is_not_given() -> None:
    choice = FusionChoice(weight=0.3, memory_weight=1.5, curve=())
    for given, wanted in (
        ({}, (0.3, 1.5)),
        ({"fusion_weight": 0.0}, (0.0, 1.5)),
        ({"memory_weight": 0.0}, (0.3, 0.0)),
        ({"fusion_weight": 0.9, "memory_weight": 2.0}, (0.9, 2.0)),
    ):
        search = choice.complete(SearchConfig.model_validate({**given, "candidates": 7}))
        assert (search.fusion_weight, search.memory_weight) == wanted
        assert search.candidates == 7


def test_beside_a_weight_that_is_given_the_other_is_the_best_one_there() -> None:
    """The ablation without a memory must get the best share of lists without a memory, not that of lists with one."""
    curve = ((0.3, 0.0, 0.03), (0.6, 0.0, 0.05), (0.7, 0.0, 0.05), (0.3, 2.0, 0.06), (0.6, 2.0, 0.04), (0.6, 0.5, 0.045))
    choice = FusionChoice(weight=0.3, memory_weight=2.0, curve=curve)
    for share, memory, wanted in (
        (None, None, (0.3, 2.0)),
        (None, 0.0, (0.6, 0.0)),
        (0.6, None, (0.6, 0.0)),
        (0.3, None, (0.3, 2.0)),
        (None, 1.7, (0.3, 1.7)),
        (0.15, None, (0.15, 2.0)),
        (0.9, 0.0, (0.9, 0.0)),
    ):
        search = choice.complete(SearchConfig(fusion_weight=share, memory_weight=memory))
        assert (search.fusion_weight, search.memory_weight) == wanted


def test_round_trip(tmp_path: Path) -> None:
    assert FusionChoice.load(tmp_path) is None
    choice = FusionChoice(weight=0.3, memory_weight=0.5, curve=((0.0, 0.0, 0.1), (0.3, 0.5, 0.25)))
    choice.save(tmp_path)
    assert FusionChoice.load(tmp_path) == choice
    (tmp_path / "search.json").write_text('{"weight": 0.3, "curve": []}')
    with pytest.raises(FelidError, match="memory_weight"):
        FusionChoice.load(tmp_path)
