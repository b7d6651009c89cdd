"""Commands that write and read the files of other systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from felid.cli.shared import LayoutOption, RunArgument, app, console


@app.command()
def export(
    run: RunArgument,
    layout: LayoutOption,
    out: Annotated[Path, typer.Option(help="Folder for the files; replaces an earlier export, refuses other files.")],
    compare: Annotated[
        list[Path] | None, typer.Option(help="Another run whose metrics stand in comparison.md; may be repeated.", metavar="RUN")
    ] = None,
) -> None:
    """Write the files of another system, under their names, from a run (`docs/systems/` describes them)."""
    from felid.layouts import export_run

    export_run(run, layout, out, compare or [])
    console.print(f"layout {layout}: {out}", soft_wrap=True)


@app.command(name="import")
def import_files(
    folder: Annotated[Path, typer.Argument(help="A folder in that layout.", metavar="FOLDER")],
    layout: LayoutOption,
    out: Annotated[Path, typer.Option(help="Folder for tables, vectors, IDs and a recipe that reads them.")],
) -> None:
    """Read the files of another system, or an export, into felid's own forms."""
    from felid.layouts import import_layout

    found = import_layout(folder, layout, out)
    console.print(
        f"{len(found.item_ids):,} items with vectors of width {found.vectors.shape[1]} and IDs in {out}", soft_wrap=True
    )
    if found.dataset is not None:
        console.print(f"felid run {out / 'recipe.yaml'} --out RUN begins from their data and vectors", soft_wrap=True)
