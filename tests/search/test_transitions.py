"""Transition memory against a double loop."""

from __future__ import annotations

import math

import numpy as np
import torch

from felid.data.histories import Sequences
from felid.search.transitions import POSITIONS, WINDOW, TransitionMemory
from tests.tiny import histories_of

ROWS = [[0, 1, 2, 1], [3], [], [1, 2, 2, 4, 0], [2, 1]]


def memory(num_items: int = 6) -> TransitionMemory:
    rows = [np.array(row, np.int64) for row in ROWS]
    return TransitionMemory.of(Sequences.from_lists(np.arange(len(rows)), rows), num_items)


def slowly(history: list[int], num_items: int = 6) -> list[float]:
    gains = [0.0] * num_items
    for j, item in enumerate(reversed(history[-POSITIONS:])):
        for other in range(num_items):
            count = 0.0
            for row in ROWS:
                for a, first in enumerate(row):
                    for b in range(a + 1, min(a + WINDOW, len(row) - 1) + 1):
                        count += (first == item and row[b] == other) / (b - a)
            gains[other] += 2.0**-j * math.log1p(count)
    return gains


def test_scores_equal_a_double_loop() -> None:
    histories = [[1], [2, 1], [0, 1, 2, 4], [5], [3, 3, 3, 3, 2]]
    found = memory().scores(histories_of(histories))
    torch.testing.assert_close(found, torch.tensor([slowly(history) for history in histories]))
    assert (found[3] == 0).all()
    assert (found[:, 5] == 0).all(), "an item without transitions gains something"


def test_no_transition_crosses_the_border_between_users() -> None:
    assert float(memory().scores(histories_of([[3]])).abs().sum()) == 0
