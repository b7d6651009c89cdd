"""What can be compared: evaluated run folders, records and files of ranks; runs that differ in the seed alone are one system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from felid.artifacts import RUN, read_json
from felid.config import Tree, digest
from felid.errors import ArtifactError, RequestError
from felid.evaluation.evaluated import EvaluatedRun
from felid.evaluation.per_user import read_ranks

WITH_IDS, WITHOUT_IDS = "ranks.parquet", "per-user.parquet"
"""Ranks as an evaluation writes them, and as records keep them: a row per user, no id of a user or an item."""
COLUMNS = ("system", "part", "policy", "user_id", "target", "group", "rank")
"""Of the former."""
NO_EFFECT = ("seed", "description", "tracking", "evaluation")
"""Of a recipe: what may differ between runs of one system, except `evaluation.exclude_seen`, which models are chosen by."""
COUNTED = ("popularity", "markov")
"""Baselines that give the same ranks wherever users, targets and training part are the same."""
UNPROVEN = f"share no baseline {' or '.join(COUNTED)}, which alone could show that ranks without user ids are of the same users"
TRAINED = ("model", "training", "seed")
"""Of a recipe: what must be that of the training that was evaluated."""


@dataclass(frozen=True, eq=False)
class RankedRun:
    """The ranks of an evaluation and what is known of it.

    Attributes:
        path: where it was read.
        ranks: as in `felid.evaluation.report.Report`; the first system is the run's own.
        has_ids: whether users and targets are named; else users are numbered in the order of the data and targets are not known.
        metrics: content of its `metrics.json`; empty where there is none.
        recipe: its recipe; None where there is none.
    """

    path: Path
    ranks: pl.DataFrame
    has_ids: bool
    metrics: Mapping[str, Any]
    recipe: Tree | None

    @classmethod
    def open(cls, path: Path) -> RankedRun:
        """Read a run folder, a folder with ranks (an evaluation, a record) or a Parquet file of ranks.

        Raises:
            ArtifactError: it is none of these, or a run folder whose recipe is not that of its evaluation.
        """
        if path.is_file():
            return cls(path, *_read(path), {}, None)
        if not (path / RUN).is_file():
            found = [path / name for name in (WITH_IDS, WITHOUT_IDS) if (path / name).is_file()]
            if not found:
                what = f"has neither {RUN} nor {WITH_IDS} nor {WITHOUT_IDS}" if path.is_dir() else "does not exist"
                raise ArtifactError(f"{path} {what}, expected the folder of an evaluated run or ranks; use `felid run RECIPE`")
            metrics = read_json(path / "metrics.json") if (path / "metrics.json").is_file() else {}
            return cls(path, *_read(found[0]), metrics, _recipe(path))
        run, recipe = EvaluatedRun.open(path), _recipe(path)
        trained = run.source("train")
        of_training = {} if trained is None else trained.manifest["config"]
        if recipe is not None and any(recipe[name] != of_training.get(name, recipe[name]) for name in TRAINED):
            raise ArtifactError(
                f"the recipe of {path} is not that of the training that was evaluated; run `felid evaluate {path}`"
            )
        if missing := [name for name in COLUMNS if name not in run.ranks.columns]:
            raise ArtifactError(
                f"ranks of {path} lack {', '.join(missing)}, as an older felid wrote them; run `felid evaluate {path}`"
            )
        return cls(path, run.ranks, True, run.metrics, recipe)

    @property
    def systems(self) -> list[str]:
        """Names of the systems, the run's own first."""
        return self.ranks["system"].unique(maintain_order=True).to_list()

    @property
    def longest(self) -> int:
        """How many places the ranks know of."""
        ks = [int(name.partition("@")[2]) for name in self.metrics.get("test", {}) if name.startswith("recall@")]
        return max(ks) if ks else int(self.ranks["rank"].to_numpy().max(initial=0))

    @property
    def seed(self) -> int | None:
        return None if self.recipe is None else int(self.recipe["seed"])

    def chosen(self, system: str, part: str, policy: str) -> pl.DataFrame:
        """Rows of a system, sorted by user where users have ids.

        Raises:
            RequestError: there are none.
        """
        rows = self.ranks.filter(system=system, part=part, policy=policy)
        if rows.is_empty():
            has = "; ".join(f"{one}: {', '.join(self._cells(one))}" for one in self.systems)
            raise RequestError(f"{self.path} has no ranks of {system} on {part}, {policy} (it has {has}); evaluate it so")
        return rows.sort("user_id") if self.has_ids else rows

    def _cells(self, system: str) -> list[str]:
        cells = self.ranks.filter(system=system).select("part", "policy").unique(maintain_order=True)
        return [" ".join(cell) for cell in cells.iter_rows()]


@dataclass(frozen=True, eq=False)
class System:
    """A system in one or several runs.

    Attributes:
        name: what tables call it.
        of: what its runs call it.
        runs: by ascending seed.
    """

    name: str
    of: str
    runs: tuple[RankedRun, ...]


def pooled(runs: Sequence[RankedRun], resolved: Callable[[Tree], Tree] = dict) -> list[list[RankedRun]]:
    """Runs whose recipes differ in nothing but the seed, together; in the order given, a run without recipe by itself.

    How a run was evaluated is no part of what it is.

    Args:
        runs: all runs of a comparison.
        resolved: completes a recipe with the defaults of settings that it does not know yet.

    Raises:
        RequestError: two runs of a system have the same seed.
    """
    groups: dict[object, list[RankedRun]] = {}
    for run in runs:
        key: object = str(run.path.resolve())
        if run.recipe is not None:
            tree = resolved(run.recipe)
            chosen_by = tree.get("evaluation", {}).get("exclude_seen")
            key = digest([{name: value for name, value in tree.items() if name not in NO_EFFECT}, chosen_by])
        groups.setdefault(key, []).append(run)
    for group in groups.values():
        for place, run in enumerate(group):
            same = [other for other in group[:place] if other.seed == run.seed]
            if same:
                raise RequestError(f"{same[0].path} and {run.path} have the same recipe and the same seed; give one of them")
    return list(groups.values())


