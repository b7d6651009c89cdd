from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from felid.config import validate
from felid.embedding import ItemTexts, LsaConfig, TextConfig, item_texts
from felid.embedding.lsa import embed_lsa
from felid.errors import ArtifactError, EmbeddingError, FelidWarning, RecipeError, SemanticIdError
from felid.quantize.base import NO_CONTEXT, FitContext, distortion
from felid.quantize.rqvae import RQVAE, RQVAEConfig
from felid.recipe import load_recipe
from felid.rows import Vectors

LOGGED = {"epoch", "loss", "reconstruction", "commitment", "codebook", "alignment", "diversity"}
PER_LEVEL = {"level_losses", "utilisation", "perplexity", "reseeded"}


def small(**changes: object) -> RQVAEConfig:
    settings = {"sizes": (8, 6), "hidden": (16,), "latent": 6, "batch_size": 64, "epochs": 6, "reseed_every": 2}
    return RQVAEConfig.model_validate({**settings, **changes})


def blobs(count: int = 300, dim: int = 10, seed: int = 0, centres: int = 12) -> Vectors:
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(centres, dim))[rng.integers(centres, size=count)] * 3
    return (spread + rng.normal(size=(count, dim))).astype(np.float32)


def fitted(x: Vectors, context: FitContext = NO_CONTEXT, **changes: object) -> RQVAE:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FelidWarning)
        return RQVAE(small(**changes)).fit(x, context)


def same(first: RQVAE, second: RQVAE, x: Vectors) -> bool:
    codebooks = all(np.array_equal(first.codebook(level), second.codebook(level)) for level in range(len(first.sizes)))
    return codebooks and np.array_equal(first.encode(x), second.encode(x))


