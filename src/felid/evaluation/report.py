"""The evaluation of a run: its systems beside the baselines, both parts, both policies, warm and cold, one `metrics.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from felid.artifacts import write_json
from felid.data.histories import Group, LeaveOneOut, Part
from felid.evaluation.baselines import counted_baselines
from felid.evaluation.protocol import POLICIES, Evaluation, EvaluationConfig, Policy, Ranker, check_request, evaluate
from felid.evaluation.statistics import intervals

PARTS: tuple[Part, ...] = ("validation", "test")
GROUPS: tuple[Group, ...] = ("warm", "cold")
"""The targets that are also reported by themselves where there are cold ones."""
Results = Mapping[tuple[str, Part, Policy], Evaluation]
Masks = Mapping[Part, Mapping[str, NDArray[np.bool_]]]


@dataclass(frozen=True, eq=False)
class Report:
    """What an evaluated run leaves behind.

    Attributes:
        metrics: content of `metrics.json`. `validation` and `test` hold the first system, `variants` (test) and
            `variants_validation` the run's other systems, `baselines` and `baselines_validation` the baselines, `intervals` and
            `differences` the uncertainty of the first system on test, all under the headline policy. `_warm` or `_cold` after
            these names means only the users with such a target (there where some target is cold), `_seen_kept` or
            `_seen_removed` at the end the other policy.
        ranks: one row per system, part, policy and user: system, part, policy, user_id, target (item_id), group (`warm`,
            `cold` or `other`), rank (0 = not in the list).
    """

    metrics: dict[str, Any]
    ranks: pl.DataFrame

    def save(self, folder: Path) -> None:
        """Write `ranks.parquet` and `metrics.json`."""
        self.ranks.write_parquet(folder / "ranks.parquet")
        write_json(folder / "metrics.json", self.metrics)


def evaluate_run(
    rankers: Mapping[str, Ranker],
    split: LeaveOneOut,
    item_ids: NDArray[np.generic],
    config: EvaluationConfig,
    *,
    baselines: Mapping[str, Ranker] | None = None,
    order_rule: str = "as given",
) -> Report:
    """Evaluate the systems of a run and baselines on the same users.

    Args:
        rankers: the systems by name; they must not have read the test part. The first one is the run's headline.
        split: the sequences of all users. All items of the catalogue compete, held out or not.
        item_ids: (N,) ids of the catalogue, row = item_index.
        config: list lengths, headline policy, bootstrap.
        baselines: what stands beside them, by name; None = popularity and first-order Markov chains.
        order_rule: what decided the order of the interactions, for the printed policy.
    """
    check_request(config.ks, len(split.evaluated), len(item_ids))
    num_items = len(item_ids)
    baselines = counted_baselines(split.train(), num_items) if baselines is None else baselines
    assert rankers and not set(rankers) & set(baselines), "the name of a system is taken by a baseline"
    systems = {**rankers, **baselines}
    sets = {part: split.evaluation(part) for part in PARTS}
    results = {
        (name, part, policy): evaluate(one, sets[part], config.ks, policy == "seen_removed", num_items)
        for name, one in systems.items()
        for part in PARTS
        for policy in POLICIES
    }
    groups = {part: split.groups(part, num_items) for part in PARTS}
    content = _metrics(results, list(rankers), {part: _masks(of_part) for part, of_part in groups.items()}, config)
    content["policy"] = policy_texts(num_items, config, order_rule) | _group_texts(split, groups)
    content["policy"] |= {"split": split.cuts.rule} if split.cuts is not None else {}
    content |= {"system": next(iter(rankers)), "num_users": len(split.evaluated), "num_items": num_items}
    return Report(content, _ranks(results, groups, item_ids))


def policy_texts(num_items: int, config: EvaluationConfig, order_rule: str) -> dict[str, str]:
    """What a reader must know to compare the numbers with others', one sentence per topic."""
    headline, other = ("removed", "kept") if config.exclude_seen else ("kept", "removed")
    return {
        "candidates": f"all {num_items:,} items of the catalogue, no sampling",
        "seen": (
            f"items of the history are {headline} in `test`, {other} in `test_seen_{other}`; "
            "where they are removed, a target that is in the history is a miss"
        ),
        "ties": "the system orders equal scores, blind to the target; baselines order them by popularity, then item_index",
        "history": "the test history includes the validation item; models are selected on validation alone",
        "baselines": "counted on the training part alone",
        "order": order_rule,
        "intervals": (
            f"{config.level * 100:g} % bootstrap over users ({config.bootstrap:,} draws, seed {config.seed}); "
            "the choice of users varies in it, the training seed does not"
        ),
    }


