"""Curves: metrics against the length of the lists, and what training looked like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from felid.artifacts import read_json
from felid.evaluation.evaluated import EvaluatedRun
from felid.evaluation.protocol import PER_USER, EvaluationConfig, Policy
from felid.evaluation.statistics import intervals
from felid.report.blocks import Details, Figures, Row, Section, Table
from felid.report.drawing import Figure, axes, band, figure, line
from felid.report.runs.entrants import Entrant, list_lengths

METRICS = ("recall", "ndcg")
NAMES = {"recall": "Recall", "ndcg": "NDCG"}
MOST_LENGTHS = 40
"""Most points of a curve; longer lists are judged at lengths that grow by a factor."""


def lengths_up_to(longest: int, judged: Sequence[int] = ()) -> list[int]:
    """Lengths of lists from 1 to `longest`, those that were judged among them."""
    drawn = (
        np.unique(np.geomspace(1, longest, num=MOST_LENGTHS).round().astype(int))
        if longest > MOST_LENGTHS
        else range(1, longest + 1)
    )
    return sorted({*map(int, drawn), *judged})


def against_k(entrants: Sequence[Entrant], policy: Policy) -> Section:
    """Recall and NDCG against k, a line per system, the first one with its interval."""
    first, judged = entrants[0], list_lengths(entrants[0].run.metrics)
    ks = lengths_up_to(judged[-1], judged)
    known = [(place, one, ranks) for place, one in enumerate(entrants) if len(ranks := one.ranks(policy))]
    values = {
        one.name: {metric: _per_user(ranks, metric, ks).mean(axis=0).tolist() for metric in METRICS} for _, one, ranks in known
    }
    figures = []
    for metric in METRICS:
        traces = [_band(_per_user(ranks, metric, ks), ks, one.run.config) for _, one, ranks in known[:1]]
        traces += [line(ks, values[one.name][metric], one.name, place, dashed=one.is_baseline) for place, one, _ in known]
        layout = axes("length of the lists k", f"{metric}@k")
        layout["xaxis"] |= {"type": "log"} if ks[-1] > MOST_LENGTHS else {}
        text = f"Test {metric} of the first k items; the band is the {100 * first.run.config.level:g} % interval of {first.name}."
        figures.append(figure(f"{metric}-at-k", f"{NAMES[metric]} against k", text, traces, layout))
    return Section("lengths", "Metrics against the length of the lists", "Against k", [Figures(figures), _numbers(values, ks)])


def _per_user(ranks: NDArray[np.int64], metric: str, ks: Sequence[int]) -> NDArray[np.float64]:
    """(U, len(ks)) values of a metric."""
    return np.stack([PER_USER[metric](ranks, k) for k in ks], axis=1)


def _band(values: NDArray[np.float64], ks: Sequence[int], config: EvaluationConfig) -> go.Scatter:
    """By the draws of the evaluation, so that it equals its intervals where it has any."""
    low, high = intervals(values, config.level, config.bootstrap, config.seed)
    return band(ks, low.tolist(), high.tolist(), 0)


def _numbers(values: Mapping[str, Mapping[str, Sequence[float]]], ks: Sequence[int]) -> Details:
    groups: list[tuple[str, Sequence[Row]]] = [
        (f"{metric}@k", [[name, *(f"{value:.4f}" for value in found[metric])] for name, found in values.items()])
        for metric in METRICS
    ]
    return Details(
        "The numbers of these curves", [Table("lengths", "Metrics by length of the lists.", ["system", *map(str, ks)], groups)]
    )


def learning_section(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> Section | None:
    """Losses and validation metrics of each training; None where no run has kept them."""
    progress = {name: found for name, run in zip(names, runs, strict=True) if (found := _progress(run)) and found["curve"]}
    if not progress:
        return None
    figures = _of_one(next(iter(progress.values()))) if len(progress) == 1 else _of_several(progress)
    rows: list[Row] = [_facts(name, found) for name, found in progress.items()]
    head = ["training", "epochs", "steps", "targets", "minutes", "best checkpoint"]
    return Section(
        "learning",
        "Learning curves",
        "Learning",
        [Figures(figures), Table("learning", "How long it trained.", head, [("", rows)])],
    )


def _progress(run: EvaluatedRun) -> Mapping[str, Any] | None:
    train = run.source("train")
    if train is None or not (train.path / "progress.json").is_file():
        return None
    found: Mapping[str, Any] = read_json(train.path / "progress.json", ("curve", "best_checkpoint"))
    return found


def _facts(name: str, found: Mapping[str, Any]) -> Row:
    best: Mapping[str, Any] = next(
        (entry for entry in found["curve"] if f"checkpoint-{entry['step']}" == found["best_checkpoint"]), {}
    )
    at = f"{found['best_checkpoint']} (epoch {best['epoch']:g})" if best else str(found["best_checkpoint"])
    last = found["curve"][-1]
    return [name, f"{last['epoch']:g}", f"{last['step']:,}", f"{last['targets']:,}", f"{last.get('seconds', 0) / 60:.1f}", at]


def _of_one(found: Mapping[str, Any]) -> list[Figure]:
    curve = found["curve"]
    keys = list(dict.fromkeys(chain.from_iterable(curve)))
    losses = [key for key in keys if key.startswith("loss")]
    if len(losses) == 2:  # the sum and its only part
        losses = losses[:1]
    best = [entry["epoch"] for entry in curve if f"checkpoint-{entry['step']}" == found["best_checkpoint"]]
    judged = {"recall and NDCG": [key for key in keys if "@" in key]}
    figures: list[Figure] = []
    if losses:
        text = "Nats per target in training, since the validation before; the dotted line is the checkpoint that was evaluated."
        figures.append(
            _figure("loss", "Training loss", text, {key.replace("_", " "): _series(curve, key) for key in losses}, "loss", best)
        )
    for name, metrics in judged.items():
        text = "On the validation part. Validation is often easier than test; hold it against nothing but itself."
        if metrics:
            lines = {key.replace("_", " "): _series(curve, key) for key in metrics}
            figures.append(_figure("validation", "Validation metrics", text, lines, name, best))
    return figures


def _of_several(progress: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    found = []
    for key, metric, heading, text in (
        ("loss", "loss", "Training loss", "Nats per target in training. Losses of different models are sums of different terms."),
        ("validation", "ndcg@10", "Validation NDCG@10", "On each run's own validation users."),
    ):
        lines = {
            name: _series(one["curve"], metric)
            for name, one in progress.items()
            if any(metric in entry for entry in one["curve"])
        }
        if lines:
            found.append(_figure(key, heading, text, lines, metric, []))
    return found


def _series(curve: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float | None]]:
    return [float(entry["epoch"]) for entry in curve], [entry.get(key) for entry in curve]


def _figure(
    key: str, heading: str, text: str, lines: Mapping[str, tuple[list[float], list[float | None]]], y: str, best: Sequence[float]
) -> Figure:
    layout = axes("epoch", y)
    layout["yaxis"]["rangemode"] = "normal"
    layout["shapes"] = [
        {
            "type": "line",
            "x0": at,
            "x1": at,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"dash": "dot", "width": 1.5, "color": "#757d88"},
        }
        for at in best
    ]
    return figure(
        key, heading, text, [line(x, values, name, place) for place, (name, (x, values)) in enumerate(lines.items())], layout
    )
