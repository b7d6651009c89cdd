"""Commands that show what runs have come to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from felid.cli.shared import app, console


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Evaluated run folders; the first is held against the others.", metavar="RUN")
    ],
    out: Annotated[Path, typer.Option(help="The HTML file.", metavar="FILE.html")],
    no_examples: Annotated[
        bool, typer.Option("--no-examples", help="Load no model: no users with their lists, no lists of cold items.")
    ] = False,
) -> None:
    """Write one HTML file about evaluated runs: results, curves, slices, IDs, examples, recipe, checks; it needs no network."""
    from felid.report.runs import report_runs

    report_runs(runs, out, console, examples=not no_examples)
