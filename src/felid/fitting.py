"""The train stage: a model for a catalogue, its examples, its validation, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from felid.artifacts import key_of, write_json
from felid.config import as_tree
from felid.data.histories import EvaluationSet, LeaveOneOut, Sequences
from felid.distributed import on_main
from felid.errors import DataError, RecipeError, RequestError
from felid.evaluation import evaluate
from felid.evaluation.audit.provenance import Provenance
from felid.evaluation.shared import SharedRanker
from felid.fusion import FusionChoice, choose_fusion
from felid.models import ModelConfig, build_model
from felid.models.base import Catalogue, DenseModel, Mode, Model, TrainingItems
from felid.models.generative import GenerativeModel
from felid.ranking import ItemRanker, trie_of
from felid.search.config import SearchConfig, mode_of
from felid.search.transitions import TransitionMemory
from felid.tracking import NO_TRACKING, Tracking
from felid.training import Examples, TrainingConfig, TrainingData, train
from felid.training.checkpoints import drop_states

Validate = Callable[[Model], dict[str, float]]
SIDE_USERS = 1000
"""Validation users that the generative head is judged on where the dense one decides: enough for a curve."""
CHOICE_USERS = 2000
"""Validation users that the weights of fused ranking are chosen on: enough for steps of a tenth."""


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
        item_ids: (N,) ids of the catalogue, row = item_index.
        tracking: who is told of the curve.
        chosen_on: by choice, the users that it was made on, noted when it is made.
    """

    model: ModelConfig
    training: TrainingConfig
    seed: int
    exclude_seen: bool
    catalogue: Catalogue
    split: LeaveOneOut
    console: Console
    item_ids: NDArray[np.generic]
    tracking: Tracking = NO_TRACKING
    chosen_on: dict[str, EvaluationSet] = field(default_factory=dict, init=False)

    def fit(self, folder: Path, *, ranks: bool = True) -> Model:
        """Train, or go on training, in `folder`; the model with the weights that were best on validation.

        A model with a dense head leaves `item_vectors/` (see `save_item_vectors`), and, where `ranks` says that it is to rank
        items, `search.json` (see `felid.fusion.FusionChoice`). All leave what they read (`felid.evaluation.audit.Provenance`).

        Raises:
            DataError: there is nothing to train on.
            RecipeError: the model cannot rank in `training.validation_mode`.
        """
        torch.manual_seed(self.seed)
        model = build_model(self.model, self.catalogue)
        data, validate = self.data_for(model), self.validation(model)
        parameters = sum(p.numel() for p in model.parameters())
        text = f"  {self.model.kind}: {parameters:,} parameters, {data.examples.num_targets:,} training targets"
        self.console.print(text, soft_wrap=True)
        settings = {"model": as_tree(self.model), "training": as_tree(self.training), "seed": self.seed}
        with self.tracking.curve(self.model.kind, key_of(folder), settings) as curve:
            train(model, data, self.training, folder, validate, seed=self.seed, console=self.console, hears=curve)
        on_main(lambda: self._leave(folder, model, data.examples.sequences, ranks=ranks))
        return model

    def _leave(self, folder: Path, model: Model, learnt: Sequences, *, ranks: bool) -> None:
        if ranks and "fused" in model.modes:
            self._choose_weights(model).save(folder)
        if "checkpoint" not in self.chosen_on:  # a training that had ended before: no validation was left to make
            self.chosen_on["checkpoint"] = self.judged_by(model)[""][1]
        Provenance.of(learnt, self.chosen_on, self.split.sequences).save(folder)
        if isinstance(model, DenseModel) and "dense" in model.modes:
            save_item_vectors(folder / "item_vectors", model, self.item_ids)
        drop_states(folder, keep_last=self.training.keep_state)

    def _choose_weights(self, model: Model) -> FusionChoice:
        memory = TransitionMemory.of(self.split.train(), len(self.catalogue.warm))
        search = SearchConfig(mode="fused", memory_weight=1.0)
        users = self.chosen_on["weights"] = self.sample(CHOICE_USERS)
        return choose_fusion(ItemRanker(model, self.catalogue, search, memory), users, self.exclude_seen)

    def data_for(self, model: Model) -> TrainingData:
        """The training examples and items of the data, as `model` wants them."""
        sequences, ids = self.split.train(), self.catalogue.ids
        examples = Examples.of(sequences, model.history, causal=model.causal)
        if not len(examples):
            raise DataError("no training sequence has two items; lower filter.min_user_interactions or add data")
        tokens = None
        if isinstance(model, GenerativeModel) and model.layout.num_user_buckets:
            tokens = np.array([model.layout.user_token(user) for user in sequences.user_ids.tolist()], np.int64)
        counts = torch.from_numpy(self.split.item_counts(len(self.catalogue.warm)).astype(np.float32))
        trie = trie_of(ids, self.catalogue.warm) if ids is not None else None
        return TrainingData(examples, TrainingItems(counts, trie), tokens)

    def sample(self, num_users: int) -> EvaluationSet:
        """Validation users drawn at random (the head of a file is not like its tail); 0 = all."""
        part = self.split.selection()
        if not 0 < num_users < len(part.targets):
            return part
        users = np.sort(np.random.default_rng(self.seed).permutation(len(part.targets))[:num_users])
        return EvaluationSet(part.histories.take(users), part.targets[users])

    def validation(self, model: Model) -> Validate:
        """What the training loop calls: Recall@10 and NDCG@10 of validation users drawn at random.

        Where the dense head decides, `generative_recall@10` and `generative_ndcg@10` of fewer users stand beside them.
        """
        judged = self.judged_by(model)

        def validate(model: Model) -> dict[str, float]:
            self.chosen_on["checkpoint"] = judged[""][1]
            found = [(name, self.metrics(model, *what)) for name, what in judged.items()]
            return {name + metric: value for name, metrics in found for metric, value in metrics.items()}

        return validate

    def judged_by(self, model: Model) -> dict[str, tuple[Mode, EvaluationSet]]:
        """How and on whom a model is judged, by what begins the names of the metrics; "" decides."""
        mode = self._mode(model)
        judged: dict[str, tuple[Mode, EvaluationSet]] = {"": (mode, self.sample(self.training.validation_users))}
        if mode == "dense" and "generative" in model.modes:
            judged["generative_"] = "generative", self.sample(SIDE_USERS)
        return judged

    def metrics(self, model: Model, mode: Mode, sample: EvaluationSet) -> dict[str, float]:
        ranker = ItemRanker(model, self.catalogue, SearchConfig(mode=mode, num_beams=self.training.validation_beams))
        num_items = len(self.catalogue.warm)
        k = min(10, num_items)  # in a smaller catalogue a list of 10 is the whole of it
        found = evaluate(SharedRanker(ranker), sample, (k,), self.exclude_seen, num_items).metrics()
        return {f"{name}@10": float(found[f"{name}@{k}"]) for name in ("recall", "ndcg")}

    def _mode(self, model: Model) -> Mode:
        wanted = self.training.validation_mode
        if wanted == "auto":
            return "dense" if "dense" in model.modes else model.modes[0]
        try:
            return mode_of(model.modes, wanted)
        except RequestError as error:
            raise RecipeError(
                f"training.validation_mode={wanted}, but this {self.model.kind} ranks by {', '.join(model.modes)}; "
                "choose one of these or auto"
            ) from error


def save_item_vectors(folder: Path, model: DenseModel, item_ids: NDArray[np.generic]) -> None:
    """Write a model's item vectors as an embedding artifact, as `collaborative.kind=precomputed` reads it.

    `raw.npy` is (N, D) float32, a row of NaN for an item without a vector; `known.npy` (N,) bool marks the items with
    training interactions, since the vectors of others come from content alone; beside them `item_ids.json`.
    """
    with torch.no_grad():
        vectors = model.eval().item_vectors().float().cpu().numpy()
    folder.mkdir(exist_ok=True)
    np.save(folder / "raw.npy", vectors)
    np.save(folder / "known.npy", model.catalogue.warm)
    write_json(folder / "item_ids.json", item_ids.tolist())
