"""`python -m benchmarks.sweep MODEL`: random search for the settings of SASRec or lynx, equal trials and minutes for both.

Every trial is `felid train` in a process of its own that is stopped when its minutes are over; its result is the best
NDCG@10 that its validations had seen by then. Trial i has the same settings whatever the number of trials and lanes is. Data,
vectors and codes are made before the first trial and belong to no trial's minutes (benchmarks.recommenders has theirs).
Trials in the results file are skipped, so the command may be interrupted, and two processes may share the work (`--share 0/2`
and `--share 1/2`). Only validation is looked at.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.runs import FailedError, Record, add_record, end_with_children, felid, lane_of, made_with, records, share_of
from benchmarks.tables import markdown
from felid.artifacts import read_json

Value = str | int | float


@dataclass(frozen=True)
class Even:
    """Uniform between two numbers."""

    low: float
    high: float


@dataclass(frozen=True)
class Log:
    """Uniform in the logarithm."""

    low: float
    high: float


Space = Mapping[str, tuple[Value, ...] | Even | Log]
TRAINING: Space = {
    "training.learning_rate": Log(5e-4, 4e-3),
    "training.weight_decay": Log(1e-4, 0.3),
    "training.batch_targets": (256, 512, 1024),
}
SPACES: Mapping[str, Space] = {
    "sasrec": {
        "model.width": (64, 128, 256),
        "model.layers": (1, 2),
        "model.heads": (1, 2),
        "model.dropout": Even(0.1, 0.6),
        "model.positions": ("learned", "relative"),
        **TRAINING,
        "training.label_smoothing": (0.0, 0.1),
        "training.epochs": (8, 16, 32),
    },
    "lynx": {
        "model.width": (64, 128, 192),
        "model.layers": (1, 2),
        "model.decoder_layers": (1, 2),
        "model.dropout": Even(0.1, 0.6),
        "model.own_dropout": (0.0, 0.1, 0.2),
        "model.generative_weight": (0.25, 0.5, 1.0),
        **TRAINING,
        "training.epochs": (6, 9, 12),
    },
}
"""Ten settings each."""
FEED_FORWARD = 4
"""Width of the feed-forward layer over that of the model."""
RECIPES = {"sasrec": "sasrec", "lynx": "beauty"}
DIVERGED = "the loss is not finite"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the missing trials of this lane, and print the best of all."""
    end_with_children()
    options, console = _options(arguments), Console(width=200, highlight=False)
    out = options.out or Path(f"reports/recommenders/sweep-{options.model}.json")
    root, recipe = lane_of(options.work / options.model, options.share), options.recipe or RECIPES[options.model]
    done = {_key(record) for record in records(out)}
    trials = [_trial(options.model, number, options.seed, options.minutes) for number in range(options.trials)]
    missing = [trial for trial in share_of(trials, options.share) if _key(trial) not in done]
    if missing:
        felid("tokenize", root, recipe, threads=1)
    for trial in missing:
        record = {**trial, **_measure(root, recipe, trial), **made_with(1)}
        add_record(out, record)
        console.print(_line(record), soft_wrap=True)
    console.print(table(records(out)), soft_wrap=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("model", choices=list(SPACES))
    parser.add_argument("--trials", type=int, default=20, help="of all lanes together")
    parser.add_argument("--minutes", type=float, default=12.0, help="of each trial, on one thread")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; that of the trainings is the recipe's")
    parser.add_argument("--recipe", help=f"what the trials change; default: {RECIPES}")
    parser.add_argument("--out", type=Path, help="JSON file; default: reports/recommenders/sweep-MODEL.json")
    parser.add_argument("--work", type=Path, default=Path("runs/sweep"), help="trainings in it are removed after each trial")
    parser.add_argument("--share", default="0/1", help="which part of the trials this process makes, counted from 0")
    return parser.parse_args(arguments)


def settings_of(space: Space, number: int, seed: int) -> dict[str, Value]:
    """The settings of a trial, drawn independently of each other and of other trials; floats have three digits."""
    rng = np.random.default_rng([seed, number])
    drawn = {key: _draw(values, rng) for key, values in space.items()}
    return {**drawn, "model.feed_forward": FEED_FORWARD * int(drawn["model.width"])}


def _draw(values: tuple[Value, ...] | Even | Log, rng: np.random.Generator) -> Value:
    match values:
        case Even(low, high):
            return float(f"{rng.uniform(low, high):.3g}")
        case Log(low, high):
            return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")
        case choices:
            return choices[int(rng.integers(len(choices)))]


def _trial(model: str, number: int, seed: int, minutes: float) -> Record:
    return {"model": model, "trial": number, "minutes": minutes, "settings": settings_of(SPACES[model], number, seed)}


def _key(trial: Record) -> tuple[object, ...]:
    """What makes a trial the same as one that was made: its settings and its minutes."""
    return trial["model"], trial["minutes"], tuple(sorted(trial["settings"].items()))


def _measure(root: Path, recipe: str, trial: Record) -> Record:
    """Train for the minutes of a trial; its training is removed afterwards, and so is one that an interrupted trial left."""
    shutil.rmtree(root / "train", ignore_errors=True)
    overrides = [f"{key}={value}" for key, value in trial["settings"].items()]
    try:
        finished = felid("train", root, recipe, overrides, minutes=trial["minutes"])
    except FailedError as error:
        if DIVERGED not in str(error):
            raise
        finished = True
    result = {"finished": finished, **result_of(root)}
    shutil.rmtree(root / "train", ignore_errors=True)
    return result


def result_of(root: Path) -> Record:
    """The best validation of the one training in a run folder, whether it is finished, was stopped or went astray.

    `ndcg@10` is 0 where there was no validation; `curve` has the epoch, the seconds and the NDCG@10 of each.
    """
    found = [read_json(path) for path in root.glob("train/*/progress.json")]  # of a finished training or of one at work
    assert len(found) <= 1, f"{root / 'train'} holds {len(found)} trainings, expected the one of this trial"
    curve = found[0]["curve"] if found else []
    best = max(curve, key=lambda entry: entry["ndcg@10"], default={"ndcg@10": 0.0, "recall@10": 0.0, "epoch": 0.0})
    line = "; ".join(f"{entry['epoch']:g} {entry['seconds']:.0f} {entry['ndcg@10']:.4f}" for entry in curve)
    return {name: best[name] for name in ("ndcg@10", "recall@10", "epoch")} | {"curve": line}


def table(trials: Sequence[Record], shown: int = 10) -> str:
    """The best trials, the best first."""
    best = sorted(trials, key=lambda trial: -trial["ndcg@10"])[:shown]
    rows = [_cells(trial) for trial in best]
    title = f"{len(trials)} trials; validation, the {len(best)} best by ndcg@10"
    return f"{title}\n\n{markdown(('trial', 'ndcg@10', 'recall@10', 'best epoch', 'ended', 'settings'), rows)}"


def _cells(trial: Record) -> list[str]:
    settings = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in trial["settings"].items())
    ended = "by itself" if trial["finished"] else f"at {trial['minutes']:g} min"
    return [str(trial["trial"]), f"{trial['ndcg@10']:.4f}", f"{trial['recall@10']:.4f}", f"{trial['epoch']:g}", ended, settings]


def _line(trial: Record) -> str:
    number, *cells = _cells(trial)
    return f"trial {number}: {'  '.join(cells)}"


if __name__ == "__main__":
    main()
