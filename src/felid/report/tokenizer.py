"""`felid tokenize RUN --report`: the health of a set of IDs as a table, as JSON and as one HTML file."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from felid.artifacts import write_json
from felid.progress import progress_bar
from felid.quantize.health import HealthReport
from felid.report.figures import all_figures
from felid.report.measure import categories_of, measure
from felid.report.page import render
from felid.report.subject import Subject, subject_of_file, subject_of_run
from felid.report.tree import code_tree
from felid.report.verdicts import Verdict, summary, verdicts

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
    part = root / f".{name}.html.part"
    part.write_text(page, encoding="utf-8")
    os.replace(part, root / f"{name}.html")
    content = {**report.as_dict(), "findings": [{"status": v.status, "text": v.text, "remedy": v.remedy} for v in found]}
    write_json(root / f"{name}.json", content)
    print_report(report, found, console)
    console.print(f"report: {root / name}.html", soft_wrap=True)
    return report


def page_of(subject: Subject, report: HealthReport, found: list[Verdict]) -> str:
    """The HTML page."""
    labels = categories_of(subject, report.category)[1] if report.category else []
    learned = subject.codes[:, : subject.num_learned]
    nodes = code_tree(learned, subject.titles, labels)
    return render(subject, report, found, all_figures(report, nodes, learned, subject.log))


def print_report(report: HealthReport, found: list[Verdict], console: Console) -> None:
    """Print a table of the levels (entropy in nats, share of the items in the largest code) and the findings."""
    errors = report.reconstruction_error or ()
    table = Table("level", "codes", "used", "perplexity", "entropy", "largest", "variance left")
    for place, level in enumerate(report.levels):
        table.add_row(
            f"{place}" if place < report.num_learned else f"{place} (collisions)",
            f"{level.size:,}",
            f"{100 * level.utilisation:.1f} %",
            f"{level.perplexity:,.1f}",
            f"{level.entropy:.2f}",
            f"{100 * level.largest_share:.1f} %",
            f"{100 * errors[place]:.1f} %" if place < len(errors) else "",
        )
    console.print(table)
    for one in found:
        console.print(Text.assemble((f"{one.status:>5} ", STYLES[one.status]), one.text, (f" {one.remedy}".rstrip(), "italic")))
    console.print(summary(found))
