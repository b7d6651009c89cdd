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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from pydantic import Field

from benchmarks.machine import cpu, git
from felid.artifacts import find_artifact, open_artifact, read_json, read_run, write_json
from felid.config import Config, Tree, as_tree, load_tree, validate
from felid.errors import FelidError

GRACE_SECONDS = 20.0
"""How long a process that is told to stop may take before it is killed."""
LOG = "felid.log"
"""In a run folder: all that its commands printed."""
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

        return as_tree(load_recipe(self.recipe, self.overrides))


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
    run([sys.executable, "-m", "felid", stage, str(root), *overrides, "--recipe", str(recipe)], root / LOG, threads)


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
    """All settings of a recipe, with defaults for those that it had not yet; unchanged where it is no recipe any more."""
    from felid.recipe import Recipe  # loads torch

    try:
        return as_tree(validate(Recipe, tree))
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
    """`keep` for the ranks of an evaluation: small, a row per user, and without the ids of its data."""
    ranks, columns = pl.read_parquet(source), {}
    for (system, part, policy), found in ranks.group_by("system", "part", "policy", maintain_order=True):
        columns[f"{part}: group"] = found["group"].alias(f"{part}: group")  # the same users in the same order for every system
        columns[f"{part}: {policy}: {system}"] = found["rank"].cast(pl.UInt16).alias(f"{part}: {policy}: {system}")
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    length = max(
        len(column) for column in columns.values()
    )  # parts may have different users, those of the longest number the rows
    table = pl.DataFrame([column.extend_constant(None, length - len(column)) for column in columns.values()])
    table.write_parquet(out / place, compression="zstd", compression_level=19)
    return place


def read_ranks(path: Path) -> pl.DataFrame:
    """What `keep_ranks` wrote as `felid.evaluation.compare_runs` takes it; users are numbered, targets are not known."""
    table, found = pl.read_parquet(path), []
    for name in table.columns:
        part, _, rest = name.partition(": ")
        policy, _, system = rest.partition(": ")
        if system:
            labels = {"system": system, "part": part, "policy": policy, "target": 0}
            rows = table.select(group=f"{part}: group", rank=pl.col(name).cast(pl.Int64)).with_row_index("user_id")
            found.append(rows.drop_nulls().with_columns(pl.lit(value).alias(label) for label, value in labels.items()))
    return pl.concat(found)


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
    """Wall minutes that each part of the last training in a run folder took when it was made, the warm-up and codes among them.

    `warmup` and `train` are trainings with their validations, over all sittings; `fusion` is what the train stage did besides:
    above all the choice of the weights of fused ranking. It is too small where that stage was interrupted.
    """
    stages = ("data", "embed", "tokenize")
    seconds = {stage: open_artifact(stage_folder(root, stage)).manifest["wall_seconds"] for stage in stages}
    inputs: Mapping[str, str] = open_artifact(stage_folder(root, "tokenize")).manifest["inputs"]
    for name, part in (("codes", "quantize"), ("warmup", "warmup"), ("start", "start")):
        if name in inputs:
            made = find_artifact(root, part, inputs[name])
            trained = part == "warmup"
            seconds[part] = read_json(made.path / "progress.json")["seconds"] if trained else made.manifest["wall_seconds"]
            inputs = {**inputs, **made.manifest["inputs"]}
    train = open_artifact(stage_folder(root, "train"))
    seconds["train"] = read_json(train.path / "progress.json")["seconds"]
    seconds["fusion"] = max(0.0, train.manifest["wall_seconds"] - seconds["train"])
    return {part: round(value / 60, 2) for part, value in seconds.items()}
