"""Recipe `liger` from data to published metric names, at a size for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import felid
from felid.artifacts import open_artifact, read_json, read_run
from felid.evaluation.names import liger_names
from felid.models.liger import LigerConfig
from felid.pipeline import Pipeline
from felid.recipe import LIGER_TRAINING, Recipe, load_recipe
from felid.training.checkpoints import load_progress

SMALL = [
    *("dataset={kind: synthetic, num_users: 150, num_types: 6, num_clusters: 3, items_per_cell: 3, max_length: 6}",),
    *("embedding={kind: lsa, dim: 8}", "quantizer.sizes=[4,4]", "quantizer.hidden=[16]", "quantizer.latent=8"),
    *("quantizer.epochs=4", "quantizer.batch_size=256", "holdout.rule=random", "holdout.share=0.1"),
    *("holdout.validation_share=0.1", "model.width=16", "model.head_width=4", "model.feed_forward=32", "model.text_hidden=[8]"),
    *("training.epochs=2", "training.batch_targets=64", "evaluation.bootstrap=20", "search.num_beams=12"),
    "search.hybrid_candidates=10",
]


def small(*overrides: str) -> Recipe:
    return load_recipe("liger-short", [*SMALL, *overrides])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("liger")
    Pipeline(small("evaluation.hybrid_candidates=[10,14]"), root).run()
    return root


def test_every_way_to_rank_is_reported(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    assert metrics["system"] == "liger"
    assert metrics["systems"] == {
        "liger": {"mode": "hybrid", "candidates": 10, "pool": "cold"},
        "liger, generative": {"mode": "generative"},
        "liger, dense": {"mode": "dense"},
        "liger, 14 candidates": {"mode": "hybrid", "candidates": 14, "pool": "cold"},
        "liger, oracle pool": {"mode": "hybrid", "candidates": 10, "pool": "oracle"},
    }
    _, *variants = metrics["systems"]
    assert list(metrics["variants_cold"]) == variants
    assert set(metrics["differences_cold"]) >= set(variants)
    assert "which no system can know" in metrics["policy"]["hybrid"]


def test_the_oracles_pool_is_never_worse_on_the_items_it_knows_of(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    assert metrics["variants_cold"]["liger, oracle pool"]["recall@10"] >= metrics["test_cold"]["recall@10"]
    ranker = felid.Recommender.load(run).ranker
    assert np.array_equal(ranker.pool.cpu().numpy(), ~ranker.catalogue.warm), "what is recommended has the pool of all cold items"


def test_metrics_have_their_published_names(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    found = liger_names(metrics)
    assert found["uni_in_test/Gen10_Recall@10"] == metrics["test_warm"]["recall@10"]
    assert found["genret_cold_val/NDCG@5"] == metrics["variants_validation_cold"]["liger, generative"]["ndcg@5"]
    assert {name.partition("/")[0] for name in found} == {
        f"{way}_{users}_{part}" for way in ("genret", "dense", "uni") for users in ("in", "cold") for part in ("val", "test")
    }


def test_its_recommender_ranks_in_each_mode(run: Path) -> None:
    recommender = felid.Recommender.load(run)
    history = recommender.history_of(recommender.known.user_ids[0])
    lists = {mode: recommender.in_mode(mode).recommend(history, 5) for mode in ("hybrid", "generative", "dense")}
    assert recommender.recommend(history, 5) == lists["hybrid"]
    assert all(len({one.item_id for one in found} - set(history)) == 5 for found in lists.values())
    scores = recommender.in_mode("dense").score(history, [one.item_id for one in lists["hybrid"]])
    assert scores.tolist() == pytest.approx([one.score for one in lists["hybrid"]], abs=1e-5)


def test_it_is_watched_by_both_heads_and_kept_by_the_dense_one(run: Path) -> None:
    train = open_artifact(run / read_run(run)["stages"]["train"]).path
    progress = load_progress(train)
    assert {"ndcg@10", "generative_ndcg@10", "loss_dense", "loss_generative"} <= set(progress.curve[-1])
    assert progress.best == max(entry["ndcg@10"] for entry in progress.curve)


def test_hybrid_is_evaluated_for_any_model_with_both_heads(tmp_path: Path) -> None:
    lynx = ["search.mode=hybrid", "evaluation.oracle_pool=true", "evaluation.bootstrap=20", SMALL[0], "quantizer.sizes=[4,4]"]
    Pipeline(load_recipe("tiny", [*lynx, "embedding.dim=8", "model.width=16", "training.epochs=1"]), tmp_path).run()
    metrics = read_json(tmp_path / "metrics.json")
    assert metrics["system"] == "lynx, hybrid"
    assert {"lynx", "lynx, dense", "lynx, generative", "lynx, hybrid, oracle pool"} == set(metrics["variants"])


@pytest.mark.parametrize("recipe", ["liger", "liger-short"])
@pytest.mark.parametrize(
    ("overrides", "modes"),
    [
        ([], ("hybrid", "generative", "dense")),
        (["model.add_input_embedding=false"], ("hybrid", "generative", "dense")),
        (["model.use_output_embedding=false"], ("generative",)),
        (["model.add_input_embedding=false", "model.use_output_embedding=false"], ("generative",)),
        (["model.embedding_loss_weight=0"], ("generative",)),
        (["model.sid_loss_weight=0"], ("dense",)),
    ],
)
def test_ablations_are_overrides(recipe: str, overrides: list[str], modes: tuple[str, ...]) -> None:
    assert load_recipe(recipe, overrides).model.modes == modes


def test_the_recipe_has_the_published_settings() -> None:
    recipe = load_recipe("liger", ["dataset.kind=amazon-2014", "dataset.name=Sports_and_Outdoors", "seed=42"])
    assert recipe.model == LigerConfig()
    rqvae = recipe.quantizer
    assert (rqvae.hidden, rqvae.latent, rqvae.sizes, rqvae.epochs) == ((768, 512, 256), 128, (256,) * 3, 8000)
    assert recipe.training == LIGER_TRAINING.model_copy(update={"epochs": 400, "patience": 20})
    assert (recipe.search.hybrid_candidates, recipe.evaluation.hybrid_candidates) == (20, (20, 40, 60, 80, 100))


@pytest.mark.parametrize("ablation", ["model.add_input_embedding=false", "model.use_output_embedding=false"])
def test_an_ablated_model_runs(ablation: str, tmp_path: Path) -> None:
    Pipeline(small(ablation, "training.epochs=1"), tmp_path).run()
    metrics = read_json(tmp_path / "metrics.json")
    is_dense = "output" not in ablation
    assert ("liger, dense" in metrics["systems"]) == is_dense
    assert ("hybrid" in metrics["policy"]) == is_dense
