"""The evaluation of a run: one system beside the baselines, both parts, both policies, one `metrics.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from felid.artifacts import write_json
from felid.data.histories import LeaveOneOut, Part
from felid.evaluation.baselines import Markov, Popularity
from felid.evaluation.protocol import POLICIES, Evaluation, EvaluationConfig, Policy, Ranker, check_request, evaluate
from felid.evaluation.statistics import intervals

PARTS: tuple[Part, ...] = ("validation", "test")
Results = Mapping[tuple[str, Part, Policy], Evaluation]


@dataclass(frozen=True, eq=False)
class Report:
    """What an evaluated run leaves behind.

    Attributes:
        metrics: content of `metrics.json`. `validation`, `test` and `baselines` (test) hold the headline policy; the same
            keys with `_seen_kept` (or `_seen_removed`) the other one.
        ranks: one row per system, part, policy and user: system, part, policy, user_id, target (item_id), rank (0 = not in
            the list).
    """

    metrics: dict[str, Any]
    ranks: pl.DataFrame

    def save(self, folder: Path) -> None:
        """Write `ranks.parquet` and `metrics.json`."""
        self.ranks.write_parquet(folder / "ranks.parquet")
        write_json(folder / "metrics.json", self.metrics)


def evaluate_run(
    ranker: Ranker,
    split: LeaveOneOut,
    item_ids: NDArray[np.generic],
    config: EvaluationConfig,
    *,
    system: str = "felid",
    order_rule: str = "as given",
) -> Report:
    """Evaluate a system, popularity and a first-order Markov chain on the same users.

    Args:
        ranker: the system; it must not have read the test part.
        split: the sequences of all users.
        item_ids: (N,) ids of the catalogue, row = item_index.
        config: list lengths, headline policy, bootstrap.
        system: name of the system in tables and files.
        order_rule: what decided the order of the interactions, for the printed policy.
    """
    check_request(config.ks, len(split.evaluated), len(item_ids))
    assert system not in ("popularity", "markov"), "the name of the system is taken by a baseline"
    train = split.train()
    rankers = {system: ranker, "popularity": Popularity.fit(train, len(item_ids)), "markov": Markov.fit(train, len(item_ids))}
    sets = {part: split.evaluation(part) for part in PARTS}
    results = {
        (name, part, policy): evaluate(one, sets[part], config.ks, policy == "seen_removed", len(item_ids))
        for name, one in rankers.items()
        for part in PARTS
        for policy in POLICIES
    }
    content = _metrics(results, system, config)
    content["policy"] = policy_texts(len(item_ids), config, order_rule)
    content |= {"system": system, "num_users": len(split.evaluated), "num_items": len(item_ids)}
    return Report(content, _ranks(results, item_ids))


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


def _metrics(results: Results, system: str, config: EvaluationConfig) -> dict[str, Any]:
    content: dict[str, Any] = {}
    headline: Policy = "seen_removed" if config.exclude_seen else "seen_kept"
    for policy in sorted(POLICIES, key=lambda p: p != headline):
        suffix = "" if policy == headline else f"_{policy}"
        for part in PARTS:
            found = {name: result.metrics() for (name, p, q), result in results.items() if (p, q) == (part, policy)}
            content[f"{part}{suffix}"] = found.pop(system)
            content[f"baselines{'' if part == 'test' else '_validation'}{suffix}"] = found
        test = {name: result for (name, part, q), result in results.items() if (part, q) == ("test", policy)}
        content |= {f"{key}{suffix}": value for key, value in _uncertainty(test, system, config).items()}
    return content


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


def _ranks(results: Results, item_ids: NDArray[np.generic]) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame(
            {"user_id": result.user_ids.tolist(), "target": item_ids[result.targets].tolist(), "rank": result.ranks}
        ).select(pl.lit(system).alias("system"), pl.lit(part).alias("part"), pl.lit(policy).alias("policy"), pl.all())
        for (system, part, policy), result in results.items()
    )
