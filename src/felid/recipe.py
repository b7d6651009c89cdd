"""A recipe: everything that decides the outcome of a run, typed, with a default for every key.

It stands apart from `felid.config` because each section's class lives beside the code it configures; adding a kind to a
section edits the union there and nothing here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, assert_never

import yaml
from pydantic import Field, model_validator

from felid.config import Config, Tree, as_tree, load_tree, merge, parse_overrides, validate
from felid.data.filters import FilterConfig
from felid.data.holdout import HoldoutConfig
from felid.data.sources import DatasetConfig
from felid.data.sources.movielens import MovieLens100KConfig
from felid.data.split import LAST_TWO, SplitConfig
from felid.embedding import EmbeddingConfig
from felid.embedding.lsa import LsaConfig
from felid.embedding.template import TextConfig
from felid.errors import FelidWarning, RecipeError
from felid.evaluation import EvaluationConfig
from felid.models import ModelConfig
from felid.models.liger import LigerConfig
from felid.models.lynx import LynxConfig
from felid.models.sasrec import SASRecConfig
from felid.models.tiger import TigerConfig
from felid.quantize import QuantizerConfig
from felid.quantize.catalogue import ColdConfig, TokenizeConfig
from felid.quantize.resolve import CollisionConfig, SuffixConfig
from felid.quantize.rkmeans import RKMeansConfig
from felid.quantize.rqvae import RQVAEConfig
from felid.search.config import SearchConfig
from felid.tracking import Tracker, TrackingConfig
from felid.training import TrainingConfig
from felid.warmup import CollaborativeConfig, WarmupConfig

LYNX_TRAINING = TrainingConfig(batch_targets=512, learning_rate=2e-3, epochs=20)
SASREC_TRAINING = TrainingConfig(batch_targets=512, learning_rate=1e-3, epochs=50)
LIGER_TRAINING = TrainingConfig(batch_targets=256, learning_rate=3e-4, weight_decay=0.035, epochs=50, patience=10)
TIGER_TRAINING = TrainingConfig(batch_targets=64, learning_rate=5e-4, epochs=20, warmup_share=0.02)


class Recipe(Config):
    """All settings of a run."""

    description: str = ""
    """One line for `felid recipes`."""
    seed: int = Field(default=0, ge=0)
    """Seed of the model's first weights, dropout and batch order."""
    dataset: DatasetConfig = MovieLens100KConfig()
    """Where interactions and items come from."""
    filter: FilterConfig = FilterConfig()
    """Which users and items are kept."""
    split: SplitConfig = LAST_TWO
    """Which interactions train, and which are the targets of validation and test."""
    holdout: HoldoutConfig = HoldoutConfig()
    """Which items are kept out of training, to measure how new items are recommended."""
    text: TextConfig = TextConfig()
    """How an item's columns become a text."""
    embedding: EmbeddingConfig = LsaConfig()
    """How a text becomes a vector."""
    quantizer: QuantizerConfig = RKMeansConfig()
    """How a vector becomes codes."""
    collision: CollisionConfig = SuffixConfig()
    """How items with equal codes are told apart."""
    collaborative: CollaborativeConfig | None = None
    """Where item vectors from behaviour come from, for a quantiser with `alignment_weight` or for `tokenize.vectors`; null =
    there are none."""
    tokenize: TokenizeConfig = TokenizeConfig()
    """What the quantiser makes codes of, and how much it sees at once."""
    cold: ColdConfig = ColdConfig()
    """What may be known of items without training interactions."""
    model: ModelConfig = LynxConfig()
    """Which model says what a user takes next."""
    training: TrainingConfig = LYNX_TRAINING
    """The training loop; defaults differ by model."""
    search: SearchConfig = SearchConfig()
    """How items are ranked with the model."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is reported."""
    tracking: TrackingConfig = TrackingConfig()
    """Who else is told of curves and results; decides nothing."""

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """Those of `tracking`, and TensorBoard where a training asks for it."""
        warmup = [self.collaborative.training] if isinstance(self.collaborative, WarmupConfig) else []
        asks = any(training.track == "tensorboard" for training in (self.training, *warmup))
        return (*self.tracking.to, *(("tensorboard",) if asks and "tensorboard" not in self.tracking.to else ()))

    @model_validator(mode="after")
    def _held_out_shares_are_used(self) -> Self:
        default = HoldoutConfig()
        shares = (self.holdout.share, self.holdout.validation_share)
        if self.holdout.rule == "natural" and shares != (default.share, default.validation_share):
            text = "the shares of holdout have no effect under holdout.rule=natural, which takes no item out of training"
            warnings.warn(f"{text}; set holdout.rule=random or newest", FelidWarning, stacklevel=2)
        return self

    @model_validator(mode="after")
    def _loss_is_of_codes(self) -> Self:
        if self.evaluation.loss and "generative" not in self.model.modes:
            raise ValueError(
                f"evaluation.loss is that of codes, and this {self.model.kind} generates none; set evaluation.loss=false, or "
                "model.kind=tiger"
            )
        return self

    @model_validator(mode="after")
    def _collaborative_vectors_are_used(self) -> Self:
        aligned = isinstance(self.quantizer, RQVAEConfig) and self.quantizer.alignment_weight > 0
        quantized = self.tokenize.vectors == "collaborative"
        if quantized and self.collaborative is None:
            raise ValueError("tokenize.vectors=collaborative needs item vectors from behaviour; set collaborative.kind=warmup")
        if quantized and isinstance(self.collaborative, WarmupConfig) and not self.collaborative.model.text:
            raise ValueError(
                "tokenize.vectors=collaborative needs a vector of every item, and without text a warm-up has none of new items; "
                "set collaborative.model.text=true"
            )
        if aligned and self.collaborative is None:
            raise ValueError("quantizer.alignment_weight needs item vectors from behaviour; set collaborative.kind=cooccurrence")
        if self.collaborative is not None and not aligned and not quantized:
            text = "the recipe's collaborative vectors have no effect; set quantizer.kind=rqvae and quantizer.alignment_weight"
            warnings.warn(f"{text}, or tokenize.vectors=collaborative", FelidWarning, stacklevel=2)
        return self


