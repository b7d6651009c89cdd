"""Recommender models: the union of their configs, and building, saving and loading them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, assert_never

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from felid.artifacts import read_json, write_json
from felid.config import Config, as_tree, validate
from felid.errors import ArtifactError
from felid.models.base import Catalogue, Model
from felid.models.generative import GenerativeModel
from felid.models.liger import Liger, LigerConfig
from felid.models.lynx import Lynx, LynxConfig
from felid.models.sasrec import SASRec, SASRecConfig
from felid.models.tiger import Tiger, TigerConfig

ModelConfig = Annotated[LynxConfig | TigerConfig | SASRecConfig | LigerConfig, Field(discriminator="kind")]

__all__ = ["ModelConfig", "build_model", "load_model", "load_weights", "save_model"]


class _Saved(Config):
    model: ModelConfig
    sizes: tuple[int, ...] | None


def build_model(config: ModelConfig, catalogue: Catalogue) -> Model:
    """A model with random weights for a catalogue."""
    match config:
        case LynxConfig():
            return Lynx(config, catalogue)
        case TigerConfig():
            return Tiger(config, catalogue)
        case SASRecConfig():
            return SASRec(config, catalogue)
        case LigerConfig():
            return Liger(config, catalogue)
        case _:
            assert_never(config)


def save_model(folder: Path, model: Model) -> None:
    """Write `config.json` and `model.safetensors`."""
    write_json(
        folder / "config.json",
        {"model": as_tree(model.config), "sizes": list(model.layout.sizes) if isinstance(model, GenerativeModel) else None},
    )
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")


def load_weights(folder: Path, model: Model) -> None:
    """Copy the weights of a checkpoint into a model of the same shape."""
    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{path} does not fit this model ({' '.join(str(error).split())[:200]}); train again") from error


def load_model(folder: Path, catalogue: Catalogue) -> Model:
    """Read what `save_model` wrote, in evaluation mode; the catalogue must have the sizes the model was built for."""
    saved = validate(_Saved, read_json(folder / "config.json"))
    sizes = None if catalogue.ids is None else catalogue.ids.sizes
    if saved.sizes is not None and saved.sizes != sizes:
        raise ArtifactError(f"{folder} was trained for code sizes {saved.sizes}, the catalogue has {sizes}; train again")
    model = build_model(saved.model, catalogue)
    load_weights(folder, model)
    return model.eval()
