"""What stands beside a run: the baselines that its recipe asks for, with a SASRec that is trained for it.

That training is an artifact of its own (`sasrec/<key>`), made of the data alone, so that the runs of a folder with the same seed
share it. Where the run's own model is that SASRec, it is not trained twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import assert_never

import torch
from rich.console import Console

from felid.artifacts import Artifact, build
from felid.config import Config, as_tree
from felid.evaluation.baselines import BaselineName, Markov, Popularity
from felid.evaluation.baselines.item_knn import ItemKnn
from felid.evaluation.baselines.names import COLD_BIAS, COLD_NEIGHBOURS
from felid.evaluation.baselines.text_knn import TextKnn
from felid.evaluation.protocol import Ranker
from felid.fitting import Fitting
from felid.models import load_model
from felid.models.base import Model
from felid.models.sasrec import SASRecConfig
from felid.progress import stage_line
from felid.ranking import ItemRanker
from felid.recommender import best_checkpoint
from felid.search.config import SearchConfig
from felid.training import TrainingConfig

PLAIN = SearchConfig(mode="dense")
"""How the baseline SASRec ranks."""
FOR_COLD = PLAIN.model_copy(update={"cold_neighbours": COLD_NEIGHBOURS, "cold_bias": COLD_BIAS})


class SASRecTraining(Config):
    """What the training of SASRec depends on, beside the data."""

    model: SASRecConfig
    """Without `text`: the item vectors of the run are then no part of it."""
    training: TrainingConfig
    """Its training loop."""
    seed: int
    """That of the run, so that runs with other seeds are held against other trainings."""
    exclude_seen: bool
    """Whether validation removes the items of the history."""


@dataclass(frozen=True, eq=False)
class Standing:
    """The baselines of a run.

    Attributes:
        names: which are asked for.
        settings: of SASRec's training.
        fitting: makes that training; called only where something is trained or ranked.
        root: the run folder, which the caller has locked.
        inputs: digests of what is trained on.
        own: folder of the run's own training where that is SASRec with these settings.
        cold: whether some items have no training interactions.
        console: where progress goes.
        fresh: train again.
    """

    names: tuple[BaselineName, ...]
    settings: SASRecTraining
    fitting: Callable[[], Fitting]
    root: Path
    inputs: Mapping[str, str]
    own: Path | None
    cold: bool
    console: Console
    fresh: bool = False

    @cached_property
    def sasrec(self) -> Artifact | None:
        """The training made for the baselines; None where none needs it or the run's own is the same.

        Processes of torchrun must ask for it together.
        """
        needed = "sasrec" in self.names or (self.cold and "sasrec-text-knn" in self.names)
        if self.own is not None or not needed:
            return None
        assert not self.settings.model.text, "the vectors of the run would be an input"
        artifact, reused = build(self.root, "sasrec", as_tree(self.settings), self.inputs, self._train, fresh=self.fresh)
        seconds = None if reused else artifact.manifest["wall_seconds"]
        self.console.print(stage_line("sasrec", seconds, artifact.path), soft_wrap=True)
        return artifact

    @property
    def made_by(self) -> dict[str, str]:
        """The digest of that training, if there is one."""
        return {"sasrec": self.sasrec.digest} if self.sasrec else {}

    def rankers(self, *, shown: bool) -> dict[str, Ranker]:
        """The baselines by name; SASRec + text-kNN only where there are cold items, elsewhere it is SASRec.

        Args:
            shown: whether the run's own system is already what `sasrec` would be, which is then left out.
        """
        fitting = self.fitting()
        popularity = Popularity.fit(fitting.split.train(), len(fitting.item_ids))
        left_out = {name for name, out in (("sasrec", shown), ("sasrec-text-knn", not self.cold)) if out}
        return {name: self._ranker(name, fitting, popularity) for name in self.names if name not in left_out}

    def _ranker(self, name: BaselineName, fitting: Fitting, popularity: Popularity) -> Ranker:
        num_items = len(fitting.item_ids)
        match name:
            case "popularity":
                return popularity
            case "markov":
                return Markov.fit(fitting.split.train(), num_items)
            case "item-knn":
                return ItemKnn.fit(fitting.split.train(), num_items)
            case "text-knn":
                return TextKnn.of(fitting.catalogue.embeddings, popularity)
            case "sasrec":
                return ItemRanker(self._model, fitting.catalogue, PLAIN)
            case "sasrec-text-knn":
                return ItemRanker(self._model, fitting.catalogue, FOR_COLD)
            case _:
                assert_never(name)

    @cached_property
    def _model(self) -> Model:
        """SASRec with the weights that were best on validation."""
        folder = self.own
        if folder is None:
            assert self.sasrec is not None
            folder = self.sasrec.path
        model = load_model(folder / best_checkpoint(folder), self.fitting().catalogue)
        return model.to("cuda" if torch.cuda.is_available() else "cpu")

    def _train(self, folder: Path) -> None:
        self.console.print("  training SASRec to stand beside (evaluation.baselines)", soft_wrap=True)
        self.fitting().fit(folder, ranks=False)


def ranks_plainly(search: SearchConfig) -> bool:
    """Whether a SASRec with these search settings ranks as the baseline does."""
    about_cold = {"cold_bias", "cold_neighbours", "cold_share"}
    return search.mode in ("auto", "dense") and search.model_dump(include=about_cold) == PLAIN.model_dump(include=about_cold)
