from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from felid.artifacts import MANIFEST, build, file_digest, lock, open_artifact, peak_rss_mib, read_json, stage_key, write_json
from felid.errors import ArtifactError

KILLED = """
import os, signal, sys
from pathlib import Path
from felid import artifacts

def work(folder):
    (folder / "half.txt").write_text("half")
    if sys.argv[2] == "in work":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "whole.txt").write_text("whole")

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before rename":
    os.rename = die
if sys.argv[2] == "in manifest":
    os.replace = die
artifacts.build(Path(sys.argv[1]), "stage", {"a": 1}, {}, work)
"""


def write(text: str = "content"):
    calls: list[Path] = []

    def work(folder: Path) -> None:
        calls.append(folder)
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub" / "file.txt").write_text(text)

    return work, calls


def test_an_unchanged_stage_is_not_built_again(tmp_path: Path) -> None:
    work, calls = write()
    first, reused_first = build(tmp_path, "stage", {"a": 1}, {"in": "x"}, work)
    second, reused_second = build(tmp_path, "stage", {"a": 1}, {"in": "x"}, work)
    assert (reused_first, reused_second, len(calls)) == (False, True, 1)
    assert first == second
    assert (first.path / "sub" / "file.txt").read_text() == "content"
    assert first.manifest["files"] == {"sub/file.txt": file_digest(first.path / "sub" / "file.txt")}
    assert first.manifest["config"] == {"a": 1}
    assert first.manifest["inputs"] == {"in": "x"}


def test_fresh_builds_again_and_starts_from_nothing(tmp_path: Path) -> None:
    work, calls = write()
    artifact, _ = build(tmp_path, "stage", {}, {}, work)
    (artifact.path / "old.txt").write_text("old")
    again, reused = build(tmp_path, "stage", {}, {}, work, fresh=True)
    assert (reused, len(calls)) == (False, 2)
    assert not (again.path / "old.txt").exists()


def test_the_key_follows_stage_config_and_inputs_but_not_the_order_of_keys() -> None:
    key = stage_key("train", {"a": 1, "b": 2}, {"x": "1", "y": "2"})
    assert key == stage_key("train", {"b": 2, "a": 1}, {"y": "2", "x": "1"})
    others = [
        stage_key("embed", {"a": 1, "b": 2}, {"x": "1", "y": "2"}),
        stage_key("train", {"a": 1, "b": 3}, {"x": "1", "y": "2"}),
        stage_key("train", {"a": 1, "b": 2}, {"x": "1", "y": "3"}),
        stage_key("train", {"a": 1, "b": 2}, {"x": "1"}),
    ]
    assert len({key, *others}) == 5


def test_outputs_of_two_settings_lie_side_by_side(tmp_path: Path) -> None:
    one, _ = build(tmp_path, "stage", {"a": 1}, {}, write("one")[0])
    two, _ = build(tmp_path, "stage", {"a": 2}, {}, write("two")[0])
    assert one.path != two.path
    assert one.digest != two.digest
    assert build(tmp_path, "stage", {"a": 1}, {}, write()[0]) == (one, True)


def test_equal_content_has_an_equal_digest_whatever_the_settings(tmp_path: Path) -> None:
    one, _ = build(tmp_path, "stage", {"a": 1}, {}, write("same")[0])
    two, _ = build(tmp_path, "stage", {"a": 2}, {}, write("same")[0])
    assert one.digest == two.digest


def test_a_stage_that_fails_leaves_no_artifact_and_finds_its_own_files_again(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "checkpoint").write_text("12")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, "stage", {}, {}, interrupted)
    assert not (tmp_path / "stage" / stage_key("stage", {}, {})).exists()
    found: list[str] = []
    artifact, reused = build(tmp_path, "stage", {}, {}, lambda folder: found.append((folder / "checkpoint").read_text()))
    assert (found, reused) == (["12"], False)
    assert open_artifact(artifact.path).digest == artifact.digest


@pytest.mark.parametrize("moment", ["in work", "in manifest", "before rename"])
def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(tmp_path: Path, moment: str) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run"), moment], check=False)
    assert process.returncode == -signal.SIGKILL
    final = tmp_path / "run" / "stage" / stage_key("stage", {"a": 1}, {})
    with pytest.raises(ArtifactError, match="not a finished stage folder"):
        open_artifact(final)

    def work(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        (folder / "whole.txt").write_text("whole")

    artifact, reused = build(tmp_path / "run", "stage", {"a": 1}, {}, work)
    undisturbed, _ = build(tmp_path / "other", "stage", {"a": 1}, {}, work)
    assert not reused
    assert artifact.digest == undisturbed.digest
    assert sorted(p.name for p in artifact.path.iterdir()) == ["half.txt", MANIFEST, "whole.txt"]
    assert not [p for p in (tmp_path / "run" / "stage").iterdir() if p != artifact.path]


def test_a_folder_under_the_final_name_without_a_manifest_is_built_again(tmp_path: Path) -> None:
    final = tmp_path / "stage" / stage_key("stage", {}, {})
    final.mkdir(parents=True)
    (final / "sub").write_text("a file where the stage makes a folder")
    artifact, reused = build(tmp_path, "stage", {}, {}, write()[0])
    assert not reused
    assert artifact.path == final


def test_a_locked_run_is_refused_and_free_afterwards(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from felid.artifacts import lock\nwith lock(Path(sys.argv[1])): print('held')"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with lock(tmp_path):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "another felid process is working in" in refused.stderr
        with pytest.raises(ArtifactError, match="wait for it or choose another --out"), lock(tmp_path):
            pass
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "held\n"


def test_a_lock_falls_with_its_process(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from felid.artifacts import lock\n"
        "with lock(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    with lock(tmp_path):
        pass


def test_json_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"title": "é"})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"title": "other"})
    assert read_json(path) == {"title": "é"}


def test_missing_and_damaged_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist; run the stage"):
        read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ArtifactError, match="is not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_the_peak_of_memory_is_that_of_the_process_alone() -> None:
    held = bytearray(512 * 1024**2)
    held[::4096] = b"1" * len(held[::4096])  # touch every page
    code = "from felid.artifacts import peak_rss_mib; print(peak_rss_mib())"
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert peak_rss_mib() > 512 > child > 0
