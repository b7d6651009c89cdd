"""Lists of other systems in the report on the run that they were judged beside."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from felid.artifacts import read_json
from felid.evaluation.evaluated import EvaluatedRun
from felid.progress import plain_console
from felid.report.runs.make import page_of
from tests.report.reading import Document
from tests.test_pipeline import felid_command

QUIET = plain_console(quiet=True)


@pytest.fixture(scope="module")
def root(evaluated_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, and lists that are the same for everyone."""
    folder = tmp_path_factory.mktemp("external")
    shutil.copytree(evaluated_run, folder / "shop")
    rows = [(f"u{user}", f"i{rank:03}", rank) for user in range(90) for rank in range(1, 31)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "rank"], orient="row").write_csv(folder / "lists.csv")
    name = "<b>theirs</b>"
    result = felid_command("evaluate", folder / "shop", "--recommendations", folder / "lists.csv", "--name", name)
    assert result.returncode == 0, result.stderr
    return folder / "shop"


def test_judged_lists_have_a_part_of_their_own(root: Path) -> None:
    page = Document(page_of([EvaluatedRun.open(root)], QUIET, examples=False))
    metrics = read_json(next(root.glob("external/*/metrics.json")))
    rows = page.rows("external-0-table")
    assert {"<b>theirs</b>", "lynx", "markov"} <= rows.keys(), "a name is text"
    assert rows["lynx"][0] == f"{metrics['variants_seen_kept']['lynx']['recall@3']:.4f}", "the last of both policies"
    assert page.rows("policy-external-0-table")["recommendations"] == [metrics["policy"]["recommendations"]]
    claimed = f"{abs(metrics['differences']['lynx']['recall@10']['difference']):.4f}"
    assert any(claimed in line for line in page.texts["external-0-claims"].splitlines())
    assert "read from lists.csv" in page.texts["external"]


def test_lists_that_were_judged_beside_another_evaluation_are_not_shown(root: Path, evaluated_run: Path) -> None:
    assert "external" not in Document(page_of([EvaluatedRun.open(evaluated_run)], QUIET, examples=False)).texts
    run = EvaluatedRun.open(root)
    run.artifact.manifest["digest"] = "another"
    page = Document(page_of([run], QUIET, examples=False))
    assert "external-0-table" not in page.tables
    assert "1 judged beside another evaluation of shop than this one are left out" in page.texts["external"]
