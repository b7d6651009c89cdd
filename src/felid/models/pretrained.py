"""A model in a folder of its own: weights, settings and the catalogue it was built for.

The folder holds `config.json` and `model.safetensors` as a checkpoint does, `catalogue/` with `embeddings.npy`, `warm.npy`,
`counts.npy` where training interactions are known and, for models that read codes, `codes.npy` and `semantic_ids.json`, and
`manifest.json` with a digest of each file. It appears whole under its name; what is not whole was copied in part, and is
refused. What `fused` needs beside the model (weights chosen on validation, transition memory) belongs to a run and is not here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from felid.artifacts import MANIFEST, file_digest, read_json, recover_folder, replace_folder, versions, write_json
from felid.errors import ArtifactError
from felid.models import load_model, save_model
from felid.models.base import Catalogue, Model
from felid.semantic_ids import SemanticIds

KIND = "felid model"
CATALOGUE = "catalogue"

M = TypeVar("M", bound=Model)


def save_pretrained(model: Model, folder: Path) -> None:
    """Write a model with its catalogue; a model that was there before stays until the new one is whole."""
    folder = folder.resolve()
    recover_folder(folder)
    if folder.exists() and not _is_model(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} exists and holds no saved model; choose another folder")

    def fill(part: Path) -> None:
        (part / CATALOGUE).mkdir()
        save_model(part, model)
        _save_catalogue(part / CATALOGUE, model.catalogue)
        files = {str(path.relative_to(part)): file_digest(path) for path in sorted(part.rglob("*")) if path.is_file()}
        write_json(part / MANIFEST, {"kind": KIND, "files": files, "versions": versions()})

    replace_folder(folder, fill)


def from_pretrained(kind: type[M], folder: Path) -> M:
    """Read what `save_pretrained` wrote, in evaluation mode on the CPU.

    Args:
        kind: the class that is wanted; `Model` takes any.
        folder: where it lies.

    Raises:
        ArtifactError: not a saved model, not a whole one, or one of another kind.
    """
    folder = folder.resolve()
    recover_folder(folder)
    if not _is_model(folder):
        raise ArtifactError(f"{folder} holds no saved model; give a folder that model.save_pretrained wrote")
    for name, digest in read_json(folder / MANIFEST, ("files",))["files"].items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise ArtifactError(f"{folder / name} is missing or changed, so the saved model is not whole; save or copy it again")
    model = load_model(folder, _load_catalogue(folder / CATALOGUE))
    if not isinstance(model, kind):
        found = type(model).__name__
        raise ArtifactError(f"{folder} holds a {found}, expected a {kind.__name__}; use {found}.from_pretrained")
    return model


def _is_model(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and read_json(folder / MANIFEST).get("kind") == KIND


def _save_catalogue(folder: Path, catalogue: Catalogue) -> None:
    np.save(folder / "embeddings.npy", catalogue.embeddings)
    np.save(folder / "warm.npy", catalogue.warm)
    if catalogue.counts is not None:
        np.save(folder / "counts.npy", catalogue.counts)
    if catalogue.ids is not None:
        catalogue.ids.save(folder)


def _load_catalogue(folder: Path) -> Catalogue:
    embeddings: NDArray[np.float32] = np.load(folder / "embeddings.npy", allow_pickle=False)
    warm: NDArray[np.bool_] = np.load(folder / "warm.npy", allow_pickle=False)
    ids = SemanticIds.load(folder) if (folder / "semantic_ids.json").is_file() else None
    counts: NDArray[np.int64] | None = None
    if (folder / "counts.npy").is_file():
        counts = np.load(folder / "counts.npy", allow_pickle=False)
    return Catalogue(embeddings, warm, ids, counts)
