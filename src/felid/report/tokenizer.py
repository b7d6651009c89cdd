"""`felid tokenize RUN --report`: the health of a set of IDs as a table, as JSON and as one HTML file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from felid.artifacts import write_json, write_text
from felid.progress import progress_bar
from felid.quantize.health import HealthReport
from felid.report.figures import all_figures
from felid.report.measure import categories_of, measure
from felid.report.subject import Subject, subject_of_file, subject_of_run
from felid.report.tokenizer_page import tokenizer_page
from felid.report.tree import code_tree
from felid.report.verdicts import Verdict, level_rows, summary, verdicts

STYLES = {"good": "green", "watch": "yellow", "poor": "red"}


def report_tokenizer(
    root: Path, console: Console, *, category: str | None = None, with_stability: bool = True, file: Path | None = None
) -> HealthReport:
    """Measure the IDs of a run folder, or imported ones; print the findings and write them into the run folder.

    Args:
        root: a run folder. `tokenizer.html` and `tokenizer.json` are written there; for imported IDs `tokenizer-<file>.html`.
        console: where the findings go.
        category: the catalogue's column to compare prefixes with; None = one that looks like categories.
        with_stability: fit the quantiser once more with the next seed.
        file: JSON with imported IDs, see `felid.report.subject.subject_of_file`.

    Raises:
        FelidError: the run folder has no IDs, the file holds none, or there is no such column.
    """
    subject = subject_of_run(root) if file is None else subject_of_file(file, root)
    with progress_bar(console, "fitting with another seed", total=1, unit="steps") as bar:
        report = measure(subject, category, with_stability=with_stability and file is None, progress=bar.reach)
    found = verdicts(report)
    page = page_of(subject, report, found)
    name = "tokenizer" if file is None else f"tokenizer-{file.stem}"
    root.mkdir(parents=True, exist_ok=True)
    write_text(root / f"{name}.html", page)
    content = {**report.as_dict(), "findings": [{"status": v.status, "text": v.text, "remedy": v.remedy} for v in found]}
    write_json(root / f"{name}.json", content)
    print_report(report, found, console)
    console.print(f"report: {root / name}.html", soft_wrap=True)
    return report


def page_of(subject: Subject, report: HealthReport, found: list[Verdict]) -> str:
    """The HTML page."""
    labels = categories_of(subject, report.category)[1] if report.category else []
    nodes = code_tree(subject.codes[:, : len(report.levels)], subject.titles, labels)
    return tokenizer_page(subject, report, found, all_figures(report, nodes, subject))


def print_report(report: HealthReport, found: list[Verdict], console: Console) -> None:
    """Print tables of the levels (entropy in nats) and of the prefixes, the findings and the notes."""
    console.print(_level_table(report))
    if report.neighbours or report.categories or report.stability:
        console.print(_prefix_table(report))
    for one in found:
        console.print(Text.assemble((f"{one.status:>5} ", STYLES[one.status]), one.text, (f" {one.remedy}".rstrip(), "italic")))
    for note in report.notes:
        console.print(Text(f" note {note}", "dim"))
    console.print(summary(found))


def _level_table(report: HealthReport) -> Table:
    head = ("level", "codes", "used", "perplexity", "entropy", "largest\ncode", "its\nitems", "variance\nleft")
    table = _table(head, report.name)
    for name, level, left in level_rows(report):
        table.add_row(
            name,
            f"{level.size:,}",
            f"{100 * level.utilisation:.1f} %",
            f"{level.perplexity:,.1f}",
            f"{level.entropy:.2f}",
            f"{level.largest_code}",
            f"{100 * level.largest_share:.1f} %",
            "" if left is None else f"{100 * left:.1f} %",
        )
    return table


def _prefix_table(report: HealthReport) -> Table:
    """Per prefix length what was measured: neighbours, categories, stability."""
    columns: dict[str, list[str]] = {"prefix": [str(length) for length in range(1, len(report.levels) + 1)]}
    if found := report.neighbours:
        columns[f"{found.k} nearest\nshare it"] = [f"{100 * share:.1f} %" for share in found.prefixes]
        columns["any two\nshare it"] = [f"{100 * share:.2g} %" for share in found.chance]
    if report.categories:
        columns["purity"] = [f"{one.purity:.2f}" for one in report.categories]
        columns["NMI"] = [f"{one.normalized:.2f}" for one in report.categories]
        columns["AMI"] = [f"{one.adjusted:z.2f}" for one in report.categories]
    if report.stability:
        columns["seeds\nNMI"] = [f"{one.normalized:.2f}" for one in report.stability]
        columns["seeds\nAMI"] = [f"{one.adjusted:z.2f}" for one in report.stability]
    sides = [*([f"with {report.category}"] if report.categories else []), *(["of two seeds"] if report.stability else [])]
    caption = f"NMI, AMI: normalised, adjusted mutual information {' and '.join(sides)}" if sides else None
    table = _table(columns, f"{report.name}: prefixes", caption)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _table(columns: Iterable[str], title: str, caption: str | None = None) -> Table:
    """A table without vertical lines, which fits 80 columns."""
    table = Table(*columns, title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    return table
