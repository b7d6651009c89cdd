"""The recommender of an evaluated run, opened to be asked once more, and the users that it was judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from felid.artifacts import read_run
from felid.config import validate
from felid.data.dataset import Dataset
from felid.data.histories import EvaluationSet, Sequences
from felid.data.holdout import HoldoutConfig, split_of
from felid.data.split import read_split
from felid.errors import ArtifactError
from felid.evaluation.evaluated import EvaluatedRun
from felid.recommender import Recommender
from felid.search.config import SearchConfig

Indices = NDArray[np.int64]
MOST_MODES = 3


@dataclass(frozen=True, eq=False)
class Opened:
    """A recommender and its test users.

    Attributes:
        run: the evaluation.
        recommender: as it was evaluated.
        test: histories and targets of the test users.
        systems: (name in the evaluation, recommender in that mode), the run's own first.
    """

    run: EvaluatedRun
    recommender: Recommender
    test: EvaluationSet
    systems: Sequence[tuple[str, Recommender]]

    @classmethod
    def of(cls, run: EvaluatedRun) -> Opened:
        """Load the recommender of a run.

        Raises:
            ArtifactError: the model in the run folder is not the one that was evaluated, or something of it is gone.
        """
        bundle, train, data = read_run(run.root).get("bundle", {}), run.source("train"), run.source("data")
        kept = bundle.get("stages", {}).get("train")
        if train is None or data is None or kept is None or (run.root / kept).resolve() != train.path.resolve():
            raise ArtifactError(
                f"the model in {run.root} is not the one that was evaluated; run `felid evaluate {run.root}` again"
            )
        search = run.artifact.manifest.get("config", {}).get("search", bundle["search"])
        recommender = Recommender.load(run.root, search=validate(SearchConfig, search))
        rule = validate(HoldoutConfig, bundle.get("holdout", {}))
        split = split_of(Dataset.load(data.path), rule, read_split(bundle.get("split")))
        return cls(run, recommender, split.evaluation("test"), _systems(run, recommender))

    def rank(self, recommender: Recommender, users: Indices, k: int) -> Indices:
        """(len(users), k) item_index for some rows of the test users, under the headline policy."""
        return recommender.rank(self.histories(users), k, self.run.policy == "seen_removed")

    def histories(self, users: Indices) -> Sequences:
        """Those of some rows of the test users."""
        return self.test.histories.take(users)


def _systems(run: EvaluatedRun, recommender: Recommender) -> list[tuple[str, Recommender]]:
    """The run's own systems, one for each mode of the model."""
    found: dict[str, tuple[str, Recommender]] = {}
    own = recommender.ranker.mode
    for name, described in {run.system: {"mode": own}, **run.metrics.get("systems", {})}.items():
        mode = described["mode"]
        if mode in recommender.model.modes and mode not in found and len(found) < MOST_MODES:
            found[mode] = name, recommender if mode == own else recommender.in_mode(mode)
    return list(found.values())
