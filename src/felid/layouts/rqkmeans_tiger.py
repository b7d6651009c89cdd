"""Layout of the pipeline text -> raw and normalised vectors -> residual k-means with suffix -> a light encoder-decoder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from felid.artifacts import write_json
from felid.errors import RequestError
from felid.evaluation.tables import loss_line
from felid.layouts.folder import read_json_as, write_lines
from felid.layouts.imported import Imported, aligned, catalogue_ids, ids_of
from felid.layouts.numbering import DATAMAPS, read_items, read_sequences, write_datamaps, write_sequences
from felid.layouts.source import RunSource, progress_of
from felid.rows import load_array

NAME = "rqkmeans-tiger"
CHECKPOINT = ("config.json", "model.safetensors")


def check(run: RunSource) -> None:
    """Refuse a run that lacks something; nothing is written yet.

    Raises:
        FelidError: no residual k-means on text with a suffix, or no trained model.
    """
    run.need(NAME, "data", "embed", "tokenize", "train")
    if run.need_quantizer(NAME, "rkmeans", "residual k-means")["balanced"]:
        raise RequestError(
            f"layout {NAME} holds centroids alone, {run.root} has balanced codes, which need prices too; set "
            "quantizer.balanced=false"
        )
    kind = run.settings("tokenize")["collision"]["kind"]
    if kind != "suffix":
        raise RequestError(
            f"layout {NAME} holds codes with a suffix (collision.kind=suffix), {run.root} has collision.kind={kind}; run "
            "`felid run` with collision.kind=suffix"
        )


def write(run: RunSource, folder: Path) -> None:
    """Fill an existing folder."""
    raw = run.vectors(normalized=False)
    np.save(folder / "item_embeddings_raw.npy", raw)
    np.save(folder / "item_embeddings_l2norm.npy", run.vectors(normalized=True))
    write_json(folder / "item_ids.json", list(range(len(raw))))
    write_datamaps(folder / DATAMAPS, run)
    write_sequences(folder / "sequential_data.txt", run)
    statistics = {"mean": raw.mean(0).tolist(), "std": raw.std(0).tolist(), "shape": list(raw.shape)}
    write_json(folder / "embedding_stats.json", {**statistics, "model_name": run.encoder_name})
    np.save(folder / "codes.npy", run.quantized.astype(np.int64))
    np.save(folder / "codes_with_suffix.npy", run.ids.codes.astype(np.int64))
    sizes = run.settings("tokenize")["quantizer"]["sizes"]
    for level in range(len(sizes)):
        shutil.copyfile(run.quantizer_folder / f"codebook_{level}.npy", folder / f"centroids_{level}.npy")
    write_json(folder / "summary.json", _summary(run))
    training = run.folder("train", NAME)
    for checkpoint in sorted(training.glob("checkpoint-*")):
        (folder / checkpoint.name).mkdir()
        for name in CHECKPOINT:
            shutil.copyfile(checkpoint / name, folder / checkpoint.name / name)
    line = None if run.metrics is None else loss_line(run.metrics)
    if line is not None:
        write_lines(folder / "test.log", [line])


def read(folder: Path) -> Imported:
    """The content of such a folder; of another program's, `datamaps.json` may be missing.

    Raises:
        ArtifactError: a file is missing or damaged, or files do not belong together.
    """
    rows = read_json_as(folder / "item_ids.json", list)
    vectors = load_array(folder / "item_embeddings_raw.npy", (len(rows), None), "felid export")
    codes = load_array(folder / "codes_with_suffix.npy", (len(rows), None), "felid export")
    named = read_items(folder / DATAMAPS, len(rows))
    dataset = read_sequences(folder / "sequential_data.txt", folder / DATAMAPS, named)
    item_ids = catalogue_ids(named)
    ids = ids_of(folder, aligned(folder, "codes_with_suffix.npy", named, codes, item_ids).tolist(), item_ids)
    return Imported(
        item_ids, aligned(folder, "item_embeddings_raw.npy", named, vectors.astype(np.float32), item_ids), ids, dataset
    )


def readme(run: RunSource) -> list[str]:
    """What a reader of the folder must know beside the names."""
    best = progress_of(run.folder("train", NAME))["best_checkpoint"]
    return [
        "`item_ids.json` numbers the items from 0, as the original does with its `datamaps.json`: row = item. `datamaps.json` "
        "leads back to the ids of the data (numbers from 1), `sequential_data.txt` has one line per user, `user item item ...`, "
        "from 1.",
        "`codes.npy` and `codes_with_suffix.npy` are int64; `centroids_0.npy`, ... (float32) quantise "
        "`item_embeddings_l2norm.npy` as it is, each level what the ones before left over. The original "
        "standardises `item_embeddings_raw.npy` instead.",
        f"`{best}/` was best on validation; others stand beside it where the run kept them. It is felid's model, "
        "`felid.models.load_model(folder, catalogue)` opens it.",
        "`test.log`, of an evaluated run with `evaluation.loss`: the loss per code, over the valid codes of each level where "
        "the model's softmax has these alone, and recall.",
    ]


def _summary(run: RunSource) -> dict[str, Any]:
    settings, counts = run.settings("tokenize"), np.unique(run.quantized, axis=0, return_counts=True)[1]
    sizes = settings["quantizer"]["sizes"]
    shared = counts[counts > 1]
    levels = len(sizes)
    return {
        "config": {**settings, "standardize": False, "l2_normalize": True, "append_suffix_layer": True},
        "disambiguation": {
            "n_items": len(run.quantized),
            "levels_before": levels,
            "levels_after": levels + 1,
            "n_unique_prefixes": len(counts),
            "n_collided_prefixes": len(shared),
            "max_collision_size": int(counts.max()),
            "total_collided_items": int(shared.sum()),
        },
        "n_items": len(run.quantized),
        "num_ids": levels,
        "num_clusters": sizes[0] if len(set(sizes)) == 1 else sizes,
    }
