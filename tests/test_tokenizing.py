"""The tokenise stage in a run: what its quantiser may see, what is made again, and what is refused."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from felid import rows
from felid.artifacts import read_json, read_run
from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.data.holdout import split_of
from felid.errors import ArtifactError, EmbeddingError, FelidWarning, RecipeError, SemanticIdError
from felid.fitting import Fitting
from felid.pipeline import Pipeline
from felid.recipe import Recipe, resolve
from felid.report.subject import subject_of_run
from felid.rows import RowFile
from felid.semantic_ids import SemanticIds
from felid.tokenizing import TokenizeStage
from felid.warmup import MODEL, TRAINING, WarmupConfig

SMALL = ["quantizer.sizes=[4,4]", "embedding.dim=8", "model.width=16", "model.feed_forward=16", "training.epochs=1"]
WARM = [
    "collaborative.kind=warmup",
    "tokenize.vectors=collaborative",
    "collaborative.model.width=16",
    "collaborative.model.feed_forward=16",
    "collaborative.training.epochs=1",
]
HELD_OUT = ["holdout.rule=random", "holdout.share=0.1", "holdout.validation_share=0.1"]
RQVAE = ["quantizer.kind=rqvae", "quantizer.hidden=[8]", "quantizer.latent=4", "quantizer.epochs=2", *SMALL]


def small(*overrides: str) -> Recipe:
    return resolve({}, [*SMALL, *overrides])


def shop(cold_text: str = "lamp", num_cold: int = 8, first_cold: int = 30) -> Dataset:
    """40 users with 6 of items 0-29 each; more items, from `first_cold` on, that nobody took."""
    rng = np.random.default_rng(0)
    rows = [(user, int(item)) for user in range(40) for item in rng.permutation(30)[:6]]
    words = ["red", "blue", "green", "steel", "oak", "cup", "plate", "chair", "desk", "box"]
    titles = [" ".join(rng.choice(words, 3)) for _ in range(30)] + [f"{cold_text} {n}" for n in range(num_cold)]
    items = pl.DataFrame({"item_id": [*range(30), *range(first_cold, first_cold + num_cold)], "title": titles})
    interactions = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    return Dataset.from_frames("shop", interactions.with_columns(position=pl.int_range(6).repeat_by(40).explode()), items)


def stage(root: Path, name: str) -> Path:
    return root / read_run(root)["stages"][name]


def codebooks(root: Path) -> np.ndarray:
    return np.load(stage(root, "tokenize") / "quantizer" / "codebook_0.npy")


def test_pitfall_quantiser_scaler_or_lsa_fitted_on_cold_items(tmp_path: Path):
    """The texts of items without training interactions change nothing that is fitted, unless `all` is asked for."""
    found = {}
    for name, recipe in (("warm", small()), ("all", small("cold.quantizer_fit=all"))):
        for text in ("lamp", "sofa red oak"):
            Pipeline(recipe, tmp_path / f"{name}-{text}", dataset=shop(text)).run("tokenize")
            found[name, text] = codebooks(tmp_path / f"{name}-{text}")
    np.testing.assert_array_equal(found["warm", "lamp"], found["warm", "sofa red oak"])
    assert not np.array_equal(found["all", "lamp"], found["all", "sofa red oak"])
    assert SemanticIds.load(stage(tmp_path / "warm-lamp", "tokenize")).num_items == 38
    for fit, seen in (("warm", 30), ("all", 38)):
        for name in ("embed", "tokenize"):
            assert np.load(stage(tmp_path / f"{fit}-lamp", name) / "fitted_on.npy").tolist() == list(range(seen))


@pytest.mark.parametrize("collision", ["suffix", "nearest-free", "sinkhorn"])
def test_ids_of_warm_items_do_not_depend_on_cold_ones(tmp_path: Path, collision: str):
    """Cold items sort first, so they would be numbered and placed first if they took part."""
    found = []
    for text in ("lamp", "sofa red oak"):
        recipe = small(f"collision.kind={collision}", "quantizer.sizes=[5,16]", "quantizer.iterations=1")
        Pipeline(recipe, tmp_path / text, dataset=shop(text, num_cold=4, first_cold=-8)).run("tokenize")
        ids = SemanticIds.load(stage(tmp_path / text, "tokenize"))
        found.append([ids.of(item) for item in range(30)])
    assert found[0] == found[1]


def test_pitfall_rqvae_fitted_on_cold_items(tmp_path: Path):
    ends = []
    for text in ("lamp", "sofa red oak"):
        Pipeline(resolve({}, RQVAE), tmp_path / text, dataset=shop(text)).run("tokenize")
        ends.append((stage(tmp_path / text, "tokenize") / "quantizer" / "network.safetensors").read_bytes())
    assert ends[0] == ends[1]


def test_transductive_fit_is_named_in_every_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Pipeline(small("cold.quantizer_fit=all"), tmp_path / "all", dataset=shop()).run()
    metrics = read_json(tmp_path / "all" / "metrics.json")
    assert metrics["system"] == "lynx, transductive"
    assert metrics["policy"]["tokenizer"] == "transductive: fitted on all items, among them 8 items without training interactions"
    Pipeline(small(), tmp_path / "warm", dataset=shop()).run()
    metrics = read_json(tmp_path / "warm" / "metrics.json")
    assert metrics["system"] == "lynx"
    assert metrics["policy"]["tokenizer"].startswith("fitted on items with training interactions; 8 items without")


def test_start_codebooks_are_an_artifact_of_their_own_and_are_used(tmp_path: Path):
    pipeline = Pipeline(resolve({}, RQVAE), tmp_path, dataset=shop())
    folder = pipeline.make_start()
    assert folder.parent.name == "start"
    first = np.load(folder / "codebook_0.npy")
    assert first.shape == (4, 4)
    made = (folder / "manifest.json").stat().st_mtime_ns
    longer = resolve({}, [*RQVAE, "quantizer.epochs=3"])  # training longer does not change the start
    Pipeline(longer, tmp_path, dataset=shop()).run("tokenize")
    assert (folder / "manifest.json").stat().st_mtime_ns == made
    manifests = [read_json(path) for path in (tmp_path / "quantize").glob("*/manifest.json")]
    assert {manifest["inputs"]["start"] for manifest in manifests} == {read_json(folder / "manifest.json")["digest"]}
    assert len((stage(tmp_path, "tokenize") / "log.jsonl").read_text().splitlines()) == 3
    with pytest.raises(RecipeError, match="rkmeans with these settings has no codebooks"):
        Pipeline(small(), tmp_path, dataset=shop()).make_start()


@pytest.mark.filterwarnings("ignore:level . of the RQ-VAE:felid.errors.FelidWarning")
def test_the_fit_begins_with_the_start_codebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Pipeline(resolve({}, RQVAE), tmp_path / "a", dataset=shop()).run("tokenize")
    load = TokenizeStage.load_start
    monkeypatch.setattr(TokenizeStage, "load_start", lambda self: tuple(codebook + 1 for codebook in load(self) or ()))
    Pipeline(resolve({}, RQVAE), tmp_path / "b", dataset=shop()).run("tokenize")
    networks = [stage(tmp_path / name, "tokenize") / "quantizer" / "network.safetensors" for name in "ab"]
    assert networks[0].read_bytes() != networks[1].read_bytes()


def test_another_resolver_fits_nothing_again(tmp_path: Path):
    Pipeline(small(), tmp_path, dataset=shop()).run("tokenize")
    first = stage(tmp_path, "tokenize")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "quantize").glob("*/manifest.json")}
    Pipeline(small("collision.kind=none"), tmp_path, dataset=shop()).run("tokenize")
    shared = stage(tmp_path, "tokenize")
    assert shared != first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "quantize").glob("*/manifest.json")} == made
    Pipeline(small("collision.kind=none", "collision.allow_training=true"), tmp_path, dataset=shop()).run("tokenize")
    assert stage(tmp_path, "tokenize") == shared
    Pipeline(small(), tmp_path, dataset=shop()).run("tokenize", fresh=("tokenize",))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "quantize").glob("*/manifest.json")} != made


def test_collaborative_vectors_do_not_see_held_out_items(tmp_path: Path):
    """The last two items of every user change; what is learnt does not."""
    ends, recipe = [], resolve({}, [*RQVAE, "quantizer.alignment_weight=1", "collaborative.kind=cooccurrence"])
    for name, shift in (("a", 0), ("b", 1)):
        data = shop(num_cold=0)
        held_out = pl.col("position") >= 4
        moved = data.interactions.with_columns(
            item_id=pl.when(held_out).then((pl.col("item_id") + shift) % 30).otherwise("item_id")
        )
        other = Dataset.from_frames("shop", moved, data.items)
        assert LeaveOneOut(other.sequences()).warm_items(30).all()
        Pipeline(recipe, tmp_path / name, dataset=other).run("tokenize")
        ends.append((stage(tmp_path / name, "tokenize") / "quantizer" / "network.safetensors").read_bytes())
    assert ends[0] == ends[1]


def test_collaborative_vectors_shape_the_codes_and_are_part_of_the_key(tmp_path: Path):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(30, 3)))
    (tmp_path / "ids.txt").write_text("\n".join(map(str, range(30))))
    given = [f"collaborative={{kind: precomputed, vectors: {tmp_path / 'v.npy'}, ids: {tmp_path / 'ids.txt'}}}"]
    keys = set()
    for overrides in (
        [],
        ["quantizer.alignment_weight=1", *given],
        ["quantizer.alignment_weight=1", "collaborative.kind=cooccurrence"],
    ):
        Pipeline(resolve({}, [*RQVAE, *overrides]), tmp_path / "run", dataset=shop()).run("tokenize")
        keys.add(stage(tmp_path / "run", "tokenize"))
    np.save(tmp_path / "v.npy", np.random.default_rng(1).normal(size=(30, 3)))
    Pipeline(resolve({}, [*RQVAE, "quantizer.alignment_weight=1", *given]), tmp_path / "run", dataset=shop()).run("tokenize")
    keys.add(stage(tmp_path / "run", "tokenize"))
    networks = {(key / "quantizer" / "network.safetensors").read_bytes() for key in keys}
    assert len(keys) == len(networks) == 4


def test_a_recipe_asks_for_behaviour_in_both_places_or_in_none():
    with pytest.raises(RecipeError, match=r"alignment_weight needs item vectors from behaviour; set collaborative\.kind"):
        resolve({}, [*RQVAE, "quantizer.alignment_weight=0.1"])
    with pytest.warns(FelidWarning, match="collaborative vectors have no effect"):
        resolve({}, ["collaborative.kind=cooccurrence"])


def test_shared_ids_are_refused_for_training_before_any_work(tmp_path: Path):
    with pytest.raises(SemanticIdError, match=r"set collision\.allow_training=true"):
        Pipeline(small("collision.kind=none"), tmp_path / "run", dataset=shop()).run()
    assert not (tmp_path / "run").exists()
    Pipeline(small("collision.kind=none"), tmp_path / "run", dataset=shop()).run("tokenize")
    assert SemanticIds.load(stage(tmp_path / "run", "tokenize")).shared


@pytest.mark.parametrize("collision", ["nearest-free", "sinkhorn", "none"])
def test_every_resolver_goes_all_the_way(tmp_path: Path, collision: str):
    asked = ["collision.allow_training=true"] if collision == "none" else []
    Pipeline(small(f"collision.kind={collision}", "quantizer.sizes=[8,16]", *asked), tmp_path, dataset=shop()).run()
    metrics = read_json(tmp_path / "metrics.json")
    assert 0 < metrics["test"]["recall@10"] <= 1
    assert len(SemanticIds.load(stage(tmp_path, "tokenize")).sizes) == 2


@pytest.mark.parametrize(
    "quantizer",
    [["kind=pq"], ["kind=pq", "rotate=true"], ["kind=random"], ["kind=item-number", "sizes=[8,8]"], ["balanced=true"]],
    ids=" ".join,
)
def test_every_quantiser_runs_from_a_recipe(tmp_path: Path, quantizer: list[str]):
    Pipeline(small(*(f"quantizer.{key}" for key in quantizer)), tmp_path, dataset=shop()).run("tokenize")
    ids = SemanticIds.load(stage(tmp_path, "tokenize"))
    assert len({ids.of(item) for item in range(38)}) == 38


@pytest.mark.parametrize("collision", ["suffix", "nearest-free", "sinkhorn"])
def test_tokenizing_never_reads_more_than_a_block_or_the_sample(tmp_path: Path, collision: str, monkeypatch: pytest.MonkeyPatch):
    rng, read = np.random.default_rng(0), list[int]()
    np.save(tmp_path / "v.npy", rng.normal(size=(38, 8)).astype(np.float32))
    np.save(tmp_path / "ids.npy", np.arange(38))
    given = f"embedding={{kind: precomputed, vectors: {tmp_path / 'v.npy'}, ids: {tmp_path / 'ids.npy'}}}"
    sizes = ["quantizer.sizes=[16,4]", "quantizer.iterations=2"] if collision == "suffix" else ["quantizer.sizes=[2,64]"]
    get = RowFile.__getitem__

    def watched(self: RowFile, rows: slice | np.ndarray) -> np.ndarray:
        found = get(self, rows)
        read.append(len(found))
        return found

    monkeypatch.setattr(RowFile, "__getitem__", watched)
    monkeypatch.setattr(rows.blocks, "__defaults__", (8,))
    overrides = [given, *sizes, f"collision.kind={collision}", "tokenize.max_fit_items=12"]
    if collision != "suffix":
        monkeypatch.setattr("felid.quantize.resolve_moves.ROWS", 8)
        overrides[1] = "quantizer.sizes=[2,12]"
    with contextlib.suppress(SemanticIdError):  # 38 items in 24 IDs do not fit: the reads are what counts
        Pipeline(resolve({}, overrides), tmp_path / "run", dataset=shop()).run("tokenize")
    assert sum(read) >= 38
    assert max(read) <= 12


def test_a_bound_on_the_items_to_learn_from_is_kept(tmp_path: Path):
    Pipeline(small("tokenize.max_fit_items=12"), tmp_path, dataset=shop()).run("tokenize")
    assert np.load(stage(tmp_path, "tokenize") / "quantizer_codes.npy").shape == (38, 2)
    pipeline = Pipeline(small("tokenize.max_fit_items=12"), tmp_path, dataset=shop())
    pipeline.run("data")
    assert len(pipeline.tokenizing.fit_rows(pipeline.warm)) == 12


# codes made of behaviour


def made(root: Path, name: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (root / name).glob("*/manifest.json")}


def quantized(root: Path) -> np.ndarray:
    return np.load(stage(root, "tokenize") / "quantizer_codes.npy")


def test_codes_of_warm_vectors_are_cached_and_keyed_by_the_warm_up(tmp_path: Path):
    Pipeline(small(*WARM), tmp_path, dataset=shop()).run("tokenize")
    first = {name: made(tmp_path, name) for name in ("embed", "warmup", "quantize", "tokenize")}
    (manifest,) = first["warmup"]
    assert read_json(stage(tmp_path, "tokenize") / "manifest.json")["inputs"]["warmup"] == read_json(manifest)["digest"]
    assert not list(manifest.parent.glob("search.json")), "a warm-up ranks nothing"
    Pipeline(small(*WARM), tmp_path, dataset=shop()).run("tokenize")
    assert {name: made(tmp_path, name) for name in first} == first
    Pipeline(small(*WARM, "collision.kind=none", "seed=7"), tmp_path, dataset=shop()).run("tokenize")
    assert made(tmp_path, "warmup") == first["warmup"]
    assert made(tmp_path, "quantize") == first["quantize"]
    Pipeline(small(*WARM, "collaborative.seed=1"), tmp_path, dataset=shop()).run("tokenize")
    assert [len(made(tmp_path, name)) for name in first] == [1, 2, 2, 3]


def test_codes_of_warm_vectors_follow_behaviour_and_text_decides_for_cold_items(tmp_path: Path):
    """Items 0-14 are taken by half of the users, 15-29 by the others, whatever their titles say."""
    rng = np.random.default_rng(0)
    rows = [(u, int(i), n) for u in range(60) for n, i in enumerate(rng.permutation(15)[:9] + 15 * (u % 2))]
    titles = [("oak desk", "red cup")[n % 2] for n in range(30)] + ["red cup", "oak desk", "red cup", "oak desk"]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row")
    data = Dataset.from_frames("halves", log, pl.DataFrame({"item_id": range(34), "title": titles}))
    learns = [
        "collaborative.training.epochs=40",
        "collaborative.training.batch_targets=32",
        "collaborative.training.learning_rate=0.01",
        "collaborative.model.own_prior=1",
        "quantizer.sizes=[2]",
        "embedding.dim=2",
    ]
    Pipeline(small(*WARM, *learns), tmp_path / "a", dataset=data).run("tokenize")
    half = quantized(tmp_path / "a")[:30, 0].reshape(2, 15).mean(1)
    assert abs(half[0] - half[1]) > 0.8
    Pipeline(small("quantizer.sizes=[2]", "embedding.dim=2"), tmp_path / "b", dataset=data).run("tokenize")
    by_text = quantized(tmp_path / "b")[:, 0]
    assert len(set(by_text[0:30:2])) == len(set(by_text[1:30:2])) == 1
    vectors = np.load(next(tmp_path.glob("a/warmup/*/item_vectors/raw.npy")))
    np.testing.assert_allclose(vectors[30], vectors[32], atol=1e-6)
    assert not np.allclose(vectors[30], vectors[31], atol=1e-3)


def test_an_item_without_a_vector_to_quantise_is_refused_with_the_remedy(tmp_path: Path):
    refused = r"8 of 38 items have no vector from behaviour \(first: 30\).*tokenize.vectors=text"
    pipeline = Pipeline(small("collaborative.kind=cooccurrence", WARM[1]), tmp_path, dataset=shop())
    with pytest.raises(EmbeddingError, match=refused):
        pipeline.run("tokenize")
    with pytest.raises(RecipeError, match=r"set collaborative\.model\.text=true"):
        small(*WARM, "collaborative.model.text=false", "collaborative.model.own_dropout=0")
    counted = small("collaborative.kind=cooccurrence", "tokenize.vectors=collaborative")
    Pipeline(counted, tmp_path / "all", dataset=shop(num_cold=0)).run("tokenize")
    assert len(quantized(tmp_path / "all")) == 30


def test_pitfall_warm_up_sees_the_test_items(tmp_path: Path):
    found = []
    for name, shift in (("a", 0), ("b", 1)):
        data = shop(num_cold=0)
        moved = pl.when(pl.col("position") == 5).then((pl.col("item_id") + shift) % 30).otherwise("item_id")
        other = Dataset.from_frames("shop", data.interactions.with_columns(item_id=moved), data.items)
        Pipeline(small(*WARM), tmp_path / name, dataset=other).run("tokenize")
        found.append(np.load(next((tmp_path / name).glob("warmup/*/item_vectors/raw.npy"))))
    np.testing.assert_array_equal(*found)


def test_an_interrupted_warm_up_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    recipe = small(*WARM, "collaborative.training.epochs=3", "collaborative.training.checkpoint_seconds=0.0001")
    Pipeline(recipe, whole, dataset=shop()).run("tokenize")
    validate, calls = Fitting.validation, list[int]()

    def stops(self: Fitting, *arguments: object):
        found = validate(self, *arguments)

        def counted(model: object):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return found(model)

        return counted

    pipeline = Pipeline(recipe, broken, dataset=shop())
    monkeypatch.setattr(Fitting, "validation", stops)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run("tokenize")
    monkeypatch.undo()
    assert not made(broken, "warmup")
    assert len(list((broken / "warmup").glob(".working-*"))) == 1
    Pipeline(recipe, broken, dataset=shop()).run("tokenize")
    vectors = [np.load(next(root.glob("warmup/*/item_vectors/raw.npy"))) for root in (whole, broken)]
    np.testing.assert_array_equal(*vectors)


def test_warm_up_aligns_codes_of_text_too(tmp_path: Path):
    aligned = resolve({}, [*RQVAE, "quantizer.alignment_weight=1", WARM[0], *WARM[2:]])
    Pipeline(aligned, tmp_path / "a", dataset=shop()).run("tokenize")
    Pipeline(resolve({}, RQVAE), tmp_path / "b", dataset=shop()).run("tokenize")
    networks = [stage(tmp_path / name, "tokenize") / "quantizer" / "network.safetensors" for name in "ab"]
    assert networks[0].read_bytes() != networks[1].read_bytes()


def test_codebooks_start_from_the_vectors_that_are_quantised(tmp_path: Path):
    folders = [Pipeline(resolve({}, [*RQVAE, *extra]), tmp_path, dataset=shop()).make_start() for extra in ([], WARM)]
    assert "warmup" in read_json(folders[1] / "manifest.json")["inputs"]
    assert not np.array_equal(*(np.load(folder / "codebook_0.npy") for folder in folders))


def test_what_a_recipe_leaves_out_of_a_warm_up_keeps_the_defaults_of_warm_ups():
    recipe = small(*WARM, "collaborative.model.layers=1")
    assert isinstance(recipe.collaborative, WarmupConfig)
    assert recipe.collaborative.model == MODEL.model_copy(update={"width": 16, "feed_forward": 16, "layers": 1})
    assert recipe.collaborative.training == TRAINING.model_copy(update={"epochs": 1})
    with pytest.raises(RecipeError, match=r"tokenize\.vectors=collaborative needs .* set collaborative\.kind=warmup"):
        small("tokenize.vectors=collaborative")
    with pytest.raises(RecipeError, match="did you mean 'width'"):
        small(*WARM, "collaborative.model.widht=3")


def test_the_report_finds_what_codes_were_made_of(tmp_path: Path):
    Pipeline(small(*WARM, *HELD_OUT), tmp_path, dataset=shop()).run("tokenize")
    subject = subject_of_run(tmp_path)
    raw = np.load(next(tmp_path.glob("warmup/*/item_vectors/raw.npy")))
    assert subject.vectors is not None
    assert subject.refit is not None
    np.testing.assert_array_equal(subject.vectors[:], raw)
    assert "codes are made of item vectors from behaviour" in subject.notes
    assert subject.refit(lambda done, total: None, np.arange(5)).shape == (5, 2)
    shutil.rmtree(tmp_path / "warmup")
    with pytest.raises(ArtifactError, match="run the stage warmup again"):
        subject_of_run(tmp_path)


# items that are held out


def test_pitfall_held_out_items_shape_the_codes(tmp_path: Path):
    """What happens to the texts and interactions of held-out items changes nothing that is learnt."""
    held = split_of(shop(), small(*HELD_OUT).holdout).held_out
    assert held is not None
    found = []
    for name, text in (("a", "lamp"), ("b", "sofa red oak")):
        data = shop()
        title = pl.when(pl.Series(held.either)).then(pl.lit(text)).otherwise("title")
        changed = Dataset.from_frames("shop", data.interactions, data.items.with_columns(title=title))
        Pipeline(small(*HELD_OUT), tmp_path / name, dataset=changed).run("tokenize")
        found.append(codebooks(tmp_path / name))
    np.testing.assert_array_equal(*found)
    Pipeline(small(), tmp_path / "a", dataset=shop("lamp")).run("tokenize")
    assert not np.array_equal(codebooks(tmp_path / "a"), found[0])


def test_pitfall_vectors_of_a_run_that_trained_on_what_this_one_holds_out(tmp_path: Path):
    """Given vectors whose run did not hold these items out would carry their behaviour into the codes."""
    for name, draw in (("all", []), ("held", HELD_OUT)):
        Pipeline(small(*WARM, *draw), tmp_path / name, dataset=shop()).run("tokenize")
    given = {}
    for name in ("all", "held"):
        left = next(tmp_path.glob(f"{name}/warmup/*/item_vectors"))
        files = f"vectors: {left / 'raw.npy'}, ids: {left / 'item_ids.json'}"
        given[name] = [f"collaborative={{kind: precomputed, {files}}}", "tokenize.vectors=collaborative"]
    held = split_of(shop(), small(*HELD_OUT).holdout).held_out
    assert held is not None
    with pytest.raises(EmbeddingError, match=rf"trained on interactions of {held.either.sum()} items .*with the same holdout"):
        Pipeline(small(*given["all"], *HELD_OUT), tmp_path / "leak", dataset=shop()).run("tokenize")
    Pipeline(small(*given["held"], *HELD_OUT), tmp_path / "a", dataset=shop()).run("tokenize")
    Pipeline(small(*given["held"]), tmp_path / "b", dataset=shop()).run("tokenize")


def test_settings_of_the_holdout_without_effect_make_nothing_again(tmp_path: Path):
    Pipeline(small(*WARM), tmp_path, dataset=shop()).run("train")
    first = {name: made(tmp_path, name) for name in ("warmup", "quantize", "tokenize", "train")}
    with pytest.warns(FelidWarning, match=r"no effect under holdout.rule=natural.*set holdout\.rule=random or newest"):
        other = small(*WARM, "holdout.share=0.2")
    Pipeline(other, tmp_path, dataset=shop()).run("train")
    assert {name: made(tmp_path, name) for name in first} == first
    Pipeline(small(*WARM, "holdout.seed=1"), tmp_path, dataset=shop()).run("train")
    assert len(made(tmp_path, "train")) == 2, "the seed decides which targets are kept for the test"


def test_a_draw_of_held_out_items_is_part_of_the_key_where_it_matters(tmp_path: Path):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(38, 8)).astype(np.float32))
    np.save(tmp_path / "ids.npy", np.arange(38))
    given = f"embedding={{kind: precomputed, vectors: {tmp_path / 'v.npy'}, ids: {tmp_path / 'ids.npy'}}}"
    overrides = ["quantizer.sizes=[4,4]", given]
    for draw in ([], ["holdout.seed=3"], HELD_OUT, [*HELD_OUT, "holdout.seed=1"]):
        Pipeline(resolve({}, [*overrides, *draw]), tmp_path / "run", dataset=shop()).run("tokenize")
    assert [len(made(tmp_path / "run", name)) for name in ("data", "embed", "quantize", "tokenize")] == [1, 1, 3, 3]
