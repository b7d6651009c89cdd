"""Two processes of torchrun train and evaluate what one does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from felid.artifacts import read_json
from felid.distributed import VARIABLES, begin, is_main, main_stderr, on_main, who_speaks, world
from felid.training.checkpoints import load_progress
from tests.test_pipeline import SMALL, felid_command
from tests.tiny import ALL_KINDS, AnyKind
from tests.together import ALIKE, HELD_BACK, SCRIPTS, STOPS, told, without_dropout

ROOT = Path(__file__).resolve().parents[1]
Said = dict[str, Any]


def torchrun(*arguments: str | Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc_per_node 2 -m ...` with a port of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [*command, *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("together")
    done = torchrun("tests.together", place)
    assert done.returncode == 0, done.stderr[-3000:]
    return place


@pytest.fixture(scope="module")
def said(folder: Path) -> tuple[Said, Said]:
    """What each process saw."""
    main, other = (read_json(folder / f"said-{rank}.json") for rank in (0, 1))
    return main, other


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_follows(found: Said, wanted: Said) -> None:
    """The same training within float error."""
    assert [found[name] for name in ("step", "targets", "epoch")] == [wanted[name] for name in ("step", "targets", "epoch")]
    assert len(found["curve"]) == len(wanted["curve"]) > 1
    for a, b in zip(found["curve"], wanted["curve"], strict=True):
        losses = [name for name in b if name.startswith("loss")]
        assert [a[name] for name in losses] == pytest.approx([b[name] for name in losses], rel=2e-5)
        assert a["ndcg@10"] == pytest.approx(b["ndcg@10"], abs=0.03), "near-ties of lists may fall the other way"


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_without_dropout_the_curve_is_that_of_one_process(kind: AnyKind, said: tuple[Said, Said], tmp_path: Path) -> None:
    """Also where a batch has fewer examples than there are processes."""
    setting = without_dropout(kind)
    sizes = [len(batch) for batch in setting.data.examples.batches(ALIKE.batch_targets, (3, 0))]
    assert min(sizes) == 1
    assert any(size % 2 for size in sizes if size > 1), "shares of unequal sizes: a mean of means would be wrong"
    assert_follows(said[0][kind], told(setting.train(tmp_path, ALIKE)))


def test_all_processes_see_the_same_training(said: tuple[Said, Said]) -> None:
    for name in (*ALL_KINDS, "whole", "parts", "from one", "stops"):
        assert said[0][name] == said[1][name], name


def test_an_interrupted_training_goes_on_exactly(said: tuple[Said, Said]) -> None:
    """With dropout: every process finds its own random state again."""
    assert said[0]["parts"] == said[0]["whole"]


def test_what_one_process_begins_two_can_end_and_the_other_way_round(
    folder: Path, said: tuple[Said, Said], tmp_path: Path
) -> None:
    assert_follows(said[0]["from one"], said[0]["tiger"])
    shutil.copytree(folder / "to one", tmp_path / "to one")
    assert 0 < load_progress(tmp_path / "to one").step <= HELD_BACK
    config = ALIKE.model_copy(update={"checkpoint_seconds": 1e-6})
    assert_follows(told(without_dropout("tiger").train(tmp_path / "to one", config)), said[0]["tiger"])


def test_the_main_process_decides_when_to_stop_and_what_is_best(said: tuple[Said, Said]) -> None:
    for of_one in said:
        progress = of_one["stops"]
        assert [entry["ndcg@10"] for entry in progress["curve"]] == SCRIPTS[0][: STOPS.patience + 1]
        assert progress["best_checkpoint"] == f"checkpoint-{progress['curve'][0]['step']}"


def test_gradients_and_losses_are_added_up_and_what_nobody_used_stays_without(said: tuple[Said, Said]) -> None:
    for of_one in said:
        assert of_one["sums"]["grads"] == {"a": [2.0, 5.0], "b": [5.0, 7.0], "c": None}
        assert of_one["sums"]["parts"] == {"x": 21.0, "y": 4.0}


@pytest.mark.parametrize(("name", "num_users"), [("odd", 37), ("few", 5)])
def test_users_are_shared_out_and_counted_once(name: str, num_users: int, said: tuple[Said, Said]) -> None:
    """Lists and losses bit-equal to those of one process, whatever the number of users; with few of them one may have none."""
    first, second = (of_one[name] for of_one in said)
    assert first["searched"] + second["searched"] == num_users
    assert first["both"] == first["each"] == second["both"]
    assert first["together"] + second["together"] == 4 * num_users, "four lists a user, all out of one search"
    assert first["searched"] < num_users or name == "few"
    assert first["scored"] + second["scored"] == num_users
    for of_one in said:
        assert [of_one[name][what] for what in ("lists", "targets")] == first["alone"]
    assert len(first["targets"]) == num_users and -50 < sum(first["targets"]) / num_users < -1
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["num_users"] == num_users


def test_while_the_main_process_works_alone_there_is_but_one(said: tuple[Said, Said]) -> None:
    assert [of_one["world"] for of_one in said] == [[0, 2, 1, 0], [1, 2, 1, 0]]


def test_without_torchrun_there_is_one_process() -> None:
    assert (world().rank, world().size, is_main(), who_speaks()) == (0, 1, True, "")
    assert on_main(lambda: 7) == 7
    assert main_stderr() is sys.stderr
    begin(together=False)
    begin(together=True)


def test_other_commands_are_left_to_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("1", "2", "1", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert not is_main()
    assert felid_command("recipes") == felid_command("show", "tiny")
    assert felid_command("recipes").returncode == 0
    monkeypatch.setenv("RANK", "0")
    assert is_main() and world().size == 2
    assert "tiny" in felid_command("recipes").stdout
    assert world().size == 1
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")  # so that undoing finds them


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that one process has brought up to the semantic IDs; an odd number of users."""
    root = tmp_path_factory.mktemp("runs") / "small"
    settings = ["dataset.num_users=301", "training.keep_checkpoints=true", "training.validations_per_epoch=2"]
    done = felid_command("tokenize", root, "--recipe", "tiny", *SMALL, *settings, "evaluation.bootstrap=50")
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.slow
def test_two_processes_of_the_command_train_and_evaluate_a_run(run: Path) -> None:
    """`train`, `evaluate` and `evaluate --checkpoint`. Each line is printed once, and one process finds the same metrics for the
    model that two have trained, of every checkpoint."""
    done = torchrun("felid", "train", run)
    assert done.returncode == 0, done.stderr[-3000:]
    for line in ("tokenize unchanged", "train ", "epoch 1 "):
        assert sum(one.startswith(line) for one in done.stdout.splitlines()) == 1, done.stdout
    done = torchrun("felid", "evaluate", run)
    assert done.returncode == 0, done.stderr[-3000:]
    for line in ("train unchanged", "evaluate "):
        assert sum(one.startswith(line) for one in done.stdout.splitlines()) == 1, done.stdout
    progress = load_progress(next(run.glob("train/*/progress.json")).parent)
    named = next(name for entry in progress.curve if (name := f"checkpoint-{entry['step']}") != progress.best_checkpoint)
    done = torchrun("felid", "evaluate", run, "--checkpoint", named)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{named}, asked for by name" in done.stdout
    (found,) = (path for path in run.glob("evaluate/*/metrics.json") if "checkpoint" in read_json(path)["policy"])
    of_two = found.read_text()
    assert felid_command("evaluate", run, "--checkpoint", named, "--fresh").returncode == 0
    assert found.read_text() == of_two and json.loads(of_two)["num_users"] == 301
    metrics = (run / "metrics.json").read_text()
    assert json.loads(metrics)["num_users"] == 301
    assert felid_command("evaluate", run, "--fresh").returncode == 0
    assert (run / "metrics.json").read_text() == metrics
    assert "train unchanged" in felid_command("train", run).stdout


