"""The evaluate stage: a trained recommender, ranking in every way that its model knows, beside the baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut, Sequences
from felid.evaluation import EvaluationConfig, evaluate_run
from felid.evaluation.protocol import POLICIES
from felid.evaluation.report import PARTS, Report
from felid.progress import progress_bar
from felid.ranking import ItemRanker
from felid.recommender import Recommender


@dataclass(frozen=True)
class _Counted:
    """A ranker under evaluation that says how many users it has served."""

    ranker: ItemRanker
    done: Callable[[int], None]

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> NDArray[np.int64]:
        return self.ranker.search_items(histories, k, exclude_seen, self.done)[0]


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
    rankers = _rankers(recommender, system + (", transductive" if transductive else ""))
    num_searches = len(split.evaluated) * len(PARTS) * len(POLICIES) * len(rankers)
    with progress_bar(console, "evaluating", total=num_searches, unit="users") as bar:
        counted = {name: _Counted(ranker, bar.advance) for name, ranker in rankers.items()}
        report = evaluate_run(counted, split, dataset.item_ids, config, order_rule=dataset.order_rule)
    cold = np.flatnonzero(~split.warm_items(len(dataset.items)))
    policy = report.metrics["policy"]
    policy["candidates"] += "".join(_never(name, ranker, cold) for name, ranker in rankers.items())
    policy["tokenizer"] = (
        f"transductive: fitted on all items, among them {len(cold):,} items without training interactions"
        if transductive
        else f"fitted on items with training interactions; {len(cold):,} items without are encoded with the frozen quantiser"
    )
    return report


def _rankers(recommender: Recommender, system: str) -> dict[str, ItemRanker]:
    """A ranker for each mode by the name of the system, that of the recommender itself first.

    The model's own mode, its first one, has the plain name.
    """
    plain, own = recommender.model.modes[0], recommender.ranker
    modes = (own.mode, *(mode for mode in recommender.model.modes if mode != own.mode))
    rankers = (own if mode == own.mode else recommender.in_mode(mode).ranker for mode in modes)
    return dict(zip((system if mode == plain else f"{system}, {mode}" for mode in modes), rankers, strict=True))


def _never(name: str, ranker: ItemRanker, cold: NDArray[np.int64]) -> str:
    """How many of the items without training interactions a system cannot recommend, in words; "" for none."""
    lost = int((~ranker.recommendable()[cold]).sum())
    return f"; {lost:,} of them, without training interactions, {name} never recommends" if lost else ""
