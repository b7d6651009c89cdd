"""What the numbers rest on: data, checks, recipe and environment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import yaml

from felid.artifacts import read_json
from felid.data.dataset import Dataset
from felid.evaluation.evaluated import EvaluatedRun
from felid.report.blocks import Block, Bullets, Code, Details, Figures, Finding, Findings, Prose, Row, Section, Table
from felid.report.drawing import PALETTE, Figure, axes, figure

STAGES = ("data", "embed", "tokenize", "train", "evaluate")
CHECKS = {"passed": ("good", "✓ passed"), "doubtful": ("watch", "! doubtful"), "failed": ("poor", "✗ failed")}
BINS = 16


def data_section(dataset: Dataset, place: int, heading: str) -> Section:
    """Counts, and how long the users' sequences are."""
    counts = dataset.statistics()
    lengths = counts["interactions_per_user"]
    rows = {
        "users": f"{counts['num_users']:,}",
        "items": f"{counts['num_items']:,}",
        "interactions": f"{counts['num_interactions']:,}",
        "items without interactions": f"{counts['num_items_without_interactions']:,}",
        "repeated interactions": f"{counts['num_repeated_interactions']:,}",
        "users too short to be evaluated": f"{counts['num_users_too_short']:,}",
        "interactions per user": (
            f"{lengths['min']:,} to {lengths['max']:,}, median {lengths['median']:g}, mean {lengths['mean']:.1f}"
        ),
        "density": f"{100 * counts['density']:.3g} %",
        "order": dataset.order_rule,
    }
    table = Table(
        f"data-{place}", f"Counts of {dataset.name}, all parts.", ["of the data", ""], [("", list(rows.items()))], words=True
    )
    notes: list[Block] = [Bullets(f"data-notes-{place}", dataset.notes)] if dataset.notes else []
    return Section(f"data-{place}", heading, heading, [table, *notes, Figures([_lengths(dataset, place)])])


