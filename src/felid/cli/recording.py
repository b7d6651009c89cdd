"""`felid record`: what a published number stands on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from felid.cli.shared import app, console


@app.command()
def record(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated run folders; several are seeds of one recipe.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("reports"),
    name: Annotated[str | None, typer.Option(help="Folder of this record; default: the name of the (first) run folder.")] = None,
    note: Annotated[
        str, typer.Option(help="What stands beside the figures wherever they are shown; README leaves them out.")
    ] = "",
    replace: Annotated[bool, typer.Option("--replace", help="In place of another record of that name.")] = False,
) -> None:
    """File command, commit, recipe, seeds, environment, data and figures of evaluated runs under reports/NAME."""
    from felid.records import record as file_record

    folder, written = file_record(runs, out, name, note=note, replace=replace)
    console.print(f"{'record' if written else 'record, unchanged'}: {folder}", soft_wrap=True)
