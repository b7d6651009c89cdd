"""A training of a small model on a toy world, also as a process of its own that a test can stop."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from felid.data.histories import EvaluationSet
from felid.models import ModelConfig, build_model
from felid.models.base import Catalogue, DenseModel, Mode, Model, TrainingItems
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import TorchTrie
from felid.search import beam_search
from felid.semantic_ids import SemanticIds
from felid.testing import ToyWorld, toy_world
from felid.training import Examples, TrainingConfig, TrainingData, train
from felid.training.checkpoints import Progress
from tests.tiny import AnyKind, config_of, histories_of, torch_trie

SHORT = TrainingConfig(epochs=3, batch_targets=64, validations_per_epoch=2, patience=0, precision="fp32", checkpoint_seconds=1e-6)
"""Three epochs with a checkpoint after every step."""

Changes = dict[str, object]
SETTINGS: dict[str, tuple[AnyKind, Changes, TrainingConfig]] = {
    "tiger": ("tiger", {}, SHORT.model_copy(update={"epochs": 2})),
    "lynx": ("lynx", {"own_dropout": 0.3}, SHORT),
    "lynx, averaged": ("lynx", {"own_dropout": 0.3}, SHORT.model_copy(update={"average": 0.9})),
    "liger": ("liger", {}, SHORT.model_copy(update={"epochs": 2})),
    "sasrec": ("sasrec", {}, SHORT),
    "sasrec, sampled": ("sasrec", {"dense": {"softmax": "sampled", "negatives": 8}}, SHORT),
}
"""What draws random numbers in its own way, and trainings that keep more than weights."""


@dataclass
class Setting:
    """Everything that `train` needs, for a fresh model of a toy world."""

    world: ToyWorld
    model: Model
    data: TrainingData

    @classmethod
    def of(cls, kind: AnyKind, config: ModelConfig | None = None, seed: int = 0, num_users: int = 96) -> Setting:
        world = toy_world(num_users)
        sequences = world.split.train()
        counts = np.bincount(sequences.items, minlength=world.num_items)
        ids = None if kind == "sasrec" else SemanticIds(world.codes, world.sizes, np.arange(world.num_items))
        assert counts.all(), "all items of the world are warm"
        torch.manual_seed(seed)
        model = build_model(config or config_of(kind, dropout=0.1), Catalogue(world.vectors, counts > 0, ids))
        items = TrainingItems(torch.from_numpy(counts.astype(np.float32)), None if ids is None else torch_trie(ids))
        examples = Examples.of(sequences, model.history, causal=model.causal)
        tokens = user_tokens(model, sequences.user_ids)
        return cls(world, model, TrainingData(examples, items, None if tokens is None else tokens.numpy()))

    @classmethod
    def named(cls, name: str, seed: int = 0) -> Setting:
        """One of `SETTINGS`."""
        kind, changes, _ = SETTINGS[name]
        return cls.of(kind, config_of(kind, dropout=0.1, **changes), seed)

    @property
    def generative(self) -> tuple[GenerativeModel, TorchTrie]:
        assert isinstance(self.model, GenerativeModel) and self.data.items.trie is not None
        return self.model, self.data.items.trie

    def train(
        self, folder: Path, config: TrainingConfig = SHORT, validate: Callable[[Model], dict[str, float]] | None = None
    ) -> Progress:
        validate = validate or (lambda model: self.metrics(model, self.world.split.evaluation("validation")))
        return train(self.model, self.data, config, folder, validate, seed=3, console=Console(file=io.StringIO()))

    def metrics(self, model: Model, part: EvaluationSet, mode: Mode | None = None) -> dict[str, float]:
        """Of lists of 10, by the given head or by the dense one where there is one."""
        rows = [part.histories[row][-model.history :].tolist() for row in range(len(part.targets))]
        histories = histories_of(rows, user_tokens(model, part.histories.user_ids))
        if (mode or ("dense" if "dense" in model.modes else "generative")) == "dense":
            assert isinstance(model, DenseModel)
            with torch.no_grad():
                found = (model.contexts(histories) @ model.item_vectors().T).topk(10).indices
        else:
            assert isinstance(model, GenerativeModel)
            found = beam_search(model, histories, self.generative[1], 10).items
        hits = found == torch.from_numpy(part.targets)[:, None]
        gains = 1 / torch.log2(torch.arange(10) + 2.0)
        return {"recall@1": float(hits[:, 0].float().mean()), "ndcg@10": float((hits * gains).sum(1).mean())}


def user_tokens(model: Model, user_ids: np.ndarray) -> Tensor | None:
    if not isinstance(model, GenerativeModel) or not model.layout.num_user_buckets:
        return None
    return torch.tensor([model.layout.user_token(user) for user in user_ids.tolist()])


def main() -> None:
    """`python -m tests.training.world FOLDER NAME CONFIG`."""
    torch.set_num_threads(1)
    folder, name, config = sys.argv[1:]
    Setting.named(name).train(Path(folder), TrainingConfig.model_validate(json.loads(config)))


if __name__ == "__main__":
    main()
