"""For tests of felid and of what is built on it: toy worlds with a known answer, Hypothesis strategies, contract checks.

Only the strategies need Hypothesis (`pip install hypothesis`); it is imported when one is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from felid.data.histories import EvaluationSet, LeaveOneOut, Sequences
from felid.errors import FelidError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Codes = NDArray[np.int32]
CodeTable = tuple[Codes, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class ToyWorld:
    """A catalogue whose next item is certain: every item has one successor, and all items form one cycle.

    No user sees an item twice, so seen items may be removed; `successor[last item]` is the right answer for every user.

    Attributes:
        sequences: walks along the cycle.
        successor: (N,) int64 item_index that follows each item.
        codes: (N, L) int32 semantic IDs, rows unique, unrelated to the cycle.
        sizes: codes per level.
        vectors: (N, D) float32 item embeddings, a bump around each item's code per level, L2-normalised.
    """

    sequences: Sequences
    successor: NDArray[np.int64]
    codes: Codes
    sizes: tuple[int, ...]
    vectors: NDArray[np.float32]

    @property
    def num_items(self) -> int:
        return len(self.successor)

    @property
    def split(self) -> LeaveOneOut:
        """Leave-one-out split of all users."""
        return LeaveOneOut(self.sequences)


def toy_world(
    num_users: int = 96, num_items: int = 24, length: tuple[int, int] = (5, 9), sizes: tuple[int, ...] = (4, 4, 2), seed: int = 0
) -> ToyWorld:
    """Make a toy world.

    Args:
        num_users: users with ids 0, 1, ...; together they walk every step of the cycle if there are enough of them.
        num_items: catalogue size N, above `length[1]` and at most the number of IDs that `sizes` allows.
        length: shortest and longest history, both included, at least 3.
        sizes: codes per level.
        seed: equal seeds give equal worlds.
    """
    assert 3 <= length[0] <= length[1] < num_items, "histories need three items and must not close the cycle"
    rng = np.random.default_rng(seed)
    cycle = rng.permutation(num_items)
    successor = np.empty(num_items, np.int64)
    successor[cycle] = np.roll(cycle, -1)
    codes = unique_codes(num_items, sizes, rng)
    return ToyWorld(toy_sequences(cycle, num_users, length, rng), successor, codes, sizes, _vectors(codes, sizes, rng))


def toy_sequences(cycle: NDArray[np.int64], num_users: int, length: tuple[int, int], rng: np.random.Generator) -> Sequences:
    """Walks along a cycle of items: starts are spread evenly, lengths are drawn from `length`, both ends included."""
    starts = np.arange(num_users) * len(cycle) // num_users + int(rng.integers(len(cycle)))
    lengths = rng.integers(length[0], length[1] + 1, num_users)
    rows = [cycle[(start + np.arange(n)) % len(cycle)] for start, n in zip(starts, lengths, strict=True)]
    return Sequences.from_lists(np.arange(num_users), rows)


def unique_codes(num_items: int, sizes: tuple[int, ...], rng: np.random.Generator) -> Codes:
    """(N, L) int32 codes, rows drawn without replacement from all IDs that `sizes` allows."""
    total = int(np.prod(sizes))
    assert num_items <= total, f"{num_items} items but only {total} IDs"
    picked = rng.choice(total, num_items, replace=False)
    return np.stack(np.unravel_index(picked, sizes), axis=1).astype(np.int32)


def _vectors(codes: Codes, sizes: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    bumps = [np.eye(size)[codes[:, level]] for level, size in enumerate(sizes)]
    vectors = np.concatenate(bumps, axis=1)
    vectors += 0.05 * rng.standard_normal(vectors.shape)
    scaled: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def code_tables(max_levels: int = 5, max_size: int = 6, max_items: int = 40) -> SearchStrategy[CodeTable]:
    """Hypothesis strategy of (codes, sizes): (N, L) int32 with unique rows in any order, N and L at least 1."""
    try:
        from hypothesis import strategies as st
    except ImportError as error:
        raise FelidError("felid.testing.code_tables needs Hypothesis, which is not installed; pip install hypothesis") from error

    def rows(sizes: tuple[int, ...]) -> SearchStrategy[CodeTable]:
        row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
        table = st.lists(row, min_size=1, max_size=max_items, unique=True)
        return table.map(lambda chosen: (np.asarray(chosen, np.int32).reshape(len(chosen), len(sizes)), sizes))

    return st.lists(st.integers(1, max_size), min_size=1, max_size=max_levels).map(tuple).flatmap(rows)


class _Ranker(Protocol):
    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> NDArray[np.int64]: ...


def check_ranker(ranker: _Ranker, eval_set: EvaluationSet, num_items: int, k: int) -> None:
    """Contract of everything that ranks: full, valid, repeatable lists that depend on the user's own history alone.

    Args:
        ranker: has `rank(histories, k, exclude_seen)`.
        eval_set: its histories are ranked; a handful of users is enough.
        num_items: size of the catalogue.
        k: list length, at most `num_items`.

    Raises:
        AssertionError: names the first promise that is broken.
    """
    histories = eval_set.histories
    for exclude_seen in (True, False):
        lists = ranker.rank(histories, k, exclude_seen)
        assert lists.shape == (len(histories), k), f"shape {lists.shape}"
        assert lists.dtype == np.int64, f"dtype {lists.dtype}"
        assert np.array_equal(lists, ranker.rank(histories, k, exclude_seen)), "a second call gives other lists"
        for row in range(len(histories)):
            seen = set(histories[row].tolist()) if exclude_seen else set()
            _check_list(lists[row], seen, num_items)
            alone = ranker.rank(histories.take(np.asarray([row])), k, exclude_seen)
            assert np.array_equal(alone[0], lists[row]), f"user {row} gets another list without the other users"


def _check_list(row: NDArray[np.int64], seen: set[int], num_items: int) -> None:
    found = row[row >= 0]
    assert (row[len(found) :] == -1).all(), "-1 stands before an item"
    assert len(found) == min(len(row), num_items - len(seen)), f"{len(found)} items although more are eligible"
    assert len(set(found.tolist())) == len(found), "an item occurs twice"
    assert (found < num_items).all(), "an item outside the catalogue"
    assert not seen & set(found.tolist()), "a seen item although seen items are excluded"
