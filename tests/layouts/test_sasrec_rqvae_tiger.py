"""SASRec -> RQ-VAE -> TIGER: data, checkpoints and logs, read with json, pickle, torch and TensorBoard, and the way back."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from felid.data.filters import NO_FILTER
from felid.data.sources import load_dataset
from felid.data.sources.sequences import SequencesConfig
from felid.embedding import PrecomputedConfig, embed
from felid.embedding.template import ItemTexts
from felid.errors import ArtifactError, FelidWarning, RequestError
from felid.layouts import export_run, import_layout
from felid.layouts.sasrec_rqvae_tiger import codes_of, load_sasrec_vectors, read, tokens_of
from felid.layouts.source import RunSource
from tests.layouts.conftest import exported, histories


@pytest.fixture(scope="module")
def folder(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(full, "sasrec-rqvae-tiger", tmp_path_factory.mktemp("out"))


def test_files_have_the_published_names_shapes_and_types(folder: Path, full: Path) -> None:
    run = RunSource.open(full)
    count = len(run.item_ids)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name}
    assert names == {
        *("data/all_data.txt", "data/final_data_reduced.pkl", "data/inter.json", "data/datamaps.json", "data/item_text.json"),
        *(f"checkpoints/{name}" for name in ("sasrec_embeddings.pt", "sasrec.pt", "rqvae.pt", "semantic_ids.json", "tiger.pt")),
        *("comparison.md", "README.md", "felid-export.json"),
    }
    with (folder / "data" / "final_data_reduced.pkl").open("rb") as stream:
        vectors = pickle.load(stream)
    assert (type(vectors), vectors.dtype, vectors.shape) == (np.ndarray, np.float32, (count, 12))
    sasrec = torch.load(folder / "checkpoints" / "sasrec_embeddings.pt", weights_only=True)
    assert (sasrec["embeddings"].shape, sasrec["embeddings"].dtype, sasrec["known"].dtype) == (
        (count, 16),
        torch.float32,
        torch.bool,
    )
    assert torch.equal(sasrec["embeddings"].isnan().any(1), ~sasrec["known"])
    assert torch.equal(load_sasrec_vectors(folder)[sasrec["known"]], sasrec["embeddings"][sasrec["known"]])
    rqvae = torch.load(folder / "checkpoints" / "rqvae.pt", weights_only=True)
    assert rqvae["model"]["quantizer.codebooks"].shape == (3, 8, 8)
    tiger = torch.load(folder / "checkpoints" / "tiger.pt", weights_only=True)
    assert tiger["config"]["model"]["kind"] == "tiger" and tiger["model"]["tokens.weight"].shape[1] == 16
    assert torch.load(folder / "checkpoints" / "sasrec.pt", weights_only=True)["config"]["model"]["kind"] == "sasrec"


def test_ids_are_tokens_of_items_and_lead_back(folder: Path, full: Path) -> None:
    run = RunSource.open(full)
    ids = json.loads((folder / "checkpoints" / "semantic_ids.json").read_text())
    assert list(ids) == [str(item) for item in range(len(run.item_ids))]
    assert [codes_of(item, tokens) for item, tokens in ids.items()] == run.ids.codes.tolist()
    assert len({tuple(tokens) for tokens in ids.values()}) == len(ids)
    assert tokens_of([42, 15, 238, 91]) == ["<a_42>", "<b_15>", "<c_238>", "<d_91>"]


@pytest.mark.parametrize("tokens", [["<b_1>", "<a_2>"], ["<a_1>", "2"], [], "<a_1>", [1, 2]])
def test_other_ids_are_refused(tokens: object) -> None:
    with pytest.raises(ArtifactError, match="expected tokens such as"):
        codes_of("7", tokens)


def test_interactions_are_converted_to_the_numbers_of_the_ids(folder: Path, full: Path) -> None:
    sequences = RunSource.open(full).split.sequences
    converted = json.loads((folder / "data" / "inter.json").read_text())
    assert converted == {str(row): sequences[row].tolist() for row in range(len(sequences))}
    written = [list(map(int, line.split())) for line in (folder / "data" / "all_data.txt").read_text().splitlines()]
    assert written == [[row + 1, *(sequences[row] + 1)] for row in range(len(sequences))]


def test_logs_of_all_three_trainings_are_read_by_tensorboard(folder: Path, full: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for name in ("sasrec", "rqvae", "tiger"):
        events = EventAccumulator(str(folder / "tensorboard_logs" / name)).Reload()
        found[name] = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert len(found["sasrec"]["loss"]) == 2 and len(found["tiger"]["ndcg@10"]) == 1
    log = RunSource.open(full).quantizer_log
    np.testing.assert_allclose(found["rqvae"]["alignment"], [record["alignment"] for record in log], rtol=1e-5)
    np.testing.assert_allclose(found["rqvae"]["utilisation/2"], [record["utilisation"][2] for record in log], rtol=1e-5)


def test_import_gives_the_same_histories_vectors_and_ids(folder: Path, full: Path, tmp_path: Path) -> None:
    run, found = RunSource.open(full), import_layout(folder, "sasrec-rqvae-tiger", tmp_path / "back")
    assert histories(found.dataset) == histories(run.dataset)
    assert found.dataset.items["text"].to_list() == run.texts()
    assert found.item_ids.tolist() == run.item_ids
    np.testing.assert_array_equal(found.vectors, run.vectors(normalized=True))
    assert (found.ids.codes.tolist(), found.ids.sizes) == (run.ids.codes.tolist(), run.ids.sizes)


def test_the_inputs_are_a_data_source_and_vectors_as_they_stand(folder: Path, full: Path) -> None:
    run = RunSource.open(full)
    with pytest.warns(FelidWarning, match="no columns besides item_id"):
        dataset = load_dataset(SequencesConfig(path=folder / "data" / "all_data.txt"), NO_FILTER)
    sequences = run.split.sequences
    assert histories(dataset) == {str(row + 1): [str(i + 1) for i in sequences[row]] for row in range(len(sequences))}
    config = PrecomputedConfig(vectors=folder / "data" / "final_data_reduced.pkl", first_id=1)
    items = ItemTexts(np.arange(1, len(run.item_ids) + 1), [""] * len(run.item_ids), np.ones(len(run.item_ids), bool))
    np.testing.assert_array_equal(embed(config, items)[:], run.vectors(normalized=True))


def test_a_folder_without_a_map_has_numbers_for_ids_and_one_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("data", "checkpoints"):
        shutil.copytree(folder / name, tmp_path / name)
    for name in ("datamaps.json", "item_text.json"):
        (tmp_path / "data" / name).unlink()
    found = read(tmp_path)
    assert found.item_ids.tolist() == list(range(1, len(found.vectors) + 1))
    with (tmp_path / "data" / "all_data.txt").open("a") as stream:
        stream.write("9999 1 2 99999\n")
    with pytest.raises(ArtifactError, match=r"no numbers from 1 to \d+ \(first: 99999\)"):
        read(tmp_path)


def test_what_is_missing_is_said_and_nothing_is_written(kmeans: Path, untimed: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"holds an RQ-VAE"):
        export_run(kmeans, "sasrec-rqvae-tiger", tmp_path / "out")
    with pytest.raises(
        ArtifactError, match=r"needs the stage train \(trained model\), .* has data, embed, tokenize; run `felid train"
    ):
        export_run(untimed, "sasrec-rqvae-tiger", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
