"""The evaluate stage: a trained recommender, ranking in every way that its model knows, beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.distributed import world
from felid.evaluation import EvaluationConfig, evaluate_run
from felid.evaluation.loss import target_loss
from felid.evaluation.names import liger_names
from felid.evaluation.protocol import POLICIES
from felid.evaluation.report import PARTS, Report
from felid.evaluation.shared import SharedRanker
from felid.progress import progress_bar
from felid.ranking import ItemRanker
from felid.recommender import Recommender
from felid.tracking import Tracking

OTHERS = ("variants", "baselines")
"""Parts of a report that hold several systems."""
ORACLE = "oracle pool"
"""How rows are called whose pool of candidates no system can know."""


def judge(
    recommender: Recommender,
    split: LeaveOneOut,
    dataset: Dataset,
    config: EvaluationConfig,
    *,
    system: str,
    transductive: bool,
    console: Console,
) -> Report:
    """Evaluate a recommender under each of its model's modes; the one that it recommends with comes first.

    Args:
        recommender: trained on the training part of `split`.
        split: the users' histories.
        dataset: what it was trained on.
        config: what is reported.
        system: its name in tables and files; other modes are named after it.
        transductive: whether what is fitted on texts and vectors has seen the items without training interactions.
        console: where progress goes.
    """
    loss = target_loss(recommender, split, console) if config.loss else None
    rankers = _rankers(recommender, system + (", transductive" if transductive else ""), config.variants)
    targets = np.concatenate([split.evaluation(part).targets for part in PARTS])
    cold_targets = np.isin(np.arange(len(dataset.items)), targets) & ~recommender.ranker.catalogue.warm
    rankers |= _hybrids(rankers, config, cold_targets)
    num_searches = sum(len(split.evaluation(part).targets) for part in PARTS) * len(POLICIES) * len(rankers) // world().size
    with progress_bar(console, "evaluating", total=num_searches, unit="users") as bar:
        counted = {name: SharedRanker(ranker, bar.advance) for name, ranker in rankers.items()}
        report = evaluate_run(counted, split, dataset.item_ids, config, order_rule=dataset.order_rule)
    cold = np.flatnonzero(~split.warm_items(len(dataset.items)))
    report.metrics["systems"] = {name: _described(name, ranker) for name, ranker in rankers.items()}
    policy = report.metrics["policy"]
    policy["candidates"] += "".join(_never(name, ranker, cold) for name, ranker in rankers.items())
    policy["tokenizer"] = (
        f"transductive: fitted on all items, among them {len(cold):,} items without training interactions"
        if transductive
        else f"fitted on items with training interactions; {len(cold):,} items without are encoded with the frozen quantiser"
    )
    fused = [
        f"{name}: {ranker.weights.generative:g} of the generative score, transitions x {ranker.weights.memory:g}"
        for name, ranker in rankers.items()
        if ranker.mode == "fused"
    ]
    if fused:
        policy["fusion"] = f"{'; '.join(fused)} (chosen on validation, but where the recipe gives them)"
    if loss is not None:
        policy["loss"] = loss.policy
        for part, values in loss.values.items():
            report.metrics[part] |= values
    if any(ranker.mode == "hybrid" for ranker in rankers.values()):
        policy["hybrid"] = f"generated candidates and all {len(cold):,} cold items by dense score" + (
            f"; `{ORACLE}` has only the {cold_targets.sum():,} that are targets of either part, which no system can know"
            if config.oracle_pool
            else ""
        )
    return report


def track(report: Report, tracking: Tracking, name: str, key: str, checkpoint: str) -> None:
    """Tell trackers the metrics of all systems, such as `test/recall@10`, at the step of the checkpoint that was evaluated.

    Where there is a system that ranks as LIGER does, also under the names of its published code.
    """
    told = {part: found for part, found in report.metrics.items() if part.partition("_")[0] in ("test", "validation", *OTHERS)}
    if any(system["mode"] == "hybrid" for system in report.metrics["systems"].values()):
        told |= liger_names(report.metrics)
    with tracking.curve(name, key, {"checkpoint": checkpoint, "policy": report.metrics["policy"]}) as curve:
        curve(told, int(checkpoint.rpartition("-")[2]))


def _rankers(recommender: Recommender, system: str, variants: bool) -> dict[str, ItemRanker]:
    """A ranker for each mode by the name of the system, that of the recommender itself first (alone without `variants`).

    The model's own mode, its first one, has the plain name.
    """
    plain, own = recommender.model.modes[0], recommender.ranker
    modes = (own.mode, *(mode for mode in recommender.model.modes if variants and mode != own.mode))
    rankers = (own if mode == own.mode else recommender.in_mode(mode).ranker for mode in modes)
    return dict(zip((system if mode == plain else f"{system}, {mode}" for mode in modes), rankers, strict=True))


def _hybrids(
    rankers: Mapping[str, ItemRanker], config: EvaluationConfig, cold_targets: NDArray[np.bool_]
) -> dict[str, ItemRanker]:
    """Under hybrid more than one setting is of interest: other numbers of candidates, and an oracle's pool."""
    found = {}
    for name, own in rankers.items():
        if own.mode == "hybrid":
            for count in config.hybrid_candidates:
                if count != own.search.hybrid_candidates:
                    search = own.search.model_copy(update={"hybrid_candidates": count})
                    found[f"{name}, {count} candidates"] = ItemRanker(own.model, own.catalogue, search)
            if config.oracle_pool:
                found[f"{name}, {ORACLE}"] = ItemRanker(own.model, own.catalogue, own.search, pool=cold_targets)
    return found


def _described(name: str, ranker: ItemRanker) -> dict[str, Any]:
    """How a system ranks, for `felid.evaluation.names`."""
    if ranker.mode != "hybrid":
        return {"mode": ranker.mode}
    pool = "oracle" if name.endswith(ORACLE) else "cold"
    return {"mode": ranker.mode, "candidates": ranker.search.hybrid_candidates, "pool": pool}


def _never(name: str, ranker: ItemRanker, cold: NDArray[np.int64]) -> str:
    """How many of the items without training interactions a system cannot recommend, in words; "" for none."""
    lost = int((~ranker.recommendable()[cold]).sum())
    return f"; {lost:,} of them, without training interactions, {name} never recommends" if lost else ""
