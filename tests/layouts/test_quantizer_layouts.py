"""The layouts of residual k-means and of the large-codebook encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from felid.errors import ArtifactError, RequestError
from felid.layouts import export_run, import_layout
from felid.layouts.rqkmeans_tiger import read
from felid.layouts.source import RunSource, progress_of
from felid.models import load_model
from felid.models.base import Catalogue
from felid.quantize import SemanticIDEncoder
from tests.layouts.conftest import exported, felid, histories


@pytest.fixture(scope="module")
def folder(kmeans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(kmeans, "rqkmeans-tiger", tmp_path_factory.mktemp("out"))


def test_files_have_the_published_names_shapes_and_types(folder: Path, kmeans: Path) -> None:
    count = len(RunSource.open(kmeans).item_ids)
    expected = {
        "item_embeddings_raw.npy": (np.float32, (count, 12)),
        "item_embeddings_l2norm.npy": (np.float32, (count, 12)),
        "codes.npy": (np.int64, (count, 2)),
        "codes_with_suffix.npy": (np.int64, (count, 3)),
        "centroids_0.npy": (np.float32, (8, 12)),
        "centroids_1.npy": (np.float32, (4, 12)),
    }
    found = {path.name: np.load(path) for path in folder.glob("*.npy")}
    assert {name: (array.dtype, array.shape) for name, array in found.items()} == expected
    np.testing.assert_allclose(np.linalg.norm(found["item_embeddings_l2norm.npy"], axis=1), 1, atol=1e-5)
    statistics = json.loads((folder / "embedding_stats.json").read_text())
    np.testing.assert_allclose(statistics["mean"], found["item_embeddings_raw.npy"].mean(0), atol=1e-6)
    np.testing.assert_allclose(statistics["std"], found["item_embeddings_raw.npy"].std(0), atol=1e-6)
    assert (statistics["shape"], statistics["model_name"]) == ([count, 12], "lsa")
    assert json.loads((folder / "item_ids.json").read_text()) == list(range(count))


def test_centroids_give_the_codes_and_the_suffix_makes_them_unique(folder: Path) -> None:
    residual, codes = np.load(folder / "item_embeddings_l2norm.npy").astype(np.float64), np.load(folder / "codes.npy")
    for level in range(2):
        centroids = np.load(folder / f"centroids_{level}.npy").astype(np.float64)
        nearest = ((residual[:, None] - centroids) ** 2).sum(2).argmin(1)
        np.testing.assert_array_equal(nearest, codes[:, level])
        residual -= centroids[nearest]
    full = np.load(folder / "codes_with_suffix.npy")
    np.testing.assert_array_equal(full[:, :2], codes)
    assert len({tuple(row) for row in full.tolist()}) == len(full)
    _, counts = np.unique(codes, axis=0, return_counts=True)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["disambiguation"]["max_collision_size"] == counts.max() == full[:, 2].max() + 1
    assert summary["disambiguation"]["n_unique_prefixes"] == len(counts)
    assert summary["disambiguation"]["total_collided_items"] == counts[counts > 1].sum()
    assert (summary["n_items"], summary["num_ids"], summary["num_clusters"]) == (len(full), 2, [8, 4])


def test_the_checkpoint_is_the_best_one_and_opens(folder: Path, kmeans: Path) -> None:
    run = RunSource.open(kmeans)
    best = progress_of(run.stages["train"].path)["best_checkpoint"]
    assert sorted(path.name for path in (folder / best).iterdir()) == ["config.json", "model.safetensors"]
    catalogue = Catalogue(run.vectors(normalized=True), run.split.warm_items(len(run.item_ids)), run.ids)
    model = load_model(folder / best, catalogue)
    assert model.state_dict().keys() == load_file(folder / best / "model.safetensors").keys()


def test_import_gives_the_same_histories_vectors_and_ids(folder: Path, kmeans: Path, tmp_path: Path) -> None:
    run, found = RunSource.open(kmeans), import_layout(folder, "rqkmeans-tiger", tmp_path / "back")
    assert histories(found.dataset) == histories(run.dataset)
    assert found.item_ids.tolist() == run.item_ids
    np.testing.assert_array_equal(found.vectors, run.vectors(normalized=False))
    assert (found.ids.codes.tolist(), found.ids.sizes) == (run.ids.codes.tolist(), run.ids.sizes)


def test_the_line_with_the_loss_is_printed_and_exported_and_runs_with_other_data_stand_beside_it(
    kmeans: Path, full: Path, folder: Path, tmp_path: Path
) -> None:
    assert not (folder / "test.log").exists(), "that run was not evaluated"
    shutil.copytree(kmeans, tmp_path / "run")
    status, printed, error = felid("evaluate", tmp_path / "run", "evaluation.loss=true", "evaluation.ks=[10,20]")
    assert status == 0, error
    test = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    line = f"Test | loss {test['loss']:.4f} | R@10 {test['recall@10']:.4f} | R@20 {test['recall@20']:.4f}"
    assert printed.splitlines()[-1] == line
    out = export_run(tmp_path / "run", "rqkmeans-tiger", tmp_path / "out", compare=[full])
    assert (out / "test.log").read_text() == f"{line}\n"
    written = (out / "comparison.md").read_text().splitlines()
    rows = [row.strip("|").split("|") for row in written if "|" in row]
    header, _, own, *others = [[cell.strip() for cell in row] for row in rows]
    assert own[header.index("loss")] == f"{test['loss']:.4f}"
    assert {other[header.index("loss")] for other in others} == {""}, "baselines have none"
    data = {tuple(row[:5]) for row in (own, *others)}
    natural = ("leave-one-out", "natural")
    assert data == {("run", "named", "rkmeans 8x4", *natural), ("full", "synthetic", "rqvae 8x8x8", *natural)}
    metrics = {name: json.loads((tmp_path / "run" / "metrics.json").read_text()) for name in ("run", "full")}
    metrics["full"] = json.loads((full / "metrics.json").read_text())
    for run, name, mark in (("run", "markov", ""), ("full", "tiger", ""), ("full", "popularity", ", cold targets")):
        (cells,) = (row for row in (own, *others) if row[0] == run and row[5] == f"{name}{mark}")
        group = "_cold" if mark else ""
        values = metrics[run]["test" if name == "tiger" else f"baselines{group}"]
        values = values if name == "tiger" else values[name]
        found = cells[header.index("users")], cells[header.index("recall@10")]
        assert found == (str(values["num_users"]), f"{values['recall@10']:.4f}")
    settings = [one for one in written if one.startswith("- ")]
    assert [one.partition(":")[0] for one in settings] == ["- run", "- full"]
    assert "`collaborative=null`" in settings[0] and "`collaborative.kind=warmup`" in settings[1]
    status, again, _ = felid("evaluate", tmp_path / "run")
    assert status == 0 and again.splitlines()[-1] == line, "what was there already prints the same"


def test_a_map_of_other_items_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    maps = json.loads((folder / "datamaps.json").read_text())
    del maps["id2item"]["3"]
    (tmp_path / "copy" / "datamaps.json").write_text(json.dumps(maps))
    with pytest.raises(ArtifactError, match=r"expected 1 to \d+, the rows of the item vectors"):
        read(tmp_path / "copy")


def test_other_quantisers_are_refused(full: Path, kmeans: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"holds residual k-means \(quantizer.kind=rkmeans\), .* has quantizer.kind=rqvae"):
        export_run(full, "rqkmeans-tiger", tmp_path / "out")
    with pytest.raises(RequestError, match=r"holds a large-codebook encoder .* has quantizer.kind=rkmeans"):
        export_run(kmeans, "semantic-id-encoder", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_encoder_opens_and_gives_the_codes(encoded: Path, tmp_path: Path) -> None:
    folder, run = exported(encoded, "semantic-id-encoder", tmp_path), RunSource.open(encoded)
    features, codes = np.load(folder / "item_features.npy"), np.load(folder / "codes.npy")
    assert (features.dtype, codes.dtype, codes.shape) == (np.float32, np.int64, (len(features), 2))
    encoder = SemanticIDEncoder.from_pretrained(folder)
    levels = encoder.encode(features)
    np.testing.assert_array_equal(np.stack([level.numpy() for level in levels], 1), codes)
    assert encoder.decode(*levels).shape == features.shape
    assert encoder.get_codebook_embeddings(1).shape == (16, 12)
    usage = json.loads((folder / "codebook_utilization.json").read_text())
    assert [level["used"] for level in usage] == [len(set(column)) for column in codes.T.tolist()]
    found = import_layout(folder, "semantic-id-encoder", tmp_path / "back")
    assert found.dataset is None and found.item_ids.tolist() == run.item_ids
    np.testing.assert_array_equal(found.vectors, run.vectors(normalized=True))
    assert (found.ids.codes.tolist(), found.ids.sizes) == (run.ids.codes.tolist(), run.ids.sizes)
    assert not (tmp_path / "back" / "recipe.yaml").exists()
