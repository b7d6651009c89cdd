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
from felid.data.histories import EvaluationSet, Group, LeaveOneOut, Part
from felid.evaluation.baselines import counted_baselines, explained
from felid.evaluation.candidates import filtered
from felid.evaluation.lists import ItemFacts
from felid.evaluation.policies import group_texts, list_texts, policy_texts, shared_text
from felid.evaluation.protocol import (
    POLICIES,
    Evaluation,
    EvaluationConfig,
    Policy,
    Ranker,
    candidates_of,
    check_request,
    evaluate,
)
from felid.evaluation.slices import Slice, by_age, by_history_length, by_popularity, by_warmth, measure
from felid.evaluation.statistics import intervals

PARTS: tuple[Part, ...] = ("validation", "test")
GROUPS: tuple[Group, ...] = ("warm", "cold")
"""The targets that are also reported by themselves where there are cold ones."""
Results = Mapping[tuple[str, Part, Policy], Evaluation]
Masks = Mapping[Part, Mapping[str, NDArray[np.bool_]]]


@dataclass(frozen=True, eq=False)
class DataFacts:
    """What an evaluation is told of the data besides the split; no rank depends on it.

    Attributes:
        order_rule: what decided the order of the interactions, for the printed policy.
        id_groups: (N,) which items have the same semantic ID, where several do: what `semantic_id_level` counts as found.
        vectors: (N, D) float32 item embeddings, for the diversity of lists; None = it is left out.
        target_ages: (U,) age of each test target (`felid.evaluation.slices.target_ages`); None = data without timestamps.
    """

    order_rule: str = "as given"
    id_groups: NDArray[np.int64] | None = None
    vectors: NDArray[np.float32] | None = None
    target_ages: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Report:
    """What an evaluated run leaves behind.

    Attributes:
        metrics: content of `metrics.json`. `validation` and `test` hold the first system, `variants` (test) and
            `variants_validation` the run's other systems, `baselines` and `baselines_validation` the baselines, `intervals` and
            `differences` the uncertainty of the first system on test, all under the headline policy. `_warm` or `_cold` after
            these names means only the users with such a target (there where some target is cold), `_seen_kept` or
            `_seen_removed` at the end the other policy. `lists` holds what the lists of each system on test say besides hits
            (`felid.evaluation.lists`), `slices` its metrics on groups of users (`felid.evaluation.slices`), both under the
            headline policy; `users` how many there are, and how many have no test target for want of what; `policy` how all of
            it is to be read.
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
    parts: Sequence[Part] = PARTS,
    facts: DataFacts | None = None,
) -> Report:
    """Evaluate the systems of a run and baselines on the same users.

    Args:
        rankers: the systems by name; they must not have read the test part. The first one is the run's headline.
        split: the sequences of all users. Held-out items compete too, but where `config.candidates` says otherwise.
        item_ids: (N,) ids of the catalogue, row = item_index.
        config: list lengths, headline policy, bootstrap.
        baselines: what stands beside them, by name; None = popularity and first-order Markov chains.
        parts: what is evaluated; always the test part.
        facts: what else is known of the data; None = nothing.
    """
    num_items, facts = len(item_ids), facts or DataFacts()
    candidates = candidates_of(config, split, num_items)
    check_request(config.ks, len(split.evaluated), int(candidates.sum()))
    baselines = counted_baselines(split.train(), num_items) if baselines is None else baselines
    assert rankers and not set(rankers) & set(baselines), "the name of a system is taken by a baseline"
    systems = {name: filtered(one, candidates) for name, one in {**rankers, **baselines}.items()}
    sets = {part: split.evaluation(part) for part in parts}
    headline, items = _headline(config), ItemFacts(split.item_counts(num_items), facts.vectors)
    results = {
        (name, part, policy): evaluate(
            *(one, sets[part], config.ks, policy == "seen_removed", num_items, facts.id_groups),
            items if (part, policy) == ("test", headline) else None,
        )
        for part in parts  # systems of one model are searched together, one part at a time
        for name, one in systems.items()
        for policy in POLICIES
    }
    groups = {part: split.groups(part, num_items) for part in parts}
    content = _metrics(results, list(rankers), {part: _masks(of_part) for part, of_part in groups.items()}, config)
    judged = {name: result for (name, part, policy), result in results.items() if (part, policy) == ("test", headline)}
    content["lists"] = {name: {**result.coverage_by_name, **result.lists} for name, result in judged.items()}
    content["slices"] = measure(_slices(split, sets["test"], groups["test"], items.counts, facts), judged, config)
    content["policy"] = policy_texts(candidates, sets["test"].targets, config, facts.order_rule) | group_texts(split, groups)
    content["policy"] |= {"baselines": explained(baselines)}
    content["policy"] |= {"split": split.cuts.rule} if split.cuts is not None else {}
    content["policy"] |= {} if facts.id_groups is None else {"semantic IDs": shared_text(facts.id_groups, sets["test"].targets)}
    content["policy"] |= list_texts(facts.vectors is not None, facts.target_ages is not None)
    content["users"] = {"total": len(split.sequences), "left_out": split.left_out}
    content["users"] |= {part: len(one.targets) for part, one in sets.items()}
    content |= {"system": next(iter(rankers)), "num_users": len(split.evaluated), "num_items": num_items}
    return Report(content, _ranks(results, groups, item_ids))


def _headline(config: EvaluationConfig) -> Policy:
    return "seen_removed" if config.exclude_seen else "seen_kept"


def _slices(
    split: LeaveOneOut, test: EvaluationSet, groups: NDArray[np.str_], counts: NDArray[np.int64], facts: DataFacts
) -> dict[str, Slice]:
    """The ways to cut the users of the test part, by name."""
    found = {
        "popularity": by_popularity(test.targets, counts),
        "history_length": by_history_length(test.histories.lengths),
        "warm_cold": by_warmth(groups),
    }
    return found if facts.target_ages is None else {**found, "item_age": by_age(facts.target_ages)}


def _masks(groups: NDArray[np.str_]) -> dict[str, NDArray[np.bool_]]:
    """The users of each reported group by the suffix of its names: all, and the warm and the cold where some are cold."""
    masks = {"": np.ones(len(groups), bool)}
    if "cold" in groups:
        masks |= {f"_{group}": groups == group for group in GROUPS if group in groups}
    return masks


def _metrics(results: Results, own: Sequence[str], masks: Masks, config: EvaluationConfig) -> dict[str, Any]:
    content: dict[str, Any] = {}
    headline = _headline(config)
    for policy in sorted(POLICIES, key=lambda p: p != headline):
        for part in masks:
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
    if results[system].id_ranks is not None:
        content[f"semantic_id_level{which}"] = {name: result.id_level() for name, result in results.items()}
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
