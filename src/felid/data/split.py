"""Which interactions train, and which are the targets of validation and test.

Like a hold-out, a split follows from the data and the settings alone: whoever needs it asks `cut`, and nothing is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, assert_never

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid.config import Config, validate
from felid.data.dataset import Dataset
from felid.data.histories import Cuts, Sequences
from felid.errors import DataError


class LastItemsConfig(Config):
    """The last items of each user, in the order that the data gives: by time where there are times, else as they stand."""

    kind: Literal["leave-one-out"] = "leave-one-out"
    """Tag of this split."""
    train_target: Literal["n-3", "n-2"] = "n-3"
    """The last of a user's n items (0 to n-1) that training learns to predict; the test target is always n-1. `n-3`: n-2 is the
    validation target of every user. `n-2`: that item trains, as in work that has no validation part, but for the users of
    `validation_share`, whom checkpoints and weights are chosen on."""
    validation_share: float = Field(0.05, gt=0, lt=1)
    """For `n-2`: share of the users who keep n-2 for validation."""
    seed: int = Field(0, ge=0)
    """For `n-2`: seed of the draw of these users."""


class TimeConfig(Config):
    """Two moments, the same for all users. Needs timestamps.

    Before the first moment all interactions train; between the two a user's first one is the validation target; from the second
    on the first one is the test target, and what follows it is left out. A target's history is all that the user took before
    it; whoever took nothing before it is not evaluated.
    """

    kind: Literal["time"] = "time"
    """Tag of this split."""
    test_share: float = Field(0.1, gt=0, lt=1)
    """The second moment: so large a share of the interactions, the latest ones, lies after it."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """The first moment: so large a share of the interactions lies between the two."""
    test_from: datetime | None = None
    """The second moment itself, a date such as 2014-01-31 (UTC unless it says otherwise); goes before the share."""
    validation_from: datetime | None = None
    """The first moment itself, likewise."""


SplitConfig = Annotated[LastItemsConfig | TimeConfig, Field(discriminator="kind")]
LAST_TWO = LastItemsConfig()
"""The split of TIGER, S3-Rec and SASRec, which stage keys leave out."""


class _Section(Config):
    split: SplitConfig = LAST_TWO


def read_split(tree: Mapping[str, Any] | None) -> LastItemsConfig | TimeConfig:
    """The settings out of plain data; None = the default."""
    return validate(_Section, {} if tree is None else {"split": tree}).split


def cut(config: LastItemsConfig | TimeConfig, dataset: Dataset, sequences: Sequences) -> Cuts | None:
    """Where to cut the users' items; None = last item and last but one.

    Args:
        config: the rule.
        dataset: what `sequences` are from; `time` reads its timestamps.
        sequences: the users' items.

    Raises:
        DataError: `time` without timestamps, with moments that are none or in the wrong order, with users whose given order
            is not that of time, or when a part would be empty.
    """
    if config == LAST_TWO:
        return None
    match config:
        case LastItemsConfig(train_target="n-3"):
            return None  # the other settings mean nothing to it
        case LastItemsConfig():
            cuts = _train_all_but_one(config, sequences.lengths)
        case TimeConfig():
            users = np.repeat(np.arange(len(sequences)), sequences.lengths)
            times = _times(dataset, users)
            cuts = _cut_at(_moments(config, times), times, users, sequences.lengths)
        case _:
            assert_never(config)
    for part, places in (("validation", cuts.validation), ("test", cuts.test)):
        if not (places >= 0).any():
            raise DataError(f"the split leaves no {part} target ({cuts.rule}); change split.*, or give longer histories")
    if not cuts.train.any():
        raise DataError(f"the split leaves nothing to train on ({cuts.rule}); change split.*")
    return cuts


def _train_all_but_one(config: LastItemsConfig, lengths: NDArray[np.int64]) -> Cuts:
    usual = Cuts.last_two(lengths)
    users = np.flatnonzero(usual.test >= 0)
    count = max(1, round(config.validation_share * len(users)))
    kept = np.zeros(len(lengths), bool)
    kept[np.random.default_rng(config.seed).permutation(users)[:count]] = True
    train = np.where(kept | (usual.test < 0), usual.train, lengths - 1)
    rule = (
        f"last item = test; the last but one trains, except of {min(count, len(users)):,} users drawn at random (seed "
        f"{config.seed}), whose last but one is the validation target"
    )
    return Cuts(train, np.where(kept, usual.validation, -1), usual.test, rule, usual.left_out)


def _times(dataset: Dataset, users: NDArray[np.int64]) -> NDArray[np.float64]:
    """(interactions,) unix seconds in the order of the sequences, in which they grow for each user."""
    if "timestamp" not in dataset.interactions.columns:
        raise DataError("split.kind=time needs timestamps and the data has none; give them or set split.kind=leave-one-out")
    times: NDArray[np.float64] = dataset.interactions["timestamp"].to_numpy().astype(np.float64)
    backwards = np.unique(users[1:][(np.diff(times) < 0) & (np.diff(users) == 0)])
    if len(backwards):
        raise DataError(
            f"split.kind=time needs each user's items in the order of time, but the given order of {len(backwards)} users is "
            "another; leave the position out, or set split.kind=leave-one-out"
        )
    return times


def _moments(config: TimeConfig, times: NDArray[np.float64]) -> tuple[float, float]:
    """Unix seconds of the first and the second moment; whatever happened at a moment is after it."""
    ordered = np.sort(times)

    def latest(share: float) -> float:
        return float(ordered[max(0, min(round((1 - share) * len(ordered)), len(ordered) - 1))])

    second = latest(config.test_share) if config.test_from is None else _seconds(config.test_from)
    if config.validation_from is not None:
        first = _seconds(config.validation_from)
    else:
        first = latest(float((times >= second).mean()) + config.validation_share)
    if first >= second:
        raise DataError(
            f"the split's validation starts at {_day(first)}, expected a moment before the test's start at {_day(second)}; "
            "change split.validation_from or split.validation_share"
        )
    return first, second


def _cut_at(
    moments: tuple[float, float], times: NDArray[np.float64], users: NDArray[np.int64], lengths: NDArray[np.int64]
) -> Cuts:
    # users' times grow, so the number of items before a moment is the place of the first one after it
    before = np.stack([np.bincount(users[times < moment], minlength=len(lengths)) for moment in moments])
    has_target = (before > 0) & (np.stack([before[1], lengths]) > before)
    validation, test = np.where(has_target, before, -1)
    first, second = moments
    rule = (
        f"time: interactions before {_day(first)} train; a user's first one from then on is the validation target if it is "
        f"before {_day(second)}, the first one from {_day(second)} on the test target"
    )
    left_out = {
        f"no interaction before {_day(second)}": int((before[1] == 0).sum()),
        f"no interaction from {_day(second)} on": int(((before[1] > 0) & (before[1] == lengths)).sum()),
    }
    return Cuts(before[0], validation, test, rule, left_out)


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ").removesuffix("+00:00").removesuffix(" 00:00:00")
