"""`python -m benchmarks.metrics`: the metric code alone against ranx and torchmetrics, on the same lists, as ratios.

Recall, NDCG and MRR of random lists of 100 items, one target per user, cut at 100. Each contestant gets the lists in the form
that it works on, made before the clock starts; they take turns block by block, so that all meet the same load. Before that each
compiles or warms up on a small block, and in every block all have to find the same numbers.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numba
import numpy as np
import ranx
import torch
import torchmetrics.retrieval
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import felid
from benchmarks.timing import spread
from felid import metrics
from felid.artifacts import write_json
from felid.machine import cpu, git

NAMES = ("recall", "ndcg", "mrr")
NUM_ITEMS = 100_003
"""A prime, so that every step through the catalogue meets each item once."""
Found = dict[str, float]


@dataclass(frozen=True)
class Block:
    """Lists of some users, and the same in the forms of the peers, none of which is in anybody's time.

    Attributes:
        targets: (U,) items.
        lists: (U, R) items, best first.
    """

    targets: NDArray[np.int64]
    lists: NDArray[np.int64]

    @cached_property
    def for_ranx(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(U, 1, 2) relevant items and (U, R, 2) lists: item and grade or score, sorted, as `ranx.evaluate` takes arrays."""
        ones = np.ones(len(self.targets))
        scores = np.broadcast_to(self._scores, self.lists.shape)
        return np.stack([self.targets, ones], axis=1)[:, None], np.stack([self.lists, scores], axis=2)

    @cached_property
    def for_torchmetrics(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores, relevance and users of all places, flat."""
        users, places = self.lists.shape
        scores = torch.from_numpy(np.tile(self._scores.astype(np.float32), users))
        hits = torch.from_numpy((self.lists == self.targets[:, None]).ravel())
        return scores, hits, torch.arange(users).repeat_interleave(places)

    @property
    def _scores(self) -> NDArray[np.float64]:
        return np.arange(self.lists.shape[1], 0, -1, dtype=np.float64)


def random_block(rng: np.random.Generator, users: int, ranks: int) -> Block:
    """Half of the targets are in the list, at any place."""
    first, step = rng.integers(0, NUM_ITEMS, users), rng.integers(1, NUM_ITEMS, users)
    lists = (first[:, None] + step[:, None] * np.arange(ranks)) % NUM_ITEMS
    return Block((first + step * rng.integers(0, 2 * ranks, users)) % NUM_ITEMS, lists)


def by_felid(block: Block, k: int) -> Found:
    ranks = metrics.ranks_of(block.targets, block.lists)
    functions = (metrics.recall_at_k, metrics.ndcg_at_k, metrics.mrr_at_k)
    return {name: function(ranks, k) for name, function in zip(NAMES, functions, strict=True)}


def by_ranx(block: Block, k: int) -> Found:
    found = ranx.evaluate(*block.for_ranx, [f"{name}@{k}" for name in NAMES])
    return {name: float(found[f"{name}@{k}"]) for name in NAMES}


def by_torchmetrics(block: Block, k: int) -> Found:
    kinds = (
        torchmetrics.retrieval.RetrievalRecall,
        torchmetrics.retrieval.RetrievalNormalizedDCG,
        torchmetrics.retrieval.RetrievalMRR,
    )
    scores, hits, users = block.for_torchmetrics
    return {name: float(kind(top_k=k)(scores, hits, indexes=users)) for name, kind in zip(NAMES, kinds, strict=True)}


CONTESTANTS: dict[str, tuple[Callable[[Block, int], Found], float, str]] = {
    "felid": (by_felid, 0.0, "felid.metrics: ranks of the targets in the lists, then the three means; one thread"),
    "ranx": (by_ranx, 1e-9, "ranx.evaluate on arrays, compiled by numba before, all threads asked for"),
    "torchmetrics": (by_torchmetrics, 1e-5, "retrieval metrics, forward of each on flat tensors; float32"),
}
"""How each finds the metrics, how far from felid's it may be, and what it is."""


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and write `metric-code.json`."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    numba.set_num_threads(min(options.threads, numba.config.NUMBA_NUM_THREADS))
    console, load = Console(), os.getloadavg()[0]
    if load > 0.5:
        console.print(f"the machine is busy (load {load:.1f} before the start); ratios will be rough", highlight=False)
    seconds, apart = measure(options, console)
    record = {"environment": _environment(options, load), "users": options.users, "ranks": options.ranks, "rows": {}}
    record["rows"] = {name: _row(name, seconds, apart[name], options.users) for name in CONTESTANTS}
    console.print(_table(record["rows"]))
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "metric-code.json", record)


