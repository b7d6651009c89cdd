"""The train stage: what decides while it trains, and what it leaves for the stages after it."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import felid.fitting
from felid.config import as_tree
from felid.data.histories import EvaluationSet
from felid.embedding.collaborative import collaborative_vectors
from felid.embedding.precomputed import PrecomputedConfig
from felid.errors import RecipeError
from felid.evaluation import evaluate
from felid.evaluation.audit.origin import Origin, choices, training_part
from felid.evaluation.audit.provenance import Provenance
from felid.fitting import SIDE_USERS, Fitting, save_item_vectors
from felid.fusion import MEMORY, SHARES, FusionChoice, choose_fusion
from felid.models.base import Catalogue, Mode, Model
from felid.ranking import ItemRanker
from felid.search.config import SearchConfig
from felid.search.transitions import TransitionMemory
from felid.semantic_ids import SemanticIds
from felid.testing import ToyWorld, toy_world
from felid.training import Examples, TrainingConfig, TrainingData
from felid.training.checkpoints import load_progress, load_state
from tests.tiny import ALL_KINDS, AnyKind, config_of, dense_model, tiny_catalogue
from tests.tiny import catalogue as tiny_ids

ONE = TrainingConfig(epochs=1, batch_targets=64, validation_beams=10, precision="fp32")
USERS = 48


def fitting(kind: AnyKind, world: ToyWorld | None = None, **training: object) -> Fitting:
    """A training of one epoch on a toy world; sasrec is told of no codes."""
    world = world or toy_world(USERS)
    item_ids = np.array([f"item-{row}" for row in range(world.num_items)], object)
    ids = None if kind == "sasrec" else SemanticIds(world.codes, world.sizes, item_ids)
    catalogue = Catalogue(world.vectors, world.split.warm_items(world.num_items), ids)
    config = ONE.model_copy(update=training)
    return Fitting(config_of(kind), config, 0, False, catalogue, world.split, Console(file=io.StringIO()), item_ids)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_a_training_leaves(kind: AnyKind, tmp_path: Path) -> None:
    what = fitting(kind)
    model = what.fit(tmp_path)
    progress = load_progress(tmp_path)
    assert not model.training
    wanted = {progress.last_checkpoint, "progress.json", "provenance.json", "chosen_on_checkpoint.npy"}
    wanted |= {"item_vectors"} if kind != "tiger" else set()
    wanted |= {"search.json", "chosen_on_weights.npy"} if "fused" in model.modes else set()
    assert {path.name for path in tmp_path.iterdir()} == wanted
    assert not list(tmp_path.rglob("state.pt")), "only resuming needs it"
    mode = "generative" if kind == "tiger" else "dense"
    metrics = what.metrics(model, mode, what.split.evaluation("validation"))
    assert {name: progress.curve[-1][name] for name in metrics} == metrics, "by the head that decides"
    assert (FusionChoice.load(tmp_path) is None) == (kind in ("tiger", "liger"))


class Leaky(Fitting):
    """Learns from all interactions, and chooses its checkpoint on the test part."""

    def data_for(self, model: Model) -> TrainingData:
        everything = Examples.of(self.split.sequences, model.history, causal=model.causal)
        return replace(super().data_for(model), examples=everything)

    def judged_by(self, model: Model) -> dict[str, tuple[Mode, EvaluationSet]]:
        return {"": (self._mode(model), self.split.evaluation("test"))}


def test_what_is_noted_is_what_was_learnt_and_judged_on(tmp_path: Path) -> None:
    for kind, status in ((Fitting, "passed"), (Leaky, "failed")):
        honest = fitting("sasrec")
        what = kind(**{one.name: getattr(honest, one.name) for one in fields(honest) if one.init})
        what.fit(tmp_path / kind.__name__)
        noted = {"the training": Provenance.load(tmp_path / kind.__name__)}
        assert training_part(noted, what.split.train()).status == status
        assert choices(Origin(noted), what.split).status == status


@pytest.mark.parametrize("keep_checkpoints", [False, True])
def test_the_optimisers_state_stays_where_it_is_asked_for(keep_checkpoints: bool, tmp_path: Path) -> None:
    """Beside the last weights only; the training is over all the same, and is left alone when it is asked for again."""
    what = fitting("liger", keep_state=True, keep_checkpoints=keep_checkpoints, epochs=3)
    model = what.fit(tmp_path)
    progress = load_progress(tmp_path)
    assert progress.finished
    assert [path.parent.name for path in tmp_path.rglob("state.pt")] == [progress.last_checkpoint]
    assert {path.name for path in tmp_path.glob("checkpoint-*")} >= {progress.last_checkpoint, progress.best_checkpoint}
    state = load_state(tmp_path, progress)["optimizer"]
    assert {int(one["step"]) for one in state["state"].values()} == {progress.step}
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(state)
    assert [one["exp_avg"].shape for one in optimizer.state.values()] == [weight.shape for weight in model.parameters()]
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = fitting("liger", keep_state=True, keep_checkpoints=keep_checkpoints, epochs=3).fit(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_a_training_that_keeps_nothing_has_the_key_that_it_had_before_there_were_these_settings() -> None:
    assert not {"keep_state", "keep_checkpoints"} & set(as_tree(TrainingConfig()))
    assert as_tree(TrainingConfig(keep_state=True))["keep_state"] is True


def test_the_weights_are_those_of_a_training_that_keeps_nothing(tmp_path: Path) -> None:
    kept, dropped = (fitting("liger", keep_state=keep).fit(tmp_path / str(keep)) for keep in (True, False))
    assert all(torch.equal(one, other) for one, other in zip(kept.parameters(), dropped.parameters(), strict=True))
    assert not list((tmp_path / "False").rglob("state.pt"))


@pytest.mark.parametrize(("kind", "changes"), [("lynx", {}), ("lynx", {"generative_weight": 0.0}), ("sasrec", {})])
def test_the_weights_of_fused_ranking_are_chosen_after_the_training(
    kind: AnyKind, changes: dict[str, object], tmp_path: Path
) -> None:
    """With transitions of the training part; a ranker with the chosen weights must be as good."""
    what = replace(fitting(kind), model=config_of(kind, **changes))
    model, choice = what.fit(tmp_path), FusionChoice.load(tmp_path)
    assert choice is not None
    both = kind == "lynx" and not changes
    assert {share for share, *_ in choice.curve} == (set(SHARES) if both else {0.0})
    assert {memory for _, memory, _ in choice.curve} == set(MEMORY)
    search = choice.complete(SearchConfig(mode="fused"))
    ranker = ItemRanker(model, what.catalogue, search, TransitionMemory.of(what.split.train(), 24))
    found = evaluate(ranker, what.split.evaluation("validation"), (10,), False, 24).metrics()["ndcg@10"]
    assert found == pytest.approx(max(value for *_, value in choice.curve))


def test_the_choice_of_weights_costs_little_and_a_warm_up_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[ItemRanker, EvaluationSet]] = []

    def choose(ranker: ItemRanker, users: EvaluationSet, exclude_seen: bool) -> FusionChoice:
        asked.append((ranker, users))
        return choose_fusion(ranker, users, exclude_seen)

    monkeypatch.setattr(felid.fitting, "choose_fusion", choose)
    monkeypatch.setattr(felid.fitting, "CHOICE_USERS", 7)
    fitting("lynx").fit(tmp_path / "a")
    ((ranker, users),) = asked
    assert len(users.targets) == 7
    assert ranker.search == SearchConfig(mode="fused", memory_weight=1.0)
    fitting("sasrec").fit(tmp_path / "b", ranks=False)
    assert len(asked) == 1
    assert FusionChoice.load(tmp_path / "b") is None
    assert (tmp_path / "b" / "item_vectors" / "raw.npy").is_file()


def test_the_generative_head_is_watched_where_the_dense_one_decides(tmp_path: Path) -> None:
    assert SIDE_USERS >= USERS, "all users are watched here"
    by_dense, by_codes = fitting("lynx"), fitting("lynx", validation_mode="generative")
    by_dense.fit(tmp_path / "dense")
    by_codes.fit(tmp_path / "codes")
    watched, decisive = (load_progress(tmp_path / name).curve[-1] for name in ("dense", "codes"))
    assert {name: watched[f"generative_{name}"] for name in ("recall@10", "ndcg@10")} == {
        name: decisive[name] for name in ("recall@10", "ndcg@10")
    }
    assert "generative_ndcg@10" not in decisive
    assert watched["ndcg@10"] != decisive["ndcg@10"]


def test_fused_validation_equals_the_ranker(tmp_path: Path) -> None:
    what = fitting("lynx", validation_mode="fused", validation_users=20)
    model = what.fit(tmp_path)
    ranker = ItemRanker(model, what.catalogue, SearchConfig(mode="fused"))
    sample = what.sample(20)
    assert len(sample.targets) == 20
    found = evaluate(ranker, sample, (10,), False, 24).metrics()
    assert load_progress(tmp_path).curve[-1]["ndcg@10"] == found["ndcg@10"]


@pytest.mark.parametrize("kind", ["liger", "lynx"])
def test_hybrid_validation_equals_the_ranker(kind: AnyKind, tmp_path: Path) -> None:
    """Also for lynx, which has both heads though hybrid is none of its own modes; in a world with more items than candidates."""
    what = fitting(kind, toy_world(USERS, 60, sizes=(4, 4, 4)), validation_mode="hybrid", validation_users=20)
    model, sample = what.fit(tmp_path), what.sample(20)

    def ndcg(mode: Mode) -> float:
        ranker = ItemRanker(model, what.catalogue, SearchConfig(mode=mode, num_beams=10))
        return float(evaluate(ranker, sample, (10,), False, 60).metrics()["ndcg@10"])

    assert load_progress(tmp_path).curve[-1]["ndcg@10"] == ndcg("hybrid")
    assert ndcg("hybrid") not in (ndcg("dense"), ndcg("generative"))


@pytest.mark.parametrize("kind", ["tiger", "sasrec"])
def test_hybrid_validation_needs_both_heads(kind: AnyKind, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"validation_mode=hybrid.*{kind} ranks by (generative|dense).*or auto"):
        fitting(kind, validation_mode="hybrid").fit(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_mode_that_the_model_has_not_is_refused_before_it_trains(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"validation_mode=fused.*tiger ranks by generative.*or auto"):
        fitting("tiger", validation_mode="fused").fit(tmp_path)
    assert not list(tmp_path.iterdir())


def test_item_vectors_round_trip_as_collaborative_vectors(tmp_path: Path) -> None:
    """In another order of items, and with the cold ones marked."""
    cold, item_ids = (3, 7), np.array([f"item-{row}" for row in range(20)], object)
    model = dense_model("sasrec", tiny_catalogue(tiny_ids(), cold))
    save_item_vectors(tmp_path / "item_vectors", model, item_ids)
    folder = tmp_path / "item_vectors"
    source = PrecomputedConfig(vectors=folder / "raw.npy", ids=folder / "item_ids.json")
    order = np.random.default_rng(0).permutation(20)
    found = collaborative_vectors(source, item_ids[order], np.zeros(0, np.int64), np.zeros(1, np.int64))
    with torch.no_grad():
        wanted = model.item_vectors().numpy()
    assert np.array_equal(found, wanted[order], equal_nan=True)
    assert np.flatnonzero(np.isnan(wanted).any(1)).tolist() == list(cold)
    assert np.flatnonzero(~np.load(folder / "known.npy")).tolist() == list(cold)


def test_cold_items_with_a_text_vector_are_still_marked(tmp_path: Path) -> None:
    save_item_vectors(tmp_path, dense_model("lynx", tiny_catalogue(tiny_ids(), (3, 7))), np.arange(20))
    assert np.isfinite(np.load(tmp_path / "raw.npy")).all()
    assert np.load(tmp_path / "known.npy").sum() == 18
