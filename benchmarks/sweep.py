"""`python -m benchmarks.sweep MODEL`: random search for the settings of SASRec or lynx, equal trials and budgets for both.

The budget of a trial is processor time, so other work on the machine does not change what a trial is worth. A few steps and a
validation of its settings (`benchmarks.pace`) tell how many epochs fit; then it is `felid train` in a process of its own, which
always comes to the end of its schedule. It is judged by validation NDCG@10 with its best weights, as its system is used: lynx
fused with the weights chosen for it, SASRec by its own scores (and beside that with the transition memory).

Trial 0 is the recipe as it stands, the others change it at random; trial i has the same settings whatever the number of trials
and lanes is. Data and vectors belong to nobody's budget; the
processor time of the warm-up and of the codes is in every record (`codes_cpu_minutes`) and in the sum above the table. A trial
is made again where the recipe, a default or a space has changed, and skipped where it is in the results, so the command may be
interrupted, and two processes may share the work (`--share 0/2` and `--share 1/2`). Only validation is looked at.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.runs import (
    FailedError,
    Record,
    System,
    a_share,
    add_record,
    cpu_minutes,
    end_with_children,
    felid,
    lane_of,
    made_with,
    output,
    records,
    share_of,
    stage_folder,
)
from benchmarks.tables import markdown
from felid.artifacts import read_json, write_json
from felid.fusion import FusionChoice

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
    "training.learning_rate": Log(1e-3, 4e-3),
    "training.weight_decay": Log(1e-4, 0.3),
    "training.batch_targets": (256, 512, 1024),
}
SPACES: Mapping[str, Space] = {
    "sasrec": {
        "model.width": (64, 128, 256),
        "model.layers": (1, 2),
        "model.heads": (1, 2),
        "model.dropout": Even(0.15, 0.5),
        "model.positions": ("learned", "relative"),
        **TRAINING,
        "training.label_smoothing": (0.0, 0.1),
    },
    "lynx": {
        "model.width": (64, 128, 192),
        "model.layers": (1, 2),
        "model.decoder_layers": (1, 2),
        "model.dropout": Even(0.15, 0.5),
        "model.own_dropout": (0.0, 0.1, 0.2),
        "model.generative_weight": (0.25, 0.5, 1.0),
        **TRAINING,
    },
}
"""Nine settings each; the length of the schedule follows from the budget."""
FEED_FORWARD = 4
"""Width of the feed-forward layer over that of the model."""
ALWAYS = ("training.patience=0",)
"""What every trial has: the learning rate comes down to the end of its schedule."""
MOST_EPOCHS = 60
RECIPES = {"sasrec": "sasrec", "lynx": "beauty"}
JUDGED = {"sasrec": "without_memory", "lynx": "fused"}
"""Which of the figures of `result_of` counts."""
DIVERGED = "the loss is not finite"
FIGURES = ("fused", "without_memory", "dense", "generative")
"""Kinds of NDCG@10 in a record, see `result_of`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the missing trials of this lane, and print the best of all."""
    end_with_children()
    options, console = _options(arguments), Console(width=200, highlight=False)
    recipes = {**RECIPES, options.model: options.recipe or RECIPES[options.model]}
    root, path = lane_of(options.work / options.model, options.share), results(options, options.model)
    done = [key_of(record) for record in records(path)]
    trials = trials_of(options.model, recipes[options.model], options)
    missing = [trial for trial in share_of(trials, options.share) if key_of(trial) not in done]
    codes = prepare(root, recipes[options.model]) if missing else 0.0
    for trial in missing:
        record = {**trial, **_measure(root, trial), "codes_cpu_minutes": codes, **made_with(1)}
        add_record(path, record)
        console.print(_line(record), soft_wrap=True)
    made = {model: current(records(results(options, model)), trials_of(model, recipes[model], options)) for model in SPACES}
    console.print(table(made, options.model, options.minutes), soft_wrap=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("model", choices=list(SPACES))
    parser.add_argument("--trials", type=int, default=20, help="of all lanes together")
    parser.add_argument("--minutes", type=float, default=12.0, help="of processor time of each trial")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; that of the trainings is the recipe's")
    parser.add_argument("--recipe", help=f"what the trials change; default: {RECIPES}")
    parser.add_argument("--out", type=Path, default=Path("reports/recommenders"), help="folder of sweep-MODEL.json")
    parser.add_argument("--work", type=Path, default=Path("runs/sweep"), help="trainings in it are removed after each trial")
    parser.add_argument(
        "--share", type=a_share, default="0/1", help="which part of the trials this process makes, counted from 0"
    )
    return parser.parse_args(arguments)


def results(options: argparse.Namespace, model: str) -> Path:
    """The file of a model's trials."""
    folder: Path = options.out
    return folder / f"sweep-{model}.json"


