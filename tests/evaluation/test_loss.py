"""The loss on validation and test targets: what scoring and the training loss say of every user alone."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from felid.config import as_tree
from felid.data.histories import LeaveOneOut, Part, Sequences
from felid.errors import RecipeError, RequestError
from felid.evaluation import EvaluationConfig, print_metrics
from felid.evaluation.loss import TargetLoss, target_loss
from felid.evaluation.report import PARTS
from felid.evaluation.shared import SharedRanker
from felid.evaluation.tables import loss_line
from felid.models.base import Catalogue
from felid.models.generative import GenerativeModel
from felid.progress import plain_console
from felid.recipe import load_recipe
from felid.recommender import Recommender
from felid.search.config import SearchConfig
from tests.tiny import AnyKind, Kind, any_model, catalogue, histories_of, tiny_catalogue, training_items

USERS = 17
COLD = 19
"""The item that no training part holds, where one is wanted; then it is a target of both parts."""
SETTINGS: list[tuple[Kind, dict[str, Any]]] = [
    ("tiger", {"normalize": "trie"}),
    ("tiger", {"normalize": "vocabulary"}),
    ("liger", {}),
    ("lynx", {}),
    ("lynx", {"level_share": 0.0}),
]
settings = pytest.mark.parametrize(("kind", "changes"), SETTINGS)


def some_split(*, with_cold: bool) -> LeaveOneOut:
    """Users with 3 to 8 items and one with more than the models read; user ids are no row numbers."""
    rng = np.random.default_rng(4)
    rows = [rng.integers(COLD, size=length) for length in rng.integers(3, 9, USERS)]
    rows[0] = np.concatenate([np.arange(COLD if with_cold else COLD + 1), rows[0][:2]])  # makes all others warm
    if with_cold:
        rows[3][-1] = rows[5][-2] = COLD
    return LeaveOneOut(Sequences.from_lists(np.arange(50, 50 + USERS), rows))


def recommender_of(kind: AnyKind, split: LeaveOneOut, changes: dict[str, Any], **search: object) -> Recommender:
    """A random model with much dropout, which must not matter."""
    ids = catalogue()
    items = tiny_catalogue(ids)
    items = Catalogue(items.embeddings, split.warm_items(ids.num_items), ids)
    model = any_model(kind, items, dropout=0.5, **changes)
    model.train()
    return Recommender(model, items, split.sequences, search=SearchConfig.model_validate({"batch_users": 5, **search}))


def loss_of(recommender: Recommender, split: LeaveOneOut) -> TargetLoss:
    return target_loss(recommender, split, plain_console(quiet=True))


def by_scoring(recommender: Recommender, split: LeaveOneOut, part: Part) -> np.ndarray:
    """(U,) negative log-likelihood per code of every target, one user at a time, by the door for everybody."""
    scoring, users, ids = recommender.in_mode("generative"), split.evaluation(part), recommender.ids.item_ids.tolist()
    found = []
    for row, target in enumerate(users.targets.tolist()):
        history = [ids[item] for item in users.histories[row].tolist()]
        found.append(scoring.score(history, [ids[target]], users.histories.user_ids.tolist()[row])[0])
    return -np.array(found, np.float64) / recommender.ids.num_levels


@settings
def test_the_loss_is_what_scoring_every_user_alone_gives(kind: Kind, changes: dict[str, Any]) -> None:
    split = some_split(with_cold=False)
    recommender = recommender_of(kind, split, changes)
    found = loss_of(recommender, split).values
    for part in PARTS:
        wanted = by_scoring(recommender, split, part)
        assert found[part] == {"loss": pytest.approx(wanted.mean(), rel=1e-5), "users_with_loss": USERS}
    assert found["test"]["loss"] != found["validation"]["loss"]


@settings
def test_the_loss_is_that_of_training_without_dropout(kind: Kind, changes: dict[str, Any]) -> None:
    """A causal model sums over all positions: what a sequence costs more than the same without its last item."""
    split = some_split(with_cold=False)
    recommender = recommender_of(kind, split, changes)
    found, model = loss_of(recommender, split).values["test"], recommender.model
    assert isinstance(model, GenerativeModel)
    items, users, total = training_items(recommender.ranker.catalogue), split.evaluation("test"), 0.0

    def cost(history: list[int], target: int, user: int) -> float:
        token = torch.tensor([model.layout.user_token(user)]) if model.layout.num_user_buckets else None
        targets = [*history[1:], target] if model.causal else [target]
        with torch.no_grad():
            return float(model(histories_of([history], token), torch.tensor(targets), items).parts["generative"])

    for row, target in enumerate(users.targets.tolist()):
        history, user = users.histories[row][-model.history :].tolist(), users.histories.user_ids.tolist()[row]
        total += cost(history, target, user)
        total -= cost(history[:-1], history[-1], user) if model.causal else 0.0
    assert found["loss"] == pytest.approx(total / USERS / model.layout.num_levels, rel=1e-5)
    model.train()
    history = users.histories[1].tolist()
    assert cost(history, 3, 51) != cost(history, 3, 51), "dropout would have mattered"


@pytest.mark.parametrize(("kind", "changes"), [("tiger", {"normalize": "trie"}), ("lynx", {"level_share": 0.0})])
def test_targets_that_cannot_be_generated_are_left_out_and_counted(kind: Kind, changes: dict[str, Any]) -> None:
    split = some_split(with_cold=True)
    recommender = recommender_of(kind, split, changes)
    found = loss_of(recommender, split)
    for part in PARTS:
        wanted = by_scoring(recommender, split, part)
        assert np.isinf(wanted).sum() == 1, "a target without training interactions"
        assert found.values[part]["users_with_loss"] == USERS - 1
        assert found.values[part]["loss"] == pytest.approx(wanted[np.isfinite(wanted)].mean(), rel=1e-5)
    assert "a target's 3 codes, per code, in nats, over the valid codes of each level; without 1 test targets" in found.policy


def test_a_model_that_scores_new_items_leaves_none_out() -> None:
    split = some_split(with_cold=True)
    recommender = recommender_of("tiger", split, {"normalize": "vocabulary"})
    found = loss_of(recommender, split)
    assert found.values["test"]["users_with_loss"] == USERS
    assert found.values["test"]["loss"] == pytest.approx(by_scoring(recommender, split, "test").mean(), rel=1e-5)
    assert found.policy.endswith("over all tokens")


def test_without_any_target_that_can_be_generated_there_is_no_loss() -> None:
    rows = [np.array([0, 1, 2, COLD]), np.array([1, 3, 0, COLD])]
    split = LeaveOneOut(Sequences.from_lists(np.arange(2), rows))
    found = loss_of(recommender_of("tiger", split, {"normalize": "trie"}), split)
    assert found.values["test"] == {"users_with_loss": 0}


@pytest.mark.parametrize("mode", ["fused", "dense", "generative"])
def test_the_loss_does_not_depend_on_how_items_are_ranked(mode: str) -> None:
    split = some_split(with_cold=False)
    recommender = recommender_of("lynx", split, {}, mode=mode, fusion_weight=0.7)
    assert loss_of(recommender, split).values["test"]["loss"] == pytest.approx(
        by_scoring(recommender, split, "test").mean(), rel=1e-5
    )


def test_progress_hears_of_every_user_once() -> None:
    split, heard = some_split(with_cold=False), []
    ranker = recommender_of("tiger", split, {}).ranker
    SharedRanker(ranker, heard.append).score_targets(split.evaluation("test"))
    assert sum(heard) == USERS and max(heard) == 5


def test_a_model_without_codes_is_refused() -> None:
    split = some_split(with_cold=False)
    for kind, changes in (("sasrec", {}), ("lynx", {"generative_weight": 0.0}), ("liger", {"sid_loss_weight": 0.0})):
        with pytest.raises(RequestError, match=r"this model generates none; set evaluation\.loss=false"):
            loss_of(recommender_of(kind, split, changes), split)
    with pytest.raises(RecipeError, match=r"this sasrec generates none; set evaluation\.loss=false, or model\.kind=tiger"):
        load_recipe("sasrec", ["evaluation.loss=true"])
    assert load_recipe("default", ["evaluation.loss=true"]).evaluation.loss


def test_settings_without_a_loss_are_those_of_earlier_versions() -> None:
    assert "loss" not in as_tree(EvaluationConfig())
    assert as_tree(EvaluationConfig(loss=True))["loss"] is True


def test_the_line_is_that_of_the_original_and_the_last_one() -> None:
    part = {"recall@10": 0.022, "ndcg@10": 0.5, "recall@100": 0.056, "coverage@100": 0.1, "users_with_seen_target": 0}
    metrics: dict[str, Any] = {"test": part, "system": "tiger", "num_users": 3, "policy": {}, "variants": {}, "baselines": {}}
    assert loss_line(metrics) is None
    stream = io.StringIO()
    print_metrics(metrics, Console(file=stream, width=200))
    assert "Test |" not in stream.getvalue()
    metrics["test"] = {**part, "loss": 3.15942, "users_with_loss": 3}
    print_metrics(metrics, Console(file=stream, width=200))
    assert stream.getvalue().splitlines()[-1] == "Test | loss 3.1594 | R@10 0.0220 | R@100 0.0560"
