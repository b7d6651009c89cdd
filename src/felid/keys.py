"""What the output of each stage depends on: its part of the recipe, and digests of what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from felid.artifacts import Artifact
from felid.config import as_tree, digest
from felid.data.dataset import Dataset
from felid.data.sources import fingerprint
from felid.data.split import LAST_TWO
from felid.embedding import fingerprint as embedding_fingerprint
from felid.embedding.lsa import LsaConfig
from felid.embedding.precomputed import PrecomputedConfig
from felid.recipe import Recipe
from felid.tokenizing import TokenizeSettings
from felid.warmup import WarmupConfig

Stage = Literal["data", "embed", "tokenize", "train", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True, eq=False)
class StageKeys:
    """Settings and inputs of the stages of a recipe.

    Attributes:
        recipe: all settings.
        given: the data set that stands for the recipe's source; None = there is none.
        checkpoint: what is evaluated where it is not the best.
    """

    recipe: Recipe
    given: Dataset | None = None
    checkpoint: str | None = None

    def settings(self, stage: Stage) -> dict[str, Any]:
        """The part of the recipe that a stage depends on."""
        tree = as_tree(self.recipe) | {"holdout": as_tree(self.recipe.holdout.effective)}
        sections: dict[Stage, tuple[str, ...]] = {
            "data": ("dataset", "filter") if self.given is None else (),
            "embed": ("embedding",) if isinstance(self.recipe.embedding, PrecomputedConfig) else ("text", "embedding"),
            "tokenize": tuple(TokenizeSettings.model_fields),
            "train": ("model", "training", "seed"),
            "evaluate": ("search", "evaluation", "cold", "holdout"),
        }
        settings = {name: tree[name] for name in sections[stage]}
        if stage == "tokenize":
            settings["collision"] = {key: value for key, value in tree["collision"].items() if key != "allow_training"}
            if self._takes_out:
                settings["holdout"] = tree["holdout"]
            if self.recipe.split != LAST_TWO:
                settings["split"] = tree["split"]
        if stage == "evaluate" and self.checkpoint is not None:
            settings["checkpoint"] = self.checkpoint
        if stage == "embed" and isinstance(self.recipe.embedding, LsaConfig):
            settings["cold"] = tree["cold"]
        return {**settings, "exclude_seen": self.recipe.evaluation.exclude_seen} if stage == "train" else settings

    def inputs(self, stage: Stage, done: Mapping[Stage, Artifact]) -> dict[str, str]:
        """Digests of everything that a stage reads, the artifacts of `done` among them."""
        inputs = {name: artifact.digest for name, artifact in done.items()} | self._files(stage)
        reads_split = stage in ("tokenize", "train") or (stage == "embed" and isinstance(self.recipe.embedding, LsaConfig))
        warms_up = stage == "tokenize" and isinstance(self.recipe.collaborative, WarmupConfig)
        chooses = stage == "train" or warms_up  # validates, which leaves out targets that are kept for the test
        if chooses or (reads_split and self._takes_out):
            inputs["holdout"] = digest(as_tree(self.recipe.holdout.effective))
        if self.recipe.split != LAST_TWO and (reads_split or stage == "evaluate"):
            inputs["split"] = digest(as_tree(self.recipe.split))
        return inputs

    @property
    def _takes_out(self) -> bool:
        """Whether the training part lacks interactions with items that are held out."""
        return self.recipe.holdout.rule != "natural"

    def _files(self, stage: Stage) -> dict[str, str]:
        """Digests of what a stage reads from outside the run folder."""
        if stage == "data":
            return {"dataset": self.given.digest()} if self.given is not None else fingerprint(self.recipe.dataset)
        if stage == "tokenize" and isinstance(self.recipe.collaborative, PrecomputedConfig):
            return embedding_fingerprint(self.recipe.collaborative)
        return embedding_fingerprint(self.recipe.embedding) if stage == "embed" else {}
