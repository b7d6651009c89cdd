"""The semantic IDs of evaluated runs: their tree, and how healthy they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from felid.evaluation.evaluated import EvaluatedRun
from felid.report.blocks import Block, Figures, Prose, Section
from felid.report.figures import all_figures
from felid.report.measure import categories_of, measure
from felid.report.subject import subject_of_run
from felid.report.tokenizer_page import collisions_of, findings_of, levels_table
from felid.report.tree import code_tree
from felid.report.verdicts import summary, verdicts

STAGES = ("data", "embed", "tokenize")
LIMITS = (300, 900, 900)
"""Most nodes of the tree per depth; fewer than in the tokeniser's own report, where the tree is the page."""
Digest = str


def runs_with_ids(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> Mapping[Digest, tuple[EvaluatedRun, list[str]]]:
    """For each set of IDs that some system generates, a run that has it, and the names of all that do."""
    found: dict[Digest, tuple[EvaluatedRun, list[str]]] = {}
    for run, name in zip(runs, names, strict=True):
        sources = {stage: run.source(stage) for stage in STAGES}
        ids = sources["tokenize"]
        if ids is None or None in sources.values() or not _generates(run):
            continue
        found.setdefault(ids.digest, (run, []))[1].append(name)
    return found


def _generates(run: EvaluatedRun) -> bool:
    """Whether some system reads IDs, as far as the modes tell: without IDs a model is dense, or that and counted transitions."""
    modes = {system["mode"] for system in run.metrics.get("systems", {}).values()}
    return bool(modes & {"generative", "hybrid"}) or "dense" not in modes


def ids_section(run: EvaluatedRun, names: Sequence[str], place: int, *, alone: bool) -> Section:
    """The tree of codes, the findings and the use of the codes.

    Args:
        run: has the IDs.
        names: of the runs that share them.
        place: tells the HTML ids of several sections apart.
        alone: whether all runs have these IDs.
    """
    folders = {stage: source.path for stage in STAGES if (source := run.source(stage)) is not None}
    subject = subject_of_run(run.root, folders)
    report = measure(subject, None, with_stability=False)
    labels = categories_of(subject, report.category)[1] if report.category else []
    nodes = code_tree(subject.codes[:, : len(report.levels)], subject.titles, labels, LIMITS)
    tree, *others = (replace(one, key=f"{one.key}-{place}") for one in all_figures(report, nodes, replace(subject, log=())))
    found = verdicts(report)
    said = [f"{report.name}: {summary(found)} The bounds are rules of thumb; `felid tokenize RUN --report` says more."]
    blocks: list[Block] = [
        Prose(said),
        tree,
        findings_of(found, f"findings-{place}"),
        levels_table(report, f"levels-{place}"),
        collisions_of(report),
        Figures(others),
    ]
    of = "" if alone else f" of {', '.join(names)}"
    return Section(f"ids-{place}", f"Semantic IDs{of}", f"IDs{of}", blocks)
