"""The tokenise stage: its settings, and what its quantiser learns from. The pipeline runs it, the report repeats it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from felid.artifacts import Artifact, build, key_of
from felid.config import Config, as_tree
from felid.data.histories import LeaveOneOut
from felid.embedding.collaborative import CooccurrenceConfig, collaborative_vectors
from felid.embedding.precomputed import PrecomputedConfig, check_unseen
from felid.errors import EmbeddingError, SemanticIdError
from felid.fitting import Fitting
from felid.models.base import Catalogue
from felid.progress import stage_line
from felid.quantize import (
    CollisionConfig,
    NoCollisionConfig,
    QuantizerConfig,
    build_quantizer,
)
from felid.quantize.base import FitContext, LogRecord, load_codebooks, save_codebooks
from felid.quantize.catalogue import ColdConfig, TokenizeConfig, fit_rows, identify_catalogue, quantize_catalogue
from felid.quantize.rqvae import RQVAE, START_FIELDS, RQVAEConfig
from felid.rows import Rows, Vectors
from felid.semantic_ids import SemanticIds
from felid.tracking import NO_TRACKING, Tracking
from felid.warmup import CollaborativeConfig, WarmupConfig, warm_vectors


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
        sections = self.model_dump(mode="json", include={"tokenize", "cold", "collaborative"})
        return sections | {"quantizer": self.quantizer.model_dump(mode="json", include=set(START_FIELDS))}

    @property
    def aligns(self) -> bool:
        """Whether the quantiser learns from behaviour beside the vectors that it quantises."""
        return isinstance(self.quantizer, RQVAEConfig) and self.quantizer.alignment_weight > 0

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


@dataclass(frozen=True, eq=False)
class Material:
    """What codes are made of.

    Attributes:
        settings: the recipe's sections.
        text: (N, D) item vectors from text at unit length, row = item_index.
        split: the users' histories.
        item_ids: (N,) ids, ascending.
        warmup: folder that a warm-up training left; None where there was none.
    """

    settings: TokenizeSettings
    text: Rows
    split: LeaveOneOut
    item_ids: NDArray[np.generic]
    warmup: Path | None = None

    @cached_property
    def warm(self) -> NDArray[np.bool_]:
        return self.split.warm_items(len(self.item_ids))

    @cached_property
    def behaviour(self) -> Vectors:
        """(N, Dc) item vectors from behaviour in the training part, a row of NaN for an item that has none.

        Raises:
            EmbeddingError: see `collaborative_vectors` and `check_unseen`.
        """
        train = self.split.train()
        match self.settings.collaborative:
            case PrecomputedConfig() as config:
                check_unseen(config, self.item_ids, self.warm)
                return collaborative_vectors(config, self.item_ids, train.items, train.offsets)
            case CooccurrenceConfig() as config:
                return collaborative_vectors(config, self.item_ids, train.items, train.offsets)
            case WarmupConfig():
                assert self.warmup is not None
                return collaborative_vectors(warm_vectors(self.warmup), self.item_ids, train.items, train.offsets)
            case None:
                return np.full((len(self.item_ids), 1), np.nan, np.float32)
            case _ as never:
                assert_never(never)

    @cached_property
    def vectors(self) -> Rows:
        """(N, D) what is quantised.

        Raises:
            EmbeddingError: it is to be behaviour, and some item has no vector from it.
        """
        if self.settings.tokenize.vectors == "text":
            return self.text
        without = np.flatnonzero(np.isnan(self.behaviour).any(1))
        if len(without):
            raise EmbeddingError(
                f"{len(without)} of {len(self.item_ids)} items have no vector from behaviour (first: "
                f"{self.item_ids[without].tolist()[0]!r}), tokenize.vectors=collaborative expects one of each; set "
                "collaborative.kind=warmup, whose model reads text, or tokenize.vectors=text"
            )
        return self.behaviour

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(N',) item_index of the items that the quantiser learns from."""
        return self.settings.fit_rows(self.warm)

    def context(self) -> FitContext:
        """What the quantiser learns from besides the vectors of `rows`: behaviour, if that is asked for."""
        return FitContext(items=self.rows, collaborative=self.behaviour[self.rows] if self.settings.aligns else None)