def default_training(model: ModelConfig) -> TrainingConfig:
    """The training settings that a model starts from."""
    match model:
        case LynxConfig():
            return LYNX_TRAINING
        case SASRecConfig():
            return SASREC_TRAINING
        case TigerConfig():
            return TIGER_TRAINING
        case LigerConfig():
            return LIGER_TRAINING
        case _:
            assert_never(model)


def resolve(tree: Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """A complete recipe out of the parts that a file and overrides give.

    An override that changes the kind of the model also drops the file's training settings: they were made for the other.
    """
    override = parse_overrides(overrides)
    written, wanted = _kind(tree) or LynxConfig().kind, _kind(override)
    if wanted is not None and wanted != written and "training" in tree:
        tree = {name: section for name, section in tree.items() if name != "training"}
        text = f"the recipe's training settings were made for {written}; {wanted} starts from its own"
        warnings.warn(f"{text}, change them with training.KEY=VALUE", FelidWarning, stacklevel=2)
    change = merge(tree, override)
    recipe = validate(Recipe, merge(as_tree(Recipe()), change))
    training = merge(
        as_tree(default_training(recipe.model)), change["training"] if isinstance(change.get("training"), Mapping) else {}
    )
    return validate(Recipe, merge(as_tree(recipe), {"training": training}))


def _kind(tree: Mapping[str, Any]) -> str | None:
    model = tree.get("model")
    return model.get("kind") if isinstance(model, Mapping) else None


def names() -> list[str]:
    """Names of the recipes that ship with felid."""
    return sorted(
        path.name.removesuffix(".yaml") for path in files("felid").joinpath("recipes").iterdir() if path.name.endswith(".yaml")
    )


def load_recipe(recipe: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Resolve a shipped recipe by name, or a YAML or JSON file; either may name a shipped one under `base` and say what differs.

    Raises:
        RecipeError: no such recipe, an unknown key or a value that does not fit.
    """
    return resolve(_tree(recipe), overrides)


def _tree(recipe: str | Path) -> Tree:
    if str(recipe) in names():
        return _on_base(yaml.safe_load(files("felid").joinpath("recipes", f"{recipe}.yaml").read_text(encoding="utf-8")))
    if Path(recipe).suffix not in (".yaml", ".yml", ".json"):
        raise RecipeError(f"no recipe is called {str(recipe)!r}; known: {', '.join(names())}, or give a .yaml or .json file")
    return _on_base(load_tree(Path(recipe)))


def _on_base(tree: Tree) -> Tree:
    """What a file says on top of the shipped recipe that it names under `base`, if it does."""
    if "base" not in tree:
        return tree
    base, change = tree["base"], {key: value for key, value in tree.items() if key != "base"}
    if base not in names():
        raise RecipeError(f"base is {base!r}, which is no recipe that ships with felid; known: {', '.join(names())}")
    return merge(_tree(base), change)
