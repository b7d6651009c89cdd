"""`felid data check`: what felid makes of people's own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.table import Table

from felid.cli.making import data_app
from felid.cli.shared import console
from felid.errors import RequestError

if TYPE_CHECKING:
    from felid.advice import Expected
    from felid.data.faults import Inspection

FAULTY = 1
"""Exit code where `felid run` would refuse the data."""


@data_app.command()
def check(
    path: Annotated[Path, typer.Argument(help="CSV, TSV, JSON lines or Parquet, or a folder of such files.", metavar="PATH")],
    items: Annotated[Path | None, typer.Option(help="The items file, where it is not found by itself.", metavar="FILE")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Ours = the file's, such as user_id=buyer; may be repeated.", metavar="OURS=THEIRS")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Write the suggested recipe to this YAML file.", metavar="FILE")] = None,
) -> None:
    """Say what was understood of your own data, what is wrong with it, what to expect, and how to begin."""
    if recipe is not None and recipe.suffix not in (".yaml", ".yml"):
        raise RequestError(f"--recipe {recipe} has no ending that a recipe has; call it {recipe.stem}.yaml")
    found = _check(path, items, _pairs(column or []), recipe)
    if any(fault.fatal for fault in found.faults):
        raise typer.Exit(FAULTY)


def _check(path: Path, items: Path | None, columns: dict[str, str], recipe: Path | None) -> Inspection:
    from felid.advice import MOST_USERS, describe, expected, statistics_lines, suggest, suggest_filter
    from felid.data.faults import filtered, inspect
    from felid.data.understanding import understand

    known = understand(path, items, columns)
    _section("understood", known.lines)
    found = inspect(known.config)
    fatal, doubtful = ([fault.text for fault in found.faults if fault.fatal is which] for which in (True, False))
    doubtful = [*known.doubts, *doubtful]
    _section("to be mended (felid run refuses these)", fatal)
    _section("to be known", doubtful or ([] if fatal else ["nothing doubtful was found"]))
    note = [f"rows that are to be mended are left out: {found.left_out:,}"] if found.left_out else []
    _section("data", [*note, f"order: {found.dataset.order_rule}", *statistics_lines(describe(found.dataset))])
    filters = suggest_filter(found.dataset)
    kept = filtered(found.dataset, filters)
    rows, seen = expected(kept)
    users = f"users with at least {filters.min_user_interactions} interactions: {len(kept.sequences()):,}"
    _print_expected(rows, users + f", {MOST_USERS:,} of them drawn at random" * (len(kept.sequences()) > MOST_USERS))
    if not known.texts and recipe is None:
        _section("suggested recipe", ["none: items have no text, and codes are made of it (--items FILE)"])
        return found
    tree, why = suggest(known, kept, filters, seen)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    _section("suggested recipe", [*why, "", *text.splitlines()])
    if recipe is not None:
        _write(recipe, text)
        mend = ", once the data are mended" if fatal else ""
        console.print(f"written to {recipe}; go on with: felid run {recipe} --out runs/{recipe.stem}{mend}", soft_wrap=True)
    return found


def _pairs(columns: list[str]) -> dict[str, str]:
    pairs = [column.partition("=") for column in columns]
    for ours, equals, theirs in pairs:
        if not (ours and equals and theirs):
            raise RequestError(f"--column {ours}{equals}{theirs} is not of the form OURS=THEIRS, for example user_id=buyer")
    return {ours: theirs for ours, _, theirs in pairs}


def _section(title: str, lines: list[str] | tuple[str, ...]) -> None:
    if lines:
        console.print(title, style="bold", soft_wrap=True)
        for line in lines:
            console.print(f"  {line}" if line else "", soft_wrap=True)


def _print_expected(rows: list[Expected], users: str) -> None:
    table = Table("system", "seen", "metric", "value", "95 % CI", box=None, padding=(0, 2, 0, 2))
    for row in rows:
        cells = row.system, row.policy.removeprefix("seen_"), row.metric, f"{row.mean:.4f}", f"{row.low:.4f} to {row.high:.4f}"
        table.add_row(*cells)
    _section("expected from counting alone, test, leave-one-out, all items are candidates", [users])
    console.print(table)
    console.print("  a trained model that is worth its while is above these", soft_wrap=True)


def _write(path: Path, text: str) -> None:
    """Write the recipe, whole or not at all, if it is one."""
    from felid.artifacts import write_text
    from felid.recipe import resolve

    resolve(yaml.safe_load(text))
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise RequestError(f"--recipe {path} exists and is another; choose another name, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
