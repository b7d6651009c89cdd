"""What the benchmarks of recommenders share: felid in processes of its own, work in two lanes, records kept as they come.

A lane is one process of a benchmark with a run folder of its own, which its trainings share: data, vectors and codes that they
have in common are made once. Records are JSON lists that both lanes add to; what stands there is not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from pydantic import Field

from felid.artifacts import open_artifact, read_json, read_run, write_json
from felid.config import Config, Tree, as_tree, load_tree, merge, validate
from felid.errors import FelidError
from felid.evaluation.per_user import write_ranks
from felid.machine import cpu, git
from felid.records import parts_of, wall_minutes

GRACE_SECONDS = 20.0
"""How long a process that is told to stop may take before it is killed."""
LOG = "felid.log"
"""In a run folder: all that its commands printed."""
BESIDE = ("popularity", "markov")
"""The baselines of all evaluations here: SASRec, where it is held against others, is a system with trainings of its own."""
_BESIDE = f"evaluation.baselines=[{','.join(BESIDE)}]"
Record = dict[str, Any]
T = TypeVar("T")


class FailedError(Exception):
    """A command ended with an error; the last lines that it printed."""


class System(Config):
    """What is trained: a recipe and the settings beside it."""

    recipe: str
    """A name or a file, as `felid` takes it."""
    overrides: tuple[str, ...] = ()
    """KEY=VALUE."""

    def with_overrides(self, *overrides: str) -> System:
        return System(recipe=self.recipe, overrides=(*self.overrides, *overrides))

    @property
    def resolved(self) -> Tree:
        """All settings: records of a recipe that has changed since, here or in its defaults, have others."""
        from felid.recipe import load_recipe  # loads torch

        return as_tree(load_recipe(self.recipe, (_BESIDE, *self.overrides)))


class Settings(Config):
    """What `benchmarks.recommenders` and `benchmarks.cold` train; chosen on validation."""

    systems: dict[str, System]
    """By the name of their model's kind, which is also what evaluations call them."""
    once: dict[str, System] = Field(default_factory=dict)
    """Trained and evaluated once, by the command's name: `quality` is lynx with a short schedule, `refit` lynx that also trains
    on the validation targets."""
    ablated: tuple[str, ...] = ()
    """KEY=VALUE beside the settings of the system `lynx` in all trainings of the ablation, such as fewer epochs."""
    ablation: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """What is changed in it, by name; the first one changes nothing."""


def load_settings(path: Path) -> Settings:
    return validate(Settings, load_tree(path))


def end_with_children() -> None:
    """Let this process, when it is told to stop, stop what it runs as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def felid(stage: str, root: Path, recipe: str | Path, overrides: Sequence[str] = (), *, threads: int = 1) -> None:
    """Run a stage in a process of its own.

    Raises:
        FailedError: it ended with an error.
    """
    root.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "felid", stage, str(root), _BESIDE, *overrides, "--recipe", str(recipe)]
    run(command, root / LOG, threads)


def run(command: Sequence[str], log: Path, threads: int = 1) -> None:
    """Run a command, its output added to a file; it does not outlive this process.

    Args:
        command: program and arguments.
        log: file that the output is added to.
        threads: of torch, numpy and polars.

    Raises:
        FailedError: it ended with an error.
    """
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"$ {shlex.join(command)}\n")
        stream.flush()
        process = subprocess.Popen(command, env=_environment(threads), stdout=stream, stderr=subprocess.STDOUT)
        try:
            status = process.wait()
        finally:
            _stop(process)
    if status:
        last = log.read_text(encoding="utf-8").splitlines()[-3:]
        raise FailedError(f"{shlex.join(command)} ended with status {status}: {' / '.join(last)}")


def output(module: str, *arguments: str, threads: int = 1) -> str:
    """What `python -m module arguments` prints.

    Raises:
        FailedError: it ended with an error.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=_environment(threads), capture_output=True, text=True, check=False)
    if done.returncode:
        last = " / ".join(done.stderr.splitlines()[-3:])
        raise FailedError(f"{shlex.join(command)} ended with status {done.returncode}: {last}")
    return done.stdout


def cpu_minutes() -> float:
    """Processor time of all commands that have ended so far, and of the processes that these have waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) / 60


def _environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "POLARS_MAX_THREADS": str(threads)}


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that may still be running: politely, then not."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def a_share(text: str) -> str:
    """What `--share` takes: PLACE/LANES."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not PLACE/LANES, the place counted from 0, such as 0/2 and 1/2")
    return text


def share_of(jobs: Sequence[T], share: str) -> list[T]:
    """The jobs of one lane; `share` is PLACE/LANES, counted from 0."""
    place, lanes = map(int, share.split("/"))
    return list(jobs[place::lanes])


def lane_of(work: Path, share: str) -> Path:
    """The run folder of a lane."""
    return work / f"lane-{share.partition('/')[0]}"


def records(path: Path) -> list[Record]:
    """The list in a JSON file; none where there is no file yet. Settings that are newer than a record stand in it by default."""
    found: list[Record] = read_json(path) if path.is_file() else []
    for record in found:
        if isinstance(record.get("resolved"), dict):
            record["resolved"] = as_read_today(record["resolved"])
    return found


def as_read_today(tree: Tree) -> Tree:
    """All settings of a recipe, with what stood for those that it had not yet; unchanged where it is no recipe any more."""
    from felid.recipe import Recipe  # loads torch

    try:
        return as_tree(validate(Recipe, merge({"evaluation": {"baselines": BESIDE}}, tree)))
    except FelidError:
        return tree


def add_record(path: Path, record: Record, same: Sequence[str] = ()) -> None:
    """Add to the list in a JSON file: whole or not at all, also where two processes do so at a time.

    Args:
        path: the file.
        record: what is added.
        same: keys; a former record that agrees in all of them is removed (none is where there are no keys).
    """
    with _alone(path.parent):
        kept = [one for one in records(path) if not same or any(one.get(key) != record.get(key) for key in same)]
        write_json(path, [*kept, record])


def keep(source: Path, out: Path, place: str) -> str:
    """Copy a file beside the records, lest it be lost with the run folders; returns `place`, which is relative to `out`."""
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, out / place)
    return place


def keep_ranks(source: Path, out: Path, place: str) -> str:
    """`keep` for the ranks of an evaluation, without the ids of its data."""
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    write_ranks(pl.read_parquet(source), out / place)
    return place


def with_file(done: Sequence[Record], out: Path) -> list[Record]:
    """The records whose ranks are still there: without them a training has to be made again."""
    return [one for one in done if (out / one["ranks"]).is_file()]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is here; the lock is on the folder itself and leaves no file."""
    folder.mkdir(parents=True, exist_ok=True)
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def made_with(threads: int) -> Record:
    """Code and machine of a record."""
    changed = bool(git("status", "--porcelain", "src", "benchmarks"))
    commit = git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    return {"commit": commit, "cpu": cpu(), "threads": threads, "load": os.getloadavg()[0]}


def stage_folder(root: Path, stage: str) -> Path:
    """The artifact of a stage that was made or reused last in a run folder."""
    return root / str(read_run(root)["stages"][stage])


def minutes_of(root: Path) -> dict[str, float]:
    """`felid.records.wall_minutes` of the last training in a run folder."""
    stages = {stage: open_artifact(stage_folder(root, stage)) for stage in ("data", "embed", "tokenize", "train")}
    return wall_minutes(parts_of(root, stages))
