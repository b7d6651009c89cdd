"""What people's own data is like, what quality counting alone reaches on it, and a recipe to begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from felid.config import Tree
from felid.data.checks import MIN_EVALUATED
from felid.data.dataset import BY_TIME, Dataset
from felid.data.filters import FilterConfig
from felid.data.histories import EvaluationSet, LeaveOneOut
from felid.data.sources.files import FilesConfig
from felid.data.understanding import Understanding
from felid.errors import DataError
from felid.evaluation.baselines import counted_baselines
from felid.evaluation.baselines.item_knn import ItemKnn
from felid.evaluation.protocol import POLICIES, Policy, Ranker, evaluate
from felid.evaluation.statistics import intervals

K = 10
"""Length of the lists that the expected quality is of."""
MOST_USERS = 20_000
"""Users that this is measured on; more would take longer than a look at data should."""
QUANTILES = (0, 10, 25, 50, 75, 90, 99, 100)
METRICS = ("recall", "ndcg")
FULL_CODES, FEW_ITEMS = (256, 256, 256), 1_000
"""Usual code sizes, for catalogues of at least so many items."""
MIN_ALIGNED = 5_000
"""Interactions from which on behaviour says enough for codes."""
MANY_TARGETS = 2_000_000
"""Training targets per run from which on fewer epochs are suggested than the model's own."""
SEEN_SHARE = 0.2
"""Share of test items that are in the history from which on seen items are better kept."""


@dataclass(frozen=True)
class Expected:
    """A baseline on the test part.

    Attributes:
        system: its name.
        policy: whether seen items are removed.
        metric: such as "recall@10".
        mean, low, high: over users, with the 95 % bootstrap interval.
    """

    system: str
    policy: Policy
    metric: str
    mean: float
    low: float
    high: float


def describe(dataset: Dataset) -> dict[str, Any]:
    """Counts and shares of a data set under leave-one-out, JSON-able; shares of users are of those with a test item."""
    split = LeaveOneOut(dataset.sequences())
    lengths, warm = split.sequences.lengths, split.warm_items(len(dataset.items))
    targets = split.evaluation("test").targets
    found = {
        **dataset.statistics(),
        "length_quantiles": {f"{q}": float(np.percentile(lengths, q)) for q in QUANTILES},
        "num_evaluated": len(targets),
        "num_cold_items": int((~warm).sum()),
        "share_cold_targets": float((~warm[targets]).mean()) if len(targets) else 0.0,
    }
    if "timestamp" in dataset.interactions.columns:
        times = dataset.interactions["timestamp"].to_numpy().astype(np.float64)
        found |= {"first_day": _day(times.min()), "last_day": _day(times.max())}
        found["share_ties_at_split"] = _ties(times, split) if dataset.order_rule == BY_TIME else 0.0
    return found


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(float(seconds), UTC).date().isoformat()


def _ties(times: NDArray[np.float64], split: LeaveOneOut) -> float:
    """Share of evaluated users of whom the order of the file says which item is the test or the validation item."""
    ends = split.sequences.offsets[1:][split.evaluated]
    if not len(ends):
        return 0.0
    return float(((times[ends - 1] == times[ends - 2]) | (times[ends - 2] == times[ends - 3])).mean())


def expected(dataset: Dataset, draws: int = 1000) -> tuple[list[Expected], float]:
    """Popularity, Markov chains and item-kNN on the test part, leave-one-out, all items being candidates.

    Args:
        dataset: with at least one user of three items; of more than `MOST_USERS` so many are drawn, always the same.
        draws: resamples of each interval.

    Returns:
        Both metrics of each baseline under both policies, and the share of users whose test item is in their history.
    """
    split, num_items = LeaveOneOut(dataset.sequences()), len(dataset.items)
    users, k = _drawn(split.evaluation("test")), min(K, len(dataset.items))
    rankers: dict[str, Ranker] = {**counted_baselines(split.train(), num_items)}
    rankers["item-knn"] = ItemKnn.fit(split.train(), num_items)
    found, seen = [], 0.0
    for system, ranker in rankers.items():
        for policy in POLICIES:
            result = evaluate(ranker, users, (k,), policy == "seen_removed", num_items)
            values = result.per_user()
            low, high = intervals(values, draws=draws)
            seen = float(result.target_seen.mean())
            cells = zip(result.names, values.mean(axis=0), low, high, strict=True)
            found += [
                Expected(system, policy, name, float(mean), float(a), float(b))
                for name, mean, a, b in cells
                if name.startswith(METRICS)
            ]
    return found, seen


def _drawn(part: EvaluationSet) -> EvaluationSet:
    if len(part.targets) <= MOST_USERS:
        return part
    users = np.sort(np.random.default_rng(0).permutation(len(part.targets))[:MOST_USERS])
    return EvaluationSet(part.histories.take(users), part.targets[users])


