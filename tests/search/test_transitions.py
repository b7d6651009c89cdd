"""Transition memory against a double loop."""

from __future__ import annotations

import math

import numpy as np
import torch

from felid.search.transitions import POSITIONS, WINDOW
from tests.search.dumb import dumb_evidence
from tests.tiny import histories_of, memory_of

LONG = [0, 2, 4, 0, 1, 2, 4, 1]
"""Longer than the window."""
ROWS = [[0, 1, 2, 1], [3], [], [1, 2, 2, 4, 0], LONG, [2, 1]]


def test_scores_equal_a_double_loop() -> None:
    assert len(LONG) > WINDOW + 1
    histories = [[1], [2, 1], [0, 1, 2, 4], [5], [3, 3, 3, 3, 2]]
    found = memory_of(ROWS, 6).scores(histories_of(histories))
    torch.testing.assert_close(found, torch.tensor([dumb_evidence(ROWS, history, 6) for history in histories]))
    assert (found[3] == 0).all()
    assert (found[:, 5] == 0).all(), "an item without transitions gains something"


def test_a_transition_counts_less_the_farther_apart_and_not_beyond_the_window() -> None:
    row = list(range(WINDOW + 2))
    found = memory_of([row], WINDOW + 2).scores(histories_of([[0]]))[0].tolist()
    assert found[0] == found[WINDOW + 1] == 0
    np.testing.assert_allclose(found[1:-1], [math.log1p(1 / step) for step in range(1, WINDOW + 1)], rtol=1e-6)


def test_the_last_items_of_a_history_count_the_later_the_more() -> None:
    """Every item of this history was followed by an item of its own."""
    memory, history = memory_of([[item, 10 + item] for item in range(5)], 15), list(range(5))
    found = memory.scores(histories_of([history]))[0]
    wanted = [0.0] * (5 - POSITIONS) + [2.0**-back * math.log(2) for back in reversed(range(POSITIONS))]
    np.testing.assert_allclose(found[10:].numpy(), wanted, rtol=1e-6)


def test_no_transition_crosses_the_border_between_users() -> None:
    assert float(memory_of(ROWS, 6).scores(histories_of([[3]])).abs().sum()) == 0


def test_histories_without_pairs_leave_an_empty_memory() -> None:
    for rows in ([], [[], [3], []]):
        memory = memory_of(rows, 6)
        assert not len(memory.items) and not memory.scores(histories_of([[3, 0], [1]])).any()
