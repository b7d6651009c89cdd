"""Several runs on one page, what is refused, and the command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from felid.artifacts import write_json
from felid.cli import app
from felid.errors import ArtifactError, RequestError
from felid.evaluation.claims import Question, compare_systems
from felid.evaluation.compared import RankedRun, pooled, systems_of
from felid.evaluation.evaluated import EvaluatedRun
from felid.progress import plain_console
from felid.report.runs import report_runs
from felid.report.runs.entrants import names_of
from felid.report.runs.make import page_of
from tests.report.reading import Document

QUIET = plain_console(quiet=True)


@pytest.fixture(scope="module")
def run(evaluated_run: Path) -> EvaluatedRun:
    return EvaluatedRun.open(evaluated_run)


@pytest.fixture(scope="module")
def both(evaluated_run: Path, other_run: Path) -> Document:
    return Document(page_of([EvaluatedRun.open(evaluated_run), EvaluatedRun.open(other_run)], QUIET, examples=False))


def test_several_runs_stand_side_by_side(both: Document, evaluated_run: Path, other_run: Path) -> None:
    runs = [EvaluatedRun.open(root) for root in (evaluated_run, other_run)]
    rows = both.rows("runs-table")
    for name, one in zip(("small", "other"), runs, strict=True):
        assert rows[name] == [f"{one.metrics['test'][column]:.4f}" for column in both.tables["runs-table"][0][1:]]
    systems = systems_of(pooled([RankedRun.open(one.root) for one in runs]))
    for comparison in compare_systems(systems, Question())[1]:
        assert comparison.sentence in both.texts["claims"]
    assert [line["name"] for line in both.figures()["validation"]["data"]] == ["small", "other"]
    assert both.rows("settings-table")["model.kind"] == ["lynx", "sasrec"]
    names = [line["name"] for line in both.figures()["recall-at-k"]["data"] if "name" in line]
    assert names == ["small: lynx", "other: sasrec", "popularity", "markov"]
    assert "ids-0" in both.texts
    assert "of small" in both.texts["ids-0"]  # the other one reads none
    assert "ids-1" not in both.texts


def test_runs_on_other_targets_are_not_compared(evaluated_run: Path, other_run: Path, tmp_path: Path) -> None:
    root = tmp_path / "foreign"
    shutil.copytree(other_run, root)
    file = EvaluatedRun.open(root).artifact.path / "ranks.parquet"
    pl.read_parquet(file).with_columns(pl.lit("i000").alias("target")).write_parquet(file)
    page = Document(page_of([EvaluatedRun.open(evaluated_run), EvaluatedRun.open(root)], QUIET, examples=False))
    assert "No comparison: " in page.texts["claims"]
    assert "other targets" in page.texts["claims"]


def test_examples_of_several_runs(evaluated_run: Path, other_run: Path) -> None:
    page = Document(page_of([EvaluatedRun.open(evaluated_run), EvaluatedRun.open(other_run)], QUIET))
    assert page.texts["examples"].count("other: sasrec") == page.texts["examples"].count("small: lynx") > 1


def test_names_tell_runs_apart(run: EvaluatedRun) -> None:
    def named(*places: str) -> list[str]:
        return names_of([replace(run, root=Path(place)) for place in places])

    assert named("/x/a", "/x/b") == ["a", "b"]
    assert named("/x/a/run", "/x/b/run") == ["a/run", "b/run"]


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda root, tmp: [tmp / "nowhere"], ArtifactError, "does not exist, expected the folder of an evaluated run; make one"),
        (lambda root, tmp: [tmp], ArtifactError, "is no run folder .*expected the folder of an evaluated run; make one with"),
        (lambda root, tmp: [root, root], RequestError, "stands twice .* expected different ones; name each once"),
    ],
)
def test_what_cannot_be_reported_is_refused(
    evaluated_run: Path, tmp_path: Path, make: Callable[[Path, Path], list[Path]], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        report_runs(make(evaluated_run, tmp_path), tmp_path / "x.html", QUIET)
    assert not (tmp_path / "x.html").exists()


def test_a_run_without_an_evaluation_is_refused(run: EvaluatedRun, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"stages": {"data": "data/x"}})
    with pytest.raises(ArtifactError, match=r"has no evaluation of its model; run `felid evaluate"):
        report_runs([tmp_path], tmp_path / "x.html", QUIET)
    with pytest.raises(RequestError, match=r"expected a file that ends in \.html"):
        report_runs([run.root], tmp_path / "x.pdf", QUIET)


def test_command_line(evaluated_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "report.html"
    result = CliRunner().invoke(app, ["report", str(evaluated_run), "--out", str(out), "--no-examples"])
    assert result.exit_code == 0, result.output
    said = result.output.replace("\n", "")
    assert f"{out.stat().st_size / 1e6:.1f} MB, opens without a network" in said
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]  # nothing half-written beside it
    first = out.read_bytes()
    CliRunner().invoke(app, ["report", str(evaluated_run), "--out", str(out), "--no-examples"])
    assert out.read_bytes() == first
