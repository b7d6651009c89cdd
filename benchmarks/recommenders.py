"""`python -m benchmarks.recommenders COMMAND`: lynx beside SASRec on Amazon Beauty, with the settings of recommenders.yaml.

- `run`: every system with every seed, `felid train` and `felid evaluate` (which reads test: not before all choices are made).
- `table`: what the runs so far say, pooled over seeds: both policies, intervals, paired differences.
- `quality`: lynx with a short schedule: minutes of the whole command from raw data on, and what it reaches on test.
- `ablation`: lynx with one thing changed at a time, on validation alone.

Commands are processes of their own. What is in the records is not done again, so a benchmark may be interrupted, and two
processes may share it (`--share 0/2` and `--share 1/2`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
from rich.console import Console

from benchmarks.runs import (
    Record,
    System,
    add_record,
    end_with_children,
    felid,
    lane_of,
    load_settings,
    made_with,
    minutes_of,
    output,
    records,
    share_of,
    stage_folder,
)
from benchmarks.tables import markdown, pooled, with_extent, with_interval
from felid.artifacts import read_json, write_json
from felid.evaluation import compare_runs
from felid.evaluation.comparison import Ranks
from felid.evaluation.protocol import POLICIES

SEEDS = {"run": (0, 1, 2), "quality": (0,), "ablation": (0,)}
OWN = ("lynx", "lynx, generative", "lynx, dense", "sasrec")
BASELINES = ("markov", "popularity")
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
TIGER = 0.0648
"""Test recall@10 on Beauty in the TIGER paper."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is asked for."""
    end_with_children()
    options, console = _options(arguments), Console(width=200, highlight=False)
    commands: dict[str, Callable[[argparse.Namespace], str]] = {
        "run": run_systems,
        "table": table_systems,
        "quality": run_quality,
        "ablation": run_ablation,
    }
    console.print(commands[options.command](options), soft_wrap=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recommenders", description=__doc__)
    parser.add_argument("command", choices=["run", "table", "quality", "ablation"])
    parser.add_argument("--seeds", nargs="+", type=int, help=f"default: {SEEDS}")
    parser.add_argument("--settings", type=Path, default=Path(__file__).with_suffix(".yaml"), help="what is trained")
    parser.add_argument("--out", type=Path, default=Path("reports/recommenders"), help="folder of the records")
    parser.add_argument("--work", type=Path, default=Path("runs/recommenders"), help="folder of the run folders")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", default="0/1", help="which part of the trainings this process makes, counted from 0")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or SEEDS.get(options.command)
    return options


class Job(NamedTuple):
    """One training of a benchmark."""

    name: str
    seed: int
    recipe: str
    overrides: tuple[str, ...]
    """The seed among them."""

    @property
    def key(self) -> tuple[object, ...]:
        """What makes a training the same as one that was made."""
        return self.name, self.recipe, self.overrides

    def start(self, stage: str, root: Path, threads: int) -> Record:
        """Run `felid STAGE`; the beginning of the record, and the minutes that all parts took."""
        record = {**self._asdict(), **made_with(threads)}
        felid(stage, root, self.recipe, self.overrides, threads)
        return {**record, "minutes": minutes_of(root)}


def missing_jobs(options: argparse.Namespace, systems: Mapping[str, System], done: Sequence[Record]) -> list[Job]:
    """The trainings of this lane that are in no record yet."""
    jobs = [
        Job(name, seed, system.recipe, (*system.overrides, f"seed={seed}"))
        for name, system in systems.items()
        for seed in options.seeds
    ]
    keys = {Job(one["name"], one["seed"], one["recipe"], tuple(one["overrides"])).key for one in done}
    return [job for job in share_of(jobs, options.share) if job.key not in keys]


def run_systems(options: argparse.Namespace) -> str:
    """Train and evaluate what is missing; the metrics and the resolved recipe of each run go to the folder of the records."""
    path, root = options.out / "runs.json", lane_of(options.work, options.share)
    for job in missing_jobs(options, load_settings(options.settings).systems, records(path)):
        record = job.start("evaluate", root, options.threads)
        folder, kept = stage_folder(root, "evaluate"), options.out / f"{job.name}-{job.seed}"
        kept.mkdir(parents=True, exist_ok=True)
        for source in (folder / "metrics.json", root / "recipe.json"):
            shutil.copy(source, kept)
        write_json(kept / "curve.json", read_json(stage_folder(root, "train") / "progress.json")["curve"])
        add_record(path, {**record, "evaluation": str(folder)})
    return table_systems(options)


def table_systems(options: argparse.Namespace) -> str:
    """Tables and comparisons of the runs so far, also written to `table.json`."""
    done = records(options.out / "runs.json")
    if not done:
        return f"{options.out / 'runs.json'} holds no run yet; use the command run"
    ranks = [{**record, "ranks": pl.read_parquet(Path(record["evaluation"]) / "ranks.parquet")} for record in done]
    rows, sentences = metric_rows(runs_of(ranks)), comparisons(runs_of(ranks))
    write_json(options.out / "table.json", {"rows": rows, "comparisons": sentences, "runs": done})
    header = ("system", "part", "seen", "runs", *METRICS, "recall@10, 95 % CI", "ndcg@10, 95 % CI")
    cells = [list(row.values()) for row in rows]
    times = [(one["name"], one["seed"], one["threads"], json.dumps(one["minutes"])) for one in done]
    parts = (markdown(header, cells), "\n".join(sentences), markdown(("system", "seed", "threads", "minutes"), times))
    return "\n\n".join(parts)


def runs_of(done: Sequence[Record]) -> dict[str, dict[int, Ranks]]:
    """By system and seed, the ranks of each: what was trained, the modes of lynx, and the baselines (of one run)."""
    found: dict[str, dict[int, Ranks]] = {}
    for record in done:
        names = set(record["ranks"]["system"].unique())
        for name in (name for name in OWN if name in names):
            found.setdefault(name, {})[record["seed"]] = record["ranks"], name
    found |= {name: {done[0]["seed"]: (done[0]["ranks"], name)} for name in BASELINES}
    return {name: found[name] for name in (*OWN, *BASELINES) if name in found}


def metric_rows(runs: Mapping[str, Mapping[int, Ranks]]) -> list[dict[str, str]]:
    """A row per policy, part and system: means over the seeds with their extent, and intervals over users."""
    rows = []
    for policy in POLICIES:
        for part in ("test", "validation"):
            for name, of_seed in runs.items():
                found = {metric: pooled(list(of_seed.values()), metric, part=part, policy=policy) for metric in METRICS}
                row = {"system": name, "part": part, "seen": policy.removeprefix("seen_"), "runs": str(len(of_seed))}
                row |= {metric: with_extent(pool.mean, values) for metric, (pool, values) in found.items()}
                rows.append(row | {f"{metric} interval": with_interval(found[metric][0]) for metric in METRICS[2:]})
    return rows


def comparisons(runs: Mapping[str, Mapping[int, Ranks]]) -> list[str]:
    """What may be claimed on test of lynx against SASRec, run by run with the same seed, and of both against the Markov chain."""
    found = []
    for ours in (name for name in OWN if name in runs):
        against = {"sasrec": runs.get("sasrec", {}), "markov": dict.fromkeys(runs[ours], *runs["markov"].values())}
        for theirs, other in against.items():
            seeds = [seed for seed in runs[ours] if seed in other]
            if ours == theirs or not seeds:
                continue
            pairs = [runs[ours][seed] for seed in seeds], [other[seed] for seed in seeds]
            for policy in POLICIES:
                for metric in METRICS[2:]:
                    difference = compare_runs(*pairs, metric, policy=policy)[2]
                    text = difference.sentence(ours, theirs, f"test, {policy.replace('_', ' ')}, {metric}")
                    found.append(f"{text}, {len(seeds)} pairs of runs")
    return found


def run_quality(options: argparse.Namespace) -> str:
    """The whole command on an empty run folder, timed; test is read once, at the end."""
    path, settings = options.out / "quality.json", load_settings(options.settings)
    for job in missing_jobs(options, {"quality": settings.quality}, records(path)):
        root = options.work / f"{job.name}-{job.seed}"
        shutil.rmtree(root, ignore_errors=True)  # what is left of an interrupted run would shorten this one
        start = time.perf_counter()
        record = job.start("train", root, options.threads)
        minutes = round((time.perf_counter() - start) / 60, 2)
        felid("evaluate", root, job.recipe, job.overrides, options.threads)
        metrics = read_json(stage_folder(root, "evaluate") / "metrics.json")
        results = {part: metrics[part] for part in ("test", "test_seen_kept", "validation")}
        add_record(path, {**record, "command_minutes": minutes, **results})
    rows = [
        (one["seed"], one["threads"], one["command_minutes"], one["minutes"]["train"], f"{one['test']['recall@10']:.4f}")
        for one in records(path)
    ]
    return markdown(("seed", "threads", "minutes, whole command", "training", f"test recall@10 (aim {TIGER})"), rows)


def run_ablation(options: argparse.Namespace) -> str:
    """Train and validate what is missing; test is not read."""
    path, settings, root = options.out / "ablation.json", load_settings(options.settings), lane_of(options.work, options.share)
    lynx = settings.systems["lynx"]
    systems = {
        name: System(recipe=lynx.recipe, overrides=(*lynx.overrides, *changes)) for name, changes in settings.ablation.items()
    }
    for job in missing_jobs(options, systems, records(path)):
        record = job.start("train", root, options.threads)
        ranks = stage_folder(root, "train").with_suffix(".ranks.parquet")
        found = output("benchmarks.validate", str(root), "--every-mode", "--ranks", str(ranks), threads=options.threads)
        add_record(path, {**record, "ranks": str(ranks), "validation": json.loads(found)})
    return table_ablation([one for one in records(path) if one["name"] in systems], next(iter(systems)))


def table_ablation(done: Sequence[Record], complete: str) -> str:
    """Validation metrics of each mode, and the difference of the best mode to that of the complete system with the same seed."""
    header = ("lynx", "seed", "minutes", "fused", "generative", "dense", "ndcg@10, best mode against complete")
    whole = {one["seed"]: one for one in done if one["name"] == complete}
    rows = []
    for one in done:
        modes = {mode: users["all"] for mode, users in one["validation"].items()}
        cells = [f"{modes[m]['recall@10']:.4f} / {modes[m]['ndcg@10']:.4f}" if m in modes else "" for m in header[3:6]]
        against = _against(one, whole[one["seed"]]) if one["seed"] in whole and one["name"] != complete else ""
        rows.append((one["name"], one["seed"], one["minutes"]["train"], *cells, against))
    return f"validation, seen removed, recall@10 / ndcg@10\n\n{markdown(header, rows)}"


def _against(one: Record, whole: Record) -> str:
    """Difference of the two systems' best modes (the first ones) with its interval over users."""
    ours, theirs = ([(pl.read_parquet(record["ranks"]), next(iter(record["validation"])))] for record in (one, whole))
    difference = compare_runs(ours, theirs, "ndcg@10", part="validation")[2]
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


if __name__ == "__main__":
    main()
