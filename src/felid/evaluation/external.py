"""Lists of any other system, judged as a run's own ones are: read from a file, replayed to the evaluator on the test users.

What such a system was trained on, what it read and how it broke ties cannot be seen in its lists, so the printed policy says what
can: how many test users have no list, how many lists are too short, and how many hold items of the history.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from felid import artifacts
from felid.artifacts import Artifact, file_digest, open_artifact, read_json, read_run
from felid.config import as_tree, digest
from felid.data.dataset import Dataset
from felid.data.histories import EvaluationSet, LeaveOneOut, Sequences
from felid.errors import ArtifactError, DataError, RequestError
from felid.evaluation.audit import as_rows, audit
from felid.evaluation.baselines import counted_baselines
from felid.evaluation.baselines.item_knn import ItemKnn
from felid.evaluation.external_file import read_lists
from felid.evaluation.protocol import PER_USER, POLICIES, EvaluationConfig, Policy, candidates_of
from felid.evaluation.report import DataFacts, Report, evaluate_run
from felid.evaluation.slices import target_ages
from felid.evaluation.statistics import intervals
from felid.evaluation.ties import tie_metrics

Indices = NDArray[np.int64]
STAGE = "external"
"""Folder of these evaluations in a run folder; the run's own metrics are never touched."""


@dataclass(frozen=True, eq=False)
class Replay:
    """A ranker that gives back lists that are known (the protocol of `felid.evaluation`).

    Attributes:
        lists: items per user, best first; users without a list get none.
        num_items: size of the catalogue.
    """

    lists: Sequences
    num_items: int

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first; where items of the history are taken out, the next ones of the list move up."""
        rows = self.rows_of(histories)
        known = np.flatnonzero(rows >= 0)
        lists = self.lists.take(rows[known])
        if exclude_seen:
            lists = lists.where(~self.in_history(lists, known, histories))
        place = np.arange(len(lists.items)) - np.repeat(lists.offsets[:-1], lists.lengths)
        result, within = np.full((len(histories), k), -1, np.int64), place < k
        result[np.repeat(known, lists.lengths)[within], place[within]] = lists.items[within]
        return result

    def rows_of(self, histories: Sequences) -> Indices:
        """(U,) row of each user's list, -1 for users without one."""
        return np.array([self._rows.get(user, -1) for user in histories.user_ids.tolist()], np.int64)

    def in_history(self, lists: Sequences, users: Indices, histories: Sequences) -> NDArray[np.bool_]:
        """Which of the items of `lists`, whose users are the rows `users` of `histories`, stand in the user's history."""
        seen = np.repeat(np.arange(len(histories)), histories.lengths) * self.num_items + histories.items
        return np.isin(np.repeat(users, lists.lengths) * self.num_items + lists.items, seen)

    @cached_property
    def _rows(self) -> dict[object, int]:
        return {user: row for row, user in enumerate(self.lists.user_ids.tolist())}


def judge_lists(root: Path, file: Path, name: str | None, dataset: Dataset, split: LeaveOneOut, config: EvaluationConfig) -> Path:
    """Evaluate the lists of a file on the test part of a run's split and keep the result in a folder of its own.

    Baselines stand beside them, and, where the run was evaluated on the same users and targets, its own systems as that
    evaluation left them, with the paired differences.

    Args:
        root: the run folder.
        file: CSV or Parquet with user_id, item_id and rank or score (`felid.evaluation.external_file`).
        name: the system's name in tables; None = that of the file.
        dataset: the run's data.
        split: its split.
        config: what is reported.

    Returns:
        The folder with `metrics.json` and `ranks.parquet`.

    Raises:
        DataError: the file cannot be judged; the message names rows.
        RequestError: a list length that no list reaches, or the name of another system.
    """
    name = file.name.split(".")[0] if name is None else name
    test, own = split.evaluation("test"), _own_evaluation(root)
    targets = [test.targets.tolist(), test.histories.items.tolist(), test.histories.offsets.tolist()]
    inputs = {"lists": file_digest(_existing(file)), "data": dataset.digest(), "test": digest(targets)}
    inputs |= {} if own is None else {"evaluation": own.digest}

    def work(folder: Path) -> None:
        _report(file, name, dataset, split, config, own).save(folder)

    with artifacts.lock(root):
        settings = {"name": name, "file": file.name, "evaluation": as_tree(config)}
        return artifacts.build(root, STAGE, settings, inputs, work)[0].path


