"""Layout of re-TIGER, a reproduction of TIGER: one processed folder that its RQ-VAE and sequence training read and write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from felid.artifacts import read_json, write_json
from felid.data.histories import Cuts
from felid.errors import ArtifactError, RequestError
from felid.layouts.folder import load_tensors, read_json_as, read_json_lines, save_tensors, weights_of, write_json_lines
from felid.layouts.imported import Imported, aligned, catalogue_ids, dataset_of, ids_of, mapping_of, typed
from felid.layouts.rqvae import check_rqvae, rqvae_settings, rqvae_state
from felid.layouts.source import RunSource, progress_of
from felid.rows import load_array

NAME = "re-tiger"
EVENT = ("user_id", "item_id", "timestamp")
PARTS = ("train", "valid", "test")


def check(run: RunSource) -> None:
    """Refuse a run that lacks something; nothing is written yet.

    Raises:
        FelidError: no item vectors, no RQ-VAE on text that began with k-means, or a split whose parts lack interactions.
    """
    run.need(NAME, "data", "embed", "tokenize")
    check_rqvae(run, NAME)
    run.start_codebooks(NAME)
    written = {str(item) for item in run.item_ids}
    if len(written) < len(run.item_ids):
        raise RequestError(f"layout {NAME} writes ids as text, and some of {run.root} are equal as text; rename these items")
    _check_nothing_lost(run)


def write(run: RunSource, folder: Path) -> None:
    """Fill an existing folder."""
    item_ids = [str(item) for item in run.item_ids]
    texts = zip(item_ids, run.texts(), strict=True)
    write_json_lines(folder / "item_text.jsonl", ({"item_id": item, "text": text} for item, text in texts))
    _write_parts(run, item_ids, folder)
    np.save(folder / "sentence_t5_embeddings.npy", run.vectors(normalized=True))
    write_json(folder / "sentence_t5_item_ids.json", item_ids)
    _write_rqvae(run, folder)
    write_json(folder / "semantic_ids.json", mapping_of(run.ids))
    groups: dict[str, list[str]] = {}
    for item, codes in zip(item_ids, run.ids.codes.tolist(), strict=True):
        groups.setdefault(",".join(map(str, codes)), []).append(item)
    write_json(folder / "semantic_id_to_item.json", groups)
    (folder / "logs").mkdir()
    write_json_lines(folder / "logs" / "rqvae.jsonl", run.quantizer_log)
    if "train" in run.stages:
        training = run.folder("train", NAME)
        progress = progress_of(training)
        write_json_lines(folder / "logs" / "seq2seq.jsonl", progress["curve"])
        checkpoint = training / progress["best_checkpoint"]
        settings = read_json(checkpoint / "config.json")
        save_tensors(folder / "seq2seq.pt", {"model": weights_of(checkpoint), "config": settings})


def read(folder: Path) -> Imported:
    """The content of such a folder, felid's or re-TIGER's own.

    Raises:
        ArtifactError: a file is missing or damaged, or files do not belong together.
    """
    items = read_json_lines(folder / "item_text.jsonl", ("item_id", "text"))
    texts = dict(zip(typed(item["item_id"] for item in items), (item["text"] for item in items), strict=True))
    real = read_json_as(folder / "stats.json", dict).get("timestamp") != "position"
    records = [record for part in PARTS for record in _events(folder / f"{part}.jsonl")]
    users = typed(record["user_id"] for record in records)
    events = [
        (user, record["item_id"], record["timestamp"] if real else None) for user, record in zip(users, records, strict=True)
    ]
    dataset = dataset_of(folder.name, events, {item: {"text": text} for item, text in texts.items()})
    item_ids = catalogue_ids(list(texts))
    named = read_json_as(folder / "sentence_t5_item_ids.json", list)
    vectors = load_array(folder / "sentence_t5_embeddings.npy", (len(named), None), "felid export")
    mapping = read_json_as(folder / "semantic_ids.json", dict)
    missing = [item for item in item_ids.tolist() if str(item) not in mapping]
    if missing:
        raise ArtifactError(f"{folder / 'semantic_ids.json'} lacks {len(missing)} items (first: {missing[0]!r}); export it again")
    ids = ids_of(folder, [mapping[str(item)] for item in item_ids.tolist()], item_ids)
    rows = aligned(folder, "sentence_t5_embeddings.npy", named, vectors.astype(np.float32), item_ids)
    return Imported(item_ids, rows, ids, dataset)


def load_rqvae(folder: Path) -> dict[str, torch.Tensor]:
    """The RQ-VAE of such a folder: `encoder.*`, `decoder.*` and `quantizer.codebooks`."""
    state: dict[str, torch.Tensor] = load_tensors(folder / "rqvae.pt", ("model",))["model"]
    return state


def readme(run: RunSource) -> list[str]:
    """What a reader of the folder must know beside the names."""
    times = "unix seconds" if _times(run)[1] else "the place in the user's order, since the data have no (usable) times"
    return [
        f"`sentence_t5_embeddings.npy` keeps its name whatever made the vectors: here `{run.encoder_name}`, at unit length.",
        f"`timestamp` is {times}. `train.jsonl` is what the model was trained on; items that are held out are not in it.",
        "`rqvae.pt` holds `model`: `encoder.*`, `decoder.*` (Linear and ReLU in turn) and `quantizer.codebooks` (L, K, D). The "
        "standardisation of the input is folded in: it reads `sentence_t5_embeddings.npy` as it is.",
        "`rqvae_codebooks.pt` holds the k-means start, before training, in the latent space of the network's first weights.",
        "Every item has a code for collisions, 0 for an item alone; re-TIGER appends one to items that collide only.",
        "`seq2seq.pt`, where the run has a model, holds felid's weights under felid's names; `felid recommend` opens the run.",
    ]


def _check_nothing_lost(run: RunSource) -> None:
    """Refuse users who took items that neither train nor are targets: whoever reads the three files back would miss them."""
    lengths = run.split.sequences.lengths
    cuts = run.split.cuts or Cuts.last_two(lengths)
    lost = int((lengths - cuts.train - (cuts.validation >= 0) - (cuts.test >= 0)).sum())
    if lost:
        raise RequestError(
            f"layout {NAME} has what trains and a validation and a test item per user, {run.root} has {lost} interactions that "
            f"are neither ({cuts.rule}); run `felid run` with split.kind=leave-one-out, or export another layout"
        )


def _write_parts(run: RunSource, item_ids: list[str], folder: Path) -> None:
    split, sequences = run.split, run.split.sequences
    times, real = _times(run)
    cuts = split.cuts or Cuts.last_two(sequences.lengths)
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    trains = np.arange(len(users)) - sequences.offsets[users] < cuts.train[users]
    if split.held_out is not None:
        trains &= ~split.held_out.either[sequences.items]
    rows = {"train": np.flatnonzero(trains)}
    rows |= {
        part: (sequences.offsets[:-1] + place)[place >= 0] for part, place in (("valid", cuts.validation), ("test", cuts.test))
    }
    names = [str(user) for user in sequences.user_ids.tolist()]

    def records(chosen: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        for row in chosen.tolist():
            yield dict(zip(EVENT, (names[users[row]], item_ids[sequences.items[row]], times[row]), strict=True))

    for part in PARTS:
        write_json_lines(folder / f"{part}.jsonl", records(rows[part]))
    counts = {"num_users": len(sequences), "num_items": len(item_ids)}
    stats = counts | {f"num_{part}": len(rows[part]) for part in PARTS}
    write_json(folder / "stats.json", {**stats, "timestamp": "unix seconds" if real else "position"})


def _events(path: Path) -> list[dict[str, Any]]:
    """The records of a part, oldest first."""
    records = read_json_lines(path, EVENT)
    wrong = [number for number, record in enumerate(records, 1) if not isinstance(record["timestamp"], int | float)]
    if wrong:
        raise ArtifactError(f"line {wrong[0]} of {path} has a timestamp that is no number; write seconds, or places in the order")
    return sorted(records, key=lambda record: float(record["timestamp"]))


def _times(run: RunSource) -> tuple[list[int | float], bool]:
    """One time per interaction in the order of the sequences, and whether they are times; else they are places."""
    frame = run.dataset.interactions
    places: list[int | float] = frame["position"].to_list()
    if "timestamp" not in frame.columns:
        return places, False
    times = frame["timestamp"].to_numpy()
    within = np.diff(np.repeat(np.arange(len(run.split.sequences)), run.split.sequences.lengths)) == 0
    if (np.diff(times)[within] < 0).any():  # the order is not that of the times: reading by time would change histories
        return places, False
    return [int(time) if float(time).is_integer() else float(time) for time in times.tolist()], True


def _write_rqvae(run: RunSource, folder: Path) -> None:
    save_tensors(folder / "rqvae.pt", {"model": rqvae_state(run), "config": rqvae_settings(run)})
    start = torch.stack([torch.from_numpy(codebook) for codebook in run.start_codebooks(NAME)])
    levels, size, width = start.shape
    content = {"codebooks": start, "codebook_size": size, "num_codebooks": levels, "latent_dim": width}
    save_tensors(folder / "rqvae_codebooks.pt", content)
