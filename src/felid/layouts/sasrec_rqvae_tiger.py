"""Layout of the pipeline SASRec -> RQ-VAE with a collaborative loss -> IDs as tokens -> TIGER: data, checkpoints, logs."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from felid.artifacts import read_json, write_json
from felid.embedding.pickles import read_pickle
from felid.errors import ArtifactError, RequestError
from felid.layouts.folder import load_tensor, read_json_as, save_pickle, save_tensors, weights_of
from felid.layouts.imported import Imported, aligned, catalogue_ids, ids_of
from felid.layouts.numbering import DATAMAPS, read_items, read_sequences, write_datamaps, write_sequences
from felid.layouts.rqvae import check_rqvae, rqvae_settings, rqvae_state
from felid.layouts.source import Record, RunSource, progress_of

NAME = "sasrec-rqvae-tiger"
TOKEN = re.compile(r"<([a-z])_([0-9]{1,9})>")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def check(run: RunSource) -> None:
    """Refuse a run that lacks something; nothing is written yet.

    Raises:
        FelidError: no SASRec before the codes, no RQ-VAE on text, no TIGER, more levels than letters, or no TensorBoard.
    """
    run.need(NAME, "data", "embed", "tokenize", "train")
    check_rqvae(run, NAME)
    run.warmup(NAME)
    kind = run.settings("train")["model"]["kind"]
    if kind != "tiger":
        raise RequestError(
            f"layout {NAME} holds a TIGER (model.kind=tiger), {run.root} has model.kind={kind}; run `felid run` with it"
        )
    if run.ids.num_levels > len(LETTERS):
        raise RequestError(f"layout {NAME} has a letter per level, at most {len(LETTERS)}; {run.root} has {run.ids.num_levels}")
    if find_spec("tensorboard") is None:
        raise RequestError(f"layout {NAME} holds TensorBoard logs and tensorboard is not installed; pip install 'felid[track]'")


def write(run: RunSource, folder: Path) -> None:
    """Fill an existing folder."""
    data, checkpoints = folder / "data", folder / "checkpoints"
    write_sequences(data / "all_data.txt", run)
    write_datamaps(data / DATAMAPS, run)
    save_pickle(data / "final_data_reduced.pkl", run.vectors(normalized=True))
    sequences = run.split.sequences
    write_json(data / "inter.json", {str(user): sequences[user].tolist() for user in range(len(sequences))})
    warmup, training = run.warmup(NAME), run.folder("train", NAME)
    known = np.load(warmup / "item_vectors" / "known.npy")
    vectors = np.load(warmup / "item_vectors" / "raw.npy")
    content = {"embeddings": torch.from_numpy(vectors), "known": torch.from_numpy(known)}
    save_tensors(checkpoints / "sasrec_embeddings.pt", content)
    save_tensors(checkpoints / "rqvae.pt", {"model": rqvae_state(run), "config": rqvae_settings(run)})
    tokens = {str(item): tokens_of(codes) for item, codes in enumerate(run.ids.codes.tolist())}
    write_json(checkpoints / "semantic_ids.json", tokens)
    for name, place in (("sasrec", warmup), ("tiger", training)):
        checkpoint = place / progress_of(place)["best_checkpoint"]
        state = {"model": weights_of(checkpoint), "config": read_json(checkpoint / "config.json")}
        save_tensors(checkpoints / f"{name}.pt", state)
    logs = {"sasrec": progress_of(warmup)["curve"], "rqvae": run.quantizer_log, "tiger": progress_of(training)["curve"]}
    for name, records in logs.items():
        _write_events(folder / "tensorboard_logs" / name, records)


def read(folder: Path) -> Imported:
    """The content of such a folder; of another program's, `datamaps.json` may be missing.

    Raises:
        FelidError: a file is missing or damaged, or files do not belong together.
    """
    data = folder / "data"
    vectors = read_pickle(data / "final_data_reduced.pkl")[1]
    named = read_items(data / DATAMAPS, len(vectors))
    dataset = read_sequences(data / "all_data.txt", data / DATAMAPS, named)
    mapping = read_json_as(folder / "checkpoints" / "semantic_ids.json", dict)
    numbers = [str(item) for item in range(len(vectors))]
    if set(mapping) != set(numbers):
        raise ArtifactError(f"checkpoints/semantic_ids.json has {len(mapping)} items, expected 0 to {len(vectors) - 1}")
    item_ids = catalogue_ids(named)
    codes = {str(item): codes_of(number, mapping[number]) for item, number in zip(named, numbers, strict=True)}
    ids = ids_of(folder, [codes[str(item)] for item in item_ids.tolist()], item_ids)
    rows = aligned(folder, "data/final_data_reduced.pkl", named, vectors.astype(np.float32), item_ids)
    return Imported(item_ids, rows, ids, dataset)


def load_sasrec_vectors(folder: Path) -> torch.Tensor:
    """(N, D) float32 SASRec's item vectors, a row of NaN for an item that has none."""
    return load_tensor(folder / "checkpoints" / "sasrec_embeddings.pt", "embeddings")


def tokens_of(codes: list[int]) -> list[str]:
    """Codes as tokens, a letter per level: `[42, 15]` -> `["<a_42>", "<b_15>"]`."""
    return [f"<{letter}_{code}>" for letter, code in zip(LETTERS, codes, strict=False)]


def codes_of(item: str, tokens: object) -> list[int]:
    """The way back.

    Raises:
        ArtifactError: something else than tokens with the letters in order.
    """
    found = [TOKEN.fullmatch(str(token)) for token in tokens] if isinstance(tokens, list) else [None]
    codes = [int(match[2]) for match, letter in zip(found, LETTERS, strict=False) if match and match[1] == letter]
    if len(codes) < len(found) or not codes:
        raise ArtifactError(f'item {item} has {tokens!r}, expected tokens such as ["<a_42>", "<b_7>"], the letters in order')
    return codes


def readme(run: RunSource) -> list[str]:
    """What a reader of the folder must know beside the names."""
    return [
        "`data/all_data.txt` has one line per user, `user item item ...`, oldest first, users and items numbered from 1; "
        f"`data/{DATAMAPS}` leads back to the ids of the data.",
        f"`data/final_data_reduced.pkl` is a float32 matrix (items, width) of the vectors of `{run.encoder_name}` at unit "
        "length, row = item number - 1: a pickle of one NumPy array.",
        "`data/inter.json` is the conversion for TIGER: user -> items, numbered from 0, as in `checkpoints/semantic_ids.json`.",
        "`checkpoints/sasrec_embeddings.pt` holds `embeddings` (items, width), NaN for items without training interactions, and "
        "`known`. `rqvae.pt` reads `final_data_reduced.pkl` as it is. `sasrec.pt` and `tiger.pt` hold felid's weights, by "
        "felid's names.",
        "`tensorboard_logs/` has the curves of all three trainings: `tensorboard --logdir tensorboard_logs`.",
    ]


def _write_events(folder: Path, records: list[Record]) -> None:
    """TensorBoard scalars of a training's records; values of several levels get one curve per level."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        for record in records:
            step = int(record["step"] if "step" in record else record["epoch"])
            for name, value in _scalars(record):
                writer.add_scalar(name, value, step)


def _scalars(record: Record) -> list[tuple[str, float]]:
    found: list[tuple[str, Any]] = []
    for name, value in record.items():
        if name not in ("step", "epoch"):
            found += [(f"{name}/{level}", one) for level, one in enumerate(value)] if isinstance(value, list) else [(name, value)]
    return [(name, float(value)) for name, value in found]
