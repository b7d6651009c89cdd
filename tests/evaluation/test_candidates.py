"""Lists of some items against lists of all from which the others are struck."""

from __future__ import annotations

import numpy as np
import pytest

from felid.data.histories import Sequences
from felid.errors import RequestError
from felid.evaluation import EvaluationConfig, evaluate_run
from felid.evaluation.candidates import Filtered, filtered
from felid.models.base import Mode
from felid.ranking import ItemRanker
from felid.search.config import SearchConfig
from felid.testing import toy_world
from tests.tiny import any_model, catalogue, random_histories, tiny_catalogue

IDS = catalogue(18, (4, 3, 5))
COLD = np.array([2, 7, 8])
ITEMS = tiny_catalogue(IDS, cold=tuple(COLD))
HISTORIES = Sequences.from_lists(np.arange(4), [np.array(row) for row in random_histories(IDS)])


class Fixed:
    """Lists that are given, cut to length, some of them shorter than k."""

    def __init__(self, lists: list[list[int]]) -> None:
        self.lists = lists

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> np.ndarray:
        return np.array([(row + [-1] * k)[:k] for row in self.lists], np.int64)


def test_the_other_items_are_struck_and_the_rest_moves_up() -> None:
    ranker = Filtered(Fixed([[2, 5, 7, 1, 8, 3], [0, 1, 2, 3, 4, 5], [7], [8, 9]]), ~np.isin(np.arange(18), COLD))
    wanted = [[5, 1, 3], [0, 1, 3], [-1, -1, -1], [9, -1, -1]]
    assert ranker.rank(HISTORIES, 3, True).tolist() == wanted
    assert np.flatnonzero(~ranker.recommendable()).tolist() == COLD.tolist()


@pytest.mark.parametrize(("kind", "mode"), [("lynx", "dense"), ("lynx", "fused"), ("sasrec", "dense")])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_a_model_without_its_cold_items_is_that_model_filtered(kind: str, mode: Mode, exclude_seen: bool) -> None:
    model, warm = any_model(kind, ITEMS, spread=0.5), ITEMS.warm
    plain, without = (
        ItemRanker(model, ITEMS, SearchConfig(mode=mode, num_beams=30, candidates=30, fusion_weight=0.0, cold_share=share))
        for share in (None, 0.0)
    )
    lists = Filtered(plain, warm).rank(HISTORIES, 6, exclude_seen)
    assert np.array_equal(lists, without.rank(HISTORIES, 6, exclude_seen))
    assert not np.isin(lists, COLD).any()
    assert np.isin(plain.rank(HISTORIES, 18, False), COLD).any() == (kind != "sasrec")
    assert filtered(without, warm) is without
    assert isinstance(filtered(plain, warm), Filtered) == (kind != "sasrec")


def test_more_places_than_candidates_are_refused() -> None:
    split = toy_world().split
    warm = int(split.warm_items(30).sum())  # a catalogue with items that nobody has taken
    config = EvaluationConfig(ks=(warm + 1,), bootstrap=5, candidates="warm")
    with pytest.raises(RequestError, match=f"only {warm} items compete"):
        evaluate_run({"lynx": Fixed([])}, split, np.arange(30), config)
