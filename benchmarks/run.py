"""`python -m benchmarks.run`: felid against Hugging Face T5, in one process, as ratios."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table

import felid
from benchmarks import search, training
from benchmarks.world import make_world
from felid.artifacts import write_json
from felid.machine import cpu, git
from felid.training.loop import native_bf16

BENCHMARKS = {"training": training.run, "search": search.run}


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmarks and write `metrics.json`."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    console, start = Console(), time.perf_counter()
    load = os.getloadavg()[0]
    if load > 0.5:
        console.print(f"the machine is busy (load {load:.1f} before the start); ratios will be rough", highlight=False)
    world = make_world()
    console.print(world.source, highlight=False, soft_wrap=True)
    rounds = 2 if options.quick else options.rounds
    record: dict[str, object] = {"validation": {}, "test": {}, "baselines": {}}  # every record has them; speed has none
    record |= {"environment": _environment(options, load), "data": world.source}
    for name, run in BENCHMARKS.items():
        if options.only in (None, name):
            result = run(world, rounds=rounds, quick=options.quick, seed=options.seed, console=console)
            console.print(_table(name, result))
            record[name] = result
    record["wall_seconds"] = round(time.perf_counter() - start, 1)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "metrics.json", record)
    console.print(f"{options.out / 'metrics.json'} written in {record['wall_seconds']} s", highlight=False, soft_wrap=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS), help="run one benchmark")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"), help="folder of metrics.json")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch; default: all cores")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repetitions")
    parser.add_argument("--seed", type=int, default=0, help="weights, users and examples")
    parser.add_argument("--quick", action="store_true", help="2 short repetitions, few batch sizes: does it run?")
    return parser.parse_args(arguments)


def _environment(options: argparse.Namespace, load: float) -> dict[str, object]:
    return {
        "command": shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]]),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "src", "benchmarks")),
        "quick": options.quick,
        "seed": options.seed,
        "threads": options.threads,
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "native_bf16": native_bf16(),
        "load_before": load,
        "versions": {
            "python": platform.python_version(),
            "felid": felid.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _table(name: str, result: dict[str, object]) -> Table:
    table = Table(title=f"{name}: {result['unit']}, ratio to {result['baseline']}")
    for column in ("contestant", "batch", result["unit"], "ratio", "range of ratios"):
        table.add_column(str(column), justify="left" if column == "contestant" else "right", no_wrap=True)
    rows = result["rows"]
    assert isinstance(rows, dict)
    for contestant, row in rows.items():
        speed = next(value for key, value in row.items() if key.endswith("_per_second"))
        ratio = row["ratio"]
        extent = f"{ratio['least']:.2f}-{ratio['largest']:.2f}"
        table.add_row(contestant, str(row["batch_size"]), f"{speed['median']:,.1f}", f"{ratio['median']:.2f}x", extent)
    return table


if __name__ == "__main__":
    main()
