"""Records of evaluated runs: what is filed, what is refused, and that figures are those of the evaluations."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks import leaderboard
from felid.artifacts import read_json, write_json
from felid.errors import ArtifactError, RequestError
from felid.evaluation.per_user import pooled_figures, read_ranks, write_ranks
from felid.pipeline import Pipeline
from felid.records import RECORD, page, record
from tests.test_pipeline import felid_command, small

QUICK = (
    *("dataset.num_users=60", "training.epochs=1", "model.width=16", "model.feed_forward=16", "search.num_beams=10"),
    *("search.candidates=10", "evaluation.variants=false", "evaluation.bootstrap=50", "evaluation.search_error_users=0"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one recipe."""
    roots = [tmp_path_factory.mktemp("runs") / name for name in ("shop-0", "shop-1")]
    Pipeline(small(*QUICK), roots[0]).run()
    shutil.copytree(roots[0], roots[1])
    Pipeline(small(*QUICK, "seed=1"), roots[1]).run()
    return roots


def test_a_run_is_filed_with_all_that_its_numbers_stand_on(runs: list[Path], tmp_path: Path) -> None:
    folder, written = record(runs[:1], tmp_path)
    assert written
    assert folder == tmp_path / "shop-0"
    assert {path.name for path in folder.iterdir()} == {RECORD, "README.md", "metrics.json", "recipe.json", "per-user.parquet"}
    found, metrics = read_json(folder / RECORD), read_json(runs[0] / "metrics.json")
    assert found["recipe"] == read_json(runs[0] / "recipe.json") == read_json(folder / "recipe.json")
    assert found["policy"] == metrics["policy"]
    assert found["data"]["statistics"]["num_users"] == 60
    assert len(found["data"]["digest"]) == 64
    (run,) = found["runs"]
    assert run["seed"] == 0
    assert run["versions"]["torch"]
    assert run["trained_with"]["cpu"]
    assert run["trained_with"]["threads"] >= 1
    assert {"data", "embed", "tokenize", "train", "evaluate"} <= set(run["wall_minutes"])
    assert {"data", "embed", "tokenize", "train", "evaluate"} <= set(run["cpu_minutes"])
    assert all(mib > 0 for mib in run["peak_rss_mib"].values())
    page = (folder / "README.md").read_text()
    assert f"{metrics['test']['recall@10']:.4f}" in page
    assert metrics["policy"]["candidates"] in page


def test_figures_and_intervals_are_those_of_the_evaluation(runs: list[Path], tmp_path: Path) -> None:
    found, metrics = read_json(record(runs[:1], tmp_path)[0] / RECORD), read_json(runs[0] / "metrics.json")
    for policy, suffix in (("seen_removed", ""), ("seen_kept", "_seen_kept")):
        for system, values in {metrics["system"]: metrics[f"test{suffix}"], **metrics[f"baselines{suffix}"]}.items():
            cells = found["figures"][system]["test"]["all"][policy]
            assert {name: cell["mean"] for name, cell in cells.items()} == pytest.approx(
                {name: values[name] for name in cells}, abs=1e-6
            )
    ends = found["figures"][metrics["system"]]["test"]["all"]["seen_removed"]["recall@10"]
    assert (ends["low"], ends["high"]) == pytest.approx(tuple(metrics["intervals"]["recall@10"].values()), abs=1e-6)


def test_the_page_names_the_training_where_another_command_evaluated(runs: list[Path], tmp_path: Path) -> None:
    found = read_json(record(runs[:1], tmp_path)[0] / RECORD)
    whole = page(found)
    assert "trained by `" not in whole
    assert "- seed 0: checks: " in whole and f"{len(found['runs'][0]['checks'])} passed" in whole
    found["runs"][0]["trained_with"] |= {"command": "felid train shop-0", "commit": "abc1234"}
    assert "seed 0: trained by `felid train shop-0`, commit abc1234" in page(found)
    assert "seed 0: evaluated by `" in page(found)


def test_a_failed_check_stands_beside_the_figures_wherever_they_are_shown(runs: list[Path], tmp_path: Path) -> None:
    failed = tmp_path / "failed"
    shutil.copytree(runs[0], failed)
    metrics = read_json(failed / "metrics.json")
    metrics["checks"][0] |= {"status": "failed", "finding": "3 of them"}
    write_json(failed / "metrics.json", metrics)
    folder, _ = record([failed], tmp_path / "reports", note="a short training")
    found, name = read_json(folder / RECORD), metrics["checks"][0]["name"]
    assert found["note"] == f"a short training; failed checks: {name}"
    assert f"- note: {found['note']}" in (folder / "README.md").read_text()
    assert f"1 FAILED: {name} (3 of them)" in (folder / "README.md").read_text()
    (board,) = leaderboard.boards({"failed": found}).values()
    assert all(f"; failed checks: {name}" in row.cells("")[-1] for row in board["seen_removed all"])


