"""What a search misses: against scores of all items by teacher forcing, with narrow and with full beams."""

from __future__ import annotations

import numpy as np
import pytest

from felid.evaluation import EvaluationConfig
from felid.evaluation.search_error import sample, search_error, search_errors, unpruned
from felid.evaluation.tables import aside_lines
from felid.models.base import Mode
from felid.progress import plain_console
from felid.recommender import Recommender
from felid.search.config import SearchConfig
from felid.search.transitions import TransitionMemory
from felid.testing import toy_world
from tests.tiny import AnyKind, any_model, catalogue, tiny_catalogue

WORLD = toy_world()
TEST = WORLD.split.evaluation("test")
SEARCHES: list[tuple[AnyKind, Mode]] = [("tiger", "generative"), ("lynx", "generative"), ("lynx", "fused")]
searches = pytest.mark.parametrize(("kind", "mode"), SEARCHES)


def recommender(kind: AnyKind, mode: Mode, **search: object) -> Recommender:
    """A random model over the world's items, whose codes have nothing to do with the histories."""
    items, memory = tiny_catalogue(catalogue(24, (4, 4, 3))), TransitionMemory.of(WORLD.split.train(), 24)
    settings = SearchConfig.model_validate({"mode": mode, "memory_weight": 1.0, **search})
    return Recommender(any_model(kind, items), items, WORLD.sequences, None, settings, memory)


@searches
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_nothing_is_missed_by_a_beam_as_wide_as_the_catalogue(kind: AnyKind, mode: Mode, exclude_seen: bool) -> None:
    found = search_error(recommender(kind, mode, num_beams=24, candidates=24).ranker, TEST.histories, (1, 5), exclude_seen)
    assert found == {"error@1": 0, "same_list@1": 1, "error@5": 0, "same_list@5": 1, "num_beams": 24, "users": 96}


@searches
def test_a_narrow_beam_misses_what_scores_of_all_items_find(kind: AnyKind, mode: Mode) -> None:
    """The exact lists are those of `Recommender.score`, one user at a time, and the share is counted."""
    model = recommender(kind, mode, num_beams=1, candidates=1)
    histories = sample(TEST.histories, 30, 0)
    found = search_error(model.ranker, histories, (1,), exclude_seen=False)
    lists, missed = model.rank(histories, 1, False), 0
    for row, user in enumerate(histories.user_ids.tolist()):
        scores = model.score((100 + histories[row]).tolist(), list(range(100, 124)), user)
        missed += int(scores.argmax()) != lists[row, 0]
    assert missed > 0
    assert found == {
        "error@1": pytest.approx(missed / 30),
        "same_list@1": pytest.approx(1 - missed / 30),
        "num_beams": 1,
        "users": 30,
    }


def test_lists_shorter_than_k_count_as_they_are() -> None:
    """With 20 of 24 items seen only four are left, and a full search finds these four."""
    model = recommender("tiger", "generative", num_beams=24)
    history = type(TEST.histories).from_lists(np.array([0]), [np.arange(20)])
    assert search_error(model.ranker, history, (6,), exclude_seen=True)["error@6"] == 0


def test_every_mode_that_searches_is_measured_once_on_the_same_users() -> None:
    models = {mode: recommender("lynx", mode, num_beams=2, candidates=2) for mode in ("fused", "dense", "generative")}
    rankers = {f"lynx, {mode}": model.ranker for mode, model in models.items()} | {"again": models["fused"].ranker}
    config = EvaluationConfig(ks=(1, 3), search_error_users=40, seed=3)
    found = search_errors(rankers, TEST, config, plain_console(quiet=True))
    assert found.keys() == {"lynx, fused", "lynx, generative"}
    assert found == search_errors(rankers, TEST, config, plain_console(quiet=True))
    assert {error["users"] for error in found.values()} == {40}
    metrics = {"search_error": found, "system": "lynx, fused", "test": {}}
    (line,) = aside_lines(metrics)
    assert f"lynx, fused with 3 beams misses {found['lynx, fused']['error@3']:.2%} of the exact first 3" in line
    off = config.model_copy(update={"search_error_users": 0})
    assert search_errors(rankers, TEST, off, plain_console(quiet=True)) == {}
    assert aside_lines({**metrics, "search_error": {}}) == []


def test_the_exact_search_leaves_the_ranker_as_it_was() -> None:
    ranker = recommender("lynx", "fused", num_beams=3, candidates=4).ranker
    whole = unpruned(ranker)
    assert (whole.search.num_beams, whole.search.candidates, ranker.search.num_beams, ranker.search.candidates) == (24, 24, 3, 4)
    assert whole.codes is ranker.codes
