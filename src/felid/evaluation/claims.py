"""Which of several systems may be said to be above which: intervals, tests over users and over trainings, one sentence each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid.config import Config
from felid.data.histories import Group, Part
from felid.errors import RequestError
from felid.evaluation.compared import System, check_same
from felid.evaluation.comparison import metric_of
from felid.evaluation.protocol import Policy
from felid.evaluation.randomisation import holm, randomisation_test
from felid.evaluation.statistics import Difference, bootstrap_means, retrained_difference

Values = NDArray[np.float64]


class Resampling(Config):
    """How the uncertainty of a comparison is measured."""

    level: float = Field(0.95, gt=0, lt=1)
    """Share of the intervals; a difference is claimed where its adjusted p-value is below 1 - level."""
    draws: int = Field(2000, ge=1)
    """Resamples of the bootstrap."""
    flips: int = Field(10_000, ge=1)
    """Random flips of the randomisation test; no p-value is below 1 / (flips + 1)."""
    seed: int = Field(0, ge=0)
    """Of both."""


DEFAULT = Resampling()


@dataclass(frozen=True)
class Question:
    """What systems are compared in.

    Attributes:
        metrics: names such as `recall@10`.
        part: users of which part.
        policy: whether seen items were removed.
        group: only users with such a target; None = all.
        level: as in `Resampling`.
        draws: likewise.
        flips: likewise.
        seed: likewise.
    """

    metrics: tuple[str, ...] = ("recall@10", "ndcg@10")
    part: Part = "test"
    policy: Policy = "seen_removed"
    group: Group | None = None
    level: float = DEFAULT.level
    draws: int = DEFAULT.draws
    flips: int = DEFAULT.flips
    seed: int = DEFAULT.seed

    @property
    def what(self) -> str:
        targets = "" if self.group is None else f", {self.group} targets"
        return f"{self.part}, {self.policy.replace('_', ' ')}{targets}"


@dataclass(frozen=True)
class Standing:
    """One metric of one system.

    Attributes:
        system: its name.
        metric: the metric.
        mean: over users and runs.
        low: lower end of the interval over users.
        high: upper end.
        of_runs: mean of each run.
        seeds: of the runs; None = not known.
        fixed: several runs gave exactly the same ranks: nothing in it depends on the seed.
    """

    system: str
    metric: str
    mean: float
    low: float
    high: float
    of_runs: tuple[float, ...]
    seeds: tuple[int | None, ...]
    fixed: bool


@dataclass(frozen=True)
class Comparison:
    """One system against another in one metric.

    Attributes:
        ours: name of the first one.
        theirs: name of the other one.
        metric: the metric.
        what: part, policy and group, in words.
        difference: ours - theirs, with an interval over users: these trainings, other users.
        p: of the randomisation test over users.
        adjusted: `p` after Holm's correction for all comparisons shown together.
        num_compared: how many these are.
        retrained: the same difference with an interval over users and seeds: new trainings, other users; None where a side has
            one training, or none depends on the seed.
        runs: how many runs ours and theirs are means of.
        paired: seed by seed.
        once: the sides with one training, of which nothing can be said about new ones.
    """

    ours: str
    theirs: str
    metric: str
    what: str
    difference: Difference
    p: float
    adjusted: float
    num_compared: int
    retrained: Difference | None
    runs: tuple[int, int]
    paired: bool
    once: tuple[str, ...]

    @property
    def claimed(self) -> bool:
        """Whether interval and adjusted p-value both allow to say that one is above the other, of these trainings."""
        return self.difference.excludes_zero and self.adjusted + self.difference.level < 1

    @property
    def claimed_of_new_trainings(self) -> bool:
        return self.claimed and self.retrained is not None and self.retrained.excludes_zero

    @property
    def sentence(self) -> str:
        """What may be claimed, and of what."""
        found = self.difference.sentence(self.ours, self.theirs, f"{self.what}, {self.metric}", claimed=self.claimed)
        tested = (
            f"p {self.p:.4f}, {self.adjusted:.4f} adjusted for {self.num_compared}"
            if self.num_compared > 1
            else f"p {self.p:.4f}"
        )
        return f"{found}; {tested}; {self._of_trainings}"

    @property
    def _of_trainings(self) -> str:
        if self.retrained is None and not self.once:
            return "neither depends on the seed"
        if self.retrained is None:
            return f"one training of {' and of '.join(self.once)}: nothing is said of new trainings"
        interval = f"({self.retrained.interval})"
        if self.claimed_of_new_trainings:
            return f"so too for new trainings {interval}"
        return f"not claimed for new trainings {interval}" if self.claimed else f"nor for new trainings {interval}"

    def as_tree(self) -> dict[str, Any]:
        """JSON-able, with what may be claimed."""
        claims = {"claimed": self.claimed, "claimed_of_new_trainings": self.claimed_of_new_trainings, "sentence": self.sentence}
        return asdict(self) | claims


def compare_systems(
    systems: Sequence[System], question: Question, against: str | None = None
) -> tuple[list[Standing], list[Comparison]]:
    """Hold systems against each other on the same users.

    Args:
        systems: at least two.
        question: what in.
        against: name of the system that all others are held against; None = the first one is held against all others.

    Returns:
        A row per system and metric, and a comparison per pair and metric.

    Raises:
        RequestError: runs that cannot be compared, an unknown name or metric.
    """
    pairs = _pairs(systems, against)
    ranks = _ranks(systems, question)
    functions = [metric_of(name) for name in question.metrics]
    values = {
        (metric, place): function(of_system, k)
        for (metric, (function, k)), (place, of_system) in itertools.product(
            zip(question.metrics, functions, strict=True), enumerate(ranks)
        )
    }
    drawn = bootstrap_means(np.concatenate(list(values.values())).T, question.draws, question.seed)
    ends = np.cumsum([len(one) for one in values.values()])
    resampled = dict(zip(values, np.split(drawn, ends[:-1], axis=1), strict=True))
    cells = [(metric, ours, theirs) for metric in question.metrics for ours, theirs in pairs]
    p_values = np.array([_p_value(values[metric, ours], values[metric, theirs], question) for metric, ours, theirs in cells])
    adjusted = holm(p_values)
    sides = {cell: _Side(systems[cell[1]], values[cell], resampled[cell]) for cell in values}
    comparisons = [
        _compared(sides[metric, ours], sides[metric, theirs], metric, question, (p, after, len(cells)))
        for (metric, ours, theirs), p, after in zip(cells, p_values.tolist(), adjusted.tolist(), strict=True)
    ]
    return [_standing(side, metric, question.level) for (metric, _), side in sides.items()], comparisons


@dataclass(frozen=True, eq=False)
class _Side:
    """A system in one metric: (S, U) values, a row per training that differs, and (draws, S) means over resampled users."""

    system: System
    values: Values
    resampled: Values

    @property
    def once(self) -> bool:
        """Whether there is one training alone, so that nobody knows how trainings differ."""
        return len(self.system.runs) == 1


def _standing(side: _Side, metric: str, level: float) -> Standing:
    system, found = side.system, side.values
    seeds, fixed = tuple(run.seed for run in system.runs), len(found) < len(system.runs)
    ends = _ends(side.resampled.mean(axis=1), level)
    return Standing(system.name, metric, float(found.mean()), *ends, tuple(found.mean(axis=1).tolist()), seeds, fixed)


def _compared(ours: _Side, theirs: _Side, metric: str, question: Question, tested: tuple[float, float, int]) -> Comparison:
    gap = ours.resampled.mean(axis=1) - theirs.resampled.mean(axis=1)
    mean, users = float(ours.values.mean() - theirs.values.mean()), ours.values.shape[1]
    seeds = [[run.seed for run in side.system.runs] for side in (ours, theirs)]
    paired = seeds[0] == seeds[1] and len(ours.values) == len(theirs.values) > 1
    once = tuple(side.system.name for side in (ours, theirs) if side.once)
    both, retrained = (ours.resampled, theirs.resampled), None
    if not once and max(len(ours.values), len(theirs.values)) > 1:
        retrained = retrained_difference(ours.values, theirs.values, both, paired=paired, level=question.level)
    p, adjusted, num_compared = tested
    return Comparison(
        ours=ours.system.name,
        theirs=theirs.system.name,
        metric=metric,
        what=question.what,
        difference=Difference(mean, *_ends(gap, question.level), question.level, users),
        p=p,
        adjusted=adjusted,
        num_compared=num_compared,
        retrained=retrained,
        runs=(len(ours.system.runs), len(theirs.system.runs)),
        paired=paired,
        once=once,
    )


def _ends(draws: Values, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _p_value(ours: Values, theirs: Values, question: Question) -> float:
    users = np.arange(ours.shape[1])
    return randomisation_test(ours.mean(axis=0), theirs.mean(axis=0), users, question.flips, question.seed)


def _pairs(systems: Sequence[System], against: str | None) -> list[tuple[int, int]]:
    """Places of ours and theirs."""
    if against is None:
        return [(0, place) for place in range(1, len(systems))]
    found = [place for place, one in enumerate(systems) if against in (one.name, one.of)]
    if len(found) != 1:
        names = "; ".join(one.name for one in systems)
        raise RequestError(f"--against {against!r} names {len(found)} systems, expected one of: {names}")
    return [(place, found[0]) for place in range(len(systems)) if place != found[0]]


def _ranks(systems: Sequence[System], question: Question) -> list[NDArray[np.int64]]:
    """Of each system (S, U) ranks of the same users; one row where all runs gave the same."""
    longest, where = min(((run.longest, run.path) for one in systems for run in one.runs), key=lambda pair: pair[0])
    for name in question.metrics:
        if metric_of(name)[1] > longest:
            raise RequestError(f"{name} needs lists of that length, {where} was judged to {longest}; raise evaluation.ks there")
    rows = [[(run, run.chosen(one.of, question.part, question.policy)) for run in one.runs] for one in systems]
    check_same([pair for of_system in rows for pair in of_system], question.part, question.policy)
    found = [np.stack([frame["rank"].to_numpy().astype(np.int64) for _, frame in of_system]) for of_system in rows]
    found = [one[:1] if (one == one[:1]).all() else one for one in found]
    if question.group is None:
        return found
    chosen = rows[0][0][1]["group"].to_numpy() == question.group
    if not chosen.any():
        raise RequestError(f"no user of the {question.part} part has a {question.group} target; hold items out (holdout.rule)")
    return [one[:, chosen] for one in found]
