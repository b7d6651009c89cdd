"""New items: nothing that is trained or counted knows of the items that are held out, and all of them can be recommended.

The sharpest test of a leak is to change all that could leak: a poisoned world is equal to the clean one but for what its
held-out items are (texts, codes) and which of them stands where in the training part. Whatever learns must come out bit-equal.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from torch import Tensor

import felid
from felid.artifacts import open_artifact, read_json, read_run
from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut, Sequences
from felid.data.holdout import HoldoutConfig, hold_out, split_of
from felid.embedding import load_embeddings
from felid.embedding.collaborative import CooccurrenceConfig, collaborative_vectors
from felid.evaluation import Markov, Popularity
from felid.fitting import Fitting
from felid.models.base import Catalogue, DenseModel
from felid.models.lynx import Lynx
from felid.pipeline import Pipeline
from felid.recipe import load_recipe
from felid.search import score_items
from felid.search.neighbours import Neighbours
from felid.search.transitions import TransitionMemory
from felid.semantic_ids import SemanticIds
from felid.testing import unique_codes
from felid.training import TrainingConfig
from tests.tiny import AnyKind, any_model, config_of, histories_of, torch_trie, training_items

NUM_ITEMS = 40
SIZES = (4, 4, 4)
HOLDOUT = HoldoutConfig(rule="random", share=0.2, validation_share=0.1)
ONE_EPOCH = TrainingConfig(epochs=1, batch_targets=64, validations_per_epoch=1, patience=0, precision="fp32")
SAMPLED = {"softmax": "sampled", "negatives": 8}


@dataclass(frozen=True)
class World:
    """What a model is trained on, with items held out."""

    split: LeaveOneOut
    embeddings: np.ndarray
    codes: np.ndarray

    @classmethod
    def clean(cls) -> World:
        rng = np.random.default_rng(0)
        walks = [(np.arange(rng.integers(6, 12)) * 3 + rng.integers(NUM_ITEMS)) % NUM_ITEMS for _ in range(60)]
        sequences = Sequences.from_lists(np.arange(60), walks)
        held = hold_out(HOLDOUT, LeaveOneOut(sequences), NUM_ITEMS)
        return cls(LeaveOneOut(sequences, held), unit(rng), unique_codes(64, SIZES, rng))

    def poisoned(self) -> World:
        """Held-out items with other texts and other codes, and in other places of the training part."""
        held = self.split.held_out.either
        embeddings, codes = np.where(held[:, None], unit(np.random.default_rng(9)), self.embeddings), self.codes.copy()
        codes[:NUM_ITEMS][held] = self.codes[NUM_ITEMS : NUM_ITEMS + held.sum()]
        world = World(LeaveOneOut(poisoned(self.split), self.split.held_out), embeddings, codes)
        assert np.array_equal(hold_out(HOLDOUT, LeaveOneOut(world.split.sequences), NUM_ITEMS).either, held)
        return world

    @property
    def warm(self) -> np.ndarray:
        return self.split.warm_items(NUM_ITEMS)

    def fitting(self, kind: AnyKind, **changes: object) -> Fitting:
        ids = SemanticIds(self.codes[:NUM_ITEMS], SIZES, np.arange(NUM_ITEMS))
        catalogue = Catalogue(self.embeddings, self.warm, None if kind == "sasrec" else ids)
        console = Console(file=io.StringIO())
        return Fitting(config_of(kind, **changes), ONE_EPOCH, 0, True, catalogue, self.split, console, np.arange(NUM_ITEMS))


def unit(rng: np.random.Generator) -> np.ndarray:
    vectors = rng.standard_normal((NUM_ITEMS, 6)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def poisoned(split: LeaveOneOut) -> Sequences:
    """The same users with the held-out items of their training part exchanged among each other; targets stay."""
    s, held = split.sequences, np.flatnonzero(split.held_out.either)
    other = np.arange(len(split.held_out.either))
    other[held] = np.roll(held, 1)
    after = np.repeat(s.offsets[1:], s.lengths) - np.arange(len(s.items))  # 1 = last item, 2 = last but one
    items = np.where(after > 2, other[s.items], s.items)
    assert (items != s.items).any()
    return Sequences(s.user_ids, s.offsets, items)


CLEAN = World.clean()
POISONED = CLEAN.poisoned()
TRAININGS: dict[str, tuple[AnyKind, dict[str, object]]] = {
    "sasrec": ("sasrec", {}),
    "sasrec, text, sampled": ("sasrec", {"text": True, "own_dropout": 0.3, "dense": SAMPLED}),
    "lynx": ("lynx", {"own_dropout": 0.3}),
    "lynx, sampled, all codes": ("lynx", {"normalize": "vocabulary", "dense": SAMPLED}),
    "tiger": ("tiger", {}),
    "liger": ("liger", {}),
}


def weights(world: World, name: str, folder: Path) -> dict[str, Tensor]:
    kind, changes = TRAININGS[name]
    folder.mkdir()
    return world.fitting(kind, **changes).fit(folder).state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", TRAININGS)
def test_training_does_not_depend_on_held_out_items(name: str, tmp_path: Path) -> None:
    """Neither through examples nor trie, dense denominator, drawn negatives, text statistics or vectors of their own."""
    assert equal(weights(CLEAN, name, tmp_path / "clean"), weights(POISONED, name, tmp_path / "poisoned"))


def test_the_same_poison_spoils_a_training_that_holds_nothing_out(tmp_path: Path) -> None:
    worlds = [replace(world, split=LeaveOneOut(world.split.sequences)) for world in (CLEAN, POISONED)]
    assert not equal(*(weights(world, "sasrec", tmp_path / str(place)) for place, world in enumerate(worlds)))


def test_choices_are_made_without_the_targets_of_the_test_group() -> None:
    """The best checkpoint and the fusion weight come from these users."""
    held, targets = CLEAN.split.held_out, CLEAN.fitting("lynx").sample(0).targets
    assert held.test[CLEAN.split.evaluation("validation").targets].any()
    assert not held.test[targets].any() and held.validation[targets].any()


@pytest.mark.parametrize("kind", ["lynx", "tiger", "liger"])
def test_counts_and_trie_hold_warm_items_only(kind: AnyKind) -> None:
    fitting = CLEAN.fitting(kind)
    data = fitting.data_for(felid.models.build_model(fitting.model, fitting.catalogue))
    cold = torch.from_numpy(~CLEAN.warm)
    assert (data.items.counts[cold] == 0).all() and (data.items.counts[~cold] > 0).all()
    assert (data.items.trie.paths[cold, -1] < 0).all() and (data.items.trie.paths[~cold, -1] >= 0).all()
    assert not np.isin(data.examples.sequences.items, np.flatnonzero(~CLEAN.warm)).any()


def test_cold_items_have_no_vector_of_their_own() -> None:
    vectors = {}
    for name, kind, changes in (("own", "sasrec", {}), ("text", "sasrec", {"text": True}), ("lynx", "lynx", {})):
        fitting = CLEAN.fitting(kind, **changes)
        model = felid.models.build_model(fitting.model, fitting.catalogue)
        assert isinstance(model, DenseModel)
        assert model.items.own.shape[0] == CLEAN.warm.sum()
        vectors[name] = model.item_vectors().detach().numpy()
    assert np.array_equal(np.isnan(vectors["own"]).all(1), ~CLEAN.warm)
    assert np.isfinite(vectors["text"]).all() and np.isfinite(vectors["lynx"]).all()


def test_baselines_count_no_held_out_item() -> None:
    train, cold = CLEAN.split.train(), np.flatnonzero(~CLEAN.warm)
    popularity, markov = Popularity.fit(train, NUM_ITEMS), Markov.fit(train, NUM_ITEMS)
    assert sorted(popularity.order[-len(cold) :].tolist()) == cold.tolist()
    assert not np.isin(markov.successors, cold).any()
    assert (np.diff(markov.offsets)[cold] == 0).all()


def test_the_memory_has_no_transitions_of_held_out_items() -> None:
    """Neither from nor to them; what evaluated parts hold is not counted either."""
    cold = torch.from_numpy(~CLEAN.warm)
    memories = [TransitionMemory.of(world.split.train(), NUM_ITEMS) for world in (CLEAN, POISONED)]
    assert all(torch.equal(getattr(memories[0], name), getattr(memories[1], name)) for name in ("offsets", "items", "values"))
    assert len(memories[0].items) and not cold[memories[0].items].any()
    assert not memories[0].offsets.diff()[cold].any()
    leaky = TransitionMemory.of(LeaveOneOut(CLEAN.split.sequences).train(), NUM_ITEMS)
    assert cold[leaky.items].any() and leaky.offsets.diff()[cold].any()


def test_cooccurrence_gives_held_out_items_no_vector() -> None:
    found = [
        collaborative_vectors(CooccurrenceConfig(dim=4), np.arange(NUM_ITEMS), train.items, train.offsets)
        for train in (CLEAN.split.train(), POISONED.split.train())
    ]
    assert np.array_equal(np.isnan(found[0]).all(1), ~CLEAN.warm)
    assert np.array_equal(*found, equal_nan=True)


# the pipeline

RECIPE = ["holdout.rule=random", "holdout.share=0.1", "holdout.validation_share=0.1", "quantizer.sizes=[4,4]", "embedding.dim=8"]
WARMUP = [
    *("collaborative.kind=warmup", "tokenize.vectors=collaborative", "collaborative.training.epochs=1"),
    *("collaborative.model.width=8", "collaborative.model.feed_forward=16"),
]


@pytest.fixture(scope="module")
def shops() -> tuple[Dataset, Dataset, LeaveOneOut]:
    """A made-up shop, the same with other held-out items, and its split."""
    clean = felid.load_dataset("synthetic", num_users=150, num_types=6, num_clusters=3, items_per_cell=3, max_length=6)
    split = split_of(clean, load_recipe("tiny", RECIPE).holdout)
    ids = clean.item_ids
    interactions = clean.interactions.with_columns(pl.Series("item_id", ids[poisoned(split).items].tolist()))
    titles = np.where(split.held_out.either, "unheard of words", clean.items["title"].to_numpy())
    other = replace(clean, interactions=interactions, items=clean.items.with_columns(pl.Series("title", titles.tolist())))
    assert np.array_equal(split_of(other, load_recipe("tiny", RECIPE).holdout).held_out.either, split.held_out.either)
    return clean, other, split


def learnt(root: Path, dataset: Dataset, warm: np.ndarray, *overrides: str) -> dict[str, bytes]:
    """All that the stages up to the semantic IDs learn, and what comes out of it for warm items."""
    pipeline = Pipeline(load_recipe("tiny", [*RECIPE, *overrides]), root, dataset=dataset)
    folder = pipeline.run("tokenize")
    found = {path.name: path.read_bytes() for path in sorted((folder / "quantizer").rglob("*")) if path.is_file()}
    found["embeddings"] = load_embeddings(pipeline.done["embed"].path, normalized=False)[1][warm].tobytes()
    found["codes"] = SemanticIds.load(folder).codes[warm].tobytes()
    return found


@pytest.mark.parametrize("overrides", [[], WARMUP], ids=["text", "warm-up"])
def test_texts_and_quantisers_are_fitted_without_held_out_items(
    shops: tuple[Dataset, Dataset, LeaveOneOut], overrides: list[str], tmp_path: Path
) -> None:
    clean, other, split = shops
    warm = split.warm_items(len(clean.items))
    results = [learnt(tmp_path / name, data, warm, *overrides) for name, data in (("a", clean), ("b", other))]
    assert results[0] == results[1]


def test_a_transductive_fit_sees_held_out_items(shops: tuple[Dataset, Dataset, LeaveOneOut], tmp_path: Path) -> None:
    clean, other, split = shops
    warm = split.warm_items(len(clean.items))
    results = [learnt(tmp_path / name, data, warm, "cold.quantizer_fit=all") for name, data in (("a", clean), ("b", other))]
    assert results[0]["embeddings"] != results[1]["embeddings"]
    assert results[0]["codes"] != results[1]["codes"]


def test_a_run_reports_cold_targets_and_its_recommender_keeps_them_cold(
    shops: tuple[Dataset, Dataset, LeaveOneOut], tmp_path: Path
) -> None:
    clean, _, split = shops
    small = ["model.width=16", "model.feed_forward=32", "training.epochs=2", "evaluation.bootstrap=20", "model.own_prior=2"]
    Pipeline(load_recipe("tiny", [*RECIPE, *small]), tmp_path, dataset=clean).run()
    metrics = read_json(tmp_path / "metrics.json")
    targets = split.evaluation("test").targets
    assert metrics["test_cold"]["num_users"] == split.held_out.test[targets].sum() > 0
    checks = {row["name"]: row["status"] for row in metrics["checks"]}
    assert {checks[name] for name in ("fitting", "choices", "training part", "held-out items in training")} == {"passed"}
    assert "random 10 % of the items" in metrics["policy"]["cold"]
    ranks = pl.read_parquet(open_artifact(tmp_path / read_run(tmp_path)["stages"]["evaluate"]).path / "ranks.parquet")
    assert set(ranks["group"]) == {"warm", "cold", "other"}
    recommender = felid.Recommender.load(tmp_path)
    assert np.array_equal(recommender.ranker.catalogue.warm, split.warm_items(len(clean.items)))
    assert np.array_equal(recommender.ranker.catalogue.counts, np.bincount(split.train().items, minlength=len(clean.items)))
    assert recommender.memory is not None and not split.held_out.either[recommender.memory.items.numpy()].any()
    lists = recommender.rank(split.evaluation("test").histories, 10, True)
    assert split.held_out.either[lists].any(), "no held-out item is ever recommended"
    Pipeline(load_recipe("tiny", [*RECIPE, *small, "evaluation.candidates=warm"]), tmp_path, dataset=clean).run()
    filtered = read_json(tmp_path / "metrics.json")
    assert not [row for row in filtered["checks"] if row["status"] == "failed"]
    for block in ("variants_cold", "baselines_cold"):
        assert {values["recall@10"] for values in filtered[block].values()} == {0.0}
    assert filtered["test_cold"]["recall@10"] == 0 and filtered["test_warm"]["recall@10"] > 0.1
    warm, targets = split.warm_items(len(clean.items)), split.evaluation("test").targets
    told = filtered["policy"]["candidates"]
    assert told.startswith(f"{warm.sum()} of the {len(warm)} items of the catalogue, those with training interactions")
    assert f"; {(~warm[targets]).sum()} of {len(targets)} test targets are among the others and are misses" in told


# text neighbours


def dumb_neighbours(item: int, embeddings: np.ndarray, warm: np.ndarray, count: int) -> list[int]:
    known = [j for j in range(len(warm)) if warm[j] and embeddings[j].any()]
    return sorted(known, key=lambda j: (-float(embeddings[item] @ embeddings[j]), j))[:count]


def neighbourhood() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, embeddings with many ties, which items are warm; 22 and 25 have no text, 3 is cold and has a vector."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((NUM_ITEMS, 5)).astype(np.float32)
    embeddings = np.eye(6, dtype=np.float32)[rng.integers(6, size=NUM_ITEMS)]
    embeddings[20:] = unit(rng)[20:]
    warm = ~np.isin(np.arange(NUM_ITEMS), [0, 3, 21, 22, 30])
    vectors[[0, 21, 22, 30]], embeddings[[22, 25]] = np.nan, 0
    return vectors, embeddings, warm


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("length_one", [False, True])
def test_cold_vectors_are_means_of_their_nearest_texts_or_half_of_them(count: int, length_one: bool) -> None:
    vectors, embeddings, warm = neighbourhood()
    given = torch.from_numpy(vectors)
    filled = Neighbours.of(embeddings, warm, count).fill(given, unit=length_one).numpy()
    wanted = vectors.copy()
    for item in (0, 3, 21, 30):
        mean = vectors[dumb_neighbours(item, embeddings, warm, count)].mean(0)
        wanted[item] = (mean + vectors[3]) / 2 if item == 3 else mean
        wanted[item] /= np.linalg.norm(wanted[item]) if length_one else 1
    np.testing.assert_allclose(filled, wanted, rtol=1e-5, atol=1e-6)
    assert np.array_equal(np.flatnonzero(np.isnan(filled).any(1)), [22]), "without a text there are no neighbours"
    assert given[0].isnan().all(), "the input was changed"


def test_cold_items_have_the_mean_evidence_of_their_neighbours() -> None:
    _, embeddings, warm = neighbourhood()
    evidence = np.random.default_rng(1).random((4, NUM_ITEMS)).astype(np.float32)
    wanted = evidence.copy()
    for item in (0, 3, 21, 30):
        wanted[:, item] = evidence[:, dumb_neighbours(item, embeddings, warm, 3)].mean(1)
    found = Neighbours.of(embeddings, warm, 3).share(torch.from_numpy(evidence)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_nothing_is_filled_where_nothing_is_known() -> None:
    vectors, embeddings = torch.full((4, 3), torch.nan), np.eye(4, dtype=np.float32)
    assert Neighbours.of(embeddings, np.zeros(4, bool), 2).fill(vectors, unit=False).isnan().all()
    whole = torch.ones(4, 3)
    assert Neighbours.of(embeddings, np.ones(4, bool), 2).fill(whole, unit=False).equal(whole)


# codes that no warm item has


def cold_siblings_above_their_warm_one(**changes: object) -> float:
    """How often a cold item scores above the warm one that it shares all codes but the last with, when that is the next item.

    Of each of 10 families one item is warm, so that the trie-normalised loss has nothing to say about last codes.
    """
    codes = np.stack((np.repeat(np.arange(10), 3), np.tile(np.arange(3), 10)), 1).astype(np.int32)
    warm = np.arange(30) % 3 == np.repeat(np.arange(10), 3) * 7 % 3
    walks = (np.arange(60)[:, None] + np.arange(6)) * 3 % 10
    rows = np.flatnonzero(warm)[walks]
    ids = SemanticIds(codes, (10, 3), np.arange(30))
    told = Catalogue(np.eye(30, dtype=np.float32), warm, ids)
    model = any_model("lynx", told, spread=0.05, dropout=0.0, dense_weight=0, layers=1, decoder_layers=1, **changes).train()
    assert isinstance(model, Lynx)
    histories, targets = histories_of(rows[:, :-1].tolist()), torch.from_numpy(rows[:, 1:]).flatten()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = model(histories, targets, training_items(told)).total / len(targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = score_items(model.eval(), histories, torch.arange(30).expand(60, -1), torch_trie(ids))
    last = rows[:, -1] // 3 * 3
    family = scores.gather(1, torch.from_numpy(last[:, None] + np.arange(3)))
    wanted = scores.gather(1, torch.from_numpy(rows[:, -1:]))
    return float((family > wanted).any(1).float().mean())


def test_cold_items_are_scored_by_logits_that_were_learnt() -> None:
    """With a share of all codes, as with the softmax over the vocabulary; without, what beats the next item is chance."""
    assert cold_siblings_above_their_warm_one(level_share=0.1, node_vectors=False) < 0.1
    assert cold_siblings_above_their_warm_one(normalize="vocabulary") < 0.1
    assert cold_siblings_above_their_warm_one(level_share=0.0, node_vectors=False) > 0.4
    assert cold_siblings_above_their_warm_one(level_share=0.1) < 0.1
