"""Checkpoints of a training: `checkpoint-STEP/` folders and a small file that says which are the last and the best."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from felid.artifacts import read_json, write_json
from felid.errors import ArtifactError
from felid.models import save_model
from felid.models.base import Model

PROGRESS = "progress.json"
STATE = "state.pt"


@dataclass
class Progress:
    """How far a training is; what resuming needs besides tensors.

    Attributes:
        epoch, batch: the next batch to train on.
        step: optimiser steps done.
        targets: target items trained on.
        seconds: wall time spent training and validating, over all sittings.
        best: highest validation NDCG@10 so far.
        validations_since_best: for early stopping.
        finished: nothing is left to train.
        last_checkpoint, best_checkpoint: folder names.
        curve: one entry per validation: step, epoch, targets, seconds, losses (nats per target; `loss` is their sum), metrics.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    targets: int = 0
    seconds: float = 0.0
    best: float = -1.0
    validations_since_best: int = 0
    finished: bool = False
    last_checkpoint: str = ""
    best_checkpoint: str = ""
    loss_sums: dict[str, float] = field(default_factory=dict)
    loss_targets: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    def name_checkpoint(self, *, is_best: bool) -> None:
        """Give the weights of this step a name, as the last ones and, where it is so, as the best."""
        self.last_checkpoint = f"checkpoint-{self.step}"
        if is_best:
            self.best_checkpoint = self.last_checkpoint


def save(folder: Path, progress: Progress, model: Model, state: dict[str, Any], *, keep_all: bool = False) -> None:
    """Write the checkpoint that `progress` names last, whole, then point to it, then remove those that nothing points to.

    With `keep_all` the weights of all validations stay.
    """
    name = progress.last_checkpoint
    part = folder / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_model(part, model)
    torch.save(state, part / STATE)
    target = folder / name
    if target.exists():  # the same step again, for example the last one after an interruption
        shutil.rmtree(target)
    os.rename(part, target)
    write_json(folder / PROGRESS, asdict(progress))
    validated = {f"checkpoint-{entry['step']}" for entry in progress.curve} if keep_all else set[str]()
    for old in folder.glob("*checkpoint-*"):
        if old.name in (progress.last_checkpoint, progress.best_checkpoint):
            continue
        if old.name in validated:
            (old / STATE).unlink(missing_ok=True)
        else:
            shutil.rmtree(old)


def drop_states(folder: Path, *, keep_last: bool) -> None:
    """Remove what only resuming needs, once a training is over; with `keep_last` that of the last checkpoint stays.

    Whether a training is over `Progress.finished` says alone, whatever states there are.
    """
    kept = load_progress(folder).last_checkpoint if keep_last else None
    for state in folder.glob(f"checkpoint-*/{STATE}"):
        if state.parent.name != kept:
            state.unlink()


def load_progress(folder: Path) -> Progress:
    """The progress noted in a folder, or that of a training that has not begun."""
    if not (folder / PROGRESS).is_file():
        return Progress()
    try:
        return Progress(**read_json(folder / PROGRESS))
    except TypeError as error:
        raise ArtifactError(
            f"{folder / PROGRESS} is not the progress of a training ({error}); start over with --fresh"
        ) from error


def load_state(folder: Path, progress: Progress) -> dict[str, Any]:
    """Optimiser and random state of the last checkpoint."""
    path = folder / progress.last_checkpoint / STATE
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ArtifactError(f"{path} cannot be read ({reason}); start over with --fresh") from error
    return state
