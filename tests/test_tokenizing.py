"""The tokenise stage in a run: what its quantiser may see, what is made again, and what is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from felid import rows
from felid.artifacts import read_json, read_run
from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.errors import FelidWarning, RecipeError, SemanticIdError
from felid.pipeline import Pipeline
from felid.recipe import Recipe, resolve
from felid.rows import RowFile
from felid.semantic_ids import SemanticIds
from felid.tokenizing import TokenizeStage

SMALL = ["quantizer.sizes=[4,4]", "embedding.dim=8", "model.width=16", "model.feed_forward=16", "training.epochs=1"]
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
