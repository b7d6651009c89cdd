"""The train stage: a model for a catalogue, its examples, its validation, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from felid.data.histories import EvaluationSet, LeaveOneOut
from felid.errors import DataError
from felid.evaluation import evaluate
from felid.models import ModelConfig, build_model
from felid.models.base import Catalogue, Model, TrainingItems
from felid.models.generative import GenerativeModel
from felid.ranking import ItemRanker, SearchConfig, trie_of
from felid.training import Examples, TrainingConfig, TrainingData, train

Validate = Callable[[Model], dict[str, float]]


@dataclass(frozen=True, eq=False)
class Fitting:
    """A training: what is trained, on what, and how it is judged on the way.

    Attributes:
        model: which model.
        training: the training loop.
        seed: of first weights, dropout, batch order and the choice of validation users.
        exclude_seen: whether validation removes the items of the history.
        catalogue: what the model is told of the items.
        split: the users' histories.
        console: where progress goes.
    """

    model: ModelConfig
    training: TrainingConfig
    seed: int
    exclude_seen: bool
    catalogue: Catalogue
    split: LeaveOneOut
    console: Console

    def fit(self, folder: Path) -> Model:
        """Train, or go on training, in `folder`; the model with the weights that were best on validation.

        Raises:
            DataError: there is nothing to train on.
        """
        torch.manual_seed(self.seed)
        model = build_model(self.model, self.catalogue)
        data = self.data_for(model)
        parameters = sum(p.numel() for p in model.parameters())
        text = f"  {self.model.kind}: {parameters:,} parameters, {data.examples.num_targets:,} training targets"
        self.console.print(text, soft_wrap=True)
        train(model, data, self.training, folder, self.validation(), seed=self.seed, console=self.console)
        for state in folder.glob("checkpoint-*/state.pt"):  # only resuming needs it
            state.unlink()
        return model

    def data_for(self, model: Model) -> TrainingData:
        """The training examples and items of the data, as `model` wants them."""
        sequences, ids = self.split.train(), self.catalogue.ids
        examples = Examples.of(sequences, model.history, causal=model.causal)
        if not len(examples):
            raise DataError("no training sequence has two items; lower filter.min_user_interactions or add data")
        tokens = None
        if isinstance(model, GenerativeModel) and model.layout.num_user_buckets:
            tokens = np.array([model.layout.user_token(user) for user in sequences.user_ids.tolist()], np.int64)
        counts = torch.from_numpy(np.bincount(sequences.items, minlength=len(self.catalogue.warm)).astype(np.float32))
        trie = trie_of(ids, self.catalogue.warm) if ids is not None else None
        return TrainingData(examples, TrainingItems(counts, trie), tokens)

    def validation(self) -> Validate:
        """What the training loop calls: Recall@10 and NDCG@10 of validation users drawn at random."""
        part, num_items = self.split.evaluation("validation"), len(self.catalogue.warm)
        users = np.arange(len(part.targets))
        if 0 < self.training.validation_users < len(users):  # at random: the head of a file is not like its tail
            users = np.sort(np.random.default_rng(self.seed).permutation(users)[: self.training.validation_users])
        sample = EvaluationSet(part.histories.take(users), part.targets[users])
        search = SearchConfig(num_beams=self.training.validation_beams)
        k = min(10, num_items)  # in a smaller catalogue a list of 10 is the whole of it

        def validate(model: Model) -> dict[str, float]:
            found = evaluate(ItemRanker(model, self.catalogue, search), sample, (k,), self.exclude_seen, num_items).metrics()
            return {f"{name}@10": float(found[f"{name}@{k}"]) for name in ("recall", "ndcg")}

        return validate
