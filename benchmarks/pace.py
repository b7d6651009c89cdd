"""`python -m benchmarks.pace RUN RECIPE KEY=VALUE ...`: what a training will cost, out of a few of its steps.

Prints processor seconds as JSON: `start` (loading), `epoch` (with its validations), `end` (what follows the last epoch). The
run folder has the data, vectors and codes, or gets them; no training is left in it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from felid.fitting import Fitting, Validate
from felid.models.base import Catalogue, Model
from felid.pipeline import Pipeline
from felid.progress import plain_console
from felid.recipe import load_recipe
from felid.training import Examples, TrainingData

STEPS = 40
"""Of each of two epochs; the first one finds caches and compiled matrix products for the second, which counts."""


@dataclass(frozen=True)
class Few(Examples):
    """Examples of epochs that end after a few of their batches."""

    def batches(self, batch_targets: int, seed: tuple[int, ...]) -> list[NDArray[np.int64]]:
        return super().batches(batch_targets, seed)[:STEPS]


@dataclass(frozen=True, eq=False)
class Paced(Fitting):
    """A training of two short epochs that notes processor times.

    Attributes:
        ticks: at the begin and the end of each validation; the first one is skipped.
        batches: how many a whole epoch has.
    """

    ticks: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def data_for(self, model: Model) -> TrainingData:
        data = super().data_for(model)
        examples = data.examples
        self.batches.append(len(examples.batches(self.training.batch_targets, (self.seed, 0))))
        few = Few(examples.sequences, examples.rows, examples.starts, examples.lengths, examples.causal)
        return replace(data, examples=few)

    def validation(self, model: Model) -> Validate:
        validate = super().validation(model)

        def timed(model: Model) -> dict[str, float]:
            self.ticks.append(time.process_time())
            found = validate(model) if len(self.ticks) > 1 else {"recall@10": 0.0, "ndcg@10": 0.0}
            self.ticks.append(time.process_time())
            return found

        return timed


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pace", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("recipe", metavar="RECIPE")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    print(json.dumps(pace_of(options.run, options.recipe, options.settings)))


def pace_of(root: Path, recipe_name: str, overrides: Sequence[str]) -> dict[str, float]:
    """Processor seconds of the parts of a training."""
    recipe = load_recipe(recipe_name, overrides)
    pipeline = Pipeline(recipe, root)
    pipeline.run("tokenize")
    short = recipe.training.model_copy(update={"epochs": 2, "patience": 0, "validations_per_epoch": 1})
    settings = recipe.model, short, recipe.seed, recipe.evaluation.exclude_seen
    counts = pipeline.split.item_counts(len(pipeline.warm))
    catalogue = Catalogue(pipeline.embeddings, pipeline.warm, pipeline.ids, counts)
    fitting = Paced(*settings, catalogue, pipeline.split, plain_console(quiet=True), pipeline.dataset.item_ids)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        fitting.fit(Path(folder))
    end = time.process_time()
    _, first, second, last = fitting.ticks
    [batches] = fitting.batches
    steps = (second - first) * batches / min(STEPS, batches)
    return {"start": start, "epoch": steps + (last - second) * recipe.training.validations_per_epoch, "end": end - last}


if __name__ == "__main__":
    main()
