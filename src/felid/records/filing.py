"""Records of evaluated runs: what a published number stands on, one folder for all trainings of a recipe.

`reports/<name>/` holds `record.json` (commands, code, recipe, seeds, data, machine, times, checks, policies, figures with
intervals; a `note` where a check failed, which the leaderboard shows),
for each run `metrics.json`, `recipe.json` and `per-user.parquet` (ranks without ids; of several runs in `seed-<seed>/`), and a
`README.md` made of them. Weights and data stay out.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from felid import machine
from felid.artifacts import Artifact, find_artifact, read_json, replace_folder, write_json, write_text
from felid.errors import ArtifactError, RequestError
from felid.evaluation.evaluated import EvaluatedRun
from felid.evaluation.per_user import pooled_figures, write_ranks
from felid.records.page import page

RECORD = "record.json"
FORMAT = 1
STAGES = ("data", "embed", "tokenize", "train")
"""What an evaluation stands on."""
REDUCED = ("holdout", "collision")
"""Sections of which manifests have only what has an effect."""
FREE = ("seed", "description", "tracking")
"""Sections in which trainings of one recipe may differ."""
Record = dict[str, Any]


def record(
    roots: Sequence[Path], out: Path, name: str | None = None, *, note: str = "", replace: bool = False
) -> tuple[Path, bool]:
    """File the evaluations of run folders under `out/name`.

    Args:
        roots: run folders; several must be trainings of one recipe that differ in `seed` alone.
        out: folder of all records.
        name: folder of this one; None = the name of the first run folder.
        note: what readers of the figures must know wherever they stand, such as that a training was short.
        replace: put it in place of another record of that name.

    Returns:
        The folder, and whether it was written; a record of the same evaluations is left as it is, unless it is to be replaced.

    Raises:
        ArtifactError: a run has no evaluation, or artifacts that it stands on are gone.
        RequestError: the runs are no trainings of one recipe, or `out/name` holds something else or is not in `out`.
    """
    runs = [EvaluatedRun.open(root) for root in roots]
    folder = out / (name or roots[0].resolve().name)
    if not folder.resolve().is_relative_to(out.resolve()) or folder.resolve() == out.resolve():
        raise RequestError(f"--name {name} leads out of {out}, expected a folder in it; say where records go by --out")
    keys = [run.artifact.digest for run in runs]
    if _is_there(folder, keys, replace=replace):
        return folder, False
    recipes = [_recipe(run) for run in runs]
    _check_one_recipe(roots, recipes)
    replace_folder(folder, lambda part: _fill(part, folder.name, runs, recipes, note))
    return folder, True


def parts_of(root: Path, stages: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The stages' artifacts, and by name those that the tokenise stage is made of: quantize, warmup, start."""
    parts, inputs = dict(stages), stages["tokenize"].manifest["inputs"]
    for name, part in (("codes", "quantize"), ("warmup", "warmup"), ("start", "start")):
        if name in inputs:
            parts[part] = find_artifact(root, part, inputs[name])
            inputs = {**inputs, **parts[part].manifest["inputs"]}
    return parts


def wall_minutes(parts: Mapping[str, Artifact]) -> dict[str, float]:
    """Wall minutes that each part took when it was made.

    `warmup` and `train` are trainings with their validations, over all sittings; `fusion` is what the train stage did besides:
    above all the choice of the weights of fused ranking. It is too small where that stage was interrupted.
    """
    seconds = {name: float(part.manifest["wall_seconds"]) for name, part in parts.items()}
    for name in ("warmup", "train"):
        if name in parts:
            trained = float(read_json(parts[name].path / "progress.json", ("seconds",))["seconds"])
            if name == "train":
                seconds["fusion"] = max(0.0, seconds[name] - trained)
            seconds[name] = trained
    return {name: round(value / 60, 2) for name, value in seconds.items()}


