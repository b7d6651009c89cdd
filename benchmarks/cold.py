"""`python -m benchmarks.cold COMMAND`: new items on Amazon Beauty, lynx beside SASRec with text neighbours for them.

The items without training interactions are too few, so each draw takes 5 % of the items out of training for the test and 5 %
others for choices (`holdout.rule=random`, seed = the draw).

- `run`: per system and draw `felid train`, and `felid evaluate` twice: plain, and with the search settings for new items that
  were chosen on the validation group of draw 0: of those in `GRIDS` that cost all users together at most `MOST_LOSS` of recall@10
  and of ndcg@10, the one with the best ndcg@10 of the users with cold targets.
- `table`: all draws together: the cold users of the test group, and what the others lose.

Commands are processes of their own. What is in the records is not done again; two processes may share the work, one with
`--systems lynx` and one with `--systems sasrec`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
from rich.console import Console

from benchmarks.runs import (
    Record,
    Settings,
    System,
    add_record,
    end_with_children,
    felid,
    load_settings,
    made_with,
    minutes_of,
    output,
    records,
    stage_folder,
)
from benchmarks.tables import markdown, pooled, with_extent, with_interval
from felid.artifacts import write_json
from felid.data.histories import Group
from felid.evaluation import compare_runs
from felid.evaluation.comparison import Ranks
from felid.evaluation.protocol import POLICIES, Policy

BIASES = (0, -1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4)
PLAIN: Mapping[str, tuple[str, ...]] = {"lynx": ("cold_bias=0",), "sasrec": ("cold_neighbours=0",)}
GRIDS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "lynx": [(f"cold_bias={bias}",) for bias in BIASES],
    "sasrec": [(f"cold_neighbours={k}", f"cold_bias={bias}") for k, bias in itertools.product((3, 10, 30), BIASES)],
}
"""Search settings to choose from: SASRec always gets neighbours, without them it recommends no new item."""
MOST_LOSS = 0.005
METRICS = ("recall@10", "ndcg@10")
Metrics = Mapping[str, Mapping[str, float]]
"""By users (`all`, `warm`, `cold`) and name."""
SHOWN = {
    ("lynx", "chosen"): ("lynx", "lynx, generative", "lynx, dense", "markov", "popularity"),
    ("lynx", "plain"): ("lynx",),
    ("sasrec", "chosen"): ("sasrec", "sasrec, fused"),
    ("sasrec", "plain"): ("sasrec", "sasrec, fused"),
}
"""By trained system and variant, the systems of its evaluations that the table has."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is asked for."""
    end_with_children()
    options, console = _options(arguments), Console(width=200, highlight=False)
    if options.command == "run":
        systems = load_settings(options.settings).systems
        for name in options.systems:
            run_system(name, systems[name], options)
    console.print(table(options.out, load_settings(options.settings)), soft_wrap=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--systems", nargs="+", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--settings", type=Path, default=Path(__file__).with_name("recommenders.yaml"), help="what is trained")
    parser.add_argument("--out", type=Path, default=Path("reports/cold"), help="folder of the records")
    parser.add_argument("--work", type=Path, default=Path("runs/cold"), help="folder of the run folders, one per system")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def run_system(name: str, system: System, options: argparse.Namespace) -> None:
    """All draws of one system: train, choose (on draw 0), evaluate plain and chosen."""
    root, path = options.work / name, options.out / "runs.json"
    choice = _choice(name, _of_draw(system, 0), options)
    for draw, (variant, search) in itertools.product(range(options.draws), (("plain", PLAIN[name]), ("chosen", choice))):
        whole = _of_draw(system, draw, search)
        key = {"system": name, "draw": draw, "variant": variant, "resolved": whole.resolved}
        if any(key.items() <= record.items() for record in records(path)):
            continue
        record = {**key, "recipe": whole.recipe, "overrides": list(whole.overrides), **made_with(options.threads)}
        felid("evaluate", root, whole.recipe, whole.overrides, threads=options.threads)
        evaluation = str(stage_folder(root, "evaluate"))
        add_record(path, {**record, "search": list(search), "minutes": minutes_of(root), "evaluation": evaluation})


def _of_draw(system: System, draw: int, search: Sequence[str] = ()) -> System:
    """A system on the data of a draw, with search settings."""
    return system.with_overrides("holdout.rule=random", f"holdout.seed={draw}", *(f"search.{setting}" for setting in search))


def _choice(name: str, system: System, options: argparse.Namespace) -> tuple[str, ...]:
    """The search settings for new items, chosen once on validation and then kept in `choices.json` with the whole grid."""
    path, root = options.out / "choices.json", options.work / name
    key = {"system": name, "resolved": system.resolved}
    for record in records(path):
        if key.items() <= record.items() and [tuple(one["search"]) for one in record["grid"]] == list(GRIDS[name]):
            return tuple(record["choice"])
    made = made_with(options.threads)
    felid("train", root, system.recipe, system.overrides, threads=options.threads)
    asked = [word for search in (PLAIN[name], *GRIDS[name]) for word in ("--search", *search)]
    lines = output("benchmarks.validate", str(root), *asked, threads=options.threads).splitlines()
    plain, *found = (next(iter(json.loads(line).values())) for line in lines)  # of the mode that the system ranks with
    choice = GRIDS[name][choose(plain, found)]
    grid = [{"search": list(search), **metrics} for search, metrics in zip(GRIDS[name], found, strict=True)]
    add_record(path, {**key, **made, "choice": list(choice), "plain": plain, "grid": grid})
    return choice