def _report(
    file: Path, name: str, dataset: Dataset, split: LeaveOneOut, config: EvaluationConfig, own: Artifact | None
) -> Report:
    test, item_ids = split.evaluation("test"), dataset.item_ids
    candidates = candidates_of(config, split, len(item_ids))
    read = read_lists(file, split.sequences.user_ids, item_ids)
    given = read.among(candidates)
    lists = given.targets_last(test) if config.ties == "pessimistic" else given
    replay = Replay(lists.items, len(item_ids))
    facts = _facts(replay, test, config.ks, str(file))
    struck = len(read.items.items) - len(given.items.items)
    facts += f"; {struck:,} places with items that are no candidates were struck before" if struck else ""
    train = split.train()
    baselines = {**counted_baselines(train, len(item_ids)), "item-knn": ItemKnn.fit(train, len(item_ids))}
    _check_name(name, baselines, own)
    told = DataFacts(dataset.order_rule, target_ages=target_ages(dataset, split))
    report = evaluate_run({name: replay}, split, item_ids, config, baselines=baselines, parts=("test",), facts=told)
    report.metrics["policy"] |= {
        "recommendations": facts,
        "ties": f"{lists.order}; baselines order equal scores by popularity, then item_index",
        "history": (
            "the test history, whose items are removed, includes the validation item; what the system of the lists read, was "
            "trained and selected on cannot be seen in them"
        ),
    }
    if given.scores is not None:
        for one in POLICIES:
            found = tie_metrics(given, test, config.ks, exclude_seen=one == "seen_removed")
            report.metrics[f"ties{_suffix(report.metrics, one)}"] = found
    report.metrics["checks"] = as_rows(audit(split, dataset))
    report.metrics["external"] = {"file": file.name, "sha256": file_digest(file)}
    if own is not None:
        _set_beside(report, own, config)
    return report


def _check_name(name: str, baselines: Collection[str], own: Artifact | None) -> None:
    """Refuse a name that another row of the table has."""
    if name in baselines:
        raise RequestError(f"the name {name!r} is that of a baseline; give the lists another one with --name")
    if own is not None and name in pl.read_parquet(own.path / "ranks.parquet", columns=["system"])["system"].unique():
        raise RequestError(f"the name {name!r} is that of a system of the run itself; give the lists another one with --name")


def _facts(replay: Replay, test: EvaluationSet, ks: tuple[int, ...], file: str) -> str:
    """What the lists are, in words: whose are missing, too short, or hold items of the history.

    Raises:
        DataError: no test user has a list.
        RequestError: no list is as long as the longest that is to be judged.
    """
    k, users = max(ks), len(test.histories)
    rows = replay.rows_of(test.histories)
    known = np.flatnonzero(rows >= 0)
    if not len(known):
        raise DataError(f"{file} has lists of {len(replay.lists):,} users, none of whom is among the {users:,} of the test part")
    lists = replay.lists.take(rows[known])
    if lists.lengths.max() < k:
        fitting = sorted(value for value in set(ks) if value <= lists.lengths.max()) or [int(lists.lengths.max())]
        raise RequestError(
            f"the longest list of {file} has {lists.lengths.max()} items but lists of {k} are to be judged; give longer lists, "
            f"or set evaluation.ks={str(fitting).replace(' ', '')}"
        )
    seen = replay.in_history(lists, known, test.histories)
    left = lists.where(~seen).lengths
    others = len(replay.lists) - len(known)
    parts = [
        f"of {users:,} test users {users - len(known):,} have no list and count as misses",
        f"{int((lists.lengths < k).sum()):,} lists have fewer than {k} items, whose missing places are misses",
    ]
    if seen.any():
        of = int((left < lists.lengths).sum())
        parts.append(
            f"{of:,} lists hold items of the history; where these are removed, the rest moves up and "
            f"{int((left < k).sum()):,} lists have fewer than {k} items: a longer list would judge them fairly"
        )
    else:
        parts.append("no list holds an item of its history, so `kept` is what the system gives after it removed them itself")
    return "; ".join([*parts, f"lists of {others:,} users without a test target are not read"] if others else parts)


