"""From item vectors to codes: one union of quantiser settings, and the collision level that makes IDs unique."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, assert_never

from pydantic import Field

from felid.artifacts import read_json
from felid.errors import ArtifactError
from felid.quantize.base import Codes, Quantizer, distortion
from felid.quantize.controls import ItemNumberCodes, ItemNumberConfig, RandomCodes, RandomConfig
from felid.quantize.pq import PQ, PQConfig
from felid.quantize.resolve import (
    CollisionConfig,
    NearestFreeConfig,
    NoCollisionConfig,
    Resolution,
    SinkhornConfig,
    SuffixConfig,
    collision_statistics,
    resolve_collisions,
)
from felid.quantize.rkmeans import RKMeans, RKMeansConfig
from felid.quantize.rqvae import RQVAE, RQVAEConfig
from felid.rows import Vectors

QuantizerConfig = Annotated[RKMeansConfig | RQVAEConfig | PQConfig | RandomConfig | ItemNumberConfig, Field(discriminator="kind")]
"""Settings of any quantiser, told apart by `kind`."""

__all__ = [
    "PQ",
    "RQVAE",
    "Codes",
    "CollisionConfig",
    "ItemNumberCodes",
    "ItemNumberConfig",
    "NearestFreeConfig",
    "NoCollisionConfig",
    "PQConfig",
    "Quantizer",
    "QuantizerConfig",
    "RKMeans",
    "RKMeansConfig",
    "RQVAEConfig",
    "RandomCodes",
    "RandomConfig",
    "Resolution",
    "SinkhornConfig",
    "SuffixConfig",
    "Vectors",
    "build_quantizer",
    "collision_statistics",
    "distortion",
    "load_quantizer",
    "resolve_collisions",
]


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """An unfitted quantiser."""
    match config:
        case RKMeansConfig():
            return RKMeans(config)
        case RQVAEConfig():
            return RQVAE(config)
        case PQConfig():
            return PQ(config)
        case RandomConfig():
            return RandomCodes(config)
        case ItemNumberConfig():
            return ItemNumberCodes(config)
        case _:
            assert_never(config)


def load_quantizer(folder: Path) -> Quantizer:
    """Read a fitted quantiser of any kind; a folder without one is an `ArtifactError`."""
    meta = read_json(folder / "quantizer.json")
    match meta.get("kind"):
        case "rkmeans":
            return RKMeans.load(folder)
        case "rqvae":
            return RQVAE.load(folder)
        case "pq":
            return PQ.load(folder)
        case "random":
            return RandomCodes.load(folder)
        case "item-number":
            return ItemNumberCodes.load(folder)
        case kind:
            raise ArtifactError(f"{folder} holds a quantiser of kind {kind!r}, which this version of felid does not know")
