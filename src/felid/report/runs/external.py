"""Lists of other systems that were judged on a run's users (`felid evaluate RUN --recommendations FILE`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from felid.artifacts import MANIFEST, open_artifact, read_json
from felid.evaluation.evaluated import NEEDED, EvaluatedRun
from felid.evaluation.external import STAGE
from felid.evaluation.tables import difference_lines
from felid.report.blocks import Block, Bullets, Details, Prose, Section
from felid.report.runs.results import policy_table, systems_table


def external_section(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> Section | None:
    """What was judged beside the evaluations of the report; None where nothing was."""
    blocks: list[Block] = []
    for run, name in zip(runs, names, strict=True):
        found = list(_judged(run))
        beside = [one for one in found if one.artifact.manifest["inputs"].get("evaluation") == run.artifact.digest]
        for one in beside:
            blocks.append(_details(one, f" on the users of {name}" * (len(runs) > 1), len(blocks)))
        if len(beside) < len(found):
            text = f"judged beside another evaluation of {name} than this one are left out; judge them again"
            blocks.append(Prose([f"Lists of other systems: {len(found) - len(beside)} {text}."], soft=True))
    return Section("external", "Lists of other systems", "Other systems", blocks) if blocks else None


def _judged(run: EvaluatedRun) -> Iterator[EvaluatedRun]:
    """The evaluations of lists in a run folder, by the name of the system."""
    folders = [path.parent for path in (run.root / STAGE).glob(f"*/{MANIFEST}")]
    found = [EvaluatedRun(run.root, read_json(folder / "metrics.json", NEEDED), open_artifact(folder)) for folder in folders]
    yield from sorted(found, key=lambda one: (one.system, one.artifact.path.name))


def _details(one: EvaluatedRun, of: str, place: int) -> Details:
    key = f"external-{place}"
    tables = [systems_table(one, key, [""]), policy_table(one, key)]
    claims = Bullets(f"{key}-claims", difference_lines(one.metrics))
    return Details(f"{one.system}{of}, read from {one.metrics['external']['file']}", [claims, *tables], is_open=place == 0)
