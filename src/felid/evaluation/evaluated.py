"""An evaluated run as its folder has it: the metrics, the rank of every user's target, and the artifacts that were evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from felid.artifacts import RUN, Artifact, find_artifact, open_artifact, read_json, read_run
from felid.config import validate
from felid.data.histories import Part
from felid.errors import ArtifactError
from felid.evaluation.protocol import EvaluationConfig, Policy

NEEDED = ("system", "test", "baselines", "policy", "num_users", "num_items")
"""What every `metrics.json` has; all else depends on the run and on the version that wrote it."""


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A run folder whose model was evaluated last.

    Attributes:
        root: the run folder.
        metrics: content of its `metrics.json`.
        artifact: that of the stage evaluate.
    """

    root: Path
    metrics: Mapping[str, Any]
    artifact: Artifact

    @classmethod
    def open(cls, root: Path) -> EvaluatedRun:
        """Open a run folder.

        Raises:
            ArtifactError: there is no such folder, it is no run folder, nothing in it was evaluated, or it is damaged.
        """
        if not (root / RUN).is_file():
            what = "is no run folder (it has no run.json)" if root.is_dir() else "does not exist"
            raise ArtifactError(f"{root} {what}, expected the folder of an evaluated run; make one with `felid run RECIPE`")
        stages = read_run(root).get("stages", {})
        if "evaluate" not in stages or not (root / "metrics.json").is_file():
            raise ArtifactError(f"{root} has no evaluation of its model; run `felid evaluate {root}` first")
        return cls(root, read_json(root / "metrics.json", NEEDED), open_artifact(root / stages["evaluate"]))

    @property
    def system(self) -> str:
        """The system that the run is about, the first one of its metrics."""
        return str(self.metrics["system"])

    @property
    def policy(self) -> Policy:
        """The headline policy for seen items."""
        return "seen_removed" if "test_seen_kept" in self.metrics else "seen_kept"

    @property
    def config(self) -> EvaluationConfig:
        """The settings of the evaluation, those that this version knows."""
        known = self.artifact.manifest.get("config", {}).get("evaluation", {})
        return validate(EvaluationConfig, {name: known[name] for name in EvaluationConfig.model_fields if name in known})

    def source(self, stage: str) -> Artifact | None:
        """The artifact of an earlier stage that was evaluated, which need not be the stage's last; None where it is gone."""
        digest = self.artifact.manifest.get("inputs", {}).get(stage)
        try:
            return None if digest is None else find_artifact(self.root, stage, digest)
        except ArtifactError:
            return None

    @cached_property
    def ranks(self) -> pl.DataFrame:
        """`Report.ranks` of the evaluation."""
        path = self.artifact.path / "ranks.parquet"
        try:
            return pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); run `felid evaluate {self.root} --fresh`") from error

    def ranks_of(self, system: str, policy: Policy | None = None, part: Part = "test") -> NDArray[np.int64]:
        """(U,) rank of each user's target, 0 = not in the list, empty for a system without ranks; None = the headline policy."""
        chosen = self.ranks.filter(system=system, part=part, policy=policy or self.policy)
        return chosen["rank"].to_numpy().astype(np.int64)
