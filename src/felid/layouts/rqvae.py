"""An RQ-VAE as one state dict that reads item vectors as they are: encoder, decoder and codebooks by plain names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from felid.config import validate
from felid.errors import RequestError
from felid.layouts.source import RunSource
from felid.quantize.rqvae import RQVAEConfig
from felid.quantize.rqvae_training import Autoencoder


def check_rqvae(run: RunSource, layout: str) -> None:
    """Refuse a run without an RQ-VAE on text vectors whose levels have equally many codes.

    Raises:
        RequestError: the quantiser is another one, or its levels differ.
    """
    sizes = run.need_quantizer(layout, "rqvae", "an RQ-VAE")["sizes"]
    if len(set(sizes)) > 1:
        raise RequestError(
            f"layout {layout} holds the codebooks as one array, expected levels of equally many codes, {run.root} has "
            f"quantizer.sizes={sizes}; run `felid run` with equal sizes"
        )


def rqvae_state(run: RunSource) -> dict[str, Tensor]:
    """The network of a run's RQ-VAE as `encoder.*`, `decoder.*` (Linear, ReLU, Linear, ...) and `quantizer.codebooks` (L, K, D').

    The standardisation of the input is folded into the first and the last layer (in float64), so that the network reads and
    gives vectors in their own scale; otherwise it is what was trained.
    """
    config = validate(RQVAEConfig, run.settings("tokenize")["quantizer"])
    model = Autoencoder.load(run.quantizer_folder / "network.safetensors", config)
    state = {
        name: tensor.detach().clone()
        for name, tensor in model.network.state_dict().items()
        if name.startswith(("encoder.", "decoder."))
    }
    mean, scale = torch.from_numpy(model.mean).double(), torch.from_numpy(model.scale).double()
    last = 2 * len(config.hidden)
    weight = state["encoder.0.weight"].double() / scale
    state["encoder.0.bias"] = (state["encoder.0.bias"].double() - weight @ mean).float()
    state["encoder.0.weight"] = weight.float()
    state[f"decoder.{last}.weight"] = (state[f"decoder.{last}.weight"].double() * scale[:, None]).float()
    state[f"decoder.{last}.bias"] = (state[f"decoder.{last}.bias"].double() * scale + mean).float()
    state["quantizer.codebooks"] = torch.stack([torch.from_numpy(model.codebook(level)) for level in range(len(config.sizes))])
    return state


def rqvae_settings(run: RunSource) -> dict[str, Any]:
    """Widths and sizes of a run's RQ-VAE, as plain numbers."""
    settings = run.settings("tokenize")["quantizer"]
    return {
        "hidden_dims": list(settings["hidden"]),
        "latent_dim": settings["latent"],
        "codebook_size": settings["sizes"][0],
        "num_codebooks": len(settings["sizes"]),
        "commit_cost": settings["commitment_cost"],
    }
