"""Item vectors from a short training of a dense model, before there are any codes: what codes can be made of.

Such a vector joins what the item's text says with what its users did. For items without training interactions it is the text
alone; for items with few of them the text has most of the say, because `own_prior` shrinks what is their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from felid.config import Config, as_tree, merge
from felid.embedding.collaborative import CooccurrenceConfig
from felid.embedding.precomputed import PrecomputedConfig
from felid.models.sasrec import SASRecConfig
from felid.training import TrainingConfig

MODEL = SASRecConfig(
    width=128, layers=1, heads=4, feed_forward=512, positions="relative", text=True, own_dropout=0.2, own_prior=4
)
TRAINING = TrainingConfig(batch_targets=512, learning_rate=3e-3, epochs=8)


class WarmupConfig(Config):
    """Settings of a warm-up training. What is not given differs from the defaults of its classes: see `MODEL`, `TRAINING`."""

    kind: Literal["warmup"] = "warmup"
    """Tag of this source."""
    model: SASRecConfig = MODEL
    """The model; without `text` items that nobody took in training have no vector."""
    training: TrainingConfig = TRAINING
    """Its training loop; the validation part decides when it stops and which checkpoint the vectors come from."""
    seed: int = Field(0, ge=0)
    """Seed of its first weights, dropout and batch order; not that of the recipe, so that its seeds share their codes."""

    @field_validator("model", "training", mode="before")
    @classmethod
    def _complete(cls, given: object, info: ValidationInfo) -> object:
        defaults = {"model": MODEL, "training": TRAINING}[info.field_name or ""]
        return merge(as_tree(defaults), given) if isinstance(given, Mapping) else given


CollaborativeConfig = Annotated[PrecomputedConfig | CooccurrenceConfig | WarmupConfig, Field(discriminator="kind")]


def warm_vectors(folder: Path) -> PrecomputedConfig:
    """The item vectors that a warm-up left: a row of NaN for an item that has none."""
    vectors = folder / "item_vectors"
    return PrecomputedConfig(vectors=vectors / "raw.npy", ids=vectors / "item_ids.json")
