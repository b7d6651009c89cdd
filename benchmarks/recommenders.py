"""`python -m benchmarks.recommenders COMMAND`: lynx beside SASRec on Amazon Beauty, with the settings of recommenders.yaml.

- `run`: every system with every seed, `felid train` and `felid evaluate` (which reads test: not before all choices are made).
- `table`: what the runs so far say, pooled over seeds: both policies, intervals, paired differences.
- `quality`: lynx with a short schedule: minutes of the whole command from the data files on, and what it reaches on test.
- `refit`: lynx that also trains on validation targets, those of most users: a row of its own, comparable with no other.
- `ablation`: lynx with one thing changed at a time, on validation alone; with `--settings benchmarks/shares.yaml` the share of
  unmasked cross-entropy, on held-out items.

Commands are processes of their own. What is in the records is not done again, so a benchmark may be interrupted, and two
processes may share it (`--share 0/2` and `--share 1/2`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks.runs import (
    Record,
    System,
    a_share,
    add_record,
    end_with_children,
    felid,
    keep,
    keep_ranks,
    lane_of,
    load_settings,
    made_with,
    minutes_of,
    output,
    records,
    share_of,
    stage_folder,
    with_file,
)
from benchmarks.tables import markdown, pooled, with_extent, with_interval
from felid.artifacts import read_json, write_json
from felid.data.histories import Group
from felid.evaluation import compare_runs
from felid.evaluation.comparison import Ranks
from felid.evaluation.per_user import read_ranks
from felid.evaluation.protocol import POLICIES

SEEDS = {"run": (0, 1, 2), "quality": (0,), "refit": (0,), "ablation": (0,)}
SHOWN = ("lynx", "lynx, generative", "lynx, dense", "sasrec", "sasrec, fused", "markov", "popularity")
"""Systems by the names that evaluations give them, in order; a plain name is the mode that the model ranks with."""
PAIRS = (
    *(("lynx", "sasrec"), ("lynx", "sasrec, fused"), ("lynx, dense", "sasrec"), ("lynx, generative", "sasrec")),
    *(("lynx", "markov"), ("sasrec", "markov")),
)
"""Which systems are compared."""
PARTS = ("embed", "warmup", "quantize", "tokenize", "train", "fusion")
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
SAME = ("name", "seed")
"""A record replaces the former one of the same name and seed, whose files it has overwritten."""
TIGER = 0.0648
"""Test recall@10 on Beauty in the TIGER paper."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is asked for."""
    end_with_children()
    options, console = _options(arguments), Console(width=200, highlight=False)
    commands: dict[str, Callable[[argparse.Namespace], str]] = {
        "run": run_systems,
        "table": table_systems,
        "quality": run_once,
        "refit": run_once,
        "ablation": run_ablation,
    }
    console.print(commands[options.command](options), soft_wrap=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recommenders", description=__doc__)
    parser.add_argument("command", choices=["run", "table", "quality", "refit", "ablation"])
    parser.add_argument("--seeds", nargs="+", type=int, help=f"default: {SEEDS}")
    parser.add_argument("--settings", type=Path, default=Path(__file__).with_suffix(".yaml"), help="what is trained")
    parser.add_argument("--out", type=Path, default=Path("reports/recommenders"), help="folder of the records")
    parser.add_argument("--work", type=Path, default=Path("runs/recommenders"), help="folder of the run folders")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--warm-users", type=int, help="of `ablation`: validate on so many users with a warm target; default: all"
    )
    parser.add_argument(
        "--share", type=a_share, default="0/1", help="which part of the trainings this process makes, counted from 0"
    )
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or SEEDS.get(options.command)
    return options


class Job(NamedTuple):
    """One training of a benchmark."""

    name: str
    seed: int
    system: System
    """With the seed."""

    @classmethod
    def of(cls, name: str, seed: int, system: System) -> Job:
        return cls(name, seed, system.with_overrides(f"seed={seed}"))

    @property
    def key(self) -> Record:
        """What the record of this training holds."""
        return {"name": self.name, "seed": self.seed, "resolved": self.system.resolved}

    def start(self, stage: str, root: Path, threads: int) -> Record:
        """Run `felid STAGE`; the beginning of the record, and the minutes that all parts took."""
        record = {**self.key, "recipe": self.system.recipe, "overrides": list(self.system.overrides), **made_with(threads)}
        felid(stage, root, self.system.recipe, self.system.overrides, threads=threads)
        return {**record, "minutes": minutes_of(root)}


