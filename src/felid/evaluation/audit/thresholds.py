"""What a check must see before it speaks up: all numbers of the audit in one place.

A check that measures has two bars, and a doubt needs both: the effect is large enough to matter, and chance does not make one
as large. Large data make any trifle significant, small data make any effect possible; neither is enough alone. A check
that counts what must never be, such as a target in a training history, has no bar.
"""

from __future__ import annotations

from typing import Literal

Test = Literal[
    "user ids: text",
    "user ids: order",
    "user ids: neighbours",
    "user ids: remainder",
    "item ids: time",
    "item ids: popularity",
    "item ids: place",
    "item ids: company",
    "item ids: next number",
    "duplicate users",
]
NUM_TESTS = 10
"""Tests with a p-value that an audit makes at most: the members of `Test`."""
FAMILY_ERROR = 0.01
"""Chance that a clean data set is doubted by any of them."""
LEVEL = FAMILY_ERROR / NUM_TESTS
"""What the p-value of one test must stay below (Bonferroni)."""
DRAWS = 1999
"""Random draws of a permutation test; the smallest p-value, 1 / 2000, is below `LEVEL`."""
FEW_DRAWS = 49
"""Draws that say what chance gives; the others are made only where the effect is large enough."""
SEED = 0
"""Of all draws, so that an audit says the same every time."""

SHARE = 0.01
"""Share of the users (or events) that something must concern: what is true of fewer than one in a hundred moves a mean over users
by less than .01, and a metric of those users by less than its bootstrap interval on any data of common size."""
CORRELATION = 0.1
"""Rank correlation, or excess of one: a "small" effect (Cohen 1988), one hundredth of the variance."""
LIFT = 2.0
"""How many times as often as by chance neighbouring item ids must stand in one history."""

MOST_USERS = 25_000
"""Users that tests of ids look at; of more, blocks of neighbouring ones are drawn at random."""
FEWER_USERS = 5_000
"""The same for the test of company, whose draws cost most."""
BLOCK = 25
"""Users in such a block: neighbours stay together."""
EXAMPLES = 3
"""Users or items that a finding names."""
