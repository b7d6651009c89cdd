from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from felid.data.histories import EvaluationSet, Sequences
from felid.errors import RequestError
from felid.evaluation.lists import ItemFacts
from felid.evaluation.protocol import EvaluationConfig, evaluate
from felid.testing import check_ranker, toy_world

HISTORIES = Sequences.from_lists(np.array([7, 8, 9]), [np.array([0, 1]), np.array([2, 3]), np.array([4, 4])])
EVAL_SET = EvaluationSet(HISTORIES, np.array([2, 3, 0]))
LISTS = np.array([[3, 2, 4, 5], [3, 0, 1, -1], [1, 2, 3, 5]])


@dataclass
class Fixed:
    """Returns given lists; where asked, without the seen items."""

    lists: np.ndarray
    obeys: bool = True

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> np.ndarray:
        result = np.full((len(histories), k), -1)
        for row in range(len(histories)):
            seen = set(histories[row].tolist()) if exclude_seen and self.obeys else set()
            items = [i for i in self.lists[row].tolist() if i not in seen][:k]
            result[row, : len(items)] = items
        return result


@dataclass
class Successor:
    successor: np.ndarray

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> np.ndarray:
        result = np.full((len(histories), k), -1)
        for row in range(len(histories)):
            seen = set(histories[row].tolist()) if exclude_seen else set()
            best = int(self.successor[histories[row][-1]])
            rest = [best, *(i for i in range(len(self.successor)) if i != best)]
            items = [i for i in rest if i not in seen][:k]
            result[row, : len(items)] = items
        return result


def test_ranks_metrics_and_counts() -> None:
    found = evaluate(Fixed(LISTS), EVAL_SET, (3, 1), exclude_seen=False, num_items=6)
    assert found.ranks.tolist() == [2, 1, 0]
    assert found.ks == (1, 3)
    got = found.metrics()
    assert list(got) == [
        *("recall@1", "ndcg@1", "mrr@1", "recall@3", "ndcg@3", "mrr@3", "coverage@1", "coverage@3", "num_users"),
        "users_with_seen_target",
    ]
    assert got["recall@1"] == pytest.approx(1 / 3)
    assert got["recall@3"] == pytest.approx(2 / 3)
    assert got["mrr@3"] == pytest.approx(1.5 / 3)
    assert got["coverage@1"] == pytest.approx(2 / 6)
    assert got["num_users"] == 3
    assert found.per_user().mean(axis=0).tolist() == pytest.approx([got[name] for name in found.names])


def test_a_seen_target_is_a_miss_where_seen_items_are_removed_and_is_counted() -> None:
    kept = evaluate(Fixed(LISTS), EVAL_SET, (2,), exclude_seen=False, num_items=6)
    removed = evaluate(Fixed(LISTS), EVAL_SET, (2,), exclude_seen=True, num_items=6)
    assert kept.ranks.tolist() == [2, 1, 0]
    assert removed.ranks.tolist() == [2, 0, 0]
    assert kept.target_seen.sum() == removed.target_seen.sum() == 1


