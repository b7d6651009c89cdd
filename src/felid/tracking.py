"""Trackers: where the curves of trainings and the results of evaluations can be looked at, beside the run folder's own files.

They are switched on by the recipe's section `tracking`, and decide nothing: no setting here is part of a stage's key. They are
accelerate's, without its `Accelerator`, since what learns codes or evaluates has none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, assert_never

import yaml

from felid.config import Config
from felid.distributed import is_main
from felid.errors import RecipeError

Tracker = Literal["tensorboard", "wandb", "mlflow"]
PACKAGES: dict[Tracker, tuple[tuple[str, ...], str]] = {
    "tensorboard": (("tensorboard",), "track"),
    "wandb": (("wandb",), "wandb"),
    "mlflow": (("mlflow-skinny", "mlflow"), "mlflow"),
}
"""Distributions of which one must be installed, and the extra that brings it."""
Hears = Callable[[Mapping[str, object], int], None]
"""Is told the values of a step."""


class TrackingConfig(Config):
    """Which trackers are told of losses and metrics."""

    to: tuple[Tracker, ...] = ()
    """Any of `tensorboard` (extra `track`), `wandb` and `mlflow` (extras of these names)."""
    tensorboard_folder: str = "tensorboard_logs"
    """Where TensorBoard's files go, in the run folder unless it is absolute; each training has a folder `<name>/<key>` there."""
    project: str = "felid"
    """Project of W&B, experiment of MLflow."""
    wandb_mode: Literal["offline", "online"] = "offline"
    """Offline: into `wandb/` in the run folder, for `wandb sync` or nobody. Online needs `wandb login` before."""
    mlflow_uri: str | None = None
    """Where MLflow keeps its runs, such as http://localhost:5000; null = where `MLFLOW_TRACKING_URI` says, or else in `mlruns/`
    in the run folder."""


def unheard(values: Mapping[str, object], step: int) -> None:
    """What is told to nobody."""


@dataclass(frozen=True)
class Tracking:
    """The trackers of a run.

    Attributes:
        config: which they are.
        root: the run folder.
    """

    config: TrackingConfig
    root: Path

    def check(self) -> None:
        """Refuse, before any work is done, trackers that are not installed.

        Raises:
            RecipeError: one is not.
        """
        for tracker in self.config.to:
            names, extra = PACKAGES[tracker]
            if not any(map(_installed, names)):  # the name of a module may be that of a folder of logs, so it is not imported
                remedy = f"pip install -c constraints.txt 'felid[{extra}]', or leave it out of tracking.to"
                raise RecipeError(f"tracking.to has {tracker}, and its package {names[0]} is not installed; {remedy}")

    def curve(self, name: str, key: str, settings: Mapping[str, object]) -> Curve:
        """One curve, of a training for example; a context manager.

        Args:
            name: what trains: the kind of a model or of a quantiser.
            key: tells it from others of that name: that of the stage.
            settings: shown beside it.
        """
        return Curve(self, name, key, settings)


NO_TRACKING = Tracking(TrackingConfig(), Path())


class Curve:
    """Tells the trackers of one training; they are opened by the first values, and in the main process only."""

    def __init__(self, tracking: Tracking, name: str, key: str, settings: Mapping[str, object]) -> None:
        self.tracking, self.name, self.key, self.settings = tracking, name, key, settings
        self.open: dict[Tracker, Any] | None = None

    def __call__(self, values: Mapping[str, object], step: int) -> None:
        """Log the numbers among `values`; a list of numbers as `<name>/<place>`, a mapping as `<name>/<key>`."""
        if not is_main():
            return
        if self.open is None:
            self.open = {tracker: self._open(tracker) for tracker in self.tracking.config.to}
        numbers = {name: value for name, value in flat(values).items() if isinstance(value, int | float)}
        for tracker, one in self.open.items():
            one.log(_named_for_mlflow(numbers) if tracker == "mlflow" else numbers, step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for one in (self.open or {}).values():
            one.finish()

    def _open(self, tracker: Tracker) -> Any:
        from accelerate import PartialState
        from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

        PartialState()  # the trackers ask it which process they are in
        config, root, settings = self.tracking.config, self.tracking.root.absolute(), flat(self.settings)
        match tracker:
            case "tensorboard":
                one = TensorBoardTracker(f"{self.name}/{self.key}", root / config.tensorboard_folder)
                one.start()
                one.log({"settings": f"```\n{yaml.safe_dump(dict(self.settings), sort_keys=False)}```"}, step=0)
                return one  # its own way to store settings makes a second run for them
            case "wandb":
                from wandb import Settings

                told = {"job_type": self.name, "group": root.name, "name": f"{self.name}-{self.key}"}
                quiet = Settings(silent=True, console="off")
                one = WandBTracker(config.project, dir=root, mode=config.wandb_mode, settings=quiet, **told)
            case "mlflow":
                _prepare_mlflow(config.mlflow_uri, root)
                one = MLflowTracker(config.project, run_name=f"{self.name}-{self.key}", tags={"run_folder": root.name})
            case _:
                assert_never(tracker)
        one.start()
        one.store_init_configuration(settings)
        return one


def flat(values: Mapping[str, object], separator: str = "/") -> dict[str, object]:
    """A mapping without mappings and lists in it: the names of what they hold are joined by `separator`."""
    found: dict[str, object] = {}
    for name, value in values.items():
        inner = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(inner, Mapping):
            below = flat({str(key): one for key, one in inner.items()}, separator)
            found |= {f"{name}{separator}{key}": one for key, one in below.items()}
        else:
            found[name] = value
    return found


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _named_for_mlflow(numbers: Mapping[str, object]) -> dict[str, object]:
    """`ndcg@10` is `ndcg_at_10` there, and what else MLflow does not take in names is an underscore."""
    return {re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_")): value for name, value in numbers.items()}


def _prepare_mlflow(uri: str | None, root: Path) -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions refuse folders, they would rather have a database
    import mlflow

    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri or given or (root / "mlruns").as_uri())
    if given is None:  # MLflow has set it, and the next run of this process would take it for the user's
        os.environ.pop("MLFLOW_TRACKING_URI", None)
