"""Under which conditions compared systems were judged: the policies of their evaluations, told once where they are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from felid.evaluation.audit.finding import check_lines
from felid.evaluation.compared import RankedRun, System
from felid.evaluation.tables import policy_lines

TOPICS = ("candidates", "ties", "history", "order", "split", "tokenizer", "checkpoint", "recommendations", "users", "checks")
"""Of the policies of an evaluation, those that a comparison must tell; part and seen items are in its title."""
UNKNOWN = "not known"


def condition_lines(systems: Sequence[System]) -> list[str]:
    """A line per topic and text, after the names of the systems where they have different ones.

    Ranks without a `metrics.json` are of conditions that nobody knows, which is said.
    """
    told = {run.path: _texts(run) for system in systems for run in system.runs}
    lines = []
    for topic in TOPICS:
        if any(topic in texts for texts in told.values()):
            known = {path: texts.get(topic, "" if texts else UNKNOWN) for path, texts in told.items()}
            lines += _lines(topic, known, systems)
    return lines or ["conditions of the evaluations: not known, the ranks come without a metrics.json"]


def _lines(topic: str, known: Mapping[Any, str], systems: Sequence[System]) -> list[str]:
    """What is said of one topic; by system, or by run where the runs of one differ."""
    texts = list(dict.fromkeys(known.values()))
    if len(texts) == 1:
        return [f"{topic}: {texts[0]}"]
    found = []
    for text in texts:
        names = []
        for system in systems:
            paths = [run.path for run in system.runs if known[run.path] == text]
            if paths:
                names += [system.name] if len(paths) == len(system.runs) else [f"{system.name} ({path})" for path in paths]
        found.append(f"{topic} of {' and '.join(names)}: {text or 'nothing to say'}")
    return found


def _texts(run: RankedRun) -> dict[str, str]:
    """What is known of a run, by topic."""
    if "policy" not in run.metrics or "num_users" not in run.metrics:
        return {}
    lines = [*policy_lines(run.metrics), *(check_lines(run.metrics) or [f"checks: {UNKNOWN}"])]
    return {topic: text for topic, _, text in (line.partition(": ") for line in lines)}