@dataclass(frozen=True, eq=False)
class TokenizeStage:
    """The stage at work: item vectors from a warm-up, codebooks to start from, codes, semantic IDs, each an artifact of its own.

    So the start can be looked at before anything is trained, and another way to resolve collisions fits nothing again.

    Attributes:
        given: what codes are made of, but for the warm-up, which is made here.
        root: the run folder, which the caller has locked.
        inputs: digests of the data, the vectors, what is held out, and of files outside the run folder.
        exclude_seen: whether the validation of a warm-up removes the items of the history.
        console: where progress goes.
        fresh: make everything again.
        tracking: who is told of the curves.
    """

    given: Material
    root: Path
    inputs: Mapping[str, str]
    exclude_seen: bool
    console: Console
    fresh: bool = False
    tracking: Tracking = NO_TRACKING

    @property
    def settings(self) -> TokenizeSettings:
        return self.given.settings

    @cached_property
    def warmup(self) -> Artifact | None:
        """The warm-up training with its item vectors; None for recipes without."""
        config = self.settings.collaborative
        if not isinstance(config, WarmupConfig):
            return None
        settings = {"warmup": config.model_dump(mode="json"), "exclude_seen": self.exclude_seen}
        return self._build("warmup", settings, self.inputs, lambda folder: self._warm_up(config, folder))

    @cached_property
    def material(self) -> Material:
        return replace(self.given, warmup=self.warmup.path if self.warmup else None)

    @cached_property
    def start(self) -> Artifact | None:
        """The codebooks to start from, `codebook_<level>.npy`; None for quantisers without such a start."""
        settings = self.settings.start_settings
        return None if settings is None else self._build("start", settings, {**self.inputs, **self.made_by}, self._start)

    @cached_property
    def codes(self) -> Artifact:
        """The fitted quantiser and the codes of all items."""
        sections = self.settings.model_dump(mode="json", exclude={"collision"})
        inputs = {**self.inputs, **self.made_by, **({"start": self.start.digest} if self.start else {})}
        return self._build("quantize", sections, inputs, self._quantize)

    @property
    def made_by(self) -> dict[str, str]:
        """The digest of the warm-up, if there is one."""
        return {"warmup": self.warmup.digest} if self.warmup else {}

    def identify(self, folder: Path) -> SemanticIds:
        """Fill the folder of the tokenise stage: semantic IDs, with the quantiser and codes that they came from."""
        material = self.material
        learnt = self.settings.learnable(material.warm)
        return identify_catalogue(self.codes.path, self.settings.collision, material.vectors, material.item_ids, learnt, folder)

    def load_start(self) -> tuple[Vectors, ...] | None:
        return load_codebooks(self.start.path, self.settings.quantizer.sizes) if self.start else None

    def _build(self, part: str, settings: object, inputs: Mapping[str, str], work: Callable[[Path], None]) -> Artifact:
        artifact, reused = build(self.root, part, settings, inputs, work, fresh=self.fresh)
        seconds = None if reused else artifact.manifest["wall_seconds"]
        self.console.print(stage_line(part, seconds, artifact.path), soft_wrap=True)
        return artifact

    def _warm_up(self, config: WarmupConfig, folder: Path) -> None:
        given = self.given
        catalogue = Catalogue(given.text[:], given.warm, counts=given.split.item_counts(len(given.item_ids)))
        training = config.model, config.training, config.seed, self.exclude_seen
        Fitting(*training, catalogue, given.split, self.console, given.item_ids, self.tracking).fit(folder, ranks=False)

    def _start(self, folder: Path) -> None:
        assert isinstance(self.settings.quantizer, RQVAEConfig)
        material = self.material
        save_codebooks(folder, RQVAE(self.settings.quantizer).start_codebooks(material.vectors[material.rows]))

    def _quantize(self, folder: Path) -> None:
        material = self.material
        if len(material.rows) < self.settings.learnable(material.warm).sum():
            text = f"  learning from {len(material.rows):,} items drawn at random (tokenize.max_fit_items)"
            self.console.print(text, soft_wrap=True)
        config = self.settings.quantizer
        with self.tracking.curve(config.kind, key_of(folder), as_tree(config)) as curve:
            context = replace(material.context(), start=self.load_start(), log=lambda record: curve(record, _epoch(record)))
            quantize_catalogue(build_quantizer(config), material.vectors, folder, context, self.console)


def _epoch(record: LogRecord) -> int:
    epoch = record["epoch"]
    assert isinstance(epoch, int)
    return epoch
