"""A training of a small model on a toy world, also as a process of its own that a test can stop."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from felid.data.histories import EvaluationSet
from felid.models import ModelConfig, build_model
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import TorchTrie
from felid.search import beam_search
from felid.semantic_ids import SemanticIds
from felid.testing import ToyWorld, toy_world
from felid.training import Examples, TrainingConfig, TrainingData, train
from felid.training.checkpoints import Progress
from felid.models.base import Model, TrainingItems
from tests.tiny import Kind, all_warm, config_of, histories_of

SHORT = TrainingConfig(epochs=3, batch_targets=64, validations_per_epoch=2, patience=0, precision="fp32", checkpoint_seconds=1e-6)
"""Three epochs with a checkpoint after every step."""
LONG = SHORT.model_copy(update={"epochs": 12})


@dataclass
class Setting:
    """Everything that `train` needs, for a fresh model of a toy world."""

    world: ToyWorld
    ids: SemanticIds
    model: GenerativeModel
    data: TrainingData

    @classmethod
    def of(cls, kind: Kind, config: ModelConfig | None = None, seed: int = 0, num_users: int = 96) -> Setting:
        world = toy_world(num_users)
        ids = SemanticIds(world.codes, world.sizes, np.arange(world.num_items))
        torch.manual_seed(seed)
        model = build_model(config or config_of(kind, dropout=0.1), all_warm(ids, world.vectors))
        assert isinstance(model, GenerativeModel)
        sequences = world.split.train()
        tokens = None
        if model.layout.num_user_buckets:
            tokens = np.array([model.layout.user_token(user) for user in sequences.user_ids.tolist()], np.int64)
        counts = torch.from_numpy(np.bincount(sequences.items, minlength=ids.num_items).astype(np.float32))
        items = TrainingItems(counts, TorchTrie.of(ids.trie, ids.codes))
        return cls(world, ids, model, TrainingData(Examples.of(sequences, model.history, causal=model.causal), items, tokens))

    @property
    def trie(self) -> TorchTrie:
        assert self.data.items.trie is not None
        return self.data.items.trie

    def train(
        self, folder: Path, config: TrainingConfig = SHORT, validate: Callable[[Model], dict[str, float]] | None = None
    ) -> Progress:
        validate = validate or (lambda model: self.metrics(model, self.world.split.evaluation("validation")))
        return train(self.model, self.data, config, folder, validate, seed=3, console=Console(file=io.StringIO()))

    def metrics(self, model: Model, part: EvaluationSet) -> dict[str, float]:
        assert isinstance(model, GenerativeModel)
        rows = [part.histories[row][-model.history :].tolist() for row in range(len(part.targets))]
        users = None
        if model.layout.num_user_buckets:
            users = torch.tensor([model.layout.user_token(user) for user in part.histories.user_ids.tolist()])
        found = beam_search(model, histories_of(rows, users), self.trie, 10).items
        hits = found == torch.from_numpy(part.targets)[:, None]
        gains = 1 / torch.log2(torch.arange(10) + 2.0)
        return {"recall@1": float(hits[:, 0].float().mean()), "ndcg@10": float((hits * gains).sum(1).mean())}


def main() -> None:
    """`python -m tests.training.world FOLDER KIND`."""
    torch.set_num_threads(1)
    Setting.of("tiger" if sys.argv[2] == "tiger" else "lynx").train(Path(sys.argv[1]), LONG)


if __name__ == "__main__":
    main()