def _lengths(dataset: Dataset, place: int) -> Figure:
    """A histogram with bins that grow by a factor where lengths differ much."""
    lengths = dataset.sequences().lengths
    low, high = int(lengths.min()), int(lengths.max())
    if high - low < BINS:
        edges = np.arange(low, high + 2)
    else:
        spaced = np.geomspace(low, high + 1, BINS + 1) if high > 10 * low else np.linspace(low, high + 1, BINS + 1)
        edges = np.unique(spaced.round().astype(int))
    counts = np.histogram(lengths, edges)[0]
    names = [f"{a:,}" if b == a + 1 else f"{a:,}–{b - 1:,}" for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    bars = go.Bar(
        x=names, y=counts.tolist(), marker={"color": PALETTE[0]}, hovertemplate="%{x} interactions: %{y:,} users<extra></extra>"
    )
    layout = {**axes("interactions of a user", "users"), "showlegend": False, "height": 280, "bargap": 0.05}
    layout["xaxis"] |= {"type": "category", "tickfont": {"size": 11}}
    return figure(
        f"user-lengths-{place}", "Length of the users' sequences", "How many users have how many interactions.", [bars], layout
    )


def checks_section(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> Section | None:
    """What was looked for before the evaluation, the doubtful first; None where no run was checked."""
    counts = check_counts(runs, names)
    blocks: list[Block] = []
    for place, (run, name) in enumerate(zip(runs, names, strict=True)):
        if name in counts:
            ordered = sorted(run.metrics["checks"], key=lambda check: -list(CHECKS).index(check["status"]))
            blocks += [Prose([counts[name]]), Findings(f"checks-{place}", [_finding(check) for check in ordered])]
    return Section("checks", "Leak and sanity checks", "Checks", blocks) if blocks else None


def check_counts(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> dict[str, str]:
    """By the name of a run that was checked, how many checks there were, in a sentence."""
    sentences = {}
    for run, name in zip(runs, names, strict=True):
        found = Counter(check["status"] for check in run.metrics.get("checks", []))
        if found:
            said = ", ".join(f"{found[status]} {status}" for status in CHECKS if found[status])
            sentences[name] = f"{f'{name}: of' if len(runs) > 1 else 'Of'} {found.total()} leak and sanity checks {said}."
    return sentences


def _finding(check: Mapping[str, str]) -> Finding:
    colour, sign = CHECKS[check["status"]]
    return Finding(colour, sign, f"{check['name']}: {check['finding']}", check.get("remedy") or "")


def recipe_section(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> Section:
    """The resolved recipe of each run, and where several differ."""
    recipes = {
        name: read_json(run.root / "recipe.json")
        for name, run in zip(names, runs, strict=True)
        if (run.root / "recipe.json").is_file()
    }
    blocks: list[Block] = []
    if len(recipes) > 1:
        blocks.append(_differences(recipes))
    for name, run in zip(names, runs, strict=True):
        changed = changed_sections(run, recipes.get(name, {}))
        if changed:
            text = f"The recipe in {name} was changed after this evaluation ({', '.join(changed)}); what was evaluated is below."
            blocks.append(Prose([text]))
    for name, recipe in recipes.items():
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110)
        blocks.append(Details("The resolved recipe" if len(runs) == 1 else f"The resolved recipe of {name}", [Code(text)]))
    return Section("recipe", "Recipe", "Recipe", blocks)


def changed_sections(run: EvaluatedRun, recipe: Mapping[str, Any]) -> list[str]:
    """Sections of the recipe in the run folder that are not those that were evaluated."""
    changed = []
    for stage in ("train", "evaluate"):
        source = run.artifact if stage == "evaluate" else run.source(stage)
        config = {} if source is None else source.manifest.get("config", {})
        changed += [name for name, value in config.items() if name in recipe and name != "holdout" and recipe[name] != value]
    return changed


def _differences(recipes: Mapping[str, Mapping[str, Any]]) -> Table:
    flat = {name: dict(_leaves(recipe)) for name, recipe in recipes.items()}
    keys = list(dict.fromkeys(key for leaves in flat.values() for key in leaves if key != "description"))
    differing = [key for key in keys if len({repr(leaves.get(key, "")) for leaves in flat.values()}) > 1]
    rows: list[Row] = [[key, *(str(leaves.get(key, "")) for leaves in flat.values())] for key in differing]
    caption = "Settings that differ." if rows else "All settings are equal."
    return Table("settings", caption, ["setting", *flat], [("", rows)], words=True)


def _leaves(tree: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        found += _leaves(value, f"{above}{key}.") if isinstance(value, Mapping) and value else [(f"{above}{key}", value)]
    return found


def environment_section(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> Section:
    """On what the evaluation ran, with which versions, and what each stage took."""
    evaluated = {name: run.artifact.manifest for name, run in zip(names, runs, strict=True)}
    machine = {name: _machine(manifest.get("made_with", {})) for name, manifest in evaluated.items()}
    versions = {name: manifest.get("versions", {}) for name, manifest in evaluated.items()}
    blocks: list[Block] = [
        Table(key, caption, [of, *names], [("", _beside(found))], words=True)
        for key, caption, of, found in (
            ("machine", "How the evaluation was made.", "of the process", machine),
            ("versions", "Versions that evaluated.", "package", versions),
        )
        if any(found.values())
    ]
    groups = [(name if len(runs) > 1 else "", _stages(run)) for name, run in zip(names, runs, strict=True)]
    caption = "What each stage took when it was made. Memory is the most that the process had held by then."
    head = ["stage", "seconds", "CPU seconds", "peak MiB", "commit", "key"]
    blocks.append(Table("stages", caption, head, groups))
    return Section("environment", "Environment", "Environment", blocks)


def _machine(made_with: Mapping[str, Any]) -> dict[str, str]:
    """What is known of the process (`felid.machine`) in words."""
    changed = " with changes" if made_with.get("changed") else ""
    found = {**made_with, "commit": f"{made_with['commit']}{changed}" if made_with.get("commit") else None}
    return {name: str(value) for name, value in found.items() if value is not None and name != "changed"}


def _beside(found: Mapping[str, Mapping[str, str]]) -> list[Row]:
    keys = list(dict.fromkeys(key for values in found.values() for key in values))
    return [[key, *(values.get(key, "") for values in found.values())] for key in keys]


def _stages(run: EvaluatedRun) -> list[Row]:
    found = {stage: run.artifact if stage == "evaluate" else run.source(stage) for stage in STAGES}
    rows: list[Row] = []
    for stage, manifest in ((stage, source.manifest) for stage, source in found.items() if source is not None):
        numbers = (f"{manifest[key]:,.1f}" if key in manifest else "" for key in ("wall_seconds", "cpu_seconds"))
        commit = _machine(manifest.get("made_with", {})).get("commit", "")
        rows.append([stage, *numbers, f"{manifest.get('peak_rss_mib', 0):,}", commit, str(manifest.get("key", ""))])
    return rows
