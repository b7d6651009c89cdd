"""From run folders to the page: which parts it has, in which order, and what is left out where something is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from felid.artifacts import write_text
from felid.data.dataset import Dataset
from felid.errors import FelidError, RequestError
from felid.evaluation.evaluated import EvaluatedRun
from felid.progress import progress_bar
from felid.report.blocks import Section, figures_of
from felid.report.page import render
from felid.report.runs.cold import cold_section
from felid.report.runs.curves import against_k, learning_section
from felid.report.runs.entrants import entrants_of, length_of, names_of
from felid.report.runs.examples import MOST_SYSTEMS, Asked, examples_section
from felid.report.runs.external import external_section
from felid.report.runs.facts import check_counts, checks_section, data_section, environment_section, recipe_section
from felid.report.runs.ids import ids_section, runs_with_ids
from felid.report.runs.opened import Opened
from felid.report.runs.results import claims, compared, results_section, summary_of, tiles_of
from felid.report.runs.slices import slices_section

Datasets = Mapping[str, tuple[Dataset, list[str]]]
"""By the digest of the artifact: the data, and the names of the runs that were evaluated on them."""
PARTS = 11
"""About how many sections a page has, for the progress bar."""


def report_runs(roots: Sequence[Path], out: Path, console: Console, *, examples: bool = True) -> Path:
    """Write the report on one or several evaluated runs, whole or not at all, and say where it is and how large.

    Args:
        roots: run folders; the first one is what the others are held against.
        out: the HTML file; its folder is made if need be.
        console: where progress goes, and the closing line.
        examples: whether the models are loaded, for examples of users and for what cold items get.

    Raises:
        ArtifactError: a folder that was not evaluated, or a damaged one.
        RequestError: a run twice, or a file that is no HTML.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"--out is {out}, expected a file that ends in .html; browsers go by the ending")
    if len({root.resolve() for root in roots}) < len(roots):
        raise RequestError(f"a run stands twice among {', '.join(map(str, roots))}, expected different ones; name each once")
    page = page_of([EvaluatedRun.open(root) for root in roots], console, examples=examples)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    console.print(f"report: {out}, {out.stat().st_size / 1e6:.1f} MB, opens without a network", soft_wrap=True)
    return out


def page_of(runs: Sequence[EvaluatedRun], console: Console, *, examples: bool = True) -> str:
    """The HTML page."""
    first, names, data = runs[0], names_of(runs), _datasets(runs, names_of(runs))
    with progress_bar(console, "reporting", total=PARTS + (MOST_SYSTEMS if examples else 0), unit="parts") as bar:
        asked, missing = _ask(runs, names) if examples else ([], ["Examples were not asked for (--no-examples)."])
        sections = []
        for section in _sections(runs, names, data, asked, missing):
            bar.advance()
            sections += [] if section is None else [section]
    on = " and ".join(dict.fromkeys(dataset.name for dataset, _ in data.values())) or "data that are gone"
    return render(
        "evaluation.html",
        [figure for section in sections for figure in figures_of(section.blocks)],
        styles=("evaluation.css",),
        title="evaluation report",
        heading=f"{first.system} on {on}" if len(runs) == 1 else f"{len(runs)} runs on {on}",
        summary=[
            f"{f'The first run, {names[0]}: ' * (len(runs) > 1)}{summary_of(first, on)}",
            *check_counts(runs, names).values(),
        ],
        claims=[*(compared(runs) if len(runs) > 1 else []), *claims(first)],
        tiles=tiles_of(first),
        sections=sections,
        missing=missing,
    )


def _datasets(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> Datasets:
    found: dict[str, tuple[Dataset, list[str]]] = {}
    for run, name in zip(runs, names, strict=True):
        source = run.source("data")
        if source is not None:
            if source.digest not in found:
                found[source.digest] = Dataset.load(source.path), []
            found[source.digest][1].append(name)
    return found


def _ask(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> tuple[list[Asked], list[str]]:
    """The systems whose lists are shown, those of the one run or the first of each, and why some are not."""
    found, missing = [], []
    for run, name in zip(runs[:MOST_SYSTEMS], names, strict=False):
        try:
            opened = Opened.of(run)
        except FelidError as error:
            missing.append(f"No examples of {name}: {error}.")
            continue
        systems = opened.systems if len(runs) == 1 else opened.systems[:1]
        found += [Asked(system if len(runs) == 1 else f"{name}: {system}", opened, one) for system, one in systems]
    return found[:MOST_SYSTEMS], missing


def _sections(
    runs: Sequence[EvaluatedRun], names: Sequence[str], data: Datasets, asked: Sequence[Asked], missing: list[str]
) -> Iterator[Section | None]:
    """In the order of the page; None where there is nothing to say. `missing` is told what cannot be said."""
    first = runs[0]
    entrants = entrants_of(runs, names)
    yield results_section(runs, names)
    yield external_section(runs, names)
    yield against_k(entrants, first.policy)
    yield learning_section(runs, names)
    yield slices_section(entrants, length_of(first.metrics))
    with_ids = runs_with_ids(runs, names)
    for place, (run, of) in enumerate(with_ids.values()):
        try:
            yield ids_section(run, of, place, alone=len(of) == len(runs))
        except FelidError as error:  # made by a version whose settings this one does not read
            missing.append(f"Nothing on the IDs of {', '.join(of)}: {error}.")
    yield cold_section(entrants, asked)
    if asked:
        yield examples_section(asked)
    yield checks_section(runs, names)
    for place, (dataset, of) in enumerate(data.values()):
        yield data_section(dataset, place, "Data" if len(of) == len(runs) else f"Data of {', '.join(of)}")
    yield recipe_section(runs, names)
    yield environment_section(runs, names)