@pytest.mark.parametrize("name", ["../elsewhere", "..", ".", "/elsewhere"])
def test_a_name_that_leads_out_of_the_records_is_refused(runs: list[Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"leads out of .*reports, expected a folder in it"):
        record(runs[:1], tmp_path / "reports", name)
    assert list(tmp_path.iterdir()) == []
    assert record(runs[:1], tmp_path / "reports", "systems/shop")[1]


def test_ranks_are_kept_without_ids(runs: list[Path], tmp_path: Path) -> None:
    kept = pl.read_parquet(record(runs[:1], tmp_path)[0] / "per-user.parquet")
    assert all(name.startswith(("test: ", "validation: ")) for name in kept.columns)
    assert set(kept.dtypes) == {pl.String, pl.UInt16}
    evaluation = read_json(runs[0] / "run.json")["stages"]["evaluate"]
    ranks = pl.read_parquet(runs[0] / evaluation / "ranks.parquet").filter(system="lynx", part="test", policy="seen_removed")
    assert kept["test: seen_removed: lynx"].to_list() == ranks["rank"].to_list()


def test_seeds_of_one_recipe_become_one_record(runs: list[Path], tmp_path: Path) -> None:
    result = felid_command("record", *runs, "--out", tmp_path, "--name", "shop")
    assert result.returncode == 0, result.stderr
    found = read_json(tmp_path / "shop" / RECORD)
    assert [(run["seed"], run["folder"]) for run in found["runs"]] == [(0, "seed-0/"), (1, "seed-1/")]
    means = [read_json(tmp_path / "shop" / f"seed-{seed}" / "metrics.json")["test"]["recall@10"] for seed in (0, 1)]
    cell = found["figures"]["lynx"]["test"]["all"]["seen_removed"]["recall@10"]
    assert cell["runs"] == pytest.approx(means, abs=1e-6)
    assert cell["mean"] == pytest.approx(sum(means) / 2, abs=1e-6)
    assert cell["low"] <= cell["mean"] <= cell["high"]


def test_commands_name_run_folders_and_not_where_they_lie(runs: list[Path], tmp_path: Path) -> None:
    text = (record([run.resolve() for run in runs], tmp_path, "shop")[0] / RECORD).read_text()
    assert str(runs[0].resolve()) not in text
    assert '"command": "' in text


def test_a_second_time_nothing_changes_and_another_run_is_refused(runs: list[Path], tmp_path: Path) -> None:
    folder, _ = record(runs[:1], tmp_path, "shop")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert record(runs[:1], tmp_path, "shop") == (folder, False)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(RequestError, match="holds the record of other runs; choose another --name, or say --replace"):
        record(runs[1:], tmp_path, "shop")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert record(runs[1:], tmp_path, "shop", replace=True) == (folder, True)
    assert read_json(folder / RECORD)["runs"][0]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shop"], "nothing is left of the replaced one"
    assert record(runs[:1], tmp_path, "shop", note="a short training", replace=True) == (folder, True)
    assert read_json(folder / RECORD)["note"] == "a short training"


def test_a_folder_of_something_else_is_never_replaced(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("by hand")
    with pytest.raises(RequestError, match=r"holds no record\.json"):
        record(runs[:1], tmp_path, "notes", replace=True)
    assert (tmp_path / "notes" / "README.md").read_text() == "by hand"


def test_a_failure_leaves_neither_a_part_nor_a_changed_record(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = record(runs[:1], tmp_path, "shop")
    before = read_json(folder / RECORD)
    monkeypatch.setattr("felid.records.filing.page", lambda content: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        record(runs[1:], tmp_path, "shop", replace=True)
    assert read_json(folder / RECORD) == before
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_what_is_no_evaluated_run_is_refused_with_a_remedy(runs: list[Path], tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    Pipeline(small("dataset.num_users=50"), trained).run("tokenize")
    result = felid_command("record", trained, "--out", tmp_path / "reports")
    assert result.returncode == 2
    assert f"run `felid evaluate {trained}`" in result.stderr
    assert not (tmp_path / "reports").exists()
    with pytest.raises(RequestError, match="have the seeds 0, 0, expected different ones"):
        record([runs[0], runs[0]], tmp_path)


def test_settings_that_were_not_evaluated_are_refused(runs: list[Path], tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(runs[1], changed)
    tree: dict[str, Any] = read_json(changed / "recipe.json")
    write_json(changed / "recipe.json", {**tree, "text": {**tree["text"], "labels": False}})
    with pytest.raises(ArtifactError, match=r"have changed since its evaluation \(text, stage embed\)"):
        record([changed], tmp_path / "reports")
    manifest = changed / read_json(changed / "run.json")["stages"]["embed"] / "manifest.json"
    made = read_json(manifest)
    write_json(manifest, {**made, "config": {**made["config"], "text": {**tree["text"], "labels": False}}})
    with pytest.raises(RequestError, match=r"differs from .*shop-0 in text, expected trainings of one recipe"):
        record([runs[0], changed], tmp_path / "reports")


def ranks(values: list[int], groups: list[str]) -> pl.DataFrame:
    rows = {"user_id": list(range(len(values))), "target": 0, "group": groups, "rank": values}
    frame = pl.DataFrame(rows).with_columns(system=pl.lit("lynx"), part=pl.lit("test"))
    return pl.concat(frame.with_columns(policy=pl.lit(policy)) for policy in ("seen_removed", "seen_kept"))


def test_draws_with_other_cold_users_are_pooled_by_their_rows(tmp_path: Path) -> None:
    """The mean over new items is over the rows of both draws, not the mean of their means."""
    frames = [ranks([1, 0, 1, 0], ["cold", "warm", "warm", "warm"]), ranks([0, 0, 1, 0], ["cold", "cold", "cold", "warm"])]
    for place, frame in enumerate(frames):
        write_ranks(frame, tmp_path / f"{place}.parquet")
    found = pooled_figures([read_ranks(tmp_path / f"{place}.parquet") for place in (0, 1)], (10,), draws=200)
    cold = found["lynx"]["test"]["cold"]
    assert cold["seen_removed"]["recall@10"]["mean"] == pytest.approx(2 / 4)
    assert cold["seen_removed"]["recall@10"]["runs"] == pytest.approx([1, 1 / 3], abs=1e-6)
    assert cold["num_users"] == 3
    assert found["lynx"]["test"]["all"]["seen_removed"]["recall@10"]["mean"] == pytest.approx(3 / 8)