@pytest.mark.slow
def test_a_mistake_is_said_once(run: Path) -> None:
    done = torchrun("felid", "evaluate", run, "search.mode=dens")
    assert done.returncode != 0
    assert done.stderr.count("error: search.mode") == 1
    assert not done.stdout


def test_a_checkpoint_can_be_evaluated_by_its_name(run: Path) -> None:
    assert felid_command("evaluate", run).returncode == 0
    before, notes = (run / "metrics.json").read_text(), (run / "run.json").read_text()
    progress = load_progress(next(run.glob("train/*/progress.json")).parent)
    kept = {path.name for path in run.glob("train/*/checkpoint-*")}
    assert kept == {f"checkpoint-{entry['step']}" for entry in progress.curve}, "training.keep_checkpoints"
    assert len(kept) > 2
    done = felid_command("evaluate", run, "--checkpoint", f"checkpoint-{progress.curve[0]['step']}")
    assert done.returncode == 0, done.stderr
    assert f"checkpoint-{progress.curve[0]['step']}, asked for by name" in done.stdout
    metrics = [read_json(path) for path in run.glob("evaluate/*/metrics.json")]
    (named,) = (one for one in metrics if "checkpoint" in one["policy"])
    assert named["test"] != json.loads(before)["test"]
    assert (run / "metrics.json").read_text() == before, "those of the best checkpoint"
    assert (run / "run.json").read_text() == notes
    missing = felid_command("evaluate", run, "--checkpoint", "checkpoint-1")
    assert missing.returncode == 2
    assert "has no checkpoint-1; it keeps checkpoint-" in missing.stderr