VARIANTS = [
    {"update": "ema"},
    {"update": "gradient"},
    {"estimator": "rotation"},
    {"update": "gradient", "estimator": "rotation"},
    {"start": "random"},
    {"standardize": False},
    {"optimizer": "adagrad", "learning_rate": 0.05},
    {"optimizer": "adam", "sinkhorn_epsilon": 0.05},
    {"update": "gradient", "diversity_weight": 0.1, "diversity_clusters": 3},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_every_variant_learns_to_reconstruct(changes):
    x, records = blobs(), []
    quantizer = fitted(x, FitContext(log=records.append), **{"epochs": 20, "learning_rate": 0.01, **changes})
    assert records[-1]["reconstruction"] < 0.75 * records[0]["reconstruction"]
    assert distortion(quantizer, x)[-1] < 0.7


def test_log_and_progress_tell_each_epoch():
    x, records, steps = blobs(), [], []
    fitted(x, FitContext(log=records.append, progress=lambda *step: steps.append(step)), epochs=4)
    assert steps == [(epoch, 4) for epoch in (1, 2, 3, 4)]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    for record in records:
        assert set(record) == LOGGED | PER_LEVEL
        assert all(len(record[name]) == 2 for name in PER_LEVEL)
        for used, perplexity, size in zip(record["utilisation"], record["perplexity"], (8, 6), strict=True):
            assert 1 / size <= used <= 1
            assert 1 <= perplexity <= size * used + 1e-9
        assert record["loss"] == pytest.approx(record["reconstruction"] + 0.25 * record["commitment"], rel=1e-4)


def test_state_of_random_numbers_is_neither_used_nor_changed():
    x = blobs()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fitted(x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, fitted(x), x)
    assert not same(first, fitted(x, seed=1), x)


@pytest.mark.parametrize("start", ["kmeans", "random"])
def test_the_start_is_an_artifact_of_its_own(start):
    x = blobs()
    codebooks = RQVAE(small(start=start)).start_codebooks(x)
    assert [one.shape for one in codebooks] == [(8, 6), (6, 6)]
    given = fitted(x, FitContext(start=codebooks), start=start)
    assert same(given, fitted(x, start=start), x)
    moved = tuple(one[::-1] + 1 for one in codebooks)
    assert not same(given, fitted(x, FitContext(start=moved), start=start), x)


def test_start_codebooks_that_do_not_fit_are_refused():
    x = blobs()
    first, second = RQVAE(small()).start_codebooks(x)
    for start in ((first,), (first, second[:5]), (first, second * np.float32(np.nan))):
        with pytest.raises(SemanticIdError, match=r"expected finite ones of \[\(8, 6\), \(6, 6\)\]"):
            fitted(x, FitContext(start=start))


def test_kmeans_start_is_nearer_to_the_latents_than_a_random_one():
    x = blobs()
    losses = {}
    for start in ("kmeans", "random"):
        records: list = []
        fitted(x, FitContext(log=records.append), start=start, epochs=1, learning_rate=1e-6)
        losses[start] = records[0]["level_losses"][-1]
    assert losses["kmeans"] < 0.5 * losses["random"]


def test_pitfall_rqvae_collapses_without_standardised_inputs_and_reseeding():
    """Vectors far from the origin with a small spread, as text encoders give: random codebooks meet them at one code."""
    x = 0.02 * blobs() + np.float32(5)
    changes = {"start": "random", "sizes": (16,), "epochs": 20}
    with pytest.warns(FelidWarning, match=r"level 0 of the RQ-VAE uses \d+% of its 16 codes; set quantizer.reseed_every"):
        collapsed = RQVAE(small(standardize=False, reseed_every=0, **changes)).fit(x)
    healthy = RQVAE(small(**changes)).fit(x)
    used = [len(np.unique(quantizer.encode(x))) for quantizer in (collapsed, healthy)]
    assert used[0] < 8
    assert used[1] >= 15


def test_unused_codes_are_replaced_in_the_first_part_of_training_only():
    x, records = blobs(), []
    start = (np.full((8, 6), 1e3, np.float32) + np.arange(8, dtype=np.float32)[:, None], np.zeros((6, 6), np.float32))
    fitted(x, FitContext(start=start, log=records.append), epochs=10, reseed_share=0.6)
    reseeded = [record["reseeded"][0] for record in records]
    assert reseeded[1] == 7
    assert [epoch for epoch, count in enumerate(reseeded, 1) if count and epoch not in (2, 4, 6)] == []
    assert records[2]["utilisation"][0] > 0.8
    never: list = []
    fitted(x, FitContext(start=start, log=never.append), epochs=10, reseed_every=0)
    assert all(sum(record["reseeded"]) == 0 for record in never)


def test_constant_dimensions_and_scale_are_given_back():
    x = blobs()
    x[:, 3] = 7
    x[:, 4] *= 1000
    quantizer = fitted(x, epochs=30, learning_rate=5e-3)
    decoded = quantizer.decode(quantizer.encode(x))
    assert np.isfinite(decoded).all()
    np.testing.assert_allclose(decoded[:, 3].mean(), 7, atol=0.5)
    assert np.corrcoef(decoded[:, 4], x[:, 4])[0, 1] > 0.5


def test_costs_are_distances_to_the_last_residual():
    x = blobs(40)
    quantizer = fitted(x, sizes=(4, 3, 5))
    codes = quantizer.encode(x)
    costs = quantizer.last_level_costs(x, codes)
    assert costs.shape == (40, 5)
    np.testing.assert_array_equal(costs.argmin(1), codes[:, -1])
    network = quantizer._model()
    for row in range(5):
        residual = network.latents(x[row : row + 1])[0] - sum(quantizer.codebook(level)[codes[row, level]] for level in (0, 1))
        expected = [float(((residual - vector) ** 2).sum()) for vector in quantizer.codebook(2)]
        np.testing.assert_allclose(costs[row], expected, rtol=1e-3, atol=1e-5)


def test_costs_of_codes_that_do_not_fit_are_refused():
    x = blobs(40)
    quantizer = fitted(x, sizes=(4, 3, 5))
    codes = quantizer.encode(x)
    np.testing.assert_array_equal(quantizer.last_level_costs(x, codes[:, :2]), quantizer.last_level_costs(x, codes))
    for wrong in (codes[:1], codes[:, :1]):
        with pytest.raises(SemanticIdError, match=r"for 40 vectors; expected \(40, 2 or more\)"):
            quantizer.last_level_costs(x, wrong)
    for wrong in (codes - 5, codes + np.int32(3)):
        with pytest.raises(SemanticIdError, match="is outside level"):
            quantizer.last_level_costs(x, wrong)


def test_codes_do_not_depend_on_neighbours_or_place():
    x = blobs(700)
    quantizer = fitted(x)
    codes, latents = quantizer.encode(x), quantizer._model().latents(x)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_array_equal(quantizer.encode(x[order]), codes[order])
    np.testing.assert_array_equal(quantizer._model().latents(x[order]), latents[order])
    for row in (0, 255, 256, 699):
        np.testing.assert_array_equal(quantizer._model().latents(x[row : row + 1])[0], latents[row])


def test_prefixes_and_no_codes_at_all_can_be_decoded():
    x = blobs(50)
    quantizer = fitted(x)
    codes = quantizer.encode(x)
    assert [quantizer.decode(codes[:, :level]).shape for level in range(3)] == [x.shape] * 3
    assert len(np.unique(quantizer.decode(codes[:, :0]), axis=0)) == 1
    assert quantizer.decode(codes[:0]).shape == (0, 10)


def test_saved_is_loaded_and_damage_is_refused(tmp_path: Path):
    x = blobs()
    quantizer = fitted(x, standardize=True)
    quantizer.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.safetensors", "quantizer.json"]
    loaded = RQVAE.load(tmp_path)
    codes = quantizer.encode(x)
    assert same(quantizer, loaded, x)
    np.testing.assert_array_equal(loaded.decode(codes), quantizer.decode(codes))
    other = tmp_path / "other"
    other.mkdir()
    fitted(x, sizes=(8, 5)).save(other)
    (other / "network.safetensors").rename(tmp_path / "network.safetensors")
    with pytest.raises(ArtifactError, match="run `felid tokenize` again"):
        RQVAE.load(tmp_path)
    for damage in (b"", b"\x00" * 40):
        (tmp_path / "network.safetensors").write_bytes(damage)
        with pytest.raises(ArtifactError, match="run `felid tokenize` again"):
            RQVAE.load(tmp_path)
    (tmp_path / "network.safetensors").unlink()
    with pytest.raises(ArtifactError, match="run `felid tokenize` again"):
        RQVAE.load(tmp_path)


def test_bad_input_is_refused():
    x = blobs()
    with pytest.raises(SemanticIdError, match="call fit"):
        RQVAE(small()).encode(x)
    for start in ("kmeans", "random"):
        with pytest.raises(SemanticIdError, match=r"only 3 distinct vectors; lower it to 3"):
            RQVAE(small(start=start)).fit(np.repeat(x[:3], 5, axis=0))
    with pytest.raises(EmbeddingError, match="at least one row"):
        RQVAE(small()).fit(x[:0])
    with pytest.raises(EmbeddingError, match="11 dimensions but the quantiser was fitted on 10"):
        fitted(x).encode(np.zeros((2, 11), np.float32))


def test_alignment_without_collaborative_vectors_names_the_section():
    with pytest.raises(SemanticIdError, match="section `collaborative`"):
        fitted(blobs(), alignment_weight=0.1)
    with pytest.raises(EmbeddingError, match=r"expected \(300, D\)"):
        fitted(blobs(), FitContext(collaborative=np.zeros((5, 3), np.float32)), alignment_weight=0.1)


def test_diversity_is_refused_for_moving_averages():
    with pytest.raises(ValidationError, match="no effect on moving averages; set update to gradient"):
        small(diversity_weight=0.1, update="ema")
    with pytest.raises(RecipeError, match="no effect on moving averages"):
        validate(RQVAEConfig, {"diversity_weight": 0.1, "update": "ema"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update": "gradient", "ema_decay": 0.9}, "ema_decay has no effect without update ema"),
        ({"reseed_every": 0, "reseed_share": 0.9}, "reseed_share has no effect without reseed_every above 0"),
        ({"diversity_clusters": 3}, "diversity_clusters has no effect without diversity_weight"),
        ({"temperature": 0.2}, "temperature has no effect without alignment_weight or diversity_weight"),
    ],
)
def test_settings_without_effect_warn(settings: dict[str, object], message: str):
    with pytest.warns(FelidWarning, match=message):
        small(**settings)
    full = small().model_dump()  # as a saved recipe, in which every field is set
    assert validate(RQVAEConfig, full | {"update": "gradient", "reseed_every": 0}).update == "gradient"


@pytest.mark.parametrize("seed", [-1, 2**64 - 1])
def test_seeds_that_torch_does_not_take_are_refused(seed: int):
    with pytest.raises(RecipeError, match="seed"):
        validate(RQVAEConfig, {"seed": seed})


def test_training_that_diverges_stops_with_a_remedy():
    with pytest.raises(SemanticIdError, match=r"loss is (nan|inf) in epoch \d; lower quantizer.learning_rate \(1e\+30\)"):
        fitted(blobs(), learning_rate=1e30)


def behaviour_world(seed: int = 0) -> tuple[Vectors, Vectors, np.ndarray]:
    """Text vectors of 4 clusters, collaborative vectors of 2 behaviours in each cluster, and each item's behaviour.

    Behaviour is only a faint direction of the text. The collaborative vectors are an SVD of counts of baskets, each of which
    holds items of one behaviour; every tenth item has none.
    """
    rng = np.random.default_rng(seed)
    cluster, side = np.repeat(np.arange(4), 50), np.tile([0, 1], 100)
    text = rng.normal(size=(4, 12))[cluster] * 1.5 + 0.4 * rng.normal(size=(200, 12))
    text[:, 0] += 0.8 * (2 * side - 1)
    behaviour = 2 * cluster + side
    baskets = np.zeros((400, 200))
    for row in range(len(baskets)):
        baskets[row, rng.choice(np.flatnonzero(behaviour == row % 8), 6, replace=False)] = 1
    left, scale, _ = np.linalg.svd(baskets.T @ baskets)
    collaborative = (left[:, :8] * scale[:8]).astype(np.float32)
    collaborative[::10] = np.nan
    return text.astype(np.float32), collaborative, behaviour


def shared_codes(quantizer: RQVAE, x: Vectors, behaviour: np.ndarray) -> float:
    """Share of the pairs of equal behaviour with equal codes among the pairs of a text cluster with equal codes."""
    codes = quantizer.encode(x)
    equal = (codes[:, None] == codes[None]).all(2) & ~np.eye(len(x), dtype=bool) & (behaviour[:, None] // 2 == behaviour // 2)
    return float((equal & (behaviour[:, None] == behaviour)).sum() / equal.sum())


def test_alignment_lets_codes_follow_behaviour():
    x, collaborative, behaviour = behaviour_world()
    settings = {"sizes": (4, 4), "hidden": (32,), "epochs": 30, "batch_size": 32, "learning_rate": 0.01}
    plain = fitted(x, **settings)
    records: list = []
    aligned = fitted(x, FitContext(collaborative=collaborative, log=records.append), alignment_weight=3.0, **settings)
    assert records[-1]["alignment"] < 0.7 * records[0]["alignment"]
    assert shared_codes(aligned, x, behaviour) > shared_codes(plain, x, behaviour) + 0.25


def test_collaborative_vectors_without_weight_change_nothing():
    x, collaborative, _ = behaviour_world()
    assert same(fitted(x), fitted(x, FitContext(collaborative=collaborative)), x)


def test_paper_recipe_is_the_papers_setting():
    quantizer = load_recipe("beauty-rqvae-paper").quantizer
    assert isinstance(quantizer, RQVAEConfig)
    found = (quantizer.optimizer, quantizer.learning_rate, quantizer.epochs, quantizer.batch_size, quantizer.update)
    assert found == ("adagrad", 0.4, 20_000, 1024, "gradient")
    assert quantizer.hidden == (512, 256, 128)
    assert (quantizer.reseed_every, quantizer.standardize, quantizer.start) == (0, True, "kmeans")
    assert {"standardize", "start", "update"} <= quantizer.model_fields_set  # written, not left to the default


@pytest.mark.slow
def test_default_settings_keep_the_codes_of_real_items_in_use():
    """LSA vectors of the Beauty items. About 70 s; 20 epochs do not suffice, they left 27 % of the first level unused."""
    home = Path(os.environ.get("FELID_DATA_HOME", ""))
    if "FELID_DATA_HOME" not in os.environ or not (home / "amazon-beauty-2014").is_dir():
        pytest.skip("needs FELID_DATA_HOME/amazon-beauty-2014")
    items = pl.read_parquet(home / "amazon-beauty-2014" / "items.parquet").sort("item_id")
    texts, _ = item_texts(items.select("title", "categories").to_dict(as_series=False), TextConfig())
    x = embed_lsa(LsaConfig(), ItemTexts(items["item_id"].to_numpy(), texts, np.ones(len(items), bool)))
    codes = RQVAE(RQVAEConfig()).fit(x).encode(x)
    used = [len(np.unique(column)) / 256 for column in codes.T]
    assert min(used) >= 0.95, used
