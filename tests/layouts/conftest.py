"""Small real runs, and what they hold, for the tests of all layouts."""

from __future__ import annotations

import io
import json
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import polars as pl
import pytest

from felid.cli import main
from felid.config import as_tree
from felid.data.dataset import Dataset
from felid.data.filters import NO_FILTER
from felid.data.sources import load_dataset
from felid.data.sources.synthetic import SyntheticConfig
from felid.errors import FelidWarning
from felid.layouts import export_run
from felid.pipeline import Pipeline, Stage
from felid.recipe import load_recipe

WORLD = ["dataset.num_users=120", "dataset.num_types=8", "dataset.max_length=8", "dataset.items_per_cell=4", "embedding.dim=12"]
MODEL = ["model.width=16", "model.heads=2", "model.head_width=8", "model.feed_forward=32", "model.history=8", "training.epochs=1"]
TIGER = ["model.kind=tiger", *MODEL, "model.encoder_layers=1", "model.decoder_layers=1", "search.num_beams=20"]
RQVAE = ["quantizer.kind=rqvae", "quantizer.hidden=[16]", "quantizer.latent=8", "quantizer.epochs=3"]
SASREC = [
    "collaborative.kind=warmup",
    "collaborative.model.width=16",
    "collaborative.model.heads=2",
    "collaborative.model.feed_forward=32",
    "collaborative.model.text=false",
    "collaborative.model.own_dropout=0",
    "collaborative.training.epochs=2",
]


def make(root: Path, *overrides: str, until: Stage = "evaluate", dataset: Dataset | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FelidWarning)
        recipe = load_recipe("tiny", [*WORLD, "evaluation.bootstrap=20", *overrides])
        Pipeline(recipe, root, dataset=dataset).run(until)
    return root


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SASRec, RQ-VAE with its vectors, TIGER, evaluated; integer ids and timestamps. Made by `felid run full.json`."""
    quantizer = [*RQVAE, "quantizer.sizes=[8,8,8]", "quantizer.alignment_weight=0.1", *SASREC]
    folder = tmp_path_factory.mktemp("runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FelidWarning)
        recipe = load_recipe("tiny", [*WORLD, "evaluation.bootstrap=20", *quantizer, *TIGER])
        (folder / "full.json").write_text(json.dumps(as_tree(recipe)), encoding="utf-8")
        status, _, error = felid("run", folder / "full.json", "--out", folder / "full")
    assert status == 0, error
    return folder / "full"


@pytest.fixture(scope="session")
def kmeans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Residual k-means with suffix, TIGER, trained and not evaluated; text ids."""
    recipe = ["quantizer.sizes=[8,4]", *TIGER]
    return make(tmp_path_factory.mktemp("runs") / "kmeans", *recipe, until="train", dataset=named_dataset())


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The large-codebook encoder, tokenised."""
    recipe = ["quantizer.kind=semantic-id-encoder", "quantizer.sizes=[8,16]", "quantizer.epochs=2"]
    return make(tmp_path_factory.mktemp("runs") / "encoded", *recipe, until="tokenize")


@pytest.fixture(scope="session")
def untimed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RQ-VAE, tokenised; text ids, no times, items held out of training."""
    recipe = [*RQVAE, "quantizer.sizes=[8,8]", "holdout.rule=random"]
    return make(tmp_path_factory.mktemp("runs") / "untimed", *recipe, until="tokenize", dataset=named_dataset())


def felid(*arguments: str | Path) -> tuple[int, str, str]:
    """The `felid` command in this process: its exit code, what it prints, its errors."""
    out, err, argv, status = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = ["felid", *map(str, arguments)]
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():  # restores showwarning too
        try:
            main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    sys.argv = argv
    return status, out.getvalue(), err.getvalue()


def named_dataset() -> Dataset:
    """A small world with text ids and no times."""
    world = SyntheticConfig(num_users=120, num_types=8, max_length=8, items_per_cell=4)
    numbered = load_dataset(world, NO_FILTER)
    ids = [pl.format("user {}", pl.col("user_id")).alias("user_id"), pl.format("item-{}", pl.col("item_id")).alias("item_id")]
    items = numbered.items.with_columns(ids[1])
    return Dataset.from_frames("named", numbered.interactions.drop("timestamp").with_columns(*ids), items)


def exported(run: Path, layout: str, folder: Path) -> Path:
    return export_run(run, layout, folder / layout)


def histories(dataset: Dataset) -> dict[object, list[object]]:
    """User -> item ids, oldest first, ids as text."""
    found = dataset.sequences()
    ids = dataset.item_ids
    return {str(user): [str(item) for item in ids[found[row]]] for row, user in enumerate(found.user_ids.tolist())}
