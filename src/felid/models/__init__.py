"""Generative models: the union of their configs, and building, saving and loading them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from felid.artifacts import read_json, write_json
from felid.config import Config, as_tree, validate
from felid.errors import ArtifactError
from felid.models.base import GenerativeModel
from felid.models.lynx import Lynx, LynxConfig
from felid.models.tiger import Tiger, TigerConfig
from felid.semantic_ids import SemanticIds
from felid.tokens import TokenLayout

ModelConfig = Annotated[LynxConfig | TigerConfig, Field(discriminator="kind")]

__all__ = ["ModelConfig", "build_model", "load_model", "load_weights", "save_model"]


class _Saved(Config):
    model: ModelConfig
    sizes: tuple[int, ...]


def build_model(config: ModelConfig, ids: SemanticIds, embeddings: NDArray[np.float32]) -> GenerativeModel:
    """A model with random weights for a catalogue.

    Args:
        config: which model, and its sizes.
        ids: semantic IDs of the catalogue.
        embeddings: (N, E) float32 item vectors in the same row order (read by models that use content directly).
    """
    layout = TokenLayout(ids.sizes, config.user_buckets)
    codes = torch.from_numpy(ids.codes).long()
    match config:
        case LynxConfig():
            return Lynx(config, layout, codes, torch.from_numpy(np.ascontiguousarray(embeddings)))
        case TigerConfig():
            return Tiger(config, layout, codes)
        case _:
            assert_never(config)


def save_model(folder: Path, model: GenerativeModel) -> None:
    """Write `config.json` and `model.safetensors`."""
    write_json(folder / "config.json", {"model": as_tree(model.config), "sizes": list(model.layout.sizes)})
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")


def load_weights(folder: Path, model: GenerativeModel) -> None:
    """Copy the weights of a checkpoint into a model of the same shape."""
    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{path} does not fit this model ({' '.join(str(error).split())[:200]}); train again") from error


def load_model(folder: Path, ids: SemanticIds, embeddings: NDArray[np.float32]) -> GenerativeModel:
    """Read what `save_model` wrote, in evaluation mode; the catalogue must have the sizes the model was built for."""
    saved = validate(_Saved, read_json(folder / "config.json"))
    if saved.sizes != ids.sizes:
        raise ArtifactError(f"{folder} was trained for code sizes {saved.sizes}, the catalogue has {ids.sizes}; train again")
    model = build_model(saved.model, ids, embeddings)
    load_weights(folder, model)
    return model.eval()
