"""Semantic IDs for a whole catalogue: which items a quantiser learns from, encoding block by block, and what is kept of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from felid.artifacts import FITTED_ON, MANIFEST, write_json
from felid.config import Config
from felid.progress import plain_console, progress_bar
from felid.quantize import load_quantizer
from felid.quantize.base import NO_CONTEXT, Codes, FitContext, LogRecord, Quantizer
from felid.quantize.resolve import CollisionConfig, collision_statistics, resolve_collisions
from felid.rows import Rows, Vectors, blocks
from felid.semantic_ids import SemanticIds


class TokenizeConfig(Config):
    """What a quantiser makes codes of, and how much of it it sees at once."""

    vectors: Literal["text", "collaborative"] = "text"
    """`text`: the item vectors from text. `collaborative`: those that the section `collaborative` names, from behaviour; every
    item needs one, as from a warm-up whose model reads text."""
    max_fit_items: int = Field(262_144, ge=1)
    """Most items that the quantiser learns from; of more, this many are drawn at random and kept in memory. All are encoded."""
    seed: int = Field(0, ge=0)
    """Seed of that draw."""


class ColdConfig(Config):
    """What may be known of items without training interactions."""

    quantizer_fit: Literal["warm", "all"] = "warm"
    """`warm`: what is fitted on text or vectors (LSA, scaler, quantiser) sees only items with training interactions, the others
    are encoded with the frozen result. `all`: it sees every item, as in TIGER's cold-start study (transductive)."""


def fit_rows(learn: NDArray[np.bool_], config: TokenizeConfig) -> NDArray[np.int64]:
    """(N',) item_index of the items to learn from, ascending.

    Args:
        learn: (N,) True for the items that may be used.
        config: the bound and the seed of the draw.
    """
    rows = np.flatnonzero(learn)
    if len(rows) <= config.max_fit_items:
        return rows
    return np.sort(np.random.default_rng(config.seed).choice(rows, config.max_fit_items, replace=False))


def encode_catalogue(quantizer: Quantizer, vectors: Rows, done: Callable[[int], None] = lambda items: None) -> Codes:
    """(N, Lq) int32 codes of all items, row = item_index; `vectors` are read a block at a time, `done` hears how many."""
    codes = np.empty((vectors.shape[0], len(quantizer.sizes)), np.int32)
    for block in blocks(len(codes)):
        codes[block] = quantizer.encode(vectors[block], np.arange(block.start, block.stop))
        done(block.stop - block.start)
    return codes


def quantize_catalogue(
    quantizer: Quantizer, vectors: Rows, folder: Path, context: FitContext = NO_CONTEXT, console: Console | None = None
) -> Codes:
    """Fit a quantiser, encode all items, and write both into an existing folder.

    Args:
        quantizer: not fitted yet.
        vectors: (N, D), row = item_index.
        folder: gets `quantizer/`, `quantizer_codes.npy` (N, Lq), `fitted_on.npy` (item_index of what was learnt from) and, from
            quantisers that learn in epochs, `log.jsonl`.
        context: `items` are learnt from, all where it is None; `log` hears what `log.jsonl` gets.
        console: where progress goes.
    """
    console = console or plain_console(quiet=True)
    with (folder / "log.jsonl").open("w", encoding="utf-8") as stream:
        np.save(folder / FITTED_ON, _fit(quantizer, vectors, context, _Log(stream, console, context.log)))
    if not (folder / "log.jsonl").stat().st_size:
        (folder / "log.jsonl").unlink()
    with progress_bar(console, "encoding", total=vectors.shape[0], unit="items") as bar:
        codes = encode_catalogue(quantizer, vectors, bar.advance)
    (folder / "quantizer").mkdir(exist_ok=True)
    quantizer.save(folder / "quantizer")
    np.save(folder / "quantizer_codes.npy", codes)
    return codes


def identify_catalogue(
    quantized: Path,
    collision: CollisionConfig,
    vectors: Rows,
    item_ids: NDArray[np.generic],
    learnt: NDArray[np.bool_],
    folder: Path,
) -> SemanticIds:
    """Give every item its semantic ID, and write the IDs and all that they came from into an existing folder.

    Args:
        quantized: folder that `quantize_catalogue` filled.
        collision: how items with equal codes are told apart.
        vectors: (N, D), row = item_index.
        item_ids: (N,) ids, in ascending order: suffixes and ties follow it.
        learnt: (N,) True for the items that may shape the IDs of others.
        folder: gets a copy of `quantized`, the semantic IDs and `statistics.json`.
    """
    shutil.copytree(quantized, folder, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)
    quantizer, codes = load_quantizer(folder / "quantizer"), np.load(folder / "quantizer_codes.npy")

    def costs(rows: NDArray[np.int64]) -> Vectors:
        return quantizer.last_level_costs(vectors[rows], codes[rows])

    found = resolve_collisions(codes, quantizer.sizes, collision, costs, learnt=learnt)
    ids = SemanticIds(found.codes, found.sizes, item_ids, shared=collision.kind == "none")
    ids.save(folder)
    write_json(folder / "statistics.json", {**collision_statistics(codes, quantizer.sizes), "moved": found.moved})
    return ids


def _fit(quantizer: Quantizer, vectors: Rows, context: FitContext, log: _Log) -> NDArray[np.int64]:
    """Fit, and return the item_index of each vector that was learnt from."""
    rows = np.arange(vectors.shape[0]) if context.items is None else context.items
    with progress_bar(log.console, "learning codes", total=1, unit="steps") as bar:
        quantizer.fit(vectors[rows], replace(context, log=log, progress=bar.reach))
    log.show()
    return rows


class _Log:
    """Writes one JSON record per epoch, and shows those of epoch 1, 2, 5, 10, 20, 50, ... and the last."""

    def __init__(self, stream: TextIO, console: Console, hears: Callable[[LogRecord], None]) -> None:
        self.stream, self.console, self.hears = stream, console, hears
        self.unseen: LogRecord = {}

    def __call__(self, record: LogRecord) -> None:
        self.stream.write(json.dumps(dict(record)) + "\n")
        self.hears(record)
        self.unseen = record
        if str(record["epoch"]).rstrip("0") in ("1", "2", "5"):
            self.show()

    def show(self) -> None:
        if self.unseen:
            self.console.print("  " + ", ".join(f"{name} {_shown(value)}" for name, value in self.unseen.items()), soft_wrap=True)
        self.unseen = {}


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "/".join(_shown(one) for one in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
