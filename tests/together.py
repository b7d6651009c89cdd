"""What two processes of torchrun do in `test_distributed.py`: `-m tests.together FOLDER`, each writes `FOLDER/said-RANK.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from felid.data.histories import EvaluationSet, Sequences
from felid.distributed import on_main, world
from felid.evaluation import evaluate
from felid.evaluation.shared import SharedRanker, Together
from felid.models.base import Model
from felid.ranking import ItemRanker
from felid.search.config import SearchConfig
from felid.training import TrainingConfig, checkpoints
from felid.training.checkpoints import Progress
from felid.training.together import add_up_step
from tests.tiny import ALL_KINDS, AnyKind, any_model, catalogue, config_of, random_histories, tiny_catalogue
from tests.training.test_resume import interrupted
from tests.training.world import SETTINGS, SHORT, Setting

ALIKE = SHORT.model_copy(update={"checkpoint_seconds": 1e6, "batch_targets": 43, "epochs": 2})
"""A few steps, the same by one process and by two."""
RANDOM = "lynx, averaged"
"""A setting with dropout: each process draws for itself."""
SCRIPTS = {0: [0.3, 0.2, 0.1, 0.0, 0.0, 0.0], 1: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}
"""NDCG@10 of validations as the processes would have it; the main one's count."""
STOPS = SHORT.model_copy(update={"patience": 2, "checkpoint_seconds": 1e6})
HELD_BACK = 3
"""Steps done before an interruption."""


def without_dropout(kind: AnyKind) -> Setting:
    """A training with batches of an odd number of examples and one of a single example, which two processes cannot share."""
    changes = {"own_dropout": 0.0} if kind == "lynx" else {}
    return Setting.of(kind, config_of(kind, dropout=0.0, **changes), num_users=67 if kind in ("lynx", "sasrec") else 64)


def held_back(setting: Setting, folder: Path, config: TrainingConfig) -> None:
    """Begin a training and interrupt it."""
    setting.data = interrupted(setting, HELD_BACK)
    try:
        setting.train(folder, config)
    except KeyboardInterrupt:
        return
    raise AssertionError("not interrupted")


def told(progress: Progress) -> dict[str, object]:
    """All but times."""
    curve = [{name: value for name, value in entry.items() if name != "seconds"} for entry in progress.curve]
    return {**asdict(progress), "curve": curve, "seconds": 0}


def scripted(values: Iterator[float]) -> object:
    def validate(model: Model) -> dict[str, float]:
        return {"ndcg@10": next(values)}

    return validate


def ranked(num_users: int, batch_users: int = 8) -> dict[str, object]:
    """Lists, metrics and scores of targets of users with histories of all lengths; how many of them this process has searched."""
    ids, rng = catalogue(), np.random.default_rng(1)
    rows = random_histories(ids, tuple(rng.integers(1, 12, num_users).tolist()))
    histories = Sequences.from_lists(np.arange(num_users), [np.array(row) for row in rows])
    part, searched, scored = EvaluationSet(histories, rng.integers(20, size=num_users)), [], []
    found = tiny_catalogue(ids, (3, 7))
    ranker = ItemRanker(any_model("lynx", found), found, SearchConfig(mode="fused", batch_users=batch_users))
    metrics = evaluate(SharedRanker(ranker, searched.append), part, (5, 10), True, 20).metrics()
    lists = SharedRanker(ranker).rank(histories, 10, False).tolist()
    targets = SharedRanker(ranker, scored.append).score_targets(part).tolist()
    dense, found_together = ItemRanker(ranker.model, found, SearchConfig(mode="dense", batch_users=batch_users)), []
    together = Together([dense, ranker], found_together.append)
    both = [together.take(one, histories, 10, exclude_seen).tolist() for one in (ranker, dense) for exclude_seen in (True, False)]
    each = [
        SharedRanker(one).rank(histories, 10, exclude_seen).tolist() for one in (ranker, dense) for exclude_seen in (True, False)
    ]
    alone = on_main(lambda: told_alone(ranker, part))
    counts = {"searched": sum(searched), "scored": sum(scored), "together": sum(found_together)}
    return {"metrics": metrics, "lists": lists, "targets": targets, "alone": alone, "both": both, "each": each, **counts}


def told_alone(ranker: ItemRanker, part: EvaluationSet) -> object:
    shared = SharedRanker(ranker)
    return [shared.rank(part.histories, 10, False).tolist(), shared.score_targets(part).tolist()]


def added_up() -> dict[str, object]:
    """Gradients of parameters that both, one and none of the processes have used."""
    rank, model = world().rank, nn.ParameterDict({name: nn.Parameter(torch.zeros(2)) for name in "abc"})
    model["a"].grad = torch.tensor([1.0, 2.0 + rank])
    if rank == 1:
        model["b"].grad = torch.tensor([5.0, 7.0])
    parts = add_up_step(model, {"x": torch.tensor(10.0 + rank), "y": torch.tensor(2.0)}, 1.0)
    grads = {name: None if p.grad is None else p.grad.tolist() for name, p in model.items()}
    return {"grads": grads, "parts": {name: float(part) for name, part in parts.items()}}


def trained(folder: Path) -> dict[str, object]:
    """Trainings of all kinds, interrupted ones, and one that begins with one process and goes on with two."""
    said: dict[str, object] = {kind: told(without_dropout(kind).train(folder / kind, ALIKE)) for kind in ALL_KINDS}
    averaged = SETTINGS[RANDOM][2].model_copy(update={"epochs": 1})
    said["whole"] = told(Setting.named(RANDOM).train(folder / "whole", averaged))
    held_back(Setting.named(RANDOM), folder / "parts", averaged)
    torch.rand(7)
    said["parts"] = told(Setting.named(RANDOM, seed=5).train(folder / "parts", averaged))
    every_step = ALIKE.model_copy(update={"checkpoint_seconds": 1e-6})
    on_main(lambda: held_back(without_dropout("tiger"), folder / "from one", every_step))
    said["from one"] = told(without_dropout("tiger").train(folder / "from one", every_step))
    held_back(without_dropout("tiger"), folder / "to one", every_step)
    stops = scripted(iter(SCRIPTS[world().rank]))
    said["stops"] = told(Setting.of("sasrec").train(folder / "stops", STOPS, stops))
    return said


def main() -> None:
    folder, rank = Path(sys.argv[1]), world().rank
    torch.set_num_threads(1)
    if rank:
        checkpoints.save = None  # the main process alone writes
    said = {
        "world": [rank, world().size, on_main(lambda: world().size), on_main(lambda: world().rank)],
        "sums": added_up(),
        "odd": ranked(37),
        "few": ranked(5),
        **trained(folder),
    }
    (folder / f"said-{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