def systems_of(groups: Sequence[Sequence[RankedRun]], names: Sequence[str] = ()) -> list[System]:
    """The systems of groups of runs (`felid.evaluation.compared.pooled`), named apart.

    Args:
        groups: runs that differ in the seed alone, together.
        names: which systems of the runs; a group that has none of them takes part with its own. A baseline whose ranks are the
            same in several groups stands once.

    Raises:
        RequestError: a name that no run has, or fewer than two systems.
    """
    known = list(dict.fromkeys(name for group in groups for run in group for name in run.systems))
    missing = [name for name in names if name not in known]
    if missing:
        raise RequestError(f"no run has a system {missing[0]!r}, expected one of: {'; '.join(known)}")
    found: list[System] = []
    for group in groups:
        runs = tuple(sorted(group, key=lambda run: run.seed or 0))
        first = runs[0].systems
        for name in [name for name in names if name in first] or first[:1]:
            merged = [place for place, one in enumerate(found) if name == one.of and name != first[0] and _same_ranks(one, runs)]
            if merged:
                found[merged[0]] = System(name, name, (*found[merged[0]].runs, *runs))
            else:
                found.append(System(name, name, runs))
    found.sort(key=lambda one: names.index(one.of) if one.of in names else len(names))
    if len(found) < 2:
        has = f"{found[0].of} in {len(found[0].runs)} runs" if found else "none"
        raise RequestError(f"got one system ({has}), expected two; give a run of another, or --system twice: {'; '.join(known)}")
    shared = Counter(one.of for one in found)
    return [System(f"{one.of} ({one.runs[0].path})" if shared[one.of] > 1 else one.of, one.of, one.runs) for one in found]


def _same_ranks(system: System, runs: Sequence[RankedRun]) -> bool:
    """Whether a system has exactly the same ranks in all of its runs and in others."""
    ranks = [run.ranks.filter(system=system.of)["rank"] for run in (*system.runs, *runs)]
    return all(one.equals(ranks[0]) for one in ranks)


def check_same(pairs: Sequence[tuple[RankedRun, pl.DataFrame]], part: str, policy: str) -> None:
    """Refuse runs that chose among other items, ranked other users' or other targets, or held out other items.

    Args:
        pairs: runs and their rows of one system.
        part: that of the rows.
        policy: that of the rows.

    Raises:
        RequestError: they differ; the message says in what.
    """
    first, rows = pairs[0]
    for run, others in pairs[1:]:
        differ = _catalogues_differ(run, first) or _users_differ((run, others), (first, rows), part, policy)
        if differ:
            raise RequestError(f"{run.path} and {first.path} {differ}")


def _catalogues_differ(run: RankedRun, first: RankedRun) -> str | None:
    for known in ([one.metrics.get("num_items") for one in (run, first)], [_candidates(one) for one in (run, first)]):
        if None not in known and known[0] != known[1]:
            return f"chose among other items ({known[0]} and {known[1]}), expected the same; evaluate both on one catalogue"
    return None


def _candidates(run: RankedRun) -> str | None:
    """What a run chose among, in words; None = not known."""
    text = run.metrics.get("policy", {}).get("candidates")
    return None if text is None else str(text).partition(", ")[0]


def _users_differ(
    one: tuple[RankedRun, pl.DataFrame], other: tuple[RankedRun, pl.DataFrame], part: str, policy: str
) -> str | None:
    (run, rows), (first, expected) = one, other
    remedy = "expected the same; evaluate both on the same data, filter and split"
    if len(rows) != len(expected):
        return f"have {len(rows):,} and {len(expected):,} users, {remedy}"
    if run.has_ids and first.has_ids:
        for name, what in (("user_id", "users"), ("target", "targets")):
            if unequal := _unequal(rows[name], expected[name]):
                return f"have other {what} ({unequal:,} of {len(rows):,}), {remedy}"
    elif run is not first:
        shared = [name for name in COUNTED if name in run.systems and name in first.systems]
        if not shared:
            return f"{UNPROVEN}; give the run folders, or evaluate and record both with one of them"
        for name in shared:
            if _unequal(*(of.chosen(name, part, policy)["rank"] for of in (run, first))):
                return f"have other users or targets ({name} ranks them otherwise), {remedy}"
    if unequal := _unequal(rows["group"], expected["group"]):
        return (
            f"held out other items ({unequal:,} users' targets are warm in one and not in the other); give both the same holdout"
        )
    return None


def _unequal(one: pl.Series, other: pl.Series) -> int:
    """How many values differ; all where they are of another type."""
    return len(one) if one.dtype != other.dtype else int((one != other).sum())


def _read(path: Path) -> tuple[pl.DataFrame, bool]:
    """Ranks of a file, and whether they have ids."""
    try:
        columns = pl.read_parquet_schema(path)
        if set(COLUMNS) <= columns.keys():
            return pl.read_parquet(path), True
        if any(name.count(": ") >= 2 for name in columns):
            return read_ranks(path), False
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"{path} cannot be read as Parquet ({error}); evaluate the run again") from error
    raise ArtifactError(
        f"{path} has the columns {', '.join(columns)}, expected those of {WITH_IDS} of an evaluation; give that file"
    )


def _recipe(folder: Path) -> Tree | None:
    path = folder / "recipe.json"
    return read_json(path, TRAINED) if path.is_file() else None
