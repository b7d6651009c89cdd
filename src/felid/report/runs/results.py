"""The numbers of a report: the summary in words, the tiles, the tables of systems and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from felid.errors import FelidError, RequestError
from felid.evaluation.claims import Question, compare_systems
from felid.evaluation.compared import RankedRun, pooled
from felid.evaluation.compared import systems_of as systems_of_runs
from felid.evaluation.evaluated import EvaluatedRun
from felid.evaluation.protocol import POLICIES
from felid.evaluation.tables import LISTS, aside_lines, difference_lines, policy_lines, systems_of
from felid.report.blocks import Block, Cell, Details, Row, Section, Table, Tiles
from felid.report.runs.entrants import length_of, list_lengths, metric_names, suffix_of, users

GROUPS = {"": "all test users", "_warm": "warm targets", "_cold": "cold targets"}
POLICY_WORDS = {"seen_removed": "seen items removed", "seen_kept": "seen items kept"}


def summary_of(run: EvaluatedRun, data_name: str) -> str:
    """What was evaluated, on what, and the headline, in words."""
    metrics, k = run.metrics, length_of(run.metrics)
    found = metrics["test"][f"recall@{k}"]
    what = f"{run.system} recommends to {metrics['num_users']:,} users of {data_name} what each of them takes next"
    rule = f"every one of the {metrics['num_items']:,} items competes, {POLICY_WORDS[run.policy]}"
    share = f"For {100 * found:.1f} % of them the item that they took is among the first {k}"
    numbers = " and ".join(f"{name}@{k} {_with_interval(metrics, f'{name}@{k}')}" for name in ("recall", "ndcg"))
    return f"{what}; {rule}. {share}: {numbers}."


def _with_interval(metrics: Mapping[str, Any], name: str) -> str:
    interval = metrics.get("intervals", {}).get(name)
    said = "" if interval is None else f" ({interval['low']:.4f} to {interval['high']:.4f})"
    return f"{metrics['test'][name]:.4f}{said}"


def claims(run: EvaluatedRun) -> list[str]:
    """What may be said of the run's first system beside the baselines."""
    known = {name: cells for name, cells in run.metrics.items() if name.startswith("differences")}
    kept = {name: {other: cells[other] for other in cells if other in run.metrics["baselines"]} for name, cells in known.items()}
    return difference_lines({**run.metrics, **kept})


def compared(runs: Sequence[EvaluatedRun]) -> list[str]:
    """What `felid compare` says of several runs, the first one against each other one; or why it says nothing."""
    try:
        return _sentences(runs)
    except FelidError as error:
        if len(runs) == 2:
            return [f"No comparison: {error}."]
    lines = []
    for run in runs[1:]:
        lines += compared([runs[0], run])
    return lines


def _sentences(runs: Sequence[EvaluatedRun]) -> list[str]:
    shared = set.intersection(*(set(list_lengths(run.metrics)) for run in runs))
    if not shared:
        raise RequestError("the runs have no length of lists in common; evaluate them with the same evaluation.ks")
    k = max((length for length in shared if length <= length_of(runs[0].metrics)), default=min(shared))
    question = Question((f"recall@{k}", f"ndcg@{k}"), policy=runs[0].policy)
    systems = systems_of_runs(pooled([RankedRun.open(run.root) for run in runs]))
    return [comparison.sentence for comparison in compare_systems(systems, question)[1]]


def tiles_of(run: EvaluatedRun) -> Tiles:
    """The headline numbers."""
    metrics, k = run.metrics, length_of(run.metrics)
    tiles: dict[str, str | Cell] = {}
    for name in (f"recall@{k}", f"ndcg@{k}"):
        interval = metrics.get("intervals", {}).get(name)
        note = "" if interval is None else f"{100 * run.config.level:g} % CI {interval['low']:.4f} to {interval['high']:.4f}"
        tiles[f"{name}, {run.system}"] = Cell(f"{metrics['test'][name]:.4f}", note)
    beside = metrics["baselines"]
    if beside:
        best = max(beside, key=lambda name: float(beside[name][f"recall@{k}"]))
        tiles[f"recall@{k} of the best baseline"] = Cell(f"{beside[best][f'recall@{k}']:.4f}", best)
    tiles["users, items"] = f"{metrics['num_users']:,}, {metrics['num_items']:,}"
    return Tiles(tiles)


