"""`felid compare` on folders: run folders, records, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from felid.artifacts import build, note_run, write_json
from felid.cli import app
from felid.errors import ArtifactError, RecipeError, RequestError
from felid.evaluation import EvaluationConfig, Markov, Popularity, Report, evaluate_run
from felid.evaluation.compared import RankedRun, pooled
from felid.evaluation.per_user import write_ranks
from felid.testing import toy_world

ITEMS = np.array([f"B{number:03}" for number in range(24)], object)
CONFIG = EvaluationConfig(ks=(5, 10), bootstrap=10)


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    split = toy_world().split
    rankers = {"lynx": Markov.fit(split.train(), 24), "sasrec": Popularity.fit(split.train(), 24)}
    return {name: evaluate_run({name: ranker}, split, ITEMS, CONFIG) for name, ranker in rankers.items()}


def a_recipe(kind: str, seed: int) -> dict[str, object]:
    return {"seed": seed, "model": {"kind": kind}, "training": {"epochs": 3}, "evaluation": {"exclude_seen": True}}


def run_folder(root: Path, report: Report, kind: str, seed: int = 0) -> Path:
    """As the stages leave it."""
    recipe = a_recipe(kind, seed)
    settings = {name: recipe[name] for name in ("model", "training", "seed")}
    trained, _ = build(root, "train", settings, {}, lambda folder: write_json(folder / "weights.json", seed))
    judged, _ = build(root, "evaluate", {"evaluation": CONFIG.model_dump(mode="json")}, {"train": trained.digest}, report.save)
    note_run(root, stages={one.path.parent.name: str(one.path.relative_to(root)) for one in (trained, judged)})
    write_json(root / "recipe.json", recipe)
    write_json(root / "metrics.json", report.metrics)
    return root


def record_folder(folder: Path, report: Report, kind: str, seed: int = 0) -> Path:
    folder.mkdir()
    write_ranks(report.ranks, folder / "per-user.parquet")
    write_json(folder / "recipe.json", a_recipe(kind, seed))
    write_json(folder / "metrics.json", report.metrics)
    return folder


def test_the_command_prints_and_writes_what_may_be_claimed(reports: dict[str, Report], tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / f"{name}-{seed}", reports[name], name, seed) for name in ("lynx", "sasrec") for seed in (0, 1)]
    out = tmp_path / "new" / "comparison.json"
    arguments = ["compare", *map(str, runs), "--metric", "recall@5", "level=0.9", "draws=300", "--out", str(out)]
    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    sentence = "test, seen removed, recall@5: lynx is above sasrec by "
    assert outcome.exit_code == 0 and sentence in outcome.output
    assert "2, all the same" in outcome.output and "Holm's correction for 1" in outcome.output
    found = json.loads(out.read_text())
    assert (found["question"]["level"], found["question"]["draws"]) == (0.9, 300) and "90 % bootstrap" in outcome.output
    assert found["question"]["metrics"] == ["recall@5"] and list(found["runs"]) == ["lynx", "sasrec"]
    [one] = found["comparisons"]
    assert one["claimed"] and one["sentence"].startswith(sentence)
    expected = reports["lynx"].metrics["test"]["recall@5"] - reports["sasrec"].metrics["test"]["recall@5"]
    assert one["difference"]["mean"] == pytest.approx(expected)
    assert one["sentence"].endswith("neither depends on the seed")
    assert all(line in outcome.output for line in found["conditions"])
    assert "candidates: all 24 items of the catalogue, no sampling" in found["conditions"]
    assert [path.name for path in out.parent.iterdir()] == ["comparison.json"]
    with pytest.raises(RecipeError, match="level: Input should be less than 1"):
        CliRunner().invoke(app, ["compare", *map(str, runs), "level=95"], catch_exceptions=False)


def test_the_same_comes_of_runs_records_and_files(reports: dict[str, Report], tmp_path: Path) -> None:
    runs = [run_folder(tmp_path / f"run-{name}", report, name) for name, report in reports.items()]
    records = [record_folder(tmp_path / f"record-{name}", report, name) for name, report in reports.items()]
    evaluations = [next((run / "evaluate").iterdir()) for run in runs]
    files = [records[0] / "per-user.parquet", evaluations[1] / "ranks.parquet"]
    found = []
    for number, paths in enumerate((runs, records, evaluations, files, [runs[0], records[1]])):
        out = tmp_path / f"{number}.json"
        arguments = ["compare", *map(str, paths), "--policy", "seen_kept", "--part", "validation", "--out", str(out)]
        CliRunner().invoke(app, arguments, catch_exceptions=False)
        found.append(json.loads(out.read_text())["comparisons"])
    assert len(found[0]) == 2 and found[0][0]["what"] == "validation, seen kept"
    assert all(one == found[0] for one in found[1:])


def test_records_of_other_users_are_told_by_their_baselines(reports: dict[str, Report], tmp_path: Path) -> None:
    ranks = reports["sasrec"].ranks
    turned = pl.when(pl.col("rank") == 1).then(2).otherwise("rank").alias("rank")
    other = Report(reports["sasrec"].metrics, ranks.with_columns(turned))
    paths = [record_folder(tmp_path / "a", reports["lynx"], "lynx"), record_folder(tmp_path / "b", other, "sasrec")]
    with pytest.raises(RequestError, match=r"b and .*a have other users or targets \(popularity ranks them otherwise\)"):
        CliRunner().invoke(app, ["compare", *map(str, paths)], catch_exceptions=False)


def test_runs_that_differ_in_seed_and_evaluation_alone_are_one_system(reports: dict[str, Report], tmp_path: Path) -> None:
    paths = [run_folder(tmp_path / str(seed), reports["lynx"], "lynx", seed) for seed in range(3)]
    recipe = json.loads((paths[1] / "recipe.json").read_text())
    write_json(paths[1] / "recipe.json", {**recipe, "description": "again", "evaluation": {**recipe["evaluation"], "ks": [5]}})
    assert [len(group) for group in pooled([RankedRun.open(path) for path in paths])] == [3]
    write_json(paths[1] / "recipe.json", {**recipe, "evaluation": {"exclude_seen": False}})
    assert [len(group) for group in pooled([RankedRun.open(path) for path in paths])] == [2, 1]
    write_json(paths[1] / "recipe.json", {**recipe, "search": {"num_beams": 20}})
    runs = [RankedRun.open(path) for path in paths]
    assert [len(group) for group in pooled(runs)] == [2, 1]
    assert [len(group) for group in pooled(runs, lambda tree: {"search": {"num_beams": 20}, **tree})] == [3]


def test_an_evaluation_of_another_training_is_refused(reports: dict[str, Report], tmp_path: Path) -> None:
    root = run_folder(tmp_path / "run", reports["lynx"], "lynx", seed=0)
    write_json(root / "recipe.json", a_recipe("lynx", 1))
    with pytest.raises(ArtifactError, match="is not that of the training that was evaluated; run `felid evaluate"):
        RankedRun.open(root)


def test_ranks_of_an_older_version_are_refused(reports: dict[str, Report], tmp_path: Path) -> None:
    old = Report(reports["lynx"].metrics, reports["lynx"].ranks.drop("group"))
    root = run_folder(tmp_path / "run", old, "lynx")
    with pytest.raises(ArtifactError, match="lack group, as an older felid wrote them; run `felid evaluate"):
        RankedRun.open(root)


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing does not exist, expected the folder of an evaluated run"):
        RankedRun.open(tmp_path / "missing")
    with pytest.raises(ArtifactError, match=r"has neither run.json nor ranks.parquet nor per-user.parquet"):
        RankedRun.open(tmp_path)
    pl.DataFrame({"user": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(ArtifactError, match=r"has the columns user, expected those of ranks.parquet"):
        RankedRun.open(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ArtifactError, match="cannot be read as Parquet"):
        RankedRun.open(tmp_path / "text.parquet")
