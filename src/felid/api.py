"""The two functions that most programs start with: load data, fit a recommender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from felid.config import Config, validate
from felid.data.dataset import Dataset
from felid.data.filters import FilterConfig
from felid.data.sources import DatasetConfig
from felid.data.sources import load_dataset as load_source
from felid.pipeline import Pipeline
from felid.progress import plain_console
from felid.recipe import Recipe, load_recipe
from felid.recommender import Recommender


class _Source(Config):
    dataset: DatasetConfig


def load_dataset(kind: str, filters: FilterConfig | None = None, **settings: Any) -> Dataset:
    """Read a data set.

    Args:
        kind: `movielens-100k`, `amazon-2014`, `steam`, `files`, `sequences` or `synthetic`.
        filters: minimum interactions; default at least 5 per user.
        settings: fields of the source's config, for example `interactions="log.csv"` for `files`.

    Raises:
        RecipeError: no such kind or setting.
        DataError: files are missing or malformed.
    """
    source = validate(_Source, {"dataset": {"kind": kind, **settings}}).dataset
    return load_source(source, filters or FilterConfig())


def fit(
    dataset: Dataset, recipe: Recipe | str | Path = "default", out: str | Path | None = None, *, quiet: bool = True
) -> Recommender:
    """Embed, tokenize, train and evaluate; what was done before in the same folder is not done again.

    Args:
        dataset: from `load_dataset`.
        recipe: a recipe, its name or its file; its `dataset` and `filter` sections are not read.
        out: run folder; default `runs/<name of the data set>`.
        quiet: print nothing.

    Returns:
        The recommender with the weights that were best on validation.
    """
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    root = Path(out) if out is not None else Path("runs") / dataset.name
    Pipeline(resolved, root, dataset=dataset, console=plain_console(quiet=quiet)).run()
    return Recommender.load(root)
