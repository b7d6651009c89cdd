"""Recipe `liger` from data to published metric names, at a size for tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import felid
from felid.artifacts import open_artifact, read_json, read_run
from felid.config import as_tree, load_tree
from felid.data.sources import load_dataset
from felid.embedding import item_texts
from felid.evaluation.names import liger_names
from felid.models import build_model
from felid.models.base import Catalogue
from felid.models.liger import LigerConfig
from felid.pipeline import Pipeline
from felid.quantize.rqvae_training import untrained
from felid.recipe import Recipe, default_training, load_recipe
from felid.training.checkpoints import load_progress
from tests.raw_files import put_amazon, put_steam
from tests.test_tracking import finished_records
from tests.tiny import catalogue

SMALL = [
    *("dataset={kind: synthetic, num_users: 150, num_types: 6, num_clusters: 3, items_per_cell: 3, max_length: 6}",),
    *("embedding={kind: lsa, dim: 8}", "quantizer.sizes=[4,4]", "quantizer.hidden=[16]", "quantizer.latent=8"),
    *("quantizer.epochs=4", "quantizer.batch_size=256", "holdout.rule=random", "holdout.share=0.1"),
    *("holdout.validation_share=0.1", "model.width=16", "model.head_width=4", "model.feed_forward=32", "model.text_hidden=[8]"),
    *("training.epochs=2", "training.batch_targets=64", "evaluation.bootstrap=20", "search.num_beams=12"),
    *("search.hybrid_candidates=10", "evaluation.oracle_pool=true"),
]
RECIPES = Path(felid.__file__).parent / "recipes"


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


@pytest.mark.parametrize(
    ("name", "switches", "modes"),
    [
        ("liger-no-text", {"add_input_embedding"}, ("hybrid", "generative", "dense")),
        ("liger-no-dense", {"use_output_embedding"}, ("generative",)),
        ("liger-no-text-no-dense", {"add_input_embedding", "use_output_embedding"}, ("generative",)),
    ],
)
def test_ablations_are_recipes(name: str, switches: set[str], modes: tuple[str, ...]) -> None:
    """Text input off, dense head off, both off: nothing else differs."""
    ablated, whole = load_recipe(name), load_recipe("liger")
    model = whole.model.model_copy(update=dict.fromkeys(switches, False))
    assert ablated == whole.model_copy(update={"model": model, "description": ablated.description})
    assert ablated.model.modes == modes
    assert load_recipe(name, ["training.epochs=2"]).training == whole.training.model_copy(update={"epochs": 2})


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
    """Every number of the published configuration, also where it is felid's default; Sports and Toys have those of Beauty."""
    recipe = load_recipe("liger", ["dataset.kind=amazon-2014", "dataset.name=Sports_and_Outdoors", "seed=42"])
    assert as_tree(recipe.model) == {
        **{"kind": "liger", "width": 128, "encoder_layers": 6, "decoder_layers": 6, "heads": 6, "head_width": 64},
        **{"feed_forward": 1024, "dropout": 0.2, "history": 20, "add_input_embedding": True, "use_output_embedding": True},
        **{"sid_loss_weight": 1.0, "embedding_loss_weight": 1.0, "include_user_id": False, "user_buckets": 2000},
        **{"text_hidden": [768, 512, 256], "normalize": "vocabulary"},
        "dense": {"similarity": "cosine", "temperature": 0.07, "softmax": "full", "negatives": 1024},
    }
    assert recipe.model == LigerConfig(), "what a recipe without a word on it gets"
    rqvae = as_tree(recipe.quantizer)
    wanted = {"hidden": [768, 512, 256], "latent": 128, "sizes": [256, 256, 256], "commitment_cost": 0.25, "optimizer": "adamw"}
    wanted |= {"learning_rate": 1e-3, "weight_decay": 0.1, "batch_size": 2048, "epochs": 8000, "standardize": True}
    assert {name: rqvae[name] for name in wanted} == wanted
    shown = {"learning_rate": 3e-4, "weight_decay": 0.035, "warmup_share": 0.05, "schedule": "cosine", "clip_norm": 1.0}
    shown |= {"batch_targets": 256, "label_smoothing": 0.0, "average": 0.0}
    for training in (recipe.training, default_training(LigerConfig())):
        assert {name: getattr(training, name) for name in shown} == shown
    assert (recipe.training.patience, recipe.training.keep_state, recipe.training.validation_mode) == (50, True, "auto")
    assert load_recipe("liger", ["training.schedule=linear"]).training.schedule == "linear"
    steps = recipe.training.epochs * 131_413 / recipe.training.batch_targets
    assert 200_000 <= steps < 210_000, "training targets of Beauty"
    assert (recipe.search.hybrid_candidates, recipe.evaluation.hybrid_candidates) == (20, (20, 40, 60, 80, 100))
    assert recipe.search.num_beams == 100
    assert (recipe.embedding.model, recipe.embedding.max_tokens) == ("sentence-transformers/sentence-t5-xxl", 256)
    assert as_tree(recipe.cold)["quantizer_fit"] == "warm"
    assert (recipe.seed, recipe.quantizer.seed) == (42, 42)