def choose(plain: Metrics, found: Sequence[Metrics]) -> int:
    """The place of the best settings among those that cost all users together at most `MOST_LOSS` of each metric.

    The best ones have the highest ndcg@10 of the cold users (ties: the first); where all cost more, those that cost least.
    """
    kept = [min(one["all"][metric] / plain["all"][metric] for metric in METRICS) for one in found]
    able = [place for place, share in enumerate(kept) if share >= 1 - MOST_LOSS]
    if not able:
        return max(range(len(found)), key=kept.__getitem__)
    return max(able, key=lambda place: found[place]["cold"]["ndcg@10"])


def current(settings: Settings, done: Sequence[Record]) -> list[Record]:
    """The records of evaluations with the settings that the systems have now; the latest choice counts."""
    found: dict[tuple[str, int, str], Record] = {}
    for one in done:
        whole = _of_draw(settings.systems[one["system"]], one["draw"], one["search"])
        if whole.resolved == one["resolved"]:
            found[one["system"], one["draw"], one["variant"]] = one
    return list(found.values())


def table(out: Path, settings: Settings) -> str:
    """What the draws so far say, also written to `table.json`."""
    done = current(settings, records(out / "runs.json"))
    runs: dict[tuple[str, str], dict[int, pl.DataFrame]] = {}
    for record in done:
        frame = pl.read_parquet(Path(record["evaluation"]) / "ranks.parquet")
        runs.setdefault((record["system"], record["variant"]), {})[record["draw"]] = frame
    rows, sentences = metric_rows(runs), comparisons(runs)
    if not rows:
        return f"{out / 'runs.json'} holds no evaluation with these settings; use the command run"
    write_json(out / "table.json", {"rows": rows, "comparisons": sentences, "runs": done})
    lines = dict.fromkeys(f"{one['system']}, {one['variant']}: {' '.join(one['search'])}" for one in done)
    return "\n\n".join((markdown(list(rows[0]), [list(row.values()) for row in rows]), "\n".join(lines), "\n".join(sentences)))


def metric_rows(runs: Mapping[tuple[str, str], Mapping[int, pl.DataFrame]]) -> list[dict[str, str]]:
    """A row per policy, group of targets and system: means over the draws' users, with their extent and interval."""
    rows = []
    groups: tuple[Group | None, ...] = ("cold", "warm", None)
    shown = [(one, name) for one, names in SHOWN.items() if one in runs for name in names]
    for policy, group, (one, name) in itertools.product(POLICIES, groups, shown):
        row = {"system": name, "new items": one[1] if name.startswith(one[0]) else ""}
        row |= {"targets": group or "all", "seen": policy.removeprefix("seen_"), "draws": str(len(runs[one]))}
        for metric in METRICS:
            pool, values = pooled(_of(runs[one], name), metric, policy=policy, group=group)
            row |= {metric: with_extent(pool.mean, values), f"{metric}, 95 % CI": with_interval(pool)}
        rows.append(row)
    return rows


def _of(frames: Mapping[int, pl.DataFrame], system: str, draws: Sequence[int] | None = None) -> list[Ranks]:
    return [(frames[draw], system) for draw in (frames if draws is None else draws)]


def comparisons(runs: Mapping[tuple[str, str], Mapping[int, pl.DataFrame]]) -> list[str]:
    """On cold targets lynx against SASRec with neighbours; for each of them, what the settings for new items cost."""
    found = []
    for metric, policy in itertools.product(METRICS, POLICIES):
        found += _paired(runs, ("lynx", "chosen"), ("sasrec", "chosen"), metric, policy, "cold")
        groups: tuple[Group | None, ...] = (None, "warm")
        for name, group in itertools.product(GRIDS, groups):
            found += _paired(runs, (name, "chosen"), (name, "plain"), metric, policy, group)
    return found


def _paired(
    runs: Mapping[tuple[str, str], Mapping[int, pl.DataFrame]],
    ours: tuple[str, str],
    theirs: tuple[str, str],
    metric: str,
    policy: Policy,
    group: Group | None,
) -> list[str]:
    """One sentence over the draws that both have; none where there is no such draw."""
    draws = [draw for draw in runs.get(ours, {}) if draw in runs.get(theirs, {})]
    if not draws:
        return []
    sides = _of(runs[ours], ours[0], draws), _of(runs[theirs], theirs[0], draws)
    _, mean, difference = compare_runs(*sides, metric, policy=policy, group=group)
    what = f"test, {group or 'all'} targets, {policy.replace('_', ' ')}, {metric}"
    relative = f"{difference.mean / mean:+.2%} of {mean:.4f}" if mean else "of 0"
    first, second = (f"({', '.join(one)})" for one in (ours, theirs))
    return [f"{difference.sentence(first, second, what)}, {len(draws)} draws, {relative}"]


if __name__ == "__main__":
    main()