def settings_of(space: Space, number: int, seed: int) -> dict[str, Value]:
    """The settings of a trial, drawn independently of each other and of other trials; floats have three digits.

    Trial 0 changes nothing.
    """
    if number == 0:
        return {}
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


def trials_of(model: str, recipe: str, options: argparse.Namespace) -> list[Record]:
    """The trials that are asked for, made or not."""
    return [_trial(model, recipe, number, options.seed, options.minutes) for number in range(options.trials)]


def _trial(model: str, recipe: str, number: int, seed: int, minutes: float) -> Record:
    settings = settings_of(SPACES[model], number, seed)
    resolved = System(recipe=recipe, overrides=overrides_of(settings)).resolved
    key = {"model": model, "trial": number, "minutes": minutes, "resolved": resolved}
    return {**key, "recipe": recipe, "settings": settings}


def overrides_of(settings: Mapping[str, Value]) -> tuple[str, ...]:
    return (*(f"{key}={value}" for key, value in settings.items()), *ALWAYS)


def key_of(trial: Record) -> tuple[object, ...]:
    """What makes a trial the same as one that was made: all its settings, those of the recipe among them, and its budget."""
    return tuple(trial.get(name) for name in ("model", "trial", "minutes", "resolved"))


def current(done: Sequence[Record], trials: Sequence[Record]) -> list[Record]:
    """The records of the trials that are asked for."""
    asked = [key_of(trial) for trial in trials]
    return [record for record in done if key_of(record) in asked]


def prepare(root: Path, recipe: str) -> float:
    """Make data, vectors and codes where they are missing.

    Returns:
        Processor minutes of the warm-up and the codes, over all sittings, as they were noted when these were made.
    """
    felid("embed", root, recipe)
    path, before = root / "codes.json", cpu_minutes()
    known = read_json(path) if path.is_file() else {"unfinished": 0.0}
    try:
        felid("tokenize", root, recipe)
    finally:
        known["unfinished"] += cpu_minutes() - before
        write_json(path, known)
    codes = str(stage_folder(root, "tokenize").relative_to(root))
    write_json(path, {**known, codes: known.get(codes, round(known["unfinished"], 2)), "unfinished": 0.0})
    return float(read_json(path)[codes])


def _measure(root: Path, trial: Record) -> Record:
    """Train for the budget of a trial; its training is removed afterwards, and so is one that an interrupted trial left."""
    shutil.rmtree(root / "train", ignore_errors=True)
    overrides, found = overrides_of(trial["settings"]), Record(epochs=0, diverged=False)
    before = cpu_minutes()
    try:
        found["pace"] = json.loads(output("benchmarks.pace", str(root), trial["recipe"], *overrides))
        found["epochs"], before = epochs_within(found["pace"], trial["minutes"]), cpu_minutes()
        felid("train", root, trial["recipe"], [*overrides, f"training.epochs={found['epochs']}"])
    except FailedError as error:
        if DIVERGED not in str(error):
            raise
        found["diverged"] = True
    found |= {"cpu_minutes": round(cpu_minutes() - before, 2), **result_of(root, trial["model"])}
    shutil.rmtree(root / "train", ignore_errors=True)
    return found


