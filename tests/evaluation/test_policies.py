from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from felid.data.histories import Sequences
from felid.evaluation.policies import list_texts, never_text, reading_text, search_text, tie_text, way_texts
from felid.models.base import Mode
from felid.ranking import ItemRanker
from felid.search import generative
from felid.search.beam import Query
from felid.search.config import SearchConfig
from tests.tiny import AnyKind, any_model, catalogue, random_histories, tiny_catalogue

IDS = catalogue(18, (4, 3, 5))
ITEMS = tiny_catalogue(IDS, cold=(2, 7))
HISTORIES = Sequences.from_lists(np.arange(4), [np.array(row) for row in random_histories(IDS)])


def ranker(kind: AnyKind, **search: object) -> ItemRanker:
    return ItemRanker(any_model(kind, ITEMS, spread=0.5), ITEMS, SearchConfig.model_validate(search))


@pytest.mark.parametrize(
    ("kind", "mode", "width", "beams", "told"),
    [
        ("lynx", "generative", 12, 12, "12 beams"),
        ("lynx", "generative", 3, 6, "6 beams (raised from 3)"),
        ("lynx", "fused", 12, 12, "12 beams, 8 candidates of each head"),
        ("lynx", "fused", 3, 8, "8 beams (raised from 3), 8 candidates of each head"),
        ("liger", "hybrid", 3, 9, "9 beams (raised from 3), 9 generated candidates"),
        ("lynx", "dense", 3, None, "all items scored"),
        ("sasrec", "fused", 3, None, "8 candidates"),
    ],
)
def test_the_width_that_is_told_is_the_one_that_is_searched(
    kind: AnyKind, mode: Mode, width: int, beams: int | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall: a beam smaller than k. Lists of 6 are asked for."""
    seen: list[int] = []
    search = generative.beam_searches

    def spy(model: object, histories: object, trie: object, queries: Sequence[Query], vectors: object) -> object:
        seen.extend(query.num_beams for query in queries)
        return search(model, histories, trie, queries, vectors)

    monkeypatch.setattr(generative, "beam_searches", spy)
    one = ranker(kind, mode=mode, num_beams=width, candidates=8, hybrid_candidates=9)
    lists = one.rank(HISTORIES, 6, True)
    assert (lists >= 0).all()
    assert set(seen) == (set() if beams is None else {beams})
    assert search_text({"lynx": one}, 6) == f"lynx: {told}"


def test_what_systems_put_together_and_never_list_is_told() -> None:
    fused, hybrid = ranker("lynx", mode="fused", fusion_weight=0.3, memory_weight=2), ranker("liger", mode="hybrid")
    texts = way_texts({"a": fused, "b": hybrid}, 6, num_cold=2, oracle=1)
    assert list(texts) == ["search", "fusion", "hybrid"]
    assert texts["fusion"].startswith("a: 0.3 of the generative score, transitions x 2 (chosen on validation")
    assert "all 2 cold items by dense score; `oracle pool` has only the 1 that are targets of either part" in texts["hybrid"]
    assert list(way_texts({"a": ranker("lynx", mode="dense")}, 6, 2, None)) == ["search"]
    never = never_text({"sasrec": ranker("sasrec"), "b": hybrid}, np.array([2, 7]))
    assert never == "; 2 of them, without training interactions, sasrec never recommends"


def test_candidates_are_told_to_be_raised_to_the_list() -> None:
    one = ranker("lynx", num_beams=50, candidates=4)
    assert search_text({"lynx": one}, 6) == "lynx: 50 beams, 6 candidates of each head (raised from 4)"


def test_the_longest_history_that_is_read_is_told_with_those_that_are_longer() -> None:
    lengths = np.array([3, 8, 9, 40])
    one, other = ranker("lynx"), ranker("sasrec")
    text = "reads the last 8 items at most: 2 of 4 test histories are longer (the longest has 40)"
    assert reading_text({"a": one, "b": other}, lengths) == f"the model {text}"
    other.model.history = 20
    assert reading_text({"a": one, "b": other}, lengths).startswith(f"a {text}; b reads the last 20 items at most: 1 of 4")


def test_ties_are_told_by_mode() -> None:
    rankers = {"lynx": ranker("lynx"), "lynx, generative": ranker("lynx", mode="generative"), "s": ranker("sasrec")}
    text = tie_text(rankers)
    assert "fused, dense: by item_index; generative: by semantic ID, then item_index where items share one" in text
    assert "never averaged" in text


def test_what_the_data_lacks_is_told() -> None:
    full, poor = list_texts(True, True), list_texts(False, False)
    assert "mean cosine" in full["list statistics"] and "no diversity" in poor["list statistics"]
    assert "no timestamps" in poor["slices"] and "timestamps" not in full["slices"]