def test_the_networks_have_the_published_widths() -> None:
    recipe, vectors = load_recipe("liger", ["model.include_user_id=true"]), np.random.default_rng(0).random((20, 768), np.float32)
    rqvae = untrained(vectors, recipe.quantizer).network
    for layers, widths in ((rqvae.encoder, (768, 768, 512, 256, 128)), (rqvae.decoder, (128, 256, 512, 768, 768))):
        linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
        assert (linear[0].in_features, *(layer.out_features for layer in linear)) == widths
    ids = catalogue()
    model = build_model(recipe.model, Catalogue(vectors, np.ones(20, bool), ids))
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert shapes["tokens.weight"] == (2 + sum(ids.sizes) + 2000, 128)
    assert (shapes["item_places"], shapes["code_places"]) == ((20, 128), (3, 128))
    projection = [shape for name, shape in shapes.items() if name.startswith("items.text") and name.endswith("weight")]
    assert projection == [(768, 768), (512, 768), (256, 512), (128, 256)]
    for stack in ("encoder", "decoder"):
        assert shapes[f"{stack}.blocks.5.attention.qkv.weight"] == (3 * 6 * 64, 128)
        assert shapes[f"{stack}.blocks.5.ff.wi.weight"] == (1024, 128)
        assert f"{stack}.blocks.6.ff.wi.weight" not in shapes


@pytest.mark.filterwarnings("ignore:items without any text")
def test_item_texts_are_the_published_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From raw files of our own; what differs from the published texts stands in docs/systems/liger.md."""
    monkeypatch.setenv("FELID_DATA_HOME", str(tmp_path))
    put_amazon(tmp_path), put_steam(tmp_path)
    assert texts_of("liger") == texts_of("liger-short")
    beauty, steam = texts_of("liger"), texts_of("liger-steam")
    assert beauty["F000000003"] == (
        "This item is called 'Clay Mask \"Blue Hour\"'. It is priced at 14. It is manufactured by 'Lune & Co'. "
        "It belongs to the categories of Skin Care > Masks, Gift Sets."
    )
    assert steam["110"] == (
        "This game is called 'Lantern Harbor II: Café'. Developed by Quiet Tide, this game is priced at 14.99. This game "
        "features a variety of gameplay modes including Single-player, Steam Cloud. Tags of the game include: Story Rich, "
        "Cooking."
    )


def texts_of(recipe: str) -> dict[str, str]:
    """The item texts of a recipe by item id."""
    settings = load_recipe(recipe)
    dataset = load_dataset(settings.dataset, settings.filter)
    columns = {name: dataset.items[name].to_list() for name in dataset.items.columns}
    return dict(zip(dataset.item_ids.tolist(), item_texts(columns, settings.text)[0], strict=True))


def test_steam_differs_in_data_text_and_epochs_only() -> None:
    steam, beauty = (as_tree(load_recipe(name)) for name in ("liger-steam", "liger"))
    assert {name for name in beauty if steam[name] != beauty[name]} == {"description", "dataset", "filter", "text", "quantizer"}
    assert steam["quantizer"] == beauty["quantizer"] | {"epochs": 1500}
    assert steam["filter"] == {"min_user_interactions": 5, "min_item_interactions": 5}


def test_offline_wandb_has_the_published_names(run: Path, tmp_path: Path) -> None:
    """Read back from the file of an offline run, of an evaluation with the published numbers of candidates."""
    root = shutil.copytree(run, tmp_path / "run")
    counts = [20, 40, 60, 80, 100]
    changed = ["search.hybrid_candidates=20", f"evaluation.hybrid_candidates={counts}", "tracking.to=[wandb]"]
    Pipeline(small(*changed), root).run()
    (path,) = root.glob("wandb/offline-run-*/run-*.wandb")
    (step,) = [record.history for record in finished_records(path) if record.HasField("history")]
    told = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in step.item}
    values = [f"{metric}@{k}" for metric in ("Recall", "NDCG") for k in (5, 10)]
    numbered = [*(f"Gen{count}_" for count in counts), "Oracle_Gen20_", ""]
    marks = {"genret": [""], "dense": [""], "uni": numbered}
    wanted = {
        f"{way}_{users}_{part}/{mark}{value}"
        for way, found in marks.items()
        for mark in found
        for users in ("in", "cold")
        for part in ("val", "test")
        for value in values
    }
    assert {name for name in told if name.split("_")[0] in marks} == wanted
    metrics = read_json(root / "metrics.json")
    assert told["uni_in_test/Gen20_Recall@10"] == metrics["test_warm"]["recall@10"]
    assert told["uni_cold_test/Gen60_NDCG@10"] == metrics["variants_cold"]["liger, 60 candidates"]["ndcg@10"]
    assert told["dense_in_val/Recall@5"] == metrics["variants_validation_warm"]["liger, dense"]["recall@5"]
    progress = load_progress(open_artifact(root / read_run(root)["stages"]["train"]).path)
    assert told["_step"] == int(progress.best_checkpoint.partition("-")[2])


@pytest.mark.parametrize("name", ["liger-no-text", "liger-no-dense", "liger-no-text-no-dense"])
def test_an_ablated_model_runs(name: str, tmp_path: Path) -> None:
    switches = [f"model.{switch}=false" for switch in load_tree(RECIPES / f"{name}.yaml")["model"]]
    Pipeline(small(*switches, "training.epochs=1"), tmp_path).run()
    metrics = read_json(tmp_path / "metrics.json")
    is_dense = "no-dense" not in name
    assert ("liger, dense" in metrics["systems"]) == is_dense
    assert ("hybrid" in metrics["policy"]) == is_dense