def test_a_system_that_keeps_seen_items_when_told_to_remove_them_is_found_out() -> None:
    with pytest.raises(RequestError, match="recommends items of the history"):
        evaluate(Fixed(LISTS, obeys=False), EVAL_SET, (2,), exclude_seen=True, num_items=6)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (np.array([[3, 2], [3, 3], [1, 2]]), "an item twice"),
        (np.array([[3, 2], [3, 6], [1, 2]]), r"outside -1\.\.5"),
        (np.array([[3, 2], [3, -2], [1, 2]]), r"outside -1\.\.5"),
    ],
)
def test_impossible_lists_are_refused(lists: np.ndarray, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        evaluate(Fixed(lists), EVAL_SET, (2,), exclude_seen=False, num_items=6)


@dataclass
class Choosy(Fixed):
    """Knows that it never recommends item 5."""

    def recommendable(self) -> np.ndarray:
        return np.arange(6) != 5


def test_an_item_that_the_system_rules_out_is_refused() -> None:
    """Item 5 stands in two lists of four places, and in none of two."""
    with pytest.raises(RequestError, match="2 of 12 places hold items that the system says it cannot list, expected none"):
        evaluate(Choosy(LISTS), EVAL_SET, (4,), exclude_seen=False, num_items=6)
    facts = ItemFacts(np.arange(6))
    assert evaluate(Choosy(LISTS), EVAL_SET, (2,), exclude_seen=False, num_items=6, facts=facts).lists["invalid@2"] == 0


def test_lists_are_judged_where_facts_are_given() -> None:
    facts = ItemFacts(np.array([1, 2, 3, 4, 5, 6]))
    found = evaluate(Fixed(LISTS), EVAL_SET, (2, 4), exclude_seen=False, num_items=6, facts=facts)
    assert found.lists["average_popularity@2"] == pytest.approx(np.mean([3.5, 2.5, 2.5]))
    assert found.lists["empty@4"] == pytest.approx(1 / 12)
    assert found.of(np.array([True, False, True])).lists == {}
    assert evaluate(Fixed(LISTS), EVAL_SET, (2,), exclude_seen=False, num_items=6).lists == {}


def test_empty_places_are_no_duplicates() -> None:
    found = evaluate(Fixed(np.full((3, 4), -1)), EVAL_SET, (4,), exclude_seen=True, num_items=6)
    assert found.metrics()["recall@4"] == 0
    assert found.metrics()["coverage@4"] == 0


def test_lists_shorter_than_k_are_refused() -> None:
    """Pitfall: a beam smaller than k."""

    class Short(Fixed):
        def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> np.ndarray:
            return super().rank(histories, k, exclude_seen)[:, :-1]

    with pytest.raises(RequestError, match=r"shape \(3, 3\), expected \(3, 4\)"):
        evaluate(Short(LISTS), EVAL_SET, (4,), exclude_seen=False, num_items=6)


def test_k_above_the_catalogue_is_refused_before_any_work() -> None:
    with pytest.raises(RequestError, match=r"k is 7 but only 6 items compete; choose evaluation\.ks of at most 6"):
        evaluate(Fixed(np.empty((0, 0))), EVAL_SET, (5, 7), exclude_seen=True, num_items=6)


def test_no_users_is_refused() -> None:
    nobody = EvaluationSet(HISTORIES.take(np.empty(0, np.int64)), np.empty(0, np.int64))
    with pytest.raises(RequestError, match="no user has the three items"):
        evaluate(Fixed(LISTS), nobody, (2,), exclude_seen=True, num_items=6)


@pytest.mark.parametrize("ks", [(), (0, 5)])
def test_impossible_list_lengths_are_refused(ks: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="expected list lengths of at least 1"):
        evaluate(Fixed(LISTS), EVAL_SET, ks, exclude_seen=True, num_items=6)
    with pytest.raises(ValueError, match="ks"):
        EvaluationConfig(ks=ks)


def test_the_toy_world_has_a_known_answer() -> None:
    world = toy_world()
    oracle = Successor(world.successor)
    for part in ("validation", "test"):
        for exclude_seen in (True, False):
            found = evaluate(oracle, world.split.evaluation(part), (1,), exclude_seen, world.num_items)
            assert found.metrics()["recall@1"] == 1
            assert not found.target_seen.any()
    check_ranker(oracle, world.split.evaluation("test"), world.num_items, k=world.num_items)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda lists: lists[:, ::-1], "-1 stands before an item"),
        (lambda lists: np.where(lists >= 0, 0, -1), "an item occurs twice"),
        (lambda lists: np.where(np.arange(lists.shape[1]) == 0, lists, -1), "although more are eligible"),
    ],
)
def test_the_contract_check_finds_broken_rankers(broken, message: str) -> None:
    world = toy_world(num_users=12)

    class Broken(Successor):
        def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> np.ndarray:
            return broken(super().rank(histories, k, exclude_seen))

    with pytest.raises(AssertionError, match=message):
        check_ranker(Broken(world.successor), world.split.evaluation("test"), world.num_items, k=world.num_items)