def measure(options: argparse.Namespace, console: Console) -> tuple[dict[str, list[tuple[float, float]]], dict[str, float]]:
    """Wall and processor seconds of each contestant in each round, and how far its numbers are from felid's at most."""
    apart = dict.fromkeys(CONTESTANTS, 0.0)
    warm = random_block(np.random.default_rng(1), 100, options.ranks)
    for run, _, _ in CONTESTANTS.values():
        run(warm, options.ranks)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTESTANTS}
    for turn in range(options.rounds):
        spent = dict.fromkeys(CONTESTANTS, (0.0, 0.0))
        for block in _blocks(options):
            found = {}
            for name, (run, _, _) in CONTESTANTS.items():
                _ = block.for_ranx, block.for_torchmetrics
                wall, used = time.perf_counter(), time.process_time()
                found[name] = run(block, options.ranks)
                before = spent[name]
                spent[name] = before[0] + time.perf_counter() - wall, before[1] + time.process_time() - used
            for name, (_, allowed, _) in CONTESTANTS.items():
                gap = max(abs(found[name][metric] - found["felid"][metric]) for metric in NAMES)
                assert gap <= allowed, f"{name} finds {found[name]}, felid {found['felid']}"
                apart[name] = max(apart[name], gap)
        for name, both in spent.items():
            seconds[name].append(both)
        line = "  ".join(f"{name} {wall:.2f} s" for name, (wall, _) in spent.items())
        console.print(f"  round {turn + 1} of {options.rounds}: {line}", highlight=False, soft_wrap=True)
    return seconds, apart


def _blocks(options: argparse.Namespace) -> Iterator[Block]:
    rng = np.random.default_rng(0)
    for start in range(0, options.users, options.block):
        yield random_block(rng, min(options.block, options.users - start), options.ranks)


def _row(name: str, seconds: dict[str, list[tuple[float, float]]], apart: float, users: int) -> dict[str, object]:
    own, felids = seconds[name], seconds["felid"]
    return {
        "note": CONTESTANTS[name][2],
        "seconds": spread([wall for wall, _ in own]),
        "cpu_seconds": spread([used for _, used in own]),
        "users_per_second": spread([users / wall for wall, _ in own]),
        "ratio": spread([wall / base for (wall, _), (base, _) in zip(own, felids, strict=True)]),
        "cpu_ratio": spread([used / base for (_, used), (_, base) in zip(own, felids, strict=True)]),
        "largest_difference": apart,
    }


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=100, help="length of the lists, and where metrics cut them")
    parser.add_argument("--block", type=int, default=50_000, help="users held in memory at a time")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of ranx and torch; default: all cores")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"), help="folder of metric-code.json")
    return parser.parse_args(arguments)


def _environment(options: argparse.Namespace, load: float) -> dict[str, object]:
    return {
        "command": shlex.join(["python", "-m", "benchmarks.metrics", *sys.argv[1:]]),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "src", "benchmarks")),
        "threads": options.threads,
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "load_before": load,
        "versions": {"python": platform.python_version(), "felid": felid.__version__}
        | {name: version(name) for name in ("numpy", "ranx", "numba", "torchmetrics", "torch")},
    }


def _table(rows: dict[str, dict[str, object]]) -> Table:
    columns = ("contestant", "seconds", "cpu seconds", "times felid's", "range", "largest difference")
    table = Table(*columns, title="recall, ndcg and mrr of all lists")
    for name, row in rows.items():
        wall, used, ratio = (row[key] for key in ("seconds", "cpu_seconds", "ratio"))
        extent = f"{ratio['least']:.1f}-{ratio['largest']:.1f}"
        cells = (
            f"{wall['median']:.3f}",
            f"{used['median']:.3f}",
            f"{ratio['median']:.1f}",
            extent,
            f"{row['largest_difference']:.1e}",
        )
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()