def _group_texts(split: LeaveOneOut, groups: Mapping[Part, NDArray[np.str_]]) -> dict[str, str]:
    """What warm and cold mean, where some target of the test part is cold."""
    if split.held_out is None or "cold" not in groups["test"]:
        return {}
    held = split.held_out
    counts = {name: int((groups["test"] == name).sum()) for name in ("cold", "warm", "other")}
    items = f"{held.test.sum():,} items for test and {held.validation.sum():,} others for validation ({held.rule})"
    users = f"{counts['cold']:,} test users have a target of the test items, {counts['warm']:,} a warm one (with training"
    reserved = int(held.test[split.evaluation("validation").targets].sum())
    return {
        "cold": f"{items}; {users} interactions), {counts['other']:,} neither",
        "validation": (
            f"{reserved:,} validation users have a target of the test items: they count in `validation`, but models and weights "
            "were chosen without them"
        ),
    }


def _masks(groups: NDArray[np.str_]) -> dict[str, NDArray[np.bool_]]:
    """The users of each reported group by the suffix of its names: all, and the warm and the cold where some are cold."""
    masks = {"": np.ones(len(groups), bool)}
    if "cold" in groups:
        masks |= {f"_{group}": groups == group for group in GROUPS if group in groups}
    return masks


def _metrics(results: Results, own: Sequence[str], masks: Masks, config: EvaluationConfig) -> dict[str, Any]:
    content: dict[str, Any] = {}
    headline: Policy = "seen_removed" if config.exclude_seen else "seen_kept"
    for policy in sorted(POLICIES, key=lambda p: p != headline):
        for part in PARTS:
            found = {name: result for (name, p, q), result in results.items() if (p, q) == (part, policy)}
            for group, users in masks[part].items():
                suffix = group if policy == headline else f"{group}_{policy}"
                chosen = {name: result.of(users) for name, result in found.items()} if group else found
                content |= {f"{name}{suffix}": value for name, value in _of_part(chosen, own, part, config).items()}
    return content


def _of_part(results: Mapping[str, Evaluation], own: Sequence[str], part: Part, config: EvaluationConfig) -> dict[str, Any]:
    """Metrics of all systems on one part under one policy, and on test the uncertainty of the first one."""
    values = {name: result.metrics() for name, result in results.items()}
    system, *variants = own
    which = "" if part == "test" else "_validation"
    content: dict[str, Any] = {
        part: values[system],
        f"variants{which}": {name: values[name] for name in variants},
        f"baselines{which}": {name: values[name] for name in values if name not in own},
    }
    return content | (_uncertainty(results, system, config) if part == "test" else {})


def _uncertainty(results: Mapping[str, Evaluation], system: str, config: EvaluationConfig) -> dict[str, Any]:
    """Intervals of the system's own test metrics and of its differences to the others, all on the same draws."""
    own = results[system]
    others = [name for name in results if name != system]
    columns = [own.per_user(), *(own.per_user() - results[name].per_user() for name in others)]
    low, high = intervals(np.concatenate(columns, axis=1), config.level, config.bootstrap, config.seed)
    means = [column.mean(axis=0) for column in columns]
    blocks = [
        {
            metric: {
                "difference": float(mean),
                "low": float(a),
                "high": float(b),
                "level": config.level,
                "num_users": len(own.ranks),
            }
            for metric, mean, a, b in zip(own.names, *block, strict=True)
        }
        for block in zip(means, np.split(low, len(columns)), np.split(high, len(columns)), strict=True)
    ]
    of_own = {metric: {"low": cell["low"], "high": cell["high"]} for metric, cell in blocks[0].items()}
    return {"intervals": of_own, "differences": dict(zip(others, blocks[1:], strict=True))}


def _ranks(results: Results, groups: Mapping[Part, NDArray[np.str_]], item_ids: NDArray[np.generic]) -> pl.DataFrame:
    def rows(part: Part, result: Evaluation) -> dict[str, Any]:
        targets = item_ids[result.targets].tolist()
        return {"user_id": result.user_ids.tolist(), "target": targets, "group": groups[part].tolist(), "rank": result.ranks}

    return pl.concat(
        pl.DataFrame(rows(part, result)).select(
            pl.lit(system).alias("system"), pl.lit(part).alias("part"), pl.lit(policy).alias("policy"), pl.all()
        )
        for (system, part, policy), result in results.items()
    )
