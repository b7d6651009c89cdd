"""The command that compares runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from felid.artifacts import write_json
from felid.cli.shared import app, console
from felid.config import Tree, as_tree, parse_overrides, validate
from felid.errors import RecipeError

if TYPE_CHECKING:  # the commands import what they need: `felid --help` must not wait for torch
    from felid.evaluation.claims import Comparison, Question, Standing
    from felid.evaluation.compared import System


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Evaluated run folders, records, or Parquet files of ranks; level=, draws=, flips= and seed= among them are "
            "settings, such as level=0.99.",
            metavar="RUN|KEY=VALUE...",
        ),
    ],
    metric: Annotated[
        list[str] | None, typer.Option(help="Default: recall@10 and ndcg@10; may be repeated.", metavar="NAME@K")
    ] = None,
    part: Annotated[Literal["validation", "test"], typer.Option(help="Users of which part.")] = "test",
    policy: Annotated[Literal["seen_removed", "seen_kept"], typer.Option(help="Items of the history.")] = "seen_removed",
    group: Annotated[Literal["warm", "cold"] | None, typer.Option(help="Only users with such a target.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Hold all others against this system; default: the first one against each.", metavar="NAME")
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(help="A system of the runs, such as 'lynx, dense' or markov; may be repeated.", metavar="NAME"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the comparison here as JSON, too.", metavar="FILE")] = None,
) -> None:
    """Compare systems on the same users and say what may be claimed; runs that differ in the seed alone are one system."""
    from felid.evaluation.claims import Question, Resampling, compare_systems
    from felid.evaluation.compared import RankedRun, pooled, systems_of
    from felid.evaluation.conditions import condition_lines

    metrics = tuple(dict.fromkeys(metric)) if metric else Question.metrics
    paths, settings = _told_apart(runs)
    question = Question(metrics, part, policy, group, **as_tree(validate(Resampling, parse_overrides(settings))))
    systems = systems_of(pooled([RankedRun.open(path) for path in paths], _resolved), system or [])
    standings, comparisons = compare_systems(systems, question, against)
    conditions = condition_lines(systems)
    _print(systems, standings, comparisons, question, conditions)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, _as_tree(systems, standings, comparisons, question) | {"conditions": conditions})
        console.print(f"comparison: {out}", soft_wrap=True)


def _told_apart(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Paths, and settings: what has a = and is not the path of anything."""
    settings = [one for one in arguments if "=" in one and not Path(one).exists()]
    return [Path(one) for one in arguments if one not in settings], settings


def _resolved(tree: Tree) -> Tree:
    """A recipe with defaults for settings that it does not know yet; as it is where it is no recipe any more."""
    from felid.recipe import Recipe

    try:
        return as_tree(validate(Recipe, tree))
    except RecipeError:
        return tree


def _print(
    systems: list[System],
    standings: list[Standing],
    comparisons: list[Comparison],
    question: Question,
    conditions: list[str],
) -> None:
    users, percent = comparisons[0].difference.users, f"{question.level * 100:g} %"
    _print_table(_systems_table(systems, standings, f"{question.what}, {users:,} users"))
    _print_table(_differences_table(comparisons))
    lines = [
        f"intervals: {percent} bootstrap over users ({question.draws:,} draws); after them the least and the largest of the runs",
        f"p: randomisation test, {question.flips:,} flips of users' signs; adjusted: Holm's correction for {len(comparisons)}",
        "new trainings: interval over users and seeds together; other data, splits and settings are not in it",
        *conditions,
        *(comparison.sentence for comparison in comparisons),
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_table(table: Table) -> None:
    unlimited = console.options.update(width=1000)
    table.width = Measurement.get(console, unlimited, table).maximum  # a console too narrow wraps the lines and cuts no number
    console.print(table, crop=False)


def _systems_table(systems: list[System], standings: list[Standing], title: str) -> Table:
    """A row per system: its runs and, for each metric, mean, interval and extent over the runs."""
    metrics = list(dict.fromkeys(one.metric for one in standings))
    table = _table(title, ["system", "runs", *metrics])
    for system in systems:
        own = {one.metric: one for one in standings if one.system == system.name}
        table.add_row(Text(system.name), _runs(own[metrics[0]]), *(Text(_cell(own[metric])) for metric in metrics))
    return table


def _runs(standing: Standing) -> str:
    seeds = [str(seed) for seed in standing.seeds if seed is not None]
    count = len(standing.seeds)
    if standing.fixed:
        return f"{count}, all the same"
    return f"{count}, seed{'s' * (count > 1)} {' '.join(seeds)}" if seeds else str(count)


def _cell(standing: Standing) -> str:
    of_runs = standing.of_runs
    extent = f" ({min(of_runs):.4f}-{max(of_runs):.4f})" if len(of_runs) > 1 else ""
    return f"{standing.mean:.4f} [{standing.low:.4f}, {standing.high:.4f}]{extent}"


def _differences_table(comparisons: list[Comparison]) -> Table:
    columns = ["difference", "metric", "mean", "users", "p", "adjusted", "new trainings", "runs"]
    table = _table(None, columns)
    for one in comparisons:
        found, new = one.difference, one.retrained
        interval = f"[{found.low:+.4f}, {found.high:+.4f}]"
        trainings = "" if new is None else f"[{new.low:+.4f}, {new.high:+.4f}]"
        runs = f"{one.runs[0]} and {one.runs[1]}{', paired' * one.paired}"
        p_values = f"{one.p:.4f}", f"{one.adjusted:.4f}"
        cells = f"{one.ours} - {one.theirs}", one.metric, f"{found.mean:+.4f}", interval, *p_values, trainings, runs
        table.add_row(*map(Text, cells))
    return table


def _table(title: str | None, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def _as_tree(
    systems: list[System], standings: list[Standing], comparisons: list[Comparison], question: Question
) -> dict[str, object]:
    runs = {system.name: [str(run.path) for run in system.runs] for system in systems}
    return {
        "question": asdict(question),
        "runs": runs,
        "systems": [asdict(standing) for standing in standings],
        "comparisons": [comparison.as_tree() for comparison in comparisons],
    }
