"""What a reader must know to compare the numbers of an evaluation with others', one sentence per topic.

Tables print these sentences and `metrics.json` stores them under `policy`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import LeaveOneOut, Part
from felid.evaluation.protocol import EvaluationConfig
from felid.ranking import ItemRanker

TIES = {
    "generative": "semantic ID, then item_index where items share one",
    "dense": "item_index",
    "fused": "item_index",
    "hybrid": "item_index",
}
"""What orders equal scores under each mode; never the target."""
ORACLE = "oracle pool"
"""How rows are called whose pool of candidates no system can know."""
BASELINE_TIES = "baselines: by popularity, then item_index, those that are trained by item_index"


def policy_texts(
    candidates: NDArray[np.bool_], targets: NDArray[np.int64], config: EvaluationConfig, order_rule: str
) -> dict[str, str]:
    """The topics that are the same for whatever ranks.

    Args:
        candidates: (N,) the items that compete.
        targets: (U,) of the test part.
        config: what is reported.
        order_rule: what decided the order of the interactions.
    """
    headline, other = ("removed", "kept") if config.exclude_seen else ("kept", "removed")
    return {
        "candidates": _candidates_text(candidates, targets),
        "seen": (
            f"items of the history are {headline} in `test`, {other} in `test_seen_{other}`; "
            "where they are removed, a target that is in the history is a miss"
        ),
        "ties": f"the system orders equal scores, blind to the target; {BASELINE_TIES}",
        "history": "the test history includes the validation item; models are selected on validation alone",
        "order": order_rule,
        "intervals": (
            f"{config.level * 100:g} % bootstrap over users ({config.bootstrap:,} draws, seed {config.seed}); "
            "the choice of users varies in it, the training seed does not; each difference is judged by itself, `felid compare` "
            "corrects for their number"
        ),
    }


def _candidates_text(candidates: NDArray[np.bool_], targets: NDArray[np.int64]) -> str:
    if candidates.all():
        return f"all {len(candidates):,} items of the catalogue, no sampling"
    return (
        f"{candidates.sum():,} of the {len(candidates):,} items of the catalogue, those with training interactions, no sampling; "
        f"{(~candidates[targets]).sum():,} of {len(targets):,} test targets are among the others and are misses; models and "
        "weights were chosen among all items"
    )


def list_texts(has_vectors: bool, has_ages: bool) -> dict[str, str]:
    """What `lists` and `slices` are of, and what they lack."""
    alike = (
        "diversity is 1 - mean cosine of the items' embeddings" if has_vectors else "no diversity: the items have no embeddings"
    )
    no_age = "" if has_ages else "; by item age not, as the data has no timestamps"
    return {
        "list statistics": (
            "of `test`; novelty is -log2 of an item's share of the training interactions, in bits, for an item without any that "
            f"of an item with one; {alike}"
        ),
        "slices": f"of `test`; head, mid and tail are the targets that hold a third of the training interactions each{no_age}",
    }


def group_texts(split: LeaveOneOut, groups: Mapping[Part, NDArray[np.str_]]) -> dict[str, str]:
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


def shared_text(id_groups: NDArray[np.int64], targets: NDArray[np.int64]) -> str:
    """How many items share semantic IDs, and what that means for the metrics."""
    sizes = np.bincount(id_groups)
    shared = int((sizes[id_groups[targets]] > 1).sum())
    return (
        f"{len(id_groups):,} items share {int((sizes > 0).sum()):,} IDs, {shared:,} test targets have theirs with others; all "
        "metrics are of items, but for those of `semantic_id_level`, where any item with the target's ID counts as the target"
    )


def tie_text(rankers: Mapping[str, ItemRanker]) -> str:
    """How equal scores are ordered by each mode, in words."""
    rules: dict[str, list[str]] = {}
    for mode in dict.fromkeys(ranker.mode for ranker in rankers.values()):
        rules.setdefault(TIES[mode], []).append(mode)
    ours = "; ".join(f"{', '.join(modes)}: by {rule}" for rule, modes in rules.items())
    return f"equal scores keep a fixed order, blind to the target, and ranks are never averaged: {ours}; {BASELINE_TIES}"


def never_text(rankers: Mapping[str, ItemRanker], cold: NDArray[np.int64]) -> str:
    """How many of the items without training interactions each system cannot recommend, in words; "" for none."""
    lost = {name: int((~ranker.recommendable()[cold]).sum()) for name, ranker in rankers.items()}
    told = (
        f"; {count:,} of them, without training interactions, {name} never recommends" for name, count in lost.items() if count
    )
    return "".join(told)


def tokenizer_text(num_cold: int, *, transductive: bool) -> str:
    """Which items the quantiser was fitted on, in words."""
    if transductive:
        return f"transductive: fitted on all items, among them {num_cold:,} items without training interactions"
    return f"fitted on items with training interactions; {num_cold:,} items without are encoded with the frozen quantiser"


def way_texts(rankers: Mapping[str, ItemRanker], k: int, num_cold: int, oracle: int | None) -> dict[str, str]:
    """How the systems search, and what those of two heads put together.

    Args:
        rankers: by name.
        k: places of the longest list.
        num_cold: items without training interactions.
        oracle: how many of these the oracle's pool has; None = there is no such system.
    """
    texts = {"search": search_text(rankers, k)}
    fused = {name: ranker.weights for name, ranker in rankers.items() if ranker.mode == "fused"}
    if fused:
        weights = (
            f"{name}: {one.generative:g} of the generative score, transitions x {one.memory:g}" for name, one in fused.items()
        )
        texts["fusion"] = f"{'; '.join(weights)} (chosen on validation, but where the recipe gives them)"
    if any(ranker.mode == "hybrid" for ranker in rankers.values()):
        texts["hybrid"] = f"generated candidates and all {num_cold:,} cold items by dense score"
        if oracle is not None:
            texts["hybrid"] += f"; `{ORACLE}` has only the {oracle:,} that are targets of either part, which no system can know"
    return texts


def reading_text(rankers: Mapping[str, ItemRanker], lengths: NDArray[np.int64]) -> str:
    """How many items of a history each system reads, in words, and how many of the (U,) test histories are longer."""
    limits: dict[int, list[str]] = {}
    for name, ranker in rankers.items():
        limits.setdefault(ranker.model.history, []).append(name)
    several = len(limits) > 1
    return "; ".join(
        f"{' and '.join(names) if several else 'the model'} reads the last {limit:,} items at most: {(lengths > limit).sum():,} "
        f"of {len(lengths):,} test histories are longer (the longest has {lengths.max():,})"
        for limit, names in limits.items()
    )


def search_text(rankers: Mapping[str, ItemRanker], k: int) -> str:
    """How wide each system searches for lists of k items, in words."""
    return "; ".join(f"{name}: {_width(ranker, k)}" for name, ranker in rankers.items())


def _width(ranker: ItemRanker, k: int) -> str:
    search = ranker.search
    if ranker.mode == "dense":
        return "all items scored"
    if ranker.mode == "hybrid":
        generated = search.hybrid_candidates
        return f"{_raised(search.num_beams, generated, 'beams')}, {generated:,} generated candidates"
    if ranker.mode == "generative":
        return _raised(search.num_beams, k, "beams")
    proposed = max(search.candidates, k)
    candidates = _raised(search.candidates, k, "candidates of each head" if ranker.codes is not None else "candidates")
    return candidates if ranker.codes is None else f"{_raised(search.num_beams, proposed, 'beams')}, {candidates}"


def _raised(wanted: int, needed: int, what: str) -> str:
    """`50 beams`, or where the lists want more `100 beams (raised from 50)`."""
    return f"{wanted:,} {what}" if wanted >= needed else f"{needed:,} {what} (raised from {wanted:,})"