def results_section(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> Section:
    """Systems x metrics under both policies, and how to read them."""
    blocks: list[Block] = []
    if len(runs) > 1:
        blocks.append(_side_by_side(runs, names))
    for place, (run, name) in enumerate(zip(runs, names, strict=True)):
        found: list[Block] = [systems_table(run, f"results-{place}", [""]), *_groups(run, place)]
        found += [policy_table(run, f"{place}"), *_level_of_ids(run, place), *_lists(run, place)]
        if len(runs) > 1:
            blocks.append(Details(f"All systems of {name}, and the policy of its numbers", found))
        else:
            blocks += found
    return Section("results", "Results", "Results", blocks)


def _side_by_side(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> Table:
    """The first system of each run, and the baselines of the first one."""
    first = runs[0]
    columns = list(metric_names(first.metrics))
    groups: list[tuple[str, Sequence[Row]]] = []
    for policy in (first.policy, *(p for p in POLICIES if p != first.policy)):
        rows: list[Row] = []
        for run, name in zip(runs, names, strict=True):
            suffix = suffix_of(run, policy)
            if f"test{suffix}" in run.metrics:
                rows.append([Cell(name, run.system), *_cells(run.metrics, f"test{suffix}", f"intervals{suffix}", columns)])
        suffix = suffix_of(first, policy)
        beside = {f"{name}, of {names[0]}": values for name, values in first.metrics.get(f"baselines{suffix}", {}).items()}
        rows += [[name, *_values(values, columns)] for name, values in beside.items()]
        groups.append((POLICY_WORDS[policy], rows))
    return Table(
        "runs", f"The first system of each run, with its interval, and the baselines of {names[0]}.", ["run", *columns], groups
    )


def _groups(run: EvaluatedRun, place: int) -> list[Block]:
    """Users with warm and with cold targets apart, where there are cold ones."""
    if "test_cold" not in run.metrics:
        return []
    return [Details("Warm and cold targets apart", [systems_table(run, f"groups-{place}", ["_warm", "_cold"])])]


def policy_table(run: EvaluatedRun, key: str) -> Table:
    """The words that every table of these numbers is published with."""
    lines = (line.partition(": ") for line in (*policy_lines(run.metrics), *aside_lines(run.metrics)))
    rows = [[topic, text] for topic, _, text in lines]
    return Table(f"policy-{key}", "What these numbers mean.", ["policy", ""], [("", rows)], words=True)


def systems_table(run: EvaluatedRun, key: str, of: Sequence[str]) -> Table:
    """Systems x metrics under both policies, of all test users ("") or of groups of them."""
    metrics, columns = run.metrics, list(metric_names(run.metrics))
    groups: list[tuple[str, Sequence[Row]]] = []
    for policy in (run.policy, *(p for p in POLICIES if p != run.policy)):
        for group in of:
            suffix = f"{group}{suffix_of(run, policy)}"
            rows: list[Row] = [
                [Cell(run.system, strong=True), *_cells(metrics, f"test{suffix}", f"intervals{suffix}", columns)]
                if name == run.system
                else [name, *_values(values, columns)]
                for name, values in systems_of(metrics, suffix).items()
            ]
            if f"validation{suffix}" in metrics and rows:
                rows.append([f"{run.system}, validation", *_values(metrics[f"validation{suffix}"], columns)])
            if rows:
                count = metrics[f"test{suffix}"]["num_users"]
                groups.append((f"{GROUPS[group]}, {POLICY_WORDS[policy]} ({users(count)})", rows))
    level = f"{100 * run.config.level:g} %"
    return Table(
        key, f"Systems and metrics on the test part; of {run.system} with {level} intervals.", ["system", *columns], groups
    )


def _cells(metrics: Mapping[str, Any], part: str, intervals: str, columns: Sequence[str]) -> list[str | Cell]:
    found = metrics.get(intervals, {})
    return [
        Cell(value, f"{found[name]['low']:.4f} to {found[name]['high']:.4f}") if name in found and value else value
        for name, value in zip(columns, _values(metrics[part], columns), strict=True)
    ]


def _values(values: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    return [f"{values[name]:.4f}" if name in values else "" for name in columns]


def _level_of_ids(run: EvaluatedRun, place: int) -> list[Block]:
    """Where IDs are shared: the metrics if every item with the target's ID were the target."""
    found: Mapping[str, Mapping[str, float]] = run.metrics.get("semantic_id_level", {})
    columns = [name for name in metric_names(run.metrics) if any(name in values for values in found.values())]
    rows = [[name, *_values(values, columns)] for name, values in found.items()]
    caption = "Level of semantic IDs, beside the item level above: any item with the ID of the target counts as the target."
    return [Table(f"id-level-{place}", caption, ["system", *columns], [("", rows)])] if rows else []


def _lists(run: EvaluatedRun, place: int) -> list[Block]:
    """What the lists say besides hits."""
    lists: Mapping[str, Mapping[str, float]] = run.metrics.get("lists", {})
    k = length_of(run.metrics)
    columns = [name for name in ("coverage", *LISTS) if any(f"{name}@{k}" in values for values in lists.values())]
    if not columns:
        return []
    rows: list[Row] = [[name, *(_number(values.get(f"{column}@{k}")) for column in columns)] for name, values in lists.items()]
    caption = (
        f"Lists of {k} items under the headline policy: coverage = share of the catalogue that is recommended to anyone, gini = "
        "how unevenly (0 = all items equally often), average popularity = training interactions of an item, novelty in bits, "
        "diversity = 1 - likeness of the items of a list, invalid and empty = share of the places without an item that may stand "
        "there."
    )
    return [Table(f"lists-{place}", caption, ["system", *(column.replace("_", " ") for column in columns)], [("", rows)])]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if abs(value) < 1 else f"{value:,.2f}"