def _set_beside(report: Report, own: Artifact, config: EvaluationConfig) -> None:
    """Put the run's own systems, as its evaluation left them, beside the lists; differences are under the headline policy."""
    stored, content = read_json(own.path / "metrics.json"), report.metrics
    policy: Policy = "seen_removed" if config.exclude_seen else "seen_kept"
    ranks = pl.read_parquet(own.path / "ranks.parquet").filter(part="test", policy=policy)
    mine = report.ranks.filter(system=content["system"], policy=policy)
    known = {content["system"], *content["baselines"]}
    others = {str(name): rows for (name,), rows in ranks.group_by("system", maintain_order=True) if name not in known}
    keys = ["user_id", "target"]
    settings = own.manifest.get("config", {}).get("evaluation", {})
    same = settings.get("candidates", "all") == config.candidates
    if not same or not others or not all(rows.select(keys).equals(mine.select(keys)) for rows in others.values()):
        content["policy"]["beside"] = "the run's own evaluation has other users, targets or candidates, so it is not compared"
        return
    for one in POLICIES:
        here, there = (_suffix(metrics, one) for metrics in (content, stored))
        own_systems = {stored["system"]: stored[f"test{there}"], **stored[f"variants{there}"]}
        for kind, values in (("variants", own_systems), ("baselines", stored[f"baselines{there}"])):
            content[f"{kind}{here}"] |= {system: values[system] for system in values if system in others}
    content["policy"]["beside"] = f"the run's own systems are those of {own.path.parent.name}/{own.path.name}, on the same users"
    most = max(int(metric.partition("@")[2]) for metric in stored["test"] if metric.startswith("recall@"))
    ks = [k for k in sorted(set(config.ks)) if k <= most]
    if ks:
        content["differences"] = _differences(mine, others, ks, config) | content["differences"]


def _suffix(metrics: Mapping[str, Any], policy: Policy) -> str:
    """What ends the names of a policy's entries: nothing for the headline of that file."""
    return f"_{policy}" if f"test_{policy}" in metrics else ""


def _differences(
    mine: pl.DataFrame, others: Mapping[str, pl.DataFrame], ks: list[int], config: EvaluationConfig
) -> dict[str, dict[str, Any]]:
    """As `differences` of an evaluation: the lists minus each other system, all on the same draws of users."""
    names = [f"{metric}@{k}" for k in ks for metric in PER_USER]
    values = _per_user(mine, ks)
    gaps = [values - _per_user(rows, ks) for rows in others.values()]
    low, high = intervals(np.concatenate(gaps, axis=1), config.level, config.bootstrap, config.seed)
    found = {}
    for other, gap, a, b in zip(others, gaps, np.split(low, len(gaps)), np.split(high, len(gaps)), strict=True):
        cells = zip(names, gap.mean(axis=0).tolist(), a.tolist(), b.tolist(), strict=True)
        same = {"level": config.level, "num_users": len(gap)}
        found[other] = {name: {"difference": mean, "low": least, "high": most, **same} for name, mean, least, most in cells}
    return found


def _per_user(rows: pl.DataFrame, ks: list[int]) -> NDArray[np.float64]:
    ranks = rows["rank"].to_numpy()
    return np.stack([function(ranks, k) for k in ks for function in PER_USER.values()], axis=1)


def _own_evaluation(root: Path) -> Artifact | None:
    """What the run's `evaluate` stage made last; None where it was not evaluated."""
    place = read_run(root).get("stages", {}).get("evaluate")
    try:
        return None if place is None else open_artifact(root / place)
    except ArtifactError:
        return None


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise DataError(f"{file} does not exist (looked from {Path.cwd()}); correct --recommendations")
    return file
