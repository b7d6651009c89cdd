"""The loss of a model on the targets that it is evaluated on: what its training curve would say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from felid.data.histories import LeaveOneOut, Part
from felid.errors import RequestError
from felid.evaluation.report import PARTS
from felid.evaluation.shared import SharedRanker
from felid.models.generative import GenerativeModel
from felid.progress import progress_bar
from felid.recommender import Recommender


@dataclass(frozen=True)
class TargetLoss:
    """What a model loses on the targets of each part.

    Attributes:
        values: metrics of each part: `loss`, the mean negative log-likelihood per code of a target given its history, in nats,
            and `users_with_loss`, so many users it is the mean of: those whose target the model can generate. Without any of
            these there is no `loss`.
        policy: what that means, in words.
    """

    values: Mapping[Part, Mapping[str, float | int]]
    policy: str


def target_loss(recommender: Recommender, split: LeaveOneOut, console: Console) -> TargetLoss:
    """The loss of a model's codes on the validation and the test targets, without dropout, by all processes together.

    It is what training minimises, over the items that the model can generate: with cold ones, where it searches them too. Every
    level of codes counts, also where but one code is valid.

    Raises:
        RequestError: the model generates no codes.
    """
    model = recommender.model
    if not isinstance(model, GenerativeModel) or "generative" not in model.modes:
        raise RequestError("evaluation.loss is that of codes, and this model generates none; set evaluation.loss=false")
    sets = {part: split.evaluation(part) for part in PARTS}
    own = recommender.ranker
    ranker = own if own.mode == "generative" else recommender.in_mode("generative").ranker
    values: dict[Part, Mapping[str, float | int]] = {}
    with progress_bar(console, "loss of targets", total=sum(len(one.targets) for one in sets.values()), unit="users") as bar:
        shared = SharedRanker(ranker, bar.advance)
        for part, users in sets.items():
            scores = shared.score_targets(users).astype(np.float64)
            known = scores[np.isfinite(scores)]
            mean = {"loss": float(-known.mean() / model.layout.num_levels)} if len(known) else {}
            values[part] = {**mean, "users_with_loss": len(known)}
    lost = len(sets["test"].targets) - int(values["test"]["users_with_loss"])
    over = "the valid codes of each level" if model.normalize == "trie" else "all tokens"
    policy = f"mean negative log-likelihood of a target's {model.layout.num_levels} codes, per code, in nats, over {over}"
    return TargetLoss(values, policy + (f"; without {lost:,} test targets that the model cannot generate" if lost else ""))
