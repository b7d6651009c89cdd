"""`python -m benchmarks.validate RUN --search KEY=VALUE ...`: validation metrics of the recommender that was trained last in RUN.

The test part is not looked at. Users whose target is kept for the test of cold items are left out (`LeaveOneOut.selection`).
Prints one JSON line per `--search` (settings of the search section, without the word search): by mode and by users (`all`,
`warm` and, where there are some, `cold`) the metrics under seen items removed. With `--warm-users` a sample stands for all users
with a warm target; `all` weighs both groups by their true sizes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from felid.artifacts import read_run
from felid.config import merge, parse_overrides, validate
from felid.data.dataset import Dataset
from felid.data.histories import EvaluationSet
from felid.data.holdout import HoldoutConfig, split_of
from felid.data.split import read_split
from felid.evaluation import Evaluation, evaluate
from felid.models.base import Mode
from felid.recommender import Recommender
from felid.search.config import SearchConfig

KS = (5, 10)


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, print, and write the ranks where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validate", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--search", nargs="*", action="append", metavar="KEY=VALUE", help="may be given several times")
    parser.add_argument("--every-mode", action="store_true", help="each mode of the model, not just that of the search")
    parser.add_argument("--warm-users", type=int, help="at most so many of those with a warm target, at random")
    parser.add_argument("--ranks", type=Path, help="Parquet file for the ranks of the last --search")
    options = parser.parse_args(arguments)
    for search in options.search or [[]]:
        results, groups, sizes = evaluate_search(
            options.run, search, every_mode=options.every_mode, warm_users=options.warm_users
        )
        print(json.dumps({mode: metrics_of(result, groups, sizes) for mode, result in results.items()}), flush=True)
        if options.ranks is not None:
            frames = [ranks_of(mode, result, groups) for mode, result in results.items()]
            pl.concat(frames).write_parquet(options.ranks)


def evaluate_search(
    root: Path, search: Sequence[str], *, every_mode: bool, warm_users: int | None = None
) -> tuple[dict[Mode, Evaluation], NDArray[np.str_], dict[str, int]]:
    """Ranks on validation by mode, the group of each user's target (`warm` or `cold`), and how many users each group has."""
    bundle = read_run(root)["bundle"]
    settings = validate(SearchConfig, merge(bundle["search"], parse_overrides(search)))
    recommender = Recommender.load(root, search=settings)
    dataset = Dataset.load(root / bundle["stages"]["data"])
    part = split_of(dataset, validate(HoldoutConfig, bundle["holdout"]), read_split(bundle.get("split"))).selection()
    modes = recommender.model.modes if every_mode else (recommender.ranker.mode,)
    groups = np.where(recommender.ranker.catalogue.warm[part.targets], "warm", "cold")
    sizes = {group: int((groups == group).sum()) for group in ("warm", "cold")}
    kept = np.sort(np.concatenate((np.flatnonzero(groups == "cold"), sample_of(np.flatnonzero(groups == "warm"), warm_users))))
    part = EvaluationSet(part.histories.take(kept), part.targets[kept])
    return {mode: _evaluate(recommender.in_mode(mode), part) for mode in modes}, groups[kept], sizes


def sample_of(users: NDArray[np.int64], most: int | None) -> NDArray[np.int64]:
    """At most so many of the users, always the same ones."""
    return users if most is None else np.random.default_rng(0).permutation(users)[:most]


def _evaluate(recommender: Recommender, part: EvaluationSet) -> Evaluation:
    return evaluate(recommender.ranker, part, KS, True, recommender.ids.num_items)


def metrics_of(result: Evaluation, groups: NDArray[np.str_], sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Metrics of the users with a warm and with a cold target, and of all: their mean, weighted by how many each group has."""
    of_group = {name: dict(result.of(groups == name).metrics()) for name, size in sizes.items() if size}
    total = sum(sizes.values())
    all_users = {name: sum(sizes[group] * found[name] for group, found in of_group.items()) / total for name in result.names}
    return {"all": all_users, **of_group}


def ranks_of(system: str, result: Evaluation, groups: NDArray[np.str_]) -> pl.DataFrame:
    """Ranks as `felid.evaluation.compare_runs` reads them; targets are item_index."""
    columns = {"user_id": result.user_ids.tolist(), "target": result.targets, "group": groups.tolist(), "rank": result.ranks}
    labels = [pl.lit(text).alias(name) for name, text in (("system", system), ("part", "validation"), ("policy", "seen_removed"))]
    return pl.DataFrame(columns).select(*labels, pl.all())


if __name__ == "__main__":
    main()
