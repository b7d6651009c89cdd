"""An interrupted training goes on as if nothing had happened, however it was interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from felid.models import load_weights
from felid.models.base import Histories
from felid.training import Examples, TrainingData
from felid.training.checkpoints import Progress, load_progress, load_state
from tests.tiny import KINDS, Kind
from tests.training.world import LONG, SHORT, Setting

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
    return TrainingData(examples, setting.data.trie, setting.data.user_tokens)


def without_times(progress: Progress) -> list[dict[str, float]]:
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in progress.curve]


def assert_same(one: Setting, first: Progress, other: Setting, second: Progress) -> None:
    assert without_times(first) == without_times(second)
    assert (first.step, first.best, first.best_checkpoint) == (second.step, second.best, second.best_checkpoint)
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


def assert_whole(folder: Path) -> None:
    """Every checkpoint in the folder has all its files, and those that progress names are there."""
    found = {path.name for path in folder.glob("checkpoint-*")}
    progress = load_progress(folder)
    assert {progress.last_checkpoint, progress.best_checkpoint} - {""} <= found
    for name in found:
        assert {path.name for path in (folder / name).iterdir()} == {"config.json", "model.safetensors", "state.pt"}
        load_weights(folder / name, Setting.of("lynx").model)
    if progress.last_checkpoint:
        assert load_state(folder, progress)["optimizer"]["state"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpoint_seconds", [1e-6, 1e6], ids=["every step", "at validations only"])
def test_resumed_equals_uninterrupted(kind: Kind, checkpoint_seconds: float, tmp_path: Path) -> None:
    config = SHORT.model_copy(update={"checkpoint_seconds": checkpoint_seconds})
    whole = Setting.of(kind)
    wanted = whole.train(tmp_path / "whole", config)
    rng = np.random.default_rng(int(checkpoint_seconds))
    for sitting in range(3):
        parts = Setting.of(kind, seed=sitting)  # its first weights are the right ones in the first sitting only
        parts.data = interrupted(parts, int(rng.integers(1, wanted.step // 4)) if sitting else wanted.step // 3)
        with pytest.raises(KeyboardInterrupt):
            parts.train(tmp_path / "parts", config)
    torch.rand(7)  # the state of the process must not matter
    resumed = Setting.of(kind, seed=5)
    found = resumed.train(tmp_path / "parts", config)
    assert_same(whole, wanted, resumed, found)
    assert not list((tmp_path / "parts").glob(".*"))


def test_an_interruption_during_validation_loses_nothing_before_it(tmp_path: Path) -> None:
    whole, parts, resumed = Setting.of("lynx"), Setting.of("lynx"), Setting.of("lynx")
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
    whole = Setting.of("lynx")
    wanted = whole.train(tmp_path / "whole")
    for place in ("torch.save", "os.rename", "felid.training.checkpoints.write_json", "shutil.rmtree"):
        folder, calls = tmp_path / place, iter([None] * 5)
        with monkeypatch.context() as patch:
            patch.setattr(place, failing(place, calls))
            with pytest.raises(KeyboardInterrupt):
                Setting.of("lynx").train(folder)
        assert load_progress(folder).step >= 1
        if place != "shutil.rmtree":  # what is being removed is named by nothing any more
            assert_whole(folder)
        again = Setting.of("lynx")
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, Progress]:
    """A long training that nothing interrupts."""
    torch.set_num_threads(1)
    setting = Setting.of("lynx")
    return setting, setting.train(tmp_path_factory.mktemp("whole"), LONG)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_process_leaves_whole_checkpoints_and_resumes(
    stop: signal.Signals, whole: tuple[Setting, Progress], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.training.world", str(tmp_path), "lynx"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while load_progress(tmp_path).step < 9 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(stop)
        errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode not in (0, None), errors
    assert stop == signal.SIGKILL or "KeyboardInterrupt" in errors
    assert 9 <= load_progress(tmp_path).step < whole[1].step
    assert_whole(tmp_path)
    resumed = Setting.of("lynx", seed=4)
    assert_same(*whole, resumed, resumed.train(tmp_path, LONG))