def missing_jobs(options: argparse.Namespace, systems: Mapping[str, System], done: Sequence[Record]) -> list[Job]:
    """The trainings of this lane that are in no record yet."""
    jobs = [Job.of(name, seed, system) for name, system in systems.items() for seed in options.seeds]
    found = [{"name": one["name"], "seed": one["seed"], "resolved": one["resolved"]} for one in done]
    return [job for job in share_of(jobs, options.share) if job.key not in found]


def current(systems: Mapping[str, System], done: Sequence[Record]) -> list[Record]:
    """The records of trainings with the settings that `systems` have now."""
    return [
        one
        for one in done
        if one["name"] in systems and Job.of(one["name"], one["seed"], systems[one["name"]]).key.items() <= one.items()
    ]


def run_systems(options: argparse.Namespace) -> str:
    """Train and evaluate what is missing; ranks, metrics and the resolved recipe of each run are kept beside the records."""
    path, root = options.out / "runs.json", lane_of(options.work, options.share)
    for job in missing_jobs(options, load_settings(options.settings).systems, with_file(records(path), options.out)):
        record = job.start("evaluate", root, options.threads)
        folder, kept = stage_folder(root, "evaluate"), f"{job.name}-{job.seed}"
        for source in (folder / "metrics.json", root / "recipe.json", stage_folder(root, "train") / "search.json"):
            keep(source, options.out, f"{kept}/{source.name}")
        write_json(options.out / kept / "curve.json", read_json(stage_folder(root, "train") / "progress.json")["curve"])
        ranks = keep_ranks(folder / "ranks.parquet", options.out, f"{kept}/per-user.parquet")
        add_record(path, {**record, "ranks": ranks}, SAME)
    return table_systems(options)


def table_systems(options: argparse.Namespace) -> str:
    """Tables and comparisons of the runs so far, also written to `table.json`."""
    path = options.out / "runs.json"
    done = with_file(current(load_settings(options.settings).systems, records(path)), options.out)
    if not done:
        return f"{path} holds no run with these settings and its ranks among {len(records(path))}; use the command run"
    ranks = [{**record, "ranks": read_ranks(options.out / record["ranks"])} for record in done]
    rows, sentences = metric_rows(runs_of(ranks)), comparisons(runs_of(ranks))
    write_json(options.out / "table.json", {"rows": rows, "comparisons": sentences})
    header = ("system", "part", "seen", "runs", *METRICS, "recall@10, 95 % CI", "ndcg@10, 95 % CI")
    cells = [list(row.values()) for row in rows]
    times = [(one["name"], one["seed"], one["threads"], *(one["minutes"].get(part, "") for part in PARTS)) for one in done]
    parts = (
        markdown(header, cells),
        "\n".join(sentences),
        markdown(("system", "seed", "threads", *(f"{part}, min" for part in PARTS)), times),
    )
    return "\n\n".join(parts)


def runs_of(done: Sequence[Record]) -> dict[str, dict[int, Ranks]]:
    """By system and seed, the ranks of each: those of `SHOWN` first, then what else the evaluations have."""
    found: dict[str, dict[int, Ranks]] = {name: {} for name in SHOWN}
    for record in done:
        for name in record["ranks"]["system"].unique(maintain_order=True):
            found.setdefault(name, {})[record["seed"]] = record["ranks"], name
    return {name: of_seed for name, of_seed in found.items() if of_seed}


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
    """What may be claimed on test of the pairs of systems, run by run with the same seed."""
    found = []
    for ours, theirs in PAIRS:
        seeds = [seed for seed in runs.get(ours, {}) if seed in runs.get(theirs, {})]
        if not seeds:
            continue
        pairs = [runs[ours][seed] for seed in seeds], [runs[theirs][seed] for seed in seeds]
        for metric, policy in itertools.product(METRICS[2:], POLICIES):
            difference = compare_runs(*pairs, metric, policy=policy)[2]
            text = difference.sentence(f"({ours})", f"({theirs})", f"test, {policy.replace('_', ' ')}, {metric}")
            found.append(f"{text}, {len(seeds)} pairs of runs")
    return found


