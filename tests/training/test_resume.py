"""An interrupted training goes on as if nothing had happened, however it was interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from felid.models import load_weights
from felid.models.base import Histories
from felid.training import Examples, TrainingData
from felid.training.checkpoints import Progress, load_progress, load_state
from tests.tiny import AnyKind
from tests.training.world import SETTINGS, Setting

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are bit-equal between processes only with equally many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Interrupted(Examples):
    """Examples whose n-th batch is interrupted by Ctrl-C."""

    left: list[int] = field(default_factory=list)

    def collate(self, chosen: np.ndarray, user_tokens: np.ndarray | None) -> tuple[Histories, torch.Tensor]:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise KeyboardInterrupt
        return super().collate(chosen, user_tokens)


def interrupted(setting: Setting, after: int) -> TrainingData:
    e = setting.data.examples
    examples = Interrupted(e.sequences, e.rows, e.starts, e.lengths, e.causal, [after])
    return TrainingData(examples, setting.data.items, setting.data.user_tokens)


def without_times(progress: Progress) -> list[dict[str, float]]:
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in progress.curve]


def assert_same(one: Setting, first: Progress, other: Setting, second: Progress) -> None:
    assert without_times(first) == without_times(second)
    assert (first.step, first.best, first.best_checkpoint) == (second.step, second.best, second.best_checkpoint)
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


def assert_same_state(one: Path, other: Path) -> None:
    """The last states of two trainings, optimiser and random numbers, are equal to the last bit."""
    states = [load_state(folder, load_progress(folder)) for folder in (one, other)]
    for entry, wanted in zip(*(state["optimizer"]["state"].values() for state in states), strict=True):
        assert entry.keys() == wanted.keys()
        assert all(torch.equal(entry[name], wanted[name]) for name in entry)
    assert torch.equal(states[0]["rng"], states[1]["rng"])


def assert_whole(folder: Path, kind: AnyKind) -> None:
    """Every checkpoint in the folder has all its files, and those that progress names are there."""
    found = {path.name for path in folder.glob("checkpoint-*")}
    progress = load_progress(folder)
    assert {progress.last_checkpoint, progress.best_checkpoint} - {""} <= found
    for name in found:
        assert {path.name for path in (folder / name).iterdir()} == {"config.json", "model.safetensors", "state.pt"}
        load_weights(folder / name, Setting.of(kind).model)
    if progress.last_checkpoint:
        assert load_state(folder, progress)["optimizer"]["state"]


@cache
def uninterrupted(name: str) -> tuple[Setting, Progress]:
    setting = Setting.named(name)
    with tempfile.TemporaryDirectory() as folder:
        return setting, setting.train(Path(folder), SETTINGS[name][2])


def sitting(name: str, folder: Path) -> Setting:
    """A model with other first weights than the first sitting had, which must not matter where there is a checkpoint."""
    return Setting.named(name, seed=5 if load_progress(folder).last_checkpoint else 0)


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=2, deadline=None)
@given(kills=st.lists(st.integers(0, 19), min_size=1, max_size=3), every_step=st.booleans())
def test_resumed_equals_uninterrupted(name: str, kills: list[int], every_step: bool) -> None:
    """Wherever it is stopped: after each number of steps in `kills`, counted from where the sitting began."""
    whole, wanted = uninterrupted(name)
    config = SETTINGS[name][2].model_copy(update={"checkpoint_seconds": 1e-6 if every_step else 1e6})
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for kill in kills:
            parts = sitting(name, folder)
            parts.data = interrupted(parts, min(kill, wanted.step - 1 - load_progress(folder).step))
            with pytest.raises(KeyboardInterrupt):
                parts.train(folder, config)
        torch.rand(7)  # the state of the process must not matter
        resumed = sitting(name, folder)
        assert_same(whole, wanted, resumed, resumed.train(folder, config))
        assert not list(folder.glob(".*"))


def test_the_last_state_of_a_resumed_training_is_that_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """It is what `training.keep_state` keeps and what layout `liger` gives to others."""
    name = "liger"
    whole, config = Setting.named(name), SETTINGS[name][2].model_copy(update={"keep_state": True})
    wanted = whole.train(tmp_path / "whole", config)
    parts = Setting.named(name)
    parts.data = interrupted(parts, wanted.step // 2)
    with pytest.raises(KeyboardInterrupt):
        parts.train(tmp_path / "parts", config)
    resumed = Setting.named(name, seed=5)
    assert_same(whole, wanted, resumed, resumed.train(tmp_path / "parts", config))
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


def test_an_interruption_during_validation_loses_nothing_before_it(tmp_path: Path) -> None:
    whole, parts, resumed = Setting.of("sasrec"), Setting.of("sasrec"), Setting.of("sasrec")
    wanted = whole.train(tmp_path / "whole")

    def broken(model: object) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts.train(tmp_path / "parts", validate=broken)
    left = load_progress(tmp_path / "parts")
    assert left.step == wanted.curve[0]["step"] - 1
    assert not left.curve
    assert_same(whole, wanted, resumed, resumed.train(tmp_path / "parts"))


def test_an_interruption_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Setting.of("sasrec")
    wanted = whole.train(tmp_path / "whole")
    for place in ("torch.save", "os.rename", "felid.training.checkpoints.write_json", "shutil.rmtree"):
        folder, calls = tmp_path / place, iter([None] * 5)
        with monkeypatch.context() as patch:
            patch.setattr(place, failing(place, calls))
            with pytest.raises(KeyboardInterrupt):
                Setting.of("sasrec").train(folder)
        assert load_progress(folder).step >= 1
        if place != "shutil.rmtree":  # what is being removed is named by nothing any more
            assert_whole(folder, "sasrec")
        again = Setting.of("sasrec")
        assert_same(whole, wanted, again, again.train(folder))


def failing(place: str, calls: Iterator[None]) -> object:
    """The function of that name, interrupted at its sixth call."""
    module, _, name = place.rpartition(".")
    __import__(module)
    function = getattr(sys.modules[module], name)

    def call(*args: object, **kwargs: object) -> object:
        if next(calls, "end") == "end":
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return call


@pytest.mark.slow
def test_a_process_killed_at_a_random_step_leaves_whole_checkpoints_and_resumes(tmp_path: Path) -> None:
    name = "lynx, averaged"
    config, whole = SETTINGS[name][2].model_copy(update={"epochs": 8}), Setting.named(name)
    wanted = whole.train(tmp_path / "whole", config)
    step, folder = int(np.random.default_rng().integers(1, wanted.step // 2)), tmp_path / "killed"
    command = [sys.executable, "-m", "tests.training.world", str(folder), name, config.model_dump_json()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while load_progress(folder).step < step and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == -signal.SIGKILL, errors
    assert step <= load_progress(folder).step < wanted.step, f"killed from step {step} on"
    assert_whole(folder, "lynx")
    resumed = Setting.named(name, seed=4)
    assert_same(whole, wanted, resumed, resumed.train(folder, config))
