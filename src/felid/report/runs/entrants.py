"""Which systems of which runs stand side by side in the figures of a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from felid.evaluation.evaluated import EvaluatedRun
from felid.evaluation.protocol import Policy
from felid.evaluation.tables import Metrics

LIST_LENGTH = 10
"""What is said in words is about the longest lists of at most so many items."""


@dataclass(frozen=True, eq=False)
class Entrant:
    """A system of a run in the figures.

    Attributes:
        name: what it is called there.
        run: the run that evaluated it.
        system: its name in that run.
        is_baseline: whether it only stands beside.
    """

    name: str
    run: EvaluatedRun
    system: str
    is_baseline: bool

    def ranks(self, policy: Policy) -> NDArray[np.int64]:
        """(U,) of the test targets."""
        return self.run.ranks_of(self.system, policy)


def entrants_of(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> list[Entrant]:
    """Of one run all systems; of several the first system of each, and the baselines of the first run."""
    first = runs[0]
    beside = [Entrant(name, first, name, True) for name in first.metrics["baselines"]]
    if len(runs) > 1:
        return [Entrant(f"{name}: {run.system}", run, run.system, False) for name, run in zip(names, runs, strict=True)] + beside
    own = [first.system, *first.metrics.get("variants", {})]
    return [Entrant(name, first, name, False) for name in own] + beside


def names_of(runs: Sequence[EvaluatedRun]) -> list[str]:
    """What tells the runs apart: the last parts of their paths, as many as are needed."""
    paths = [run.root.resolve() for run in runs]
    short = [path.name for path in paths]
    if len(set(short)) == len(short):
        return short
    above = Path(commonpath(paths))
    found = [str(path.relative_to(above)) if path != above else path.name for path in paths]
    return found if len(set(found)) == len(found) else [f"{place}. {name}" for place, name in enumerate(found, 1)]


def suffix_of(run: EvaluatedRun, policy: Policy) -> str:
    """What ends the names of a policy's metrics in a run."""
    return "" if policy == run.policy else f"_{policy}"


def users(count: int) -> str:
    """`1 user`, `2 users`."""
    return f"{count:,} user{'' if count == 1 else 's'}"


def length_of(metrics: Metrics) -> int:
    """The length of the lists that words and tiles are about."""
    lengths = list_lengths(metrics)
    return max((k for k in lengths if k <= LIST_LENGTH), default=min(lengths))


def list_lengths(metrics: Metrics) -> list[int]:
    """The lengths of the lists that were judged, ascending."""
    return sorted(int(name.partition("@")[2]) for name in metrics["test"] if name.startswith("recall@"))


def metric_names(metrics: Metrics) -> Iterator[str]:
    """The columns of the table of results."""
    for k in list_lengths(metrics):
        yield from (f"recall@{k}", f"ndcg@{k}")
    longest = list_lengths(metrics)[-1]
    yield from (name for name in (f"mrr@{longest}", f"coverage@{longest}") if name in metrics["test"])
