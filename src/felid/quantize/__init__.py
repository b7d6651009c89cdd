"""From item vectors to codes: one union of quantiser settings, and the collision level that makes IDs unique."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

from pydantic import Field

from felid.artifacts import read_json
from felid.errors import ArtifactError
from felid.quantize.base import Codes, Quantizer, distortion
from felid.quantize.controls import ItemNumberCodes, ItemNumberConfig, RandomCodes, RandomConfig
from felid.quantize.encoded import EncodedCodes, EncodedConfig
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

if TYPE_CHECKING:
    from felid.quantize.codebook import SemanticIDConfig, VectorQuantizer
    from felid.quantize.encoder import SemanticIDEncoder, SemanticIDEncoderInterface
    from felid.quantize.encoder_training import compute_codebook_utilization, start_codebooks, train_codebook
    from felid.quantize.residual import ResidualVectorQuantizer
else:
    _WITH_TORCH = {
        "SemanticIDConfig": "codebook",
        "VectorQuantizer": "codebook",
        "ResidualVectorQuantizer": "residual",
        "SemanticIDEncoder": "encoder",
        "SemanticIDEncoderInterface": "encoder",
        "compute_codebook_utilization": "encoder_training",
        "start_codebooks": "encoder_training",
        "train_codebook": "encoder_training",
    }

    def __getattr__(name: str) -> object:
        """Load torch with the first of these names, not with this package."""
        if name not in _WITH_TORCH:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)


QuantizerConfig = Annotated[
    RKMeansConfig | RQVAEConfig | PQConfig | EncodedConfig | RandomConfig | ItemNumberConfig,
    Field(discriminator="kind"),
]
"""Settings of any quantiser, told apart by `kind`."""

__all__ = [
    "PQ",
    "RQVAE",
    "Codes",
    "CollisionConfig",
    "EncodedCodes",
    "EncodedConfig",
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
    "ResidualVectorQuantizer",
    "Resolution",
    "SemanticIDConfig",
    "SemanticIDEncoder",
    "SemanticIDEncoderInterface",
    "SinkhornConfig",
    "SuffixConfig",
    "VectorQuantizer",
    "Vectors",
    "build_quantizer",
    "collision_statistics",
    "compute_codebook_utilization",
    "distortion",
    "load_quantizer",
    "resolve_collisions",
    "start_codebooks",
    "train_codebook",
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
        case EncodedConfig():
            return EncodedCodes(config)
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
        case "semantic-id-encoder":
            return EncodedCodes.load(folder)
        case "random":
            return RandomCodes.load(folder)
        case "item-number":
            return ItemNumberCodes.load(folder)
        case kind:
            raise ArtifactError(f"{folder} holds a quantiser of kind {kind!r}, which this version of felid does not know")
