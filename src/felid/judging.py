"""The evaluate stage: a trained recommender, ranking in every way that its model knows, beside the baselines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.distributed import world
from felid.errors import FelidWarning, RequestError
from felid.evaluation import EvaluationConfig, evaluate_run
from felid.evaluation.loss import target_loss
from felid.evaluation.names import liger_names
from felid.evaluation.policies import ORACLE, never_text, reading_text, tie_text, tokenizer_text, way_texts
from felid.evaluation.protocol import POLICIES, Ranker
from felid.evaluation.report import PARTS, DataFacts, Report
from felid.evaluation.search_error import search_errors
from felid.evaluation.shared import SharedRanker, Together, TogetherRanker
from felid.evaluation.slices import target_ages
from felid.evaluation.ties import NO_SCORES
from felid.models.base import Mode
from felid.progress import progress_bar
from felid.ranking import ItemRanker
from felid.recommender import Recommender
from felid.search.config import SearchConfig, mode_of
from felid.tracking import Tracking

OTHERS = ("variants", "baselines")
"""Parts of a report that hold several systems."""


def judge(
    recommender: Recommender,
    split: LeaveOneOut,
    dataset: Dataset,
    config: EvaluationConfig,
    *,
    system: str,
    transductive: bool,
    console: Console,
    baselines: Mapping[str, Ranker],
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
        baselines: what stands beside it, by name; `, as tuned` is added to a name that a system has.
    """
    check_candidates(recommender.model.modes, recommender.ranker.search, config)
    check_beams(recommender.model.modes, recommender.ranker.search, config)
    if config.ties != "file-order":
        warnings.warn(NO_SCORES, FelidWarning, stacklevel=2)
    loss = target_loss(recommender, split, console) if config.loss else None
    rankers = _rankers(recommender, system + (", transductive" if transductive else ""), config.variants)
    targets = np.concatenate([split.evaluation(part).targets for part in PARTS])
    cold_targets = np.isin(np.arange(len(dataset.items)), targets) & ~recommender.ranker.catalogue.warm
    rankers |= _hybrids(rankers, config, cold_targets)
    num_searches = sum(len(split.evaluation(part).targets) for part in PARTS) * len(POLICIES) // world().size
    num_models = len(rankers) + sum(isinstance(one, ItemRanker) for one in baselines.values())
    with progress_bar(console, "evaluating", total=num_searches * num_models, unit="users") as bar:
        together = Together(list(rankers.values()), bar.advance)
        counted = {name: TogetherRanker(ranker, together) for name, ranker in rankers.items()}
        beside = _beside(baselines, rankers, bar.advance)
        shared = recommender.ids.groups.group if recommender.ids.shared else None
        facts = DataFacts(dataset.order_rule, shared, recommender.embeddings, target_ages(dataset, split))
        report = evaluate_run(counted, split, dataset.item_ids, config, baselines=beside, facts=facts)
    cold = np.flatnonzero(~split.warm_items(len(dataset.items)))
    report.metrics["search_error"] = search_errors(rankers, split.evaluation("test"), config, console)
    report.metrics["systems"] = {name: _described(name, ranker) for name, ranker in rankers.items()}
    policy, lengths = report.metrics["policy"], split.evaluation("test").histories.lengths
    policy["ties"] = tie_text(rankers)
    policy["history"] += f"; {reading_text(rankers, lengths)}"
    policy["candidates"] += never_text(rankers, cold) if config.candidates == "all" else ""
    policy |= {"data": "; ".join(dataset.notes)} if dataset.notes else {}
    policy["tokenizer"] = tokenizer_text(len(cold), transductive=transductive)
    num_pool = len(cold) if config.candidates == "all" else 0
    policy |= way_texts(rankers, max(config.ks), num_pool, int(cold_targets.sum()) if config.oracle_pool else None)
    if loss is not None:
        policy["loss"] = loss.policy
        for part, values in loss.values.items():
            report.metrics[part] |= values
    return report


def check_candidates(modes: tuple[Mode, ...], search: SearchConfig, config: EvaluationConfig) -> None:
    """Refuse, before any work, candidates that contradict each other, and a hybrid search that generates fewer than a list holds.

    Its number of candidates is what LIGER's results are reported for, and beyond them only cold items could fill a list.

    Args:
        modes: of the model.
        search: settings of the search.
        config: what is reported.

    Raises:
        RequestError: an oracle's pool where cold items are no candidates, `search.hybrid_candidates` or one of
            `evaluation.hybrid_candidates` is too small, or the model does not rank under `search.mode`.
    """
    if config.oracle_pool and config.candidates == "warm":
        raise RequestError(
            "evaluation.oracle_pool has cold items as candidates, and evaluation.candidates=warm none; leave one of them out"
        )
    own, k = mode_of(modes, search.mode), max(config.ks)
    if "hybrid" not in ((own, *modes) if config.variants else (own,)):
        return
    for name, counts in (("search", (search.hybrid_candidates,)), ("evaluation", config.hybrid_candidates)):
        if min(counts, default=k) < k:
            raise RequestError(
                f"{name}.hybrid_candidates has {min(counts)} generated candidates for lists of {k} (evaluation.ks), expected at "
                f"least {k}; raise it, or judge lists of at most {min(counts)}"
            )


def check_beams(modes: tuple[Mode, ...], search: SearchConfig, config: EvaluationConfig) -> None:
    """Refuse, before anything is trained, a beam search that is narrower than the longest list.

    Recommendations raise the width by themselves; what an evaluation reports is the search that its settings name.

    Args:
        modes: of the model.
        search: settings of the search.
        config: what is reported.

    Raises:
        RequestError: `search.num_beams` is too small.
    """
    own, k = mode_of(modes, search.mode), max(config.ks)
    judged = {own, *(modes if config.variants else ())}
    if "generative" in modes and judged & {"generative", "fused"} and search.num_beams < k:
        raise RequestError(
            f"search.num_beams has {search.num_beams} beams for lists of {k} (evaluation.ks), expected at least {k}; "
            f"set search.num_beams={k}, or judge lists of at most {search.num_beams}"
        )


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


def _beside(baselines: Mapping[str, Ranker], taken: Collection[str], done: Callable[[int], None]) -> dict[str, Ranker]:
    """The baselines under names that are not taken; of those that are models the searches are shared out among processes."""
    return {
        f"{name}, as tuned" if name in taken else name: SharedRanker(one, done) if isinstance(one, ItemRanker) else one
        for name, one in baselines.items()
    }


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