def _is_there(folder: Path, keys: Sequence[str], *, replace: bool) -> bool:
    """Whether a record of these evaluations is there; refuses to overwrite anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / RECORD).is_file():
        raise RequestError(f"{folder} exists and holds no {RECORD}; choose another --name, or move it away")
    if replace:
        return False
    if [run["evaluation"] for run in read_json(folder / RECORD, ("runs",))["runs"]] == keys:
        return True
    raise RequestError(f"{folder} holds the record of other runs; choose another --name, or say --replace")


def _sources(run: EvaluatedRun) -> dict[str, Artifact]:
    found = {stage: run.source(stage) for stage in STAGES}
    gone = [stage for stage, artifact in found.items() if artifact is None]
    if gone:
        raise ArtifactError(f"{run.root} lacks what was evaluated, of {', '.join(gone)}; run `felid evaluate {run.root}` again")
    return {stage: artifact for stage, artifact in found.items() if artifact is not None}


def _recipe(run: EvaluatedRun) -> Record:
    """The recipe of the run folder, if it is what was evaluated."""
    tree: Record = read_json(run.root / "recipe.json", ("seed",))
    for stage, artifact in {**_sources(run), "evaluate": run.artifact}.items():
        told = {key: value for key, value in artifact.manifest["config"].items() if key in tree and key not in REDUCED}
        other = [key for key, value in told.items() if tree[key] != value]
        if other:
            text = f"the settings of {run.root} have changed since its evaluation ({other[0]}, stage {stage})"
            raise ArtifactError(f"{text}; run `felid evaluate {run.root}` again")
    return tree


def _check_one_recipe(roots: Sequence[Path], recipes: Sequence[Record]) -> None:
    for root, recipe in zip(roots, recipes, strict=True):
        keys = sorted({*recipe, *recipes[0]} - {*FREE})
        other = [key for key in keys if recipe.get(key) != recipes[0].get(key)]
        if other:
            text = f"{root} differs from {roots[0]} in {', '.join(other)}"
            raise RequestError(f"{text}, expected trainings of one recipe that differ in seed; record them apart")
    seeds = [recipe["seed"] for recipe in recipes]
    if len(set(seeds)) < len(seeds):
        raise RequestError(f"the runs have the seeds {', '.join(map(str, seeds))}, expected different ones; give each run once")


def _fill(folder: Path, name: str, runs: Sequence[EvaluatedRun], recipes: Sequence[Record], note: str) -> None:
    first, places = runs[0], ["" if len(runs) == 1 else f"seed-{recipe['seed']}/" for recipe in recipes]
    found = []
    for run, recipe, place in zip(runs, recipes, places, strict=True):
        (folder / place).mkdir(exist_ok=True)
        shutil.copy(run.artifact.path / "metrics.json", folder / place / "metrics.json")
        write_json(folder / place / "recipe.json", recipe)
        write_ranks(run.ranks, folder / place / "per-user.parquet")
        found.append({"seed": recipe["seed"], **_made(run), "folder": place})
    config = first.config
    figures = pooled_figures([run.ranks for run in runs], config.ks, level=config.level, draws=config.bootstrap, seed=config.seed)
    content: Record = {
        "format": FORMAT,
        "name": name,
        "system": first.system,
        "recipe": recipes[0],
        "data": _data(runs),
        "headline": first.policy,
        "level": config.level,
        "policy": dict(first.metrics["policy"]),
        "num_users": first.metrics["num_users"],
        "num_items": first.metrics["num_items"],
        "baselines": list(first.metrics["baselines"]),
        "runs": found,
        "figures": figures,
        "recorded": _portable(machine.made_with(), runs),
        **_note(runs, note),
    }
    write_json(folder / RECORD, content)
    write_text(folder / "README.md", page(content))


def _note(runs: Sequence[EvaluatedRun], note: str) -> dict[str, str]:
    """What readers of the figures must know wherever they stand: what was given, and failed checks."""
    failed = dict.fromkeys(
        check["name"] for run in runs for check in run.metrics.get("checks", []) if check["status"] == "failed"
    )
    notes = [note] * bool(note) + [f"failed checks: {', '.join(failed)}"] * bool(failed)
    return {"note": "; ".join(notes)} if notes else {}


def _made(run: EvaluatedRun) -> Record:
    """How one run was made: commands, code and machine of its training and evaluation, its checks, and what each stage cost."""
    stages = {**_sources(run), "evaluate": run.artifact}
    parts = parts_of(run.root, stages)
    cpu = {name: part.manifest.get("cpu_seconds") for name, part in parts.items()}
    return {
        "evaluation": run.artifact.digest,
        "trained_with": _portable(stages["train"].manifest.get("made_with"), [run]),
        "evaluated_with": _portable(run.artifact.manifest.get("made_with"), [run]),
        "checks": list(run.metrics.get("checks", [])),
        "versions": dict(run.artifact.manifest["versions"]),
        "wall_minutes": wall_minutes(parts),
        "cpu_minutes": {name: round(seconds / 60, 2) for name, seconds in cpu.items() if seconds is not None},
        "peak_rss_mib": {name: part.manifest["peak_rss_mib"] for name, part in parts.items()},
    }


def _portable(made: Record | None, runs: Sequence[EvaluatedRun]) -> Record | None:
    """How something was made, with the command's absolute paths of run folders cut to their names."""
    if made is None:
        return None
    command = made["command"]
    for run in runs:
        command = command.replace(str(run.root.resolve()), run.root.name)
    return {**made, "command": command}


def _data(runs: Sequence[EvaluatedRun]) -> Record:
    artifacts = [_sources(run)["data"] for run in runs]
    if len({artifact.digest for artifact in artifacts}) > 1:
        raise RequestError("the runs were trained on other data, though their recipes are equal; record them apart")
    told = read_json(artifacts[0].path / "dataset.json", ("name", "statistics", "order_rule", "notes"))
    return {**told, "digest": artifacts[0].digest, "files": dict(artifacts[0].manifest["inputs"])}
