"""Contestants take turns on the same machine in one process; what counts is the ratio of neighbours in time."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console

Rates = dict[str, list[float]]


@dataclass
class Contestant:
    """One way to do the work.

    Attributes:
        name: key in the results.
        run: (batch size, round) -> units of work done; the round seeds the choice of examples or users.
        batch_sizes: sizes to try; the fastest is kept.
        note: a sentence for the record.
        tuning: units per second of each batch size tried, filled by `tune`.
        batch_size: the size in use.
    """

    name: str
    run: Callable[[int, int], int]
    batch_sizes: tuple[int, ...]
    note: str
    tuning: dict[int, float] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        return max(self.batch_sizes, key=lambda size: self.tuning.get(size, 0.0))


def rate(contestant: Contestant, batch_size: int, turn: int) -> float:
    """Units per second of one turn."""
    gc.collect()
    start = time.perf_counter()
    units = contestant.run(batch_size, turn)
    return units / (time.perf_counter() - start)


def tune(contestants: Sequence[Contestant], passes: int, console: Console) -> None:
    """Find each contestant's fastest batch size: one warm-up turn, then the median of `passes` interleaved turns."""
    found: dict[tuple[str, int], list[float]] = {}
    for turn in range(passes + 1):
        for contestant in contestants:
            for size in contestant.batch_sizes:
                value = rate(contestant, size, turn)
                if turn:
                    found.setdefault((contestant.name, size), []).append(value)
    for contestant in contestants:
        contestant.tuning = {size: statistics.median(found[contestant.name, size]) for size in contestant.batch_sizes}
        shown = "  ".join(f"{size}: {value:,.1f}" for size, value in contestant.tuning.items())
        console.print(f"  {contestant.name}: batch {contestant.batch_size}  ({shown})", highlight=False, soft_wrap=True)


def interleave(contestants: Sequence[Contestant], rounds: int, console: Console) -> Rates:
    """Units per second of every contestant in every round, A B C A B C ..."""
    rates: Rates = {contestant.name: [] for contestant in contestants}
    for turn in range(rounds):
        for contestant in contestants:
            rates[contestant.name].append(rate(contestant, contestant.batch_size, 1000 + turn))
        line = "  ".join(f"{name} {values[-1]:,.1f}" for name, values in rates.items())
        console.print(f"  round {turn + 1} of {rounds}: {line}", highlight=False, soft_wrap=True)
    return rates


def fastest(rates: Rates, names: Iterable[str]) -> str:
    """Which of the named contestants has the highest median rate."""
    return max(names, key=lambda name: statistics.median(rates[name]))


def summary(contestants: Sequence[Contestant], rates: Rates, baseline: str, unit: str) -> dict[str, object]:
    """Per contestant: median and range of its rate, and of its ratio to the baseline within each round."""
    rows: dict[str, object] = {}
    for contestant in contestants:
        own = rates[contestant.name]
        ratios = [a / b for a, b in zip(own, rates[baseline], strict=True)]
        rows[contestant.name] = {
            "note": contestant.note,
            "batch_size": contestant.batch_size,
            "tuning": contestant.tuning,
            unit: spread(own),
            "ratio": spread(ratios),
            "rounds": own,
        }
    return rows


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "largest": max(values)}
