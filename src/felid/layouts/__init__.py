"""Files of other systems, under their names, from a run of felid, and back.

A new layout is one module with `NAME`, `check`, `write`, `read` and `readme`, and one row in `LAYOUTS`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from felid.errors import FelidWarning, RequestError
from felid.layouts import liger, re_tiger, rqkmeans_tiger, sasrec_rqvae_tiger, semantic_id_encoder
from felid.layouts.comparison import write_comparison
from felid.layouts.folder import check_whole, publish, write_lines
from felid.layouts.imported import Imported
from felid.layouts.source import RunSource

__all__ = ["LAYOUTS", "Imported", "Layout", "export_run", "import_layout", "layout_of"]


@dataclass(frozen=True)
class Layout:
    """The files of one system.

    Attributes:
        name: what `--layout` takes.
        check: refuses a run that lacks something.
        write: fills an existing folder from a run that passed `check`.
        read: gives back what a folder holds.
        readme: what a reader of the folder must know.
    """

    name: str
    check: Callable[[RunSource], None]
    write: Callable[[RunSource, Path], None]
    read: Callable[[Path], Imported]
    readme: Callable[[RunSource], list[str]]


LAYOUTS = tuple(
    Layout(module.NAME, module.check, module.write, module.read, module.readme)
    for module in (re_tiger, sasrec_rqvae_tiger, liger, semantic_id_encoder, rqkmeans_tiger)
)


def layout_of(name: str) -> Layout:
    """A layout by name.

    Raises:
        RequestError: there is none of this name.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise RequestError(f"no layout is called {name!r}; known: {', '.join(layout.name for layout in LAYOUTS)}")


def export_run(root: Path, name: str, out: Path, compare: Sequence[Path] = ()) -> Path:
    """Write the files of a layout from a run folder; nothing is written where the run lacks something.

    Args:
        root: the run folder.
        name: the layout.
        out: folder for the files; an earlier export there is replaced once the new one is whole; other files are refused.
        compare: other run folders whose metrics stand beside this one's in `comparison.md`.

    Returns:
        The folder.

    Raises:
        FelidError: no such layout, the run lacks something, or `out` holds something else.
    """
    layout, run = layout_of(name), RunSource.open(root)
    others = [RunSource.open(other) for other in compare]
    layout.check(run)
    _check_compared([run, *others] if others else [])

    def write(folder: Path) -> None:
        layout.write(run, folder)
        write_comparison(folder / "comparison.md", [run, *others])
        write_lines(
            folder / "README.md", [f"# Layout {name}", "", f"Written by felid from {run.root}.", "", *_listed(layout, run)]
        )

    sizes = list(run.ids.sizes) if "tokenize" in run.stages else None
    digests = {stage: artifact.digest for stage, artifact in run.stages.items()}
    publish(out, write, {"layout": name, "run": str(run.root), "stages": digests, "sizes": sizes})
    return out


def import_layout(folder: Path, name: str, out: Path) -> Imported:
    """Read a folder in a layout and write its content in felid's forms (see `Imported.save`).

    Raises:
        FelidError: no such layout, the folder is not whole, or `out` holds something else.
    """
    layout = layout_of(name)
    check_whole(folder, name)
    if out.resolve() == folder.resolve():
        raise RequestError(f"--out {out} is the folder that is read; choose another one")
    found = layout.read(folder)
    publish(out, lambda part: found.save(part, out.resolve()), {"layout": "felid", "from": str(folder), "was": name})
    return found


def _check_compared(runs: Sequence[RunSource]) -> None:
    """Say which of the runs that are to be compared have nothing to compare."""
    for run in runs:
        if run.metrics is None:
            text = f"{run.root} has no evaluation of its model, so comparison.md has no row of it"
            warnings.warn(f"{text}; run `felid evaluate {run.root}` first", FelidWarning, stacklevel=3)


def _listed(layout: Layout, run: RunSource) -> list[str]:
    return [f"- {line}" for line in layout.readme(run)]