def epochs_within(pace: Mapping[str, float], minutes: float) -> int:
    """As many epochs as fit the budget beside what a training costs once: at least 1, at most `MOST_EPOCHS`."""
    left = 60 * minutes - pace["start"] - pace["end"]
    return min(MOST_EPOCHS, max(1, int(left // pace["epoch"])))


def result_of(root: Path, model: str) -> Record:
    """What the one training in a run folder says on validation.

    `fused` and `without_memory` are NDCG@10 with the best weights of the fused ranking, and with the best of those that give
    the transition memory no say; `ndcg@10` is the one of them that counts for the model, 0 where the training went astray.
    `dense` and `generative` (of fewer users; None where it is not watched) are those of the validation whose weights were kept,
    `best`; `curve` has all validations.
    """
    found = list(root.glob("train/*/progress.json"))  # of a finished training or of one that went astray
    assert len(found) <= 1, f"{root / 'train'} holds {len(found)} trainings, expected the one of this trial"
    curve = [_rounded(entry) for entry in read_json(found[0])["curve"]] if found else []
    choice = FusionChoice.load(found[0].parent) if found else None
    tried = choice.curve if choice else ()
    figures = {
        "fused": max((value for *_, value in tried), default=0.0),
        "without_memory": max((value for _, memory, value in tried if not memory), default=0.0),
    }
    best = max(curve, key=lambda entry: entry["ndcg@10"], default={})
    heads = {"dense": best.get("ndcg@10"), "generative": best.get("generative_ndcg@10")}
    return {"ndcg@10": figures[JUDGED[model]], **figures, **heads, "best": best, "curve": curve}


def _rounded(entry: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in entry.items()}


def table(made: Mapping[str, Sequence[Record]], model: str, minutes: float, shown: int = 10) -> str:
    """The best trials of a model, the best first, under what each model was given."""
    best = sorted(made[model], key=lambda trial: -float(trial["ndcg@10"]))[:shown]
    lines = [_given(name, trials) for name, trials in made.items()]
    if len({len(trials) for trials in made.values()}) > 1:
        lines.append("the models have unequal numbers of trials: no fair comparison yet")
    title = f"{model}, {minutes:g} processor minutes a trial; validation, the {len(best)} best by ndcg@10 ({JUDGED[model]})"
    header = ("trial", "ndcg@10", *(name.replace("_", " ") for name in FIGURES), "best epoch", "epochs", "CPU min", "settings")
    return "\n".join([*lines, "", title, "", markdown(header, [_cells(trial) for trial in best])])


def _given(model: str, trials: Sequence[Record]) -> str:
    spent = sum(trial["cpu_minutes"] for trial in trials)
    codes = max((trial["codes_cpu_minutes"] for trial in trials), default=0.0)
    commits = ", ".join(sorted({trial["commit"] for trial in trials}))
    sums = f"{spent:.1f} processor minutes, and {codes:.1f} for warm-up and codes: {spent + codes:.1f}"
    return f"{model}: {len(trials)} trials, {sums}; commit {commits}" if trials else f"{model}: no trials"


def _cells(trial: Record) -> list[str]:
    settings = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in trial["settings"].items())
    figures = ["" if trial[name] is None else f"{trial[name]:.4f}" for name in ("ndcg@10", *FIGURES)]
    epochs = "diverged" if trial["diverged"] else str(trial["epochs"])
    best = f"{trial['best']['epoch']:g}" if trial["best"] else ""
    return [str(trial["trial"]), *figures, best, epochs, f"{trial['cpu_minutes']:.1f}", settings]


def _line(trial: Record) -> str:
    number, *cells = _cells(trial)
    return f"trial {number}: {'  '.join(cells)}"


if __name__ == "__main__":
    main()
