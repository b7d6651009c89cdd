"""`python -m benchmarks.cold COMMAND`: new items on Amazon Beauty, lynx beside SASRec with text neighbours for them.

The items without training interactions are too few, so each draw takes 5 % of the items out of training for the test and 5 %
others for choices (`holdout.rule=random`, seed = the draw).

- `run`: per system and draw `felid train`, and `felid evaluate` twice: plain, which is without new items, and with the search
  settings for new items that were chosen on the validation group of that draw (another draw's may be test items here): of those
  in `GRIDS` that cost all users together at most `MOST_LOSS` of recall@10 and of ndcg@10, the one with the best ndcg@10 of the
  users with cold targets.
- `table`: all draws together: the cold users of the test group, what the others lose, and lynx beside SASRec for all of them.

Commands are processes of their own. What is in the records is not done again; two processes may share the work, one with
`--systems lynx` and one with `--systems sasrec`, or different `--draws` and `--work`.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console

from benchmarks.runs import (
    Record,
    Settings,
    System,
    add_record,
    end_with_children,
    felid,
    keep,
    keep_ranks,
    load_settings,
    made_with,
    minutes_of,
    output,
    records,
    stage_folder,
    with_file,
)
from benchmarks.tables import markdown, pooled, with_extent, with_interval
from felid.artifacts import write_json
from felid.data.histories import Group
from felid.evaluation import compare_runs
from felid.evaluation.comparison import Ranks
from felid.evaluation.per_user import read_ranks
from felid.evaluation.protocol import POLICIES, Policy

WARM_USERS = 10_000
"""Of the users with warm targets as many as tell a loss of half a per cent by differences of the same users' lists."""
PLAIN: Mapping[str, tuple[str, ...]] = {"lynx": ("cold_share=0",), "sasrec": ("cold_neighbours=0",)}
"""Search settings without new items: lynx knows them by their texts and codes, so they have to be shut out."""
GRIDS: Mapping[str, Sequence[tuple[str, ...]]] = {
    name: [(f"cold_neighbours={k}", f"cold_bias={bias:g}") for k in neighbours for bias in np.arange(first, last + 0.1, 0.5)]
    for name, neighbours, first, last in (("lynx", (3, 10), 0.0, 2.0), ("sasrec", (3, 10, 30), -2.0, 1.0))
}
"""Search settings to choose from; without neighbours SASRec recommends no new item."""
EVALUATED: Mapping[str, tuple[str, ...]] = {"lynx": ("evaluation.variants=false",), "sasrec": ()}
"""Of lynx's modes only the one that it ranks with: the searches of the others would take as long again."""
MOST_LOSS = 0.005
METRICS = ("recall@10", "ndcg@10")
SAME = ("system", "draw", "variant")
"""A record replaces the former one that agrees in these, whose files it has overwritten."""
GROUPS: tuple[Group | None, ...] = ("cold", "warm", None)
"""Users by their targets; None = all."""
Metrics = Mapping[str, Mapping[str, float]]
"""By users (`all`, `warm`, `cold`) and name."""
SHOWN = {
    ("lynx", "chosen"): ("lynx", "markov", "popularity"),
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
    parser.add_argument("--draws", type=int, nargs="+", default=list(range(5)), help="seeds of the items held out")
    parser.add_argument("--systems", nargs="+", choices=list(GRIDS), default=list(GRIDS))
    parser.add_argument("--settings", type=Path, default=Path(__file__).with_name("recommenders.yaml"), help="what is trained")
    parser.add_argument("--out", type=Path, default=Path("reports/cold"), help="folder of the records")
    parser.add_argument("--work", type=Path, default=Path("runs/cold"), help="folder of the run folders, one per system")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def run_system(name: str, system: System, options: argparse.Namespace) -> None:
    """All draws of one system: train, choose, evaluate plain and chosen."""
    root, path = options.work / name, options.out / "runs.json"
    for draw in options.draws:
        for variant, search in (("plain", PLAIN[name]), ("chosen", _choice(name, system, draw, options))):
            whole = _of_draw(name, system, draw, search)
            key = {"system": name, "draw": draw, "variant": variant, "resolved": whole.resolved}
            if any(key.items() <= record.items() for record in with_file(records(path), options.out)):
                continue
            record = {**key, "recipe": whole.recipe, "overrides": list(whole.overrides), **made_with(options.threads)}
            felid("evaluate", root, whole.recipe, whole.overrides, threads=options.threads)
            folder, kept = stage_folder(root, "evaluate"), f"{name}-{draw}-{variant}"
            for source in (folder / "metrics.json", stage_folder(root, "train") / "search.json"):
                keep(source, options.out, f"{kept}/{source.name}")
            ranks = keep_ranks(folder / "ranks.parquet", options.out, f"{kept}/per-user.parquet")
            add_record(path, {**record, "search": list(search), "minutes": minutes_of(root), "ranks": ranks}, SAME)


def _of_draw(name: str, system: System, draw: int, search: Sequence[str] = ()) -> System:
    """A system on the data of a draw, with search settings."""
    settings = ("holdout.rule=random", f"holdout.seed={draw}", *EVALUATED[name], *(f"search.{setting}" for setting in search))
    return system.with_overrides(*settings)


def _choice(name: str, plain_system: System, draw: int, options: argparse.Namespace) -> tuple[str, ...]:
    """A draw's search settings for new items, chosen once on validation and then kept in `choices.json` with the whole grid."""
    path, root, system = options.out / "choices.json", options.work / name, _of_draw(name, plain_system, draw)
    key = {"system": name, "draw": draw, "resolved": system.resolved}
    for record in records(path):
        if key.items() <= record.items() and [tuple(one["search"]) for one in record["grid"]] == list(GRIDS[name]):
            return tuple(record["choice"])
    made = made_with(options.threads)
    felid("train", root, system.recipe, system.overrides, threads=options.threads)
    asked = [word for search in (PLAIN[name], *GRIDS[name]) for word in ("--search", *search)]
    asked += ["--warm-users", str(WARM_USERS)]
    lines = output("benchmarks.validate", str(root), *asked, threads=options.threads).splitlines()
    plain, *found = (_of_one_mode(json.loads(line)) for line in lines)
    choice = GRIDS[name][choose(plain, found)]
    grid = [{"search": list(search), **metrics} for search, metrics in zip(GRIDS[name], found, strict=True)]
    add_record(path, {**key, **made, "choice": list(choice), "plain": plain, "grid": grid}, ("system", "draw"))
    return choice


def _of_one_mode(found: Mapping[str, Metrics]) -> Metrics:
    """What `benchmarks.validate` says of the mode that the system ranks with."""
    [metrics] = found.values()
    return metrics


def choose(plain: Metrics, found: Sequence[Metrics]) -> int:
    """The place of the best settings among those that cost all users at most `MOST_LOSS` of each metric.

    The best ones have the highest ndcg@10 of the cold users (ties: the first); where all cost more, those that cost least.
    """
    kept = [min(one["all"][metric] / plain["all"][metric] for metric in METRICS) for one in found]
    able = [place for place, share in enumerate(kept) if share >= 1 - MOST_LOSS]
    if not able:
        return max(range(len(found)), key=kept.__getitem__)
    return max(able, key=lambda place: found[place]["cold"]["ndcg@10"])


def current(settings: Settings, done: Sequence[Record]) -> list[Record]:
    """The records of evaluations with the settings that the systems have now."""
    systems = settings.systems
    known = [one for one in done if one["system"] in systems]
    return [
        one
        for one in known
        if _of_draw(one["system"], systems[one["system"]], one["draw"], one["search"]).resolved == one["resolved"]
    ]


def table(out: Path, settings: Settings) -> str:
    """What the draws so far say, also written to `table.json`."""
    done = with_file(current(settings, records(out / "runs.json")), out)
    runs: dict[tuple[str, str], dict[int, pl.DataFrame]] = {}
    for record in done:
        runs.setdefault((record["system"], record["variant"]), {})[record["draw"]] = read_ranks(out / record["ranks"])
    rows, sentences = metric_rows(runs), comparisons(runs)
    if not rows:
        return f"{out / 'runs.json'} holds no evaluation with these settings and its ranks; use the command run"
    write_json(out / "table.json", {"rows": rows, "comparisons": sentences})
    ordered = sorted(done, key=lambda one: (one["system"], one["variant"], one["draw"]))
    lines = [f"{one['system']}, {one['variant']}, draw {one['draw']}: {' '.join(one['search'])}" for one in ordered]
    return "\n\n".join((markdown(list(rows[0]), [list(row.values()) for row in rows]), "\n".join(lines), "\n".join(sentences)))


def metric_rows(runs: Mapping[tuple[str, str], Mapping[int, pl.DataFrame]]) -> list[dict[str, str]]:
    """A row per policy, group of targets and system: means over the draws' users, with their extent and interval."""
    rows = []
    shown = [(one, name) for one, names in SHOWN.items() if one in runs for name in names]
    for policy, group, (one, name) in itertools.product(POLICIES, GROUPS, shown):
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
    """lynx against SASRec with neighbours, by targets; for each of them, what the settings for new items cost."""
    found = []
    for metric, policy in itertools.product(METRICS, POLICIES):
        for group in GROUPS:
            found += _paired(runs, ("lynx", "chosen"), ("sasrec", "chosen"), metric, policy, group)
        for name, group in itertools.product(GRIDS, GROUPS[1:]):
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
