"""`python -m benchmarks.evaluation RUN`: how long ranking all test users takes, and which share of the GEMM peak that is.

RUN holds a trained recommender under `fused`. For each k of `--ks` all test users are ranked twice: by the recommender itself,
seen items removed, which is one row of a results table, and by all its modes under both policies together, which is what the
test part costs in `felid evaluate`. Multiplications are counted on a sample of the users; the peak is that of a large float32
product on as many threads, right before.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from felid.artifacts import peak_rss_mib, write_json
from felid.data.histories import Sequences
from felid.machine import cpu, git
from felid.pipeline import Pipeline
from felid.ranking import ItemRanker, search_together
from felid.recipe import load_recipe
from felid.recommender import Recommender

SAMPLE = 512
"""Users whose multiplications are counted."""
SIZE, PRODUCTS = 4096, 5
"""Rows and columns of the matrices of the peak, and how many products are made."""
Request = tuple[ItemRanker, bool]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write `evaluation.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--ks", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--users", type=int, help="so many of them, drawn at random; default: all")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    load, console = os.getloadavg()[0], Console()
    recommender, histories = _opened(options.run, options.users)
    rankers = [recommender.in_mode(mode).ranker for mode in recommender.model.modes]
    own = recommender.ranker
    assert own.mode == "fused", "expected a recommender that ranks under fused"
    asked = {
        "fused, seen removed": [(own, True)],
        "all modes, both policies": [(one, exclude) for one in rankers for exclude in (True, False)],
    }
    rows = []
    for k in options.ks:
        for name, requests in asked.items():
            row = {"k": k, "lists": name, **_measured(requests, histories, k)}
            shown = (
                f"{row['seconds']:.1f} s, {row['gflops']:.0f} GFLOP/s of {row['peak_gflops']:.0f} ({row['share_of_peak']:.0%})"
            )
            console.print(f"  k={k}, {name}: {shown}", highlight=False, soft_wrap=True)
            rows.append(row)
    record = {
        "command": shlex.join(["python", "-m", "benchmarks.evaluation", *sys.argv[1:]]),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "src", "benchmarks")),
        "cpu": cpu(),
        "threads": options.threads,
        "load_before": load,
        "torch": torch.__version__,
        "users": len(histories),
        "items": len(own.catalogue.warm),
        "num_beams": own.search.num_beams,
        "parameters": sum(parameter.numel() for parameter in recommender.model.parameters()),
        "peak_rss_mib": peak_rss_mib(),
        "rows": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "evaluation.json", record)


def _opened(root: Path, users: int | None) -> tuple[Recommender, Sequences]:
    """The recommender of a run, and the histories of its test users."""
    pipeline = Pipeline(load_recipe(str(root / "recipe.json"), []), root)
    pipeline.run("tokenize")
    histories = pipeline.split.evaluation("test").histories
    rows = np.random.default_rng(0).permutation(len(histories))[:users]
    return Recommender.load(root), histories.take(np.sort(rows))


def _measured(requests: list[Request], histories: Sequences, k: int) -> dict[str, float]:
    sample = histories.take(np.random.default_rng(1).permutation(len(histories))[:SAMPLE])
    with FlopCounterMode(display=False) as counter:
        search_together(requests, sample, k, _drop)
    flops = counter.get_total_flops() / len(sample) * len(histories)
    peak = _peak()
    seconds = _seconds(lambda: search_together(requests, histories, k, _drop))
    rates = {"gflops": flops / seconds / 1e9, "peak_gflops": peak / 1e9, "share_of_peak": flops / seconds / peak}
    return {"seconds": seconds, "ms_per_user": seconds / len(histories) * 1e3, **rates}


def _drop(place: int, rows: object, items: object, scores: object) -> None:
    pass


def _peak() -> float:
    """Floating-point operations a second of a large matrix product, the fastest of some."""
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    return 2 * SIZE**3 / min(_seconds(lambda: a @ b) for _ in range(PRODUCTS))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
