"""What all layouts share: whole or not at all, the command, the comparison, the way back into a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from felid.artifacts import write_json
from felid.errors import ArtifactError, FelidWarning, RequestError
from felid.layouts import LAYOUTS, export_run, import_layout
from felid.layouts.comparison import different
from felid.layouts.folder import publish
from felid.layouts.source import RunSource
from felid.pipeline import Pipeline
from felid.recipe import load_recipe
from tests.layouts.conftest import felid, histories


def test_every_system_of_the_issue_has_a_layout_and_a_page() -> None:
    names = [layout.name for layout in LAYOUTS]
    assert names == ["re-tiger", "sasrec-rqvae-tiger", "liger", "semantic-id-encoder", "rqkmeans-tiger"]
    pages = Path(__file__).parents[2] / "docs" / "systems"
    assert {f"{name}.md" for name in names} <= {path.name for path in pages.iterdir()}


def test_the_command_exports_and_imports_and_a_run_begins_from_the_result(full: Path, tmp_path: Path) -> None:
    status, printed, _ = felid("export", full, "--layout", "re-tiger", "--out", tmp_path / "out")
    assert status == 0 and "layout re-tiger" in printed
    status, printed, _ = felid("import", tmp_path / "out", "--layout", "re-tiger", "--out", tmp_path / "back")
    assert status == 0 and "items with vectors of width 12 and IDs" in printed
    recipe = load_recipe(tmp_path / "back" / "recipe.yaml", ["quantizer.sizes=[8,8]"])
    Pipeline(recipe, tmp_path / "run").run("embed")
    old, new = RunSource.open(full), RunSource.open(tmp_path / "run")
    assert histories(new.dataset) == histories(old.dataset)
    np.testing.assert_allclose(new.vectors(normalized=True), old.vectors(normalized=True), atol=1e-6)
    status, printed, _ = felid("tokenize", tmp_path / "run", "--ids", tmp_path / "back" / "semantic_ids.json")
    assert status == 0 and "semantic_ids.json" in printed


def test_an_unknown_layout_and_a_folder_that_is_no_run_are_refused(full: Path, tmp_path: Path) -> None:
    status, _, error = felid("export", full, "--layout", "retiger", "--out", tmp_path / "out")
    assert status == 2 and "no layout is called 'retiger'; known: re-tiger, sasrec-rqvae-tiger" in error
    status, _, error = felid("export", tmp_path, "--layout", "re-tiger", "--out", tmp_path / "out")
    assert status == 2 and "is no run folder" in error and "give the folder that `felid run` wrote" in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else_is_left_alone(full: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RequestError, match="holds no export of felid; choose another folder"):
        export_run(full, "re-tiger", tmp_path)
    with pytest.raises(RequestError, match="holds no export"):
        export_run(full, "re-tiger", full)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_export_is_replaced_by_a_whole_one_only(full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export_run(full, "liger", tmp_path / "out")
    before = (folder / "felid-export.json").read_bytes()

    def broken(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("felid.layouts.re_tiger.save_tensors", broken)
    with pytest.raises(OSError, match="No space left"):
        export_run(full, "re-tiger", tmp_path / "out")
    assert (folder / "felid-export.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.undo()
    export_run(full, "re-tiger", tmp_path / "out")
    assert json.loads((folder / "felid-export.json").read_text())["layout"] == "re-tiger"
    assert not (folder / "ID").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_lost_its_name_between_two_renames_comes_back(tmp_path: Path) -> None:
    old = tmp_path / ".out.felid-old"
    old.mkdir()
    write_json(old / "felid-export.json", {"layout": "liger", "files": {}})

    def stopped(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "out", stopped, {})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_part_of_an_export_is_not_taken_for_the_whole(full: Path, tmp_path: Path, damage: str) -> None:
    folder = export_run(full, "re-tiger", tmp_path / "out")
    if damage == "missing":
        (folder / "rqvae.pt").unlink()
    else:
        (folder / "rqvae.pt").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"rqvae\.pt is missing or changed, so the export is not whole"):
        import_layout(folder, "re-tiger", tmp_path / "back")
    with pytest.raises(ArtifactError, match="is in the layout re-tiger, expected liger"):
        import_layout(folder, "liger", tmp_path / "back")
    export_run(full, "re-tiger", folder)
    with pytest.raises(RequestError, match="is the folder that is read"):
        import_layout(folder, "re-tiger", folder)
    assert not (tmp_path / "back").exists()


def test_the_comparison_has_a_row_per_system_and_run(full: Path, kmeans: Path, tmp_path: Path) -> None:
    with pytest.warns(
        FelidWarning, match=r"kmeans has no evaluation of its model, so .* no row of it; run `felid evaluate"
    ) as told:
        folder = export_run(full, "re-tiger", tmp_path / "out", compare=[full, kmeans])
    assert len(told) == 1
    rows = [line.split(" | ") for line in (folder / "comparison.md").read_text().splitlines() if line.startswith("| ")]
    head, *body = rows
    metrics = json.loads((full / "metrics.json").read_text())
    assert [row[5] for row in body][:3] == ["tiger", "popularity", "markov"]
    assert body[0][head.index("recall@10")].strip(" |") == f"{metrics['test']['recall@10']:.4f}"
    assert len(body) % 2 == 0 and body[: len(body) // 2] == body[len(body) // 2 :]  # kmeans is not evaluated and has no row
    assert not (export_run(kmeans, "liger", tmp_path / "other") / "comparison.md").exists()


def test_the_comparison_says_which_evaluations_had_other_candidates(full: Path, tmp_path: Path) -> None:
    shutil.copytree(full, tmp_path / "other")
    status, _, error = felid("evaluate", tmp_path / "other", "evaluation.candidates=warm", "evaluation.bootstrap=9")
    assert status == 0, error
    text = (export_run(full, "re-tiger", tmp_path / "out", compare=[tmp_path / "other"]) / "comparison.md").read_text()
    assert text.endswith("Settings that differ:\n\n- other: `evaluation.candidates=warm`\n")


def test_settings_of_compared_runs_are_those_that_they_do_not_share() -> None:
    wide = {"model": {"kind": "tiger", "width": 128, "heads": 6}, "seed": 11, "collaborative": None}
    slim = {"model": {"kind": "tiger", "width": 64, "heads": 6}, "seed": 11, "collaborative": {"kind": "warmup", "epochs": 2}}
    assert different([wide, slim]) == [
        {"model.width": 128, "collaborative": None},
        {"model.width": 64, "collaborative.kind": "warmup"},
    ]
    other = {**wide, "model": {"kind": "lynx", "width": 32}, "exclude_seen": False}
    assert different([wide, other]) == [{"model.kind": "tiger"}, {"model.kind": "lynx", "exclude_seen": False}]
    assert different([wide]) == [{}] and different([wide, wide]) == [{}, {}]


def test_metrics_of_another_model_do_not_go_along(full: Path) -> None:
    run = RunSource.open(full)
    assert run.metrics is not None
    notes = json.loads((full / "run.json").read_text())
    try:
        changed = dict(notes, stages={**notes["stages"], "evaluate": notes["stages"]["tokenize"]})
        write_json(full / "run.json", changed)
        assert RunSource.open(full).metrics is None
    finally:
        write_json(full / "run.json", notes)
