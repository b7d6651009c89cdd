"""A run folder whose titles try to break out of the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from playwright.sync_api import Browser

from felid.data.dataset import Dataset
from felid.pipeline import Pipeline
from felid.recipe import resolve
from tests.report.browsing import chromium

EVIL = (
    "</script><script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    '"quoted" & <b>bold</b> {{plotly}}',
    "Crème für Füße 護手霜 \u2028 %{label}",
)
KINDS = ("lamp oil", "garden chair", "shower gel", "running shoe", "tea cup", "wool scarf")
COLOURS = ("red", "green", "blue", "white", "black", "golden", "purple")
MAKERS = ("Alder", "Birch", "Cedar", "Dogwood", "Elm")


def dataset(num_items: int = 180) -> Dataset:
    """Titles, categories, and users who never took the last twenty items."""
    names = [f"{COLOURS[i * i % 7]} {KINDS[i % 6]} by {MAKERS[i // 6 % 5]}, size {i % 11}" for i in range(num_items)]
    titles = [f"{name} {EVIL[i]}" if i < len(EVIL) else name for i, name in enumerate(names)]
    groups = [f"Shop > {KINDS[i % 6].title()} > Part {i % 3}" for i in range(num_items)]
    items = pl.DataFrame({"item_id": [f"i{i:03}" for i in range(num_items)], "title": titles, "categories": groups})
    log = [(f"u{user}", f"i{(user * 7 + step * 6) % (num_items - 20):03}", step) for user in range(90) for step in range(6)]
    interactions = pl.DataFrame(log, schema=["user_id", "item_id", "position"], orient="row")
    return Dataset.from_frames("shop", interactions, items)


def tokenized(root: Path, *overrides: str) -> Path:
    recipe = resolve({}, ["quantizer.sizes=[8,6,4]", "embedding.dim=12", "collision.max_size=180", *overrides])
    Pipeline(recipe, root, dataset=dataset()).run("tokenize")
    return root


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenized(tmp_path_factory.mktemp("report") / "shop")


@pytest.fixture(scope="session")
def transductive_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenized(tmp_path_factory.mktemp("report") / "shop", "cold.quantizer_fit=all")


SMALL = (
    *("model.width=16", "model.heads=2", "model.feed_forward=32", "training.epochs=2"),
    *("search.num_beams=20", "search.candidates=20", "holdout.rule=random", "holdout.share=0.1"),
    *("evaluation.ks=[3,10]", "evaluation.bootstrap=100", "evaluation.search_error_users=5"),
    "evaluation.baselines=[popularity,markov]",
)


def evaluated(root: Path, *overrides: str) -> Path:
    codes = ("quantizer.sizes=[8,6,4]", "embedding.dim=12", "collision.max_size=180")
    Pipeline(resolve({}, [*codes, *SMALL, *overrides]), root, dataset=dataset()).run()
    return root


@pytest.fixture(scope="session")
def evaluated_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lynx, whose test part has cold targets."""
    return evaluated(tmp_path_factory.mktemp("report") / "small")


@pytest.fixture(scope="session")
def other_run(evaluated_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sasrec on the same data and split."""
    root = tmp_path_factory.mktemp("report") / "other"
    shutil.copytree(evaluated_run, root)
    return evaluated(root, "model.kind=sasrec")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened
