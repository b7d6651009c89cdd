"""`python -m benchmarks.records`: `record.json` of the records that are older than `felid record`, made of what they hold.

Nothing is measured and no file of theirs is changed. Where ranks per user were kept, means and intervals are those of
`felid.evaluation.per_user`; where only `metrics.json` was, its means and the intervals that it has.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from felid.artifacts import read_json, write_json
from felid.evaluation.per_user import Figures, pooled_figures, read_ranks
from felid.records import RECORD, Record

NOTES = {
    "systems": "a run of minutes that shows that all works together",
    "chosen": "settings for new items chosen on validation",
    "plain": "no new items in any list",
}
"""What a reader should know of records, by a part of their names."""
POLICIES = ("seen_removed", "seen_kept")
HAND_MADE: dict[str, dict[str, Any]] = {
    "movielens": {"command": "make demo", "commit": "79c2a01", "threads": 2},
    "systems/liger-short": {"command": "felid run liger-short", "commit": "ab317ff", "threads": 1},
    "systems/re-tiger-short": {"command": "felid run re-tiger-short", "commit": "2eae670", "threads": 1},
    "systems/rqkmeans-tiger-short": {"command": "felid run rqkmeans-tiger-short", "commit": "2eae670", "threads": 1},
    "systems/sasrec-rqvae-tiger-short": {"command": "felid run sasrec-rqvae-tiger-short", "commit": "2eae670", "threads": 1},
}
"""What their README says of how they were made; each is one run."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.records", description=__doc__)
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder of the records")
    reports: Path = parser.parse_args(arguments).reports
    for name, made in HAND_MADE.items():
        write_json(reports / name / RECORD, of_metrics(reports / name, name, made))
    for folder, names in (("recommenders", ("name",)), ("cold", ("system", "variant"))):
        for name, record in of_benchmark(reports / folder, names).items():
            (reports / folder / name).mkdir(exist_ok=True)
            write_json(reports / folder / name / RECORD, record)


def of_benchmark(folder: Path, names: Sequence[str]) -> dict[str, Record]:
    """The trainings of a `runs.json` whose entries agree in `names`, together; by their names."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in read_json(folder / "runs.json"):
        groups.setdefault("-".join(entry[key] for key in names), []).append(entry)
    return {name: _of_group(folder, name, entries) for name, entries in groups.items()}


def _of_group(folder: Path, name: str, entries: list[dict[str, Any]]) -> Record:
    entries = sorted(entries, key=_number)
    metrics = [read_json((folder / entry["ranks"]).parent / "metrics.json") for entry in entries]
    runs = []
    for entry in entries:
        made = {"command": f"python -m benchmarks.{folder.name} run", **{key: entry[key] for key in ("cpu", "threads", "load")}}
        runs.append(_run(_number(entry), made | _code(entry["commit"]), entry["minutes"], f"../{Path(entry['ranks']).parent}/"))
    recipe, ranks = entries[0]["resolved"], [read_ranks(folder / entry["ranks"]) for entry in entries]
    settings = recipe["evaluation"]
    figures = pooled_figures(ranks, settings["ks"], level=settings["level"], draws=settings["bootstrap"], seed=settings["seed"])
    return _record(f"{folder.name}/{name}", recipe, metrics[0], runs, figures)


def of_metrics(folder: Path, name: str, made: Mapping[str, Any]) -> Record:
    """One run of which only `metrics.json` and `recipe.json` were kept."""
    recipe, metrics = read_json(folder / "recipe.json"), read_json(folder / "metrics.json")
    told = {key: value for key, value in made.items() if key != "commit"} | _code(made["commit"])
    return _record(name, recipe, metrics, [_run(recipe["seed"], told, {}, "")], figures_of(metrics))


def figures_of(metrics: Mapping[str, Any]) -> Figures:
    """The figures of a `metrics.json`; intervals of the first system on test alone, as it has them."""
    found: Figures = {}
    headline, other = POLICIES if "test_seen_kept" in metrics else POLICIES[::-1]
    for policy, ending in ((headline, ""), (other, f"_{other}")):
        for part, which in (("test", ""), ("validation", "_validation")):
            for group in ("all", "warm", "cold") if part == "test" else ("all",):
                suffix = ("" if group == "all" else f"_{group}") + ending
                if f"{part}{suffix}" not in metrics:
                    continue
                systems = {metrics["system"]: metrics[f"{part}{suffix}"]}
                systems |= metrics.get(f"variants{which}{suffix}", {}) | metrics[f"baselines{which}{suffix}"]
                intervals = metrics.get(f"intervals{suffix}", {}) if part == "test" else {}
                for system, values in systems.items():
                    ends = intervals if system == metrics["system"] else {}
                    cells = {metric: _cell(value, ends.get(metric)) for metric, value in values.items() if _is_mean(metric)}
                    place = (
                        found.setdefault(system, {}).setdefault(part, {}).setdefault(group, {"num_users": values["num_users"]})
                    )
                    place[policy] = cells
    return found


def _is_mean(metric: str) -> bool:
    return "@" in metric and not metric.startswith("coverage")


def _cell(value: float, ends: Mapping[str, float] | None) -> dict[str, Any]:
    low, high = (round(ends[end], 6) if ends else None for end in ("low", "high"))
    return {"mean": round(value, 6), "low": low, "high": high, "runs": [round(value, 6)]}


def _number(entry: Mapping[str, Any]) -> int:
    """The seed of a training, of a hold-out that of its draw."""
    return int(entry["seed"] if "seed" in entry else entry["draw"])


def _code(commit: str) -> dict[str, Any]:
    return {"commit": commit.removesuffix(" with changes"), "changed": commit.endswith(" with changes")}


def _run(seed: int, made: Mapping[str, Any], minutes: Mapping[str, float], folder: str) -> Record:
    same = {"trained_with": dict(made), "evaluated_with": dict(made), "wall_minutes": dict(minutes)}
    return {"seed": seed, "evaluation": None, **same, "folder": folder}


def _record(name: str, recipe: Record, metrics: Mapping[str, Any], runs: list[Record], figures: Figures) -> Record:
    dataset = recipe["dataset"]
    title = dataset["kind"] + (f"-{dataset['name']}" if "name" in dataset else "")
    notes = [note for part, note in NOTES.items() if part in re.split("[/-]", name)]
    return {
        "format": 1,
        "name": name,
        "system": metrics["system"],
        "recipe": recipe,
        "data": {"name": title, "statistics": {}, "order_rule": metrics["policy"]["order"], "notes": [], "digest": None},
        "headline": POLICIES[0] if "test_seen_kept" in metrics else POLICIES[1],
        "level": recipe["evaluation"]["level"],
        "policy": metrics["policy"],
        "num_users": metrics["num_users"],
        "num_items": metrics["num_items"],
        "baselines": list(metrics["baselines"]),
        "runs": runs,
        "figures": figures,
        "converted": "python -m benchmarks.records",
        **({"note": "; ".join(notes)} if notes else {}),
    }


if __name__ == "__main__":
    main()
