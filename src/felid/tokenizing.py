"""The tokenise stage: its settings, and what its quantiser learns from. The pipeline runs it, the report repeats it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from felid.artifacts import Artifact, build
from felid.config import Config
from felid.data.histories import LeaveOneOut
from felid.embedding.collaborative import CollaborativeConfig, collaborative_vectors
from felid.errors import SemanticIdError
from felid.progress import stage_line
from felid.quantize import (
    CollisionConfig,
    NoCollisionConfig,
    QuantizerConfig,
    build_quantizer,
)
from felid.quantize.base import FitContext, load_codebooks, save_codebooks
from felid.quantize.catalogue import ColdConfig, TokenizeConfig, fit_rows, identify_catalogue, quantize_catalogue
from felid.quantize.rqvae import RQVAE, START_FIELDS, RQVAEConfig
from felid.rows import Rows, Vectors
from felid.semantic_ids import SemanticIds


class TokenizeSettings(Config):
    """The sections of a recipe that decide the semantic IDs, given item vectors and training interactions.

    Defaults and meanings are those of `felid.recipe.Recipe`.
    """

    quantizer: QuantizerConfig
    collision: CollisionConfig
    collaborative: CollaborativeConfig | None
    tokenize: TokenizeConfig
    cold: ColdConfig

    @property
    def start_settings(self) -> dict[str, Any] | None:
        """What the first codebooks depend on; None for quantisers without a start of their own."""
        if not isinstance(self.quantizer, RQVAEConfig) or self.quantizer.start != "kmeans":
            return None
        sections = self.model_dump(mode="json", include={"tokenize", "cold"})
        return sections | {"quantizer": self.quantizer.model_dump(mode="json", include=set(START_FIELDS))}

    def check_trainable(self) -> None:
        """Refuse training on shared IDs unless it is asked for.

        Raises:
            SemanticIdError: collisions are left as they are.
        """
        if isinstance(self.collision, NoCollisionConfig) and not self.collision.allow_training:
            raise SemanticIdError(
                "collision.kind=none leaves several items with one ID, which is for analysis; resolve collisions (suffix, "
                "nearest-free, sinkhorn), or set collision.allow_training=true: the items of an ID are then ranked in the "
                "order of the catalogue"
            )

    def learnable(self, warm: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(N,) the items that what is fitted on texts and vectors may see; `warm` marks those with training interactions."""
        return np.ones_like(warm) if self.cold.quantizer_fit == "all" else warm

    def fit_rows(self, warm: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(N',) item_index of the items that the quantiser learns from."""
        return fit_rows(self.learnable(warm), self.tokenize)

    def context(self, split: LeaveOneOut, item_ids: NDArray[np.generic], rows: NDArray[np.int64]) -> FitContext:
        """What the quantiser learns from besides the vectors of `rows`: behaviour in the training part, if that is asked for."""
        if self.collaborative is None:
            return FitContext(items=rows)
        train = split.train()
        vectors = collaborative_vectors(self.collaborative, item_ids, train.items, train.offsets)
        return FitContext(items=rows, collaborative=vectors[rows])


@dataclass(frozen=True, eq=False)
class TokenizeStage:
    """The stage at work: codebooks to start from, then codes, then semantic IDs, each an artifact of its own.

    So the start can be looked at before anything is trained, and another way to resolve collisions fits nothing again.

    Attributes:
        settings: the recipe's sections.
        root: the run folder, which the caller has locked.
        inputs: digests of the data, the vectors and of files outside the run folder.
        vectors: (N, D) item vectors, row = item_index.
        split: the users' histories.
        item_ids: (N,) ids, ascending.
        console: where progress goes.
        fresh: make everything again.
    """

    settings: TokenizeSettings
    root: Path
    inputs: Mapping[str, str]
    vectors: Rows
    split: LeaveOneOut
    item_ids: NDArray[np.generic]
    console: Console
    fresh: bool = False

    @cached_property
    def warm(self) -> NDArray[np.bool_]:
        return self.split.warm_items(len(self.item_ids))

    @cached_property
    def start(self) -> Artifact | None:
        """The codebooks to start from, `codebook_<level>.npy`; None for quantisers without such a start."""
        settings = self.settings.start_settings
        return None if settings is None else self._build("start", settings, self.inputs, self._start)

    @cached_property
    def codes(self) -> Artifact:
        """The fitted quantiser and the codes of all items."""
        sections = self.settings.model_dump(mode="json", exclude={"collision"})
        inputs = {**self.inputs, "start": self.start.digest} if self.start else self.inputs
        return self._build("quantize", sections, inputs, self._quantize)

    def identify(self, folder: Path) -> SemanticIds:
        """Fill the folder of the tokenise stage: semantic IDs, with the quantiser and codes that they came from."""
        learnt = self.settings.learnable(self.warm)
        return identify_catalogue(self.codes.path, self.settings.collision, self.vectors, self.item_ids, learnt, folder)

    def load_start(self) -> tuple[Vectors, ...] | None:
        return load_codebooks(self.start.path, self.settings.quantizer.sizes) if self.start else None

    def _build(self, part: str, settings: object, inputs: Mapping[str, str], work: Callable[[Path], None]) -> Artifact:
        artifact, reused = build(self.root, part, settings, inputs, work, fresh=self.fresh)
        seconds = None if reused else artifact.manifest["wall_seconds"]
        self.console.print(stage_line(part, seconds, artifact.path), soft_wrap=True)
        return artifact

    def _start(self, folder: Path) -> None:
        assert isinstance(self.settings.quantizer, RQVAEConfig)
        rows = self.settings.fit_rows(self.warm)
        save_codebooks(folder, RQVAE(self.settings.quantizer).start_codebooks(self.vectors[rows]))

    def _quantize(self, folder: Path) -> None:
        rows = self.settings.fit_rows(self.warm)
        if len(rows) < self.settings.learnable(self.warm).sum():
            self.console.print(f"  learning from {len(rows):,} items drawn at random (tokenize.max_fit_items)", soft_wrap=True)
        context = replace(self.settings.context(self.split, self.item_ids, rows), start=self.load_start())
        quantize_catalogue(build_quantizer(self.settings.quantizer), self.vectors, folder, context, self.console)
