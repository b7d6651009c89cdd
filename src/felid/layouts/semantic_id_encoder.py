"""Layout of the large-codebook encoder: a folder that `SemanticIDEncoder.from_pretrained` opens, with features and codes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from felid.artifacts import write_json
from felid.layouts.folder import read_json_as
from felid.layouts.imported import Imported, aligned, catalogue_ids, ids_of, mapping_of
from felid.layouts.source import RunSource
from felid.quantize.encoder import CONFIG, WEIGHTS, SemanticIDEncoder
from felid.quantize.encoder_training import compute_codebook_utilization
from felid.rows import load_array

NAME = "semantic-id-encoder"


def check(run: RunSource) -> None:
    """Refuse a run that lacks something; nothing is written yet.

    Raises:
        FelidError: no item vectors, or another quantiser.
    """
    run.need(NAME, "data", "embed", "tokenize")
    run.need_quantizer(NAME, "semantic-id-encoder", "a large-codebook encoder")


def write(run: RunSource, folder: Path) -> None:
    """Fill an existing folder."""
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(run.quantizer_folder / name, folder / name)
    features = run.vectors(normalized=True)
    np.save(folder / "item_features.npy", features)
    write_json(folder / "item_ids.json", run.item_ids)
    np.save(folder / "codes.npy", run.quantized.astype(np.int64))
    write_json(folder / "semantic_ids.json", mapping_of(run.ids))
    usage = compute_codebook_utilization(SemanticIDEncoder.from_pretrained(folder), features)
    write_json(folder / "codebook_utilization.json", usage)


def read(folder: Path) -> Imported:
    """Features and IDs of such a folder; it has no interactions.

    Raises:
        ArtifactError: a file is missing or damaged, or files do not belong together.
    """
    named, mapping = read_json_as(folder / "item_ids.json", list), read_json_as(folder / "semantic_ids.json", dict)
    item_ids = catalogue_ids(named)
    vectors = load_array(folder / "item_features.npy", (len(named), None), "felid export")
    rows = aligned(folder, "item_features.npy", named, vectors.astype(np.float32), item_ids)
    aligned(folder, "semantic_ids.json", list(mapping), np.zeros(len(mapping)), item_ids)
    return Imported(item_ids, rows, ids_of(folder, [mapping[str(item)] for item in item_ids.tolist()], item_ids))


def readme(run: RunSource) -> list[str]:
    """What a reader of the folder must know beside the names."""
    return [
        "`SemanticIDEncoder.from_pretrained(FOLDER)` opens `config.json` and `model.safetensors`; "
        "`l1, l2, l3 = encoder.encode(np.load('item_features.npy'))` are the columns of `codes.npy` (int64).",
        f"`item_features.npy` (float32) are the vectors of `{run.encoder_name}` at unit length, row = item in `item_ids.json`.",
        "`semantic_ids.json` has the IDs that models read, with a last code for items that share the others.",
        "`codebook_utilization.json` is what `compute_codebook_utilization` says of these features.",
    ]
