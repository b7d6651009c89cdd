"""From item vectors to codes: one union of quantiser settings, and the collision level that makes IDs unique."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from felid.artifacts import read_json
from felid.errors import ArtifactError
from felid.quantize.base import Codes, Quantizer, Vectors, distortion
from felid.quantize.resolve import CollisionConfig, append_collision_level, collision_statistics
from felid.quantize.rkmeans import RKMeans, RKMeansConfig

QuantizerConfig = RKMeansConfig
"""Settings of any quantiser: a union tagged by `kind` as soon as there are two."""

__all__ = [
    "Codes",
    "CollisionConfig",
    "Quantizer",
    "QuantizerConfig",
    "RKMeans",
    "RKMeansConfig",
    "Vectors",
    "append_collision_level",
    "build_quantizer",
    "collision_statistics",
    "distortion",
    "load_quantizer",
]


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """An unfitted quantiser."""
    match config:
        case RKMeansConfig():
            return RKMeans(config)
        case _:
            assert_never(config)


def load_quantizer(folder: Path) -> Quantizer:
    """Read a fitted quantiser of any kind; a folder without one is an `ArtifactError`."""
    meta = read_json(folder / "quantizer.json")
    match meta.get("kind"):
        case "rkmeans":
            return RKMeans.load(folder)
        case kind:
            raise ArtifactError(f"{folder} holds a quantiser of kind {kind!r}, which this version of felid does not know")
