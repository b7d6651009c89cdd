"""The choice of the fusion weight against an evaluation for every weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from felid.errors import FelidError
from felid.evaluation import evaluate
from felid.fusion import WEIGHTS, FusionChoice, choose_fusion
from felid.models.lynx import Lynx
from felid.ranking import ItemRanker, SearchConfig
from felid.semantic_ids import SemanticIds
from felid.testing import toy_world
from tests.tiny import all_warm, any_model

WORLD = toy_world(num_users=24)
CATALOGUE = all_warm(SemanticIds(WORLD.codes, WORLD.sizes, np.arange(24)), WORLD.vectors)
VALIDATION = WORLD.split.evaluation("validation")


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("candidates", [4, 24])
def test_it_is_the_weight_with_the_best_ndcg(exclude_seen: bool, candidates: int) -> None:
    model = any_model("lynx", CATALOGUE, spread=0.5)
    search = SearchConfig(mode="fused", candidates=candidates, batch_users=7)
    choice = choose_fusion(ItemRanker(model, CATALOGUE, search), VALIDATION, exclude_seen)
    assert [weight for weight, _ in choice.curve] == list(WEIGHTS) == [step / 10 for step in range(11)]
    wanted = []
    for weight in WEIGHTS:
        one = ItemRanker(model, CATALOGUE, search.model_copy(update={"fusion_weight": weight}))
        wanted.append(evaluate(one, VALIDATION, (10,), exclude_seen, 24).metrics()["ndcg@10"])
    assert [ndcg for _, ndcg in choice.curve] == pytest.approx(wanted)
    assert len(set(wanted)) > 3
    assert choice.weight == WEIGHTS[int(np.argmax(wanted))]


def test_each_head_scores_each_user_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, users = any_model("lynx", CATALOGUE), {"start": 0, "contexts": 0}
    assert isinstance(model, Lynx)
    for name in users:
        real = getattr(model, name)

        def counted(histories: object, name: str = name, real: object = real) -> object:
            users[name] += len(histories.items)
            return real(histories)

        monkeypatch.setattr(model, name, counted)
    choose_fusion(ItemRanker(model, CATALOGUE), VALIDATION, True)
    assert users == {"start": 24, "contexts": 24}


def test_of_equal_weights_the_smallest_is_taken() -> None:
    """Where the lists do not depend on the weight."""
    model = any_model("lynx", CATALOGUE)
    assert choose_fusion(ItemRanker(model, CATALOGUE), VALIDATION, True, (0.7, 0.7)).weight == 0.7
    assert choose_fusion(ItemRanker(model, CATALOGUE), VALIDATION, True, (0.2, 0.2 + 1e-12)).weight == 0.2


def test_round_trip(tmp_path: Path) -> None:
    assert FusionChoice.load(tmp_path) is None
    choice = FusionChoice(weight=0.3, curve=((0.0, 0.1), (0.3, 0.25)))
    choice.save(tmp_path)
    assert FusionChoice.load(tmp_path) == choice
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(FelidError, match="weight"):
        FusionChoice.load(tmp_path)