def suggest_filter(dataset: Dataset) -> FilterConfig:
    """Users with five interactions, as published work has it, unless half of those that could be evaluated would go."""
    lengths = dataset.sequences().lengths
    usual = FilterConfig()
    could, are = (int((lengths >= minimum).sum()) for minimum in (MIN_EVALUATED, usual.min_user_interactions))
    return usual if 2 * are >= could and are else FilterConfig(min_user_interactions=MIN_EVALUATED)


def suggest(known: Understanding, dataset: Dataset, filters: FilterConfig, seen_share: float) -> tuple[Tree, tuple[str, ...]]:
    """A recipe to begin with, and why it is as it is.

    Args:
        known: how the files are read.
        dataset: what is left after the filters.
        filters: minimum interactions.
        seen_share: share of users whose test item is in their history.

    Raises:
        DataError: no item has text, so that felid has nothing to make codes of.
    """
    if not known.texts:
        raise DataError(
            "items without text cannot be given semantic IDs; give an items file with words (--items FILE), or write a recipe "
            "with vectors of your own (embedding.kind=precomputed, docs/data.md)"
        )
    tree: Tree = {"description": f"suggested by `felid data check` for {known.config.interactions.name}"}
    tree |= {"dataset": _source(known.config), "filter": {"min_user_interactions": filters.min_user_interactions}}
    tree |= {"text": {"columns": list(known.texts)}}
    why = []
    taken = len(np.unique(dataset.sequences().items))
    sizes = list(FULL_CODES) if taken >= FEW_ITEMS else _sizes(taken)
    if taken < FEW_ITEMS:
        tree["embedding"] = {"kind": "lsa", "min_df": 1}
        why.append(f"codes of {' x '.join(map(str, sizes))}, and of rare words too, since only {taken} items were taken")
    tree["quantizer"] = {"kind": "rkmeans", "sizes": sizes}
    if len(dataset.interactions) >= MIN_ALIGNED:
        tree["quantizer"] = {"kind": "rqvae", "sizes": sizes, "alignment_weight": 0.5}
        tree["collaborative"] = {"kind": "cooccurrence"}
    else:
        why.append(f"codes of text alone, since {len(dataset.interactions)} interactions say little of what goes together")
    epochs = _epochs(len(dataset.interactions))
    if epochs is not None:
        tree["training"] = {"epochs": epochs}
        why.append(f"{epochs} epochs, since each is long; more are better")
    if seen_share >= SEEN_SHARE:
        tree["evaluation"] = {"exclude_seen": False}
        why.append(f"seen items stay in the lists, since {seen_share:.0%} of the test items are in the user's history")
    return tree, tuple(why)


def _source(config: FilesConfig) -> Tree:
    """The section `dataset`, without what is as usual."""
    tree = config.model_dump(mode="json", exclude_defaults=True)
    return {"kind": config.kind, **tree}


def _sizes(num_items: int) -> list[int]:
    """Two levels whose codes have at least four items each, on average, at the first one."""
    size = 2 ** max(2, int(np.log2(max(num_items, 1))) - 2)
    return [size, size]


def _epochs(num_targets: int) -> int | None:
    """Fewer epochs than the model's own for many targets; None = its own."""
    return None if num_targets * 20 <= 10 * MANY_TARGETS else max(3, round(10 * MANY_TARGETS / num_targets))


def statistics_lines(found: Mapping[str, Any]) -> list[str]:
    """`describe` in words."""
    quantiles = ", ".join(f"{q} % {value:g}" for q, value in found["length_quantiles"].items())
    lines = [
        f"{found['num_users']:,} users, {found['num_items']:,} items, {found['num_interactions']:,} interactions, "
        f"density {found['density']:.3%}",
        f"interactions per user, quantiles: {quantiles}; mean {found['interactions_per_user']['mean']:.1f}",
    ]
    if "first_day" in found:
        lines.append(f"from {found['first_day']} to {found['last_day']}")
    repeats = found["num_repeated_interactions"]
    share = repeats / found["num_interactions"]
    lines.append(f"repeats of an item by the same user: {repeats:,} ({share:.1%} of the interactions)")
    lines.append(f"users with a test item (at least {MIN_EVALUATED} interactions): {found['num_evaluated']:,}")
    if "share_ties_at_split" in found:
        lines.append(f"of these, same-time events decide the held-out items: {found['share_ties_at_split']:.1%}")
    lines.append(
        f"items without training interactions under leave-one-out: {found['num_cold_items']:,}; "
        f"users whose test item is one of them: {found['share_cold_targets']:.1%}"
    )
    return lines