def run_once(options: argparse.Namespace) -> str:
    """The whole command on an empty run folder, timed; test is read once, at the end."""
    name: str = options.command
    path, systems = options.out / f"{name}.json", {name: load_settings(options.settings).once[name]}
    for job in missing_jobs(options, systems, records(path)):
        root = options.work / f"{job.name}-{job.seed}"
        shutil.rmtree(root, ignore_errors=True)  # what is left of an interrupted run would shorten this one
        start = time.perf_counter()
        record = job.start("train", root, options.threads)
        minutes = round((time.perf_counter() - start) / 60, 2)
        felid("evaluate", root, job.system.recipe, job.system.overrides, threads=options.threads)
        metrics = read_json(stage_folder(root, "evaluate") / "metrics.json")
        results = {part: metrics[part] for part in ("test", "intervals", "test_seen_kept", "intervals_seen_kept", "validation")}
        add_record(path, {**record, "command_minutes": minutes, **results}, SAME)
    rows = []
    for one in current(systems, records(path)):
        removed, kept = ((one[part]["recall@10"], one[part]["ndcg@10"]) for part in ("test", "test_seen_kept"))
        cells = [f"{recall:.4f} / {ndcg:.4f}" for recall, ndcg in (removed, kept)]
        rows.append((name, one["seed"], one["threads"], one["command_minutes"], one["minutes"]["train"], *cells))
    header = ("lynx", "seed", "threads", "minutes, whole command", "training", "test recall@10 / ndcg@10", "seen kept")
    return f"{markdown(header, rows)}\n\nThe TIGER paper has a test recall@10 of {TIGER}."


def run_ablation(options: argparse.Namespace) -> str:
    """Train and validate what is missing; test is not read."""
    path, settings, root = options.out / "ablation.json", load_settings(options.settings), lane_of(options.work, options.share)
    lynx = settings.systems["lynx"].with_overrides(*settings.ablated)
    users = [] if options.warm_users is None else ["--warm-users", str(options.warm_users)]
    systems = {name: lynx.with_overrides(*changes) for name, changes in settings.ablation.items()}
    for job in missing_jobs(options, systems, with_file(records(path), options.out)):
        record, source = job.start("train", root, options.threads), root / "validation.parquet"
        asked = ("--every-mode", *users, "--ranks", str(source))
        found = output("benchmarks.validate", str(root), *asked, threads=options.threads)
        ranks = keep_ranks(source, options.out, f"ablation/{job.name.replace(' ', '-')}-{job.seed}-per-user.parquet")
        add_record(path, {**record, "ranks": ranks, "validation": json.loads(found)}, SAME)
    return table_ablation(with_file(current(systems, records(path)), options.out), next(iter(systems)), options.out)


def table_ablation(done: Sequence[Record], complete: str, out: Path) -> str:
    """Validation metrics of each mode, of warm and cold users apart where items were held out, and what the change makes of them:
    differences to the complete system of the same seed."""
    header = ("lynx", "seed", "minutes", "users", "fused", "generative", "dense", "ndcg@10 against complete")
    whole = {one["seed"]: one for one in done if one["name"] == complete}
    rows = []
    for one in done:
        groups: list[Group | None] = [None] if "cold" not in next(iter(one["validation"].values())) else ["warm", "cold"]
        for group in groups:
            modes = {mode: users[group or "all"] for mode, users in one["validation"].items()}
            cells = [f"{modes[m]['recall@10']:.4f} / {modes[m]['ndcg@10']:.4f}" if m in modes else "" for m in header[4:7]]
            other = whole.get(one["seed"], one)
            against = _against(one, other, out, group) if other is not one else ""
            rows.append((one["name"], one["seed"], one["minutes"]["train"], group or "all", *cells, against))
    return f"validation, seen removed, recall@10 / ndcg@10\n\n{markdown(header, rows)}"


def _against(one: Record, whole: Record, out: Path, group: Group | None) -> str:
    """Differences to the complete system in each mode that both have, with their intervals over the users of a group."""
    ours, theirs = read_ranks(out / one["ranks"]), read_ranks(out / whole["ranks"])
    found = []
    for mode in (mode for mode in one["validation"] if mode in whole["validation"]):
        difference = compare_runs([(ours, mode)], [(theirs, mode)], "ndcg@10", part="validation", group=group)[2]
        found.append(f"{mode} {difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]")
    return "; ".join(found)


if __name__ == "__main__":
    main()
