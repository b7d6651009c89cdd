from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felid.errors import SemanticIdError
from felid.testing import CodeTable, code_tables
from felid.tokens import BEGIN, PAD, TokenLayout

layouts = st.builds(TokenLayout, st.lists(st.integers(1, 300), min_size=1, max_size=6).map(tuple), st.integers(0, 2000))


@given(code_tables(max_levels=6))
def test_code_to_token_to_code_is_the_identity(table: CodeTable) -> None:
    codes, sizes = table
    layout = TokenLayout(sizes)
    tokens = layout.encode(codes)
    assert tokens.dtype == np.int64
    assert np.array_equal(layout.decode(tokens), codes)


@given(layouts)
def test_no_two_meanings_share_a_token(layout: TokenLayout) -> None:
    """Pitfalls: a mark equal to a real code; pad = begin = 0; levels told apart by `% 3`."""
    levels = [offset + np.arange(size) for offset, size in zip(layout.offsets, layout.sizes, strict=True)]
    users = layout.user_offset + np.arange(layout.num_user_buckets)
    everything = np.concatenate([[PAD, BEGIN], *levels, users])
    assert np.array_equal(everything, np.arange(layout.vocabulary_size))


@given(layouts, st.one_of(st.integers(), st.text(max_size=20)))
def test_a_user_token_is_in_its_range(layout: TokenLayout, user: int | str) -> None:
    if layout.num_user_buckets:
        assert layout.user_offset <= layout.user_token(user) < layout.vocabulary_size
    else:
        with pytest.raises(SemanticIdError, match="no user tokens"):
            layout.user_token(user)


def test_user_tokens_are_the_same_in_every_process() -> None:
    """Pitfall: Python's salted `hash()` gives a user another token after a restart."""
    program = "from felid.tokens import TokenLayout as T; t = T((9, 9), 2000); print([t.user_token(u) for u in (1, 'A1', 'ü')])"
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    layout = TokenLayout((9, 9), 2000)
    assert seen == {f"{[layout.user_token(user) for user in (1, 'A1', 'ü')]}\n"}


def test_user_tokens_spread_over_the_buckets() -> None:
    layout = TokenLayout((4,), 100)
    counts = np.bincount([layout.user_token(user) - layout.user_offset for user in range(10_000)], minlength=100)
    assert counts.min() > 50
    assert counts.max() < 170


@pytest.mark.parametrize("wrong", [[6, 6, 10], [PAD, 6, 10], [2, BEGIN, 10], [2, 6, 15], [2, 6, 2]])
def test_a_token_of_another_level_a_mark_or_a_user_is_refused(wrong: list[int]) -> None:
    layout = TokenLayout((4, 4, 5), 10)
    assert layout.decode(np.array([2, 6, 10])).tolist() == [0, 0, 0]
    with pytest.raises(SemanticIdError, match="not a code of its level"):
        layout.decode(np.array(wrong))


@pytest.mark.parametrize("code", [-1, 4])
def test_a_code_outside_its_level_is_refused(code: int) -> None:
    with pytest.raises(SemanticIdError, match="outside its level"):
        TokenLayout((4, 4)).encode(np.array([[0, code]]))


@pytest.mark.parametrize("count", [2, 4])
def test_other_numbers_of_levels_are_refused(count: int) -> None:
    layout = TokenLayout((4, 4, 4))
    with pytest.raises(SemanticIdError, match=f"{count} levels, expected 3"):
        layout.encode(np.zeros((5, count), np.int64))
    with pytest.raises(SemanticIdError, match=f"{count} tokens per ID, expected 3"):
        layout.decode(np.full((5, count), 2))


@pytest.mark.parametrize(("sizes", "users"), [((), 0), ((4, 0), 0), ((4,), -1)])
def test_impossible_layouts_are_refused(sizes: tuple[int, ...], users: int) -> None:
    with pytest.raises(SemanticIdError, match="user buckets; each level needs a code"):
        TokenLayout(sizes, users)
