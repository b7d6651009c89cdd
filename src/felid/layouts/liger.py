"""Layout of LIGER: the codes as one pickle per data set, content model and seed, and the checkpoints of its training."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felid.artifacts import write_json
from felid.embedding.pickles import read_pickle
from felid.errors import ArtifactError
from felid.evaluation.names import liger_names
from felid.layouts.folder import load_tensor, load_tensors, save_pickle, save_tensors, weights_of
from felid.layouts.imported import Imported, aligned, catalogue_ids, ids_of, noted_sizes
from felid.layouts.numbering import DATAMAPS, read_items, read_sequences, write_datamaps, write_sequences
from felid.layouts.source import RunSource, progress_of
from felid.quantize import Codes, SuffixConfig, resolve_collisions
from felid.training.checkpoints import STATE

NAME = "liger"
OTHER = re.compile(r"[^A-Za-z0-9._-]+")
"""What names of files do not have; data keep the underscores of `Sports_and_Outdoors`."""


def check(run: RunSource) -> None:
    """Refuse a run that lacks something; nothing is written yet.

    Raises:
        ArtifactError: no item vectors, no IDs or no trained model.
    """
    run.need(NAME, "data", "embed", "tokenize", "train")


def write(run: RunSource, folder: Path) -> None:
    """Fill an existing folder."""
    data, model = (OTHER.sub("-", name) for name in (run.dataset_name, run.encoder_name))
    save_pickle(folder / "ID" / f"{data}_{model}_{run.seed}.pkl", codes_to_number(run).astype(np.int64))
    processed = folder / "processed"
    write_sequences(processed / f"{data}.txt", run)
    write_datamaps(processed / DATAMAPS, run)
    save_tensors(processed / f"{data}_{model}_embeddings.pt", {"embeddings": torch.from_numpy(run.vectors(normalized=True))})
    training = run.folder("train", NAME)
    progress = progress_of(training)
    best, last = weights_of(training / progress["best_checkpoint"]), training / progress["last_checkpoint"]
    (folder / "results").mkdir()
    save_tensors(folder / "results" / "ckpt_best.pt", best)
    save_tensors(folder / "ckpt.pt", _training_state(progress, last))
    if run.metrics is not None:
        write_json(folder / "results" / "metrics.json", run.metrics)
        if "systems" in run.metrics:
            write_json(folder / "results" / "logged.json", liger_names(run.metrics))


def read(folder: Path) -> Imported:
    """The content of such a folder with one pickle of codes; items that share codes are numbered in the order of the items.

    Raises:
        FelidError: a file is missing or damaged, or files do not belong together.
    """
    codes_file, embeddings_file = _only(folder / "ID", "*.pkl"), _only(folder / "processed", "*_embeddings.pt")
    codes = read_pickle(codes_file)[1]
    if codes.dtype.kind not in "iu":
        raise ArtifactError(f"{codes_file} holds {codes.dtype} of shape {codes.shape}, expected whole numbers (items, levels)")
    vectors = load_tensor(embeddings_file, "embeddings").numpy()
    processed = folder / "processed"
    named = read_items(processed / DATAMAPS, len(codes))
    dataset = read_sequences(_only(processed, "*.txt"), processed / DATAMAPS, named)
    item_ids = catalogue_ids(named)
    ordered: Codes = aligned(folder, codes_file.name, named, codes.astype(np.int32), item_ids)
    unique = resolve_collisions(ordered, tuple((ordered.max(0) + 1).tolist()), SuffixConfig(max_size=len(ordered))).codes
    if len(noted_sizes(folder)) == ordered.shape[1]:  # IDs of the exported run have no level for collisions
        unique = ordered
    rows = aligned(folder, embeddings_file.name, named, vectors.astype(np.float32), item_ids)
    return Imported(item_ids, rows, ids_of(folder, unique.tolist(), item_ids), dataset)


def codes_to_number(run: RunSource) -> Codes:
    """(N, L) codes that a reader numbers where items share them: without the level that felid added for that."""
    suffix = run.settings("tokenize")["collision"]["kind"] == "suffix"
    return run.quantized if suffix else run.ids.codes


def readme(run: RunSource) -> list[str]:
    """What a reader of the folder must know beside the names."""
    return [
        "`ID/<data>_<content model>_<seed>.pkl` is one NumPy array, int64 (items, levels), row = item number - 1, without the "
        "number that tells items with equal codes apart: LIGER's reader adds it. felid counts from 0, items with training "
        "interactions first.",
        "`processed/<data>.txt` has one line per user, `user item item ...`, numbered from 1; `processed/datamaps.json` leads "
        "back to the ids of the data; `processed/*_embeddings.pt` holds `embeddings` (items, width) at unit length.",
        "`results/ckpt_best.pt` is the state dict that was best on validation, `ckpt.pt` that of the last checkpoint with "
        "`model_state_dict`, `optimizer_state_dict`, `global_step`, `best_ndcg_10`, and the epochs `train_step` (the last) and "
        "`best_epoch`, counted from 0.",
        f"The weights are felid's (model.kind={run.settings('train')['model']['kind']}) under felid's names.",
        _of_optimizer(run),
        "`results/metrics.json` is felid's evaluation, `results/logged.json` the same under the names that LIGER logs.",
    ]


def _training_state(progress: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    state = load_tensors(checkpoint / STATE) if (checkpoint / STATE).is_file() else {}
    best = max(progress["curve"], key=lambda entry: entry["ndcg@10"], default={"epoch": 0.0})
    return {
        "model_state_dict": state.get("weights", weights_of(checkpoint)),  # with training.average not those that are judged
        "optimizer_state_dict": state.get("optimizer", {}),
        "train_step": _last_epoch(progress["epoch"] + (progress["batch"] > 0)),
        "global_step": int(progress["step"]),
        "best_ndcg_10": float(progress["best"]),
        "best_epoch": _last_epoch(best["epoch"]),
    }


def _last_epoch(done: float) -> int:
    """The number, from 0, of the epoch that training was in when `done` epochs were over."""
    return max(0, math.ceil(done) - 1)


def _of_optimizer(run: RunSource) -> str:
    training = run.folder("train", NAME)
    if (training / progress_of(training)["last_checkpoint"] / STATE).is_file():
        return "`optimizer_state_dict` is that of AdamW over `model.parameters()`; the learning rate follows from the step."
    return (
        "`optimizer_state_dict` is empty: felid drops the optimiser's state when a training is over, unless the recipe says "
        "training.keep_state=true, as `liger` and `liger-short` do."
    )


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ArtifactError(f"{folder} has {len(found)} files {pattern}, expected one; leave the others out")
    return found[0]
