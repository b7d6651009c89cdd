"""Which items are held out of training altogether, so that recommending new items can be measured.

Two groups that share no item: choices (a bias, a share of new items, a fusion weight) are made on the validation group, the
test group is looked at once. What is held out follows from the data and the settings alone, so nothing is stored: whoever
needs the split asks `split_of` with the same settings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self, assert_never

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from felid.config import Config
from felid.data.dataset import Dataset
from felid.data.histories import HeldOut, LeaveOneOut
from felid.data.split import LAST_TWO, LastItemsConfig, TimeConfig, cut
from felid.errors import DataError

MOST_HELD_OUT = 0.5
"""Largest share of the items with training interactions that both groups may take together."""


class HoldoutConfig(Config):
    """Which items are kept out of training."""

    rule: Literal["natural", "random", "newest"] = "natural"
    """`natural`: the items without training interactions, split in two by the seed; training loses nothing. `random`: drawn
    from the items with training interactions, which lose all of those. `newest`: as `random`, but those whose first
    interaction is latest (ties: smaller item_index first); needs timestamps."""
    share: float = Field(0.05, gt=0, le=MOST_HELD_OUT)
    """Share of the items with training interactions that become the test group (`random` and `newest`)."""
    validation_share: float = Field(0.05, gt=0, le=MOST_HELD_OUT)
    """The same for the validation group; of `newest`, the next newest after the test group."""
    seed: int = Field(0, ge=0)
    """Seed of the draw (`random`) or of the split in two (`natural`)."""

    @model_validator(mode="after")
    def _leaves_enough(self) -> Self:
        if self.share + self.validation_share > MOST_HELD_OUT:
            raise ValueError(
                f"share + validation_share = {self.share + self.validation_share:g}, expected at most {MOST_HELD_OUT:g} so that "
                "enough is left to train on; lower one"
            )
        return self

    @property
    def effective(self) -> HoldoutConfig:
        """The same rule with the settings that mean nothing to it at their defaults: what the outcome depends on."""
        match self.rule:
            case "natural":
                return HoldoutConfig(seed=self.seed)
            case "newest":
                return self.model_copy(update={"seed": 0})
            case "random":
                return self
            case _ as never:
                assert_never(never)


def split_of(dataset: Dataset, config: HoldoutConfig, split: LastItemsConfig | TimeConfig = LAST_TWO) -> LeaveOneOut:
    """The split of a data set into training, validation and test, with the items that are held out of training.

    Raises:
        DataError: `newest` without timestamps, so few items that a group would be empty, or a split that the data does not
            allow (`felid.data.split.cut`).
    """
    sequences = dataset.sequences()
    plain = LeaveOneOut(sequences, cuts=cut(split, dataset, sequences))
    return replace(plain, held_out=hold_out(config, plain, len(dataset.items), first_seen(dataset)))


def first_seen(dataset: Dataset) -> NDArray[np.float64] | None:
    """(N,) unix seconds of each item's first interaction, NaN for items without any; None for data without timestamps."""
    if "timestamp" not in dataset.interactions.columns:
        return None
    first = dataset.interactions.group_by("item_id").agg(pl.col("timestamp").min())
    times = dataset.items.select("item_id").join(first, on="item_id", how="left", maintain_order="left")["timestamp"]
    return times.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def hold_out(config: HoldoutConfig, split: LeaveOneOut, num_items: int, first_seen: NDArray[np.float64] | None = None) -> HeldOut:
    """Choose the items to hold out.

    Args:
        config: the rule.
        split: the users' histories, with nothing held out yet.
        num_items: size of the catalogue N.
        first_seen: (N,) when each item was first taken; read by `newest` alone.

    Raises:
        DataError: `newest` without `first_seen`, or so few items that a group would be empty.
    """
    warm, rng = split.warm_items(num_items), np.random.default_rng(config.seed)
    if config.rule == "natural":
        cold = rng.permutation(np.flatnonzero(~warm))
        half = -(-len(cold) // 2)
        return _groups(cold[:half], cold[half:], num_items, "items without training interactions, split in two by the seed")
    rows = np.flatnonzero(warm)
    sizes = round(config.share * len(rows)), round(config.validation_share * len(rows))
    if not all(sizes):
        raise DataError(
            f"holdout.share={config.share:g} and holdout.validation_share={config.validation_share:g} of {len(rows)} items are "
            f"{sizes[0]} and {sizes[1]} items, expected at least one each; raise the shares or set holdout.rule=natural"
        )
    if config.rule == "random":
        order = rng.permutation(rows)
    elif first_seen is None:
        raise DataError("holdout.rule=newest needs timestamps and the data has none; give them or set holdout.rule=random")
    else:
        order = rows[np.argsort(-first_seen[rows], kind="stable")]
    what = f"{config.rule} {config.share * 100:g} % of the items, all their training interactions removed"
    return _groups(order[: sizes[0]], order[sizes[0] : sum(sizes)], num_items, what)


def _groups(test: NDArray[np.int64], validation: NDArray[np.int64], num_items: int, rule: str) -> HeldOut:
    marks = np.zeros((2, num_items), bool)
    marks[0, validation] = True
    marks[1, test] = True
    return HeldOut(marks[0], marks[1], rule)
