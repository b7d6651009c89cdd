"""What of a trie the decoder gets to see, and scores of further items beside the beams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from felid.models.generative import GenerativeModel
from felid.search import beam_search, score_items, steps
from felid.search.beam import Query, beam_searches
from felid.search.steps import compact
from felid.semantic_ids import SemanticIds
from tests.tiny import (
    KINDS,
    NORMALIZATIONS,
    Kind,
    catalogue,
    histories_of,
    random_histories,
    random_model,
    torch_trie,
    user_tokens,
)


def seen_by_decoder(model: GenerativeModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of prefixes per user in each step of the decoder."""
    widths: list[int] = []
    real = model.decoder.decode_step

    def counted(x: torch.Tensor, state: object) -> object:
        widths.append(x.shape[1])
        return real(x, state)

    monkeypatch.setattr(model.decoder, "decode_step", counted)
    return widths


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_a_certain_rest_is_not_computed(normalize: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten items: six are the only ones of their first code, four share one and differ in the last code."""
    codes = np.array([[c, c % 3, c % 2] for c in range(6)] + [[6, 1, c] for c in range(4)], np.int32)
    ids = SemanticIds(codes, (7, 3, 4), np.arange(10))
    model, histories = random_model("lynx", ids, normalize=normalize), histories_of(random_histories(ids))
    widths = seen_by_decoder(model, monkeypatch)
    beams = beam_search(model, histories, torch_trie(ids), 10)
    everything = score_items(model, histories, beams.items, torch_trie(ids))
    torch.testing.assert_close(beams.scores, everything, atol=1e-5, rtol=1e-5)
    assert widths == ([1, 1, 1] if normalize == "trie" else [1, 7, 7]) * 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("width", [1, 4, 30])
def test_items_scored_beside_the_beams(kind: Kind, normalize: str, width: int) -> None:
    ids = catalogue(20, (3, 2, 4, 2))
    model, rows = random_model(kind, ids, normalize=normalize), random_histories(ids)
    histories, trie = histories_of(rows, user_tokens(model, 4)), torch_trie(ids)
    asked = torch.from_numpy(np.random.default_rng(0).integers(0, 20, (4, 9)))
    excluded = torch.tensor([[0, 1, 2]] * 4)
    alone, both = (
        beam_search(model, histories, trie, width, excluded),
        beam_search(model, histories, trie, width, excluded, asked),
    )
    assert torch.equal(alone.items, both.items)
    torch.testing.assert_close(alone.scores, both.scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.also, score_items(model, histories, asked, trie), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "queries",
    [[Query(20, None, torch.arange(20).expand(4, -1))], [Query(20), Query(20, torch.tensor([[3, 5]] * 4)), Query(2)]],
    ids=["items beside the beams", "several searches"],
)
def test_shared_prefixes_are_computed_once(queries: list[Query], monkeypatch: pytest.MonkeyPatch) -> None:
    ids = catalogue(20, (3, 2, 4, 2))
    model, histories, trie = random_model("lynx", ids), histories_of(random_histories(ids)), torch_trie(ids)
    widths = seen_by_decoder(model, monkeypatch)
    beam_search(model, histories, trie, 20)
    alone = widths.copy()
    widths.clear()
    beam_searches(model, histories, trie, queries)
    assert widths == alone
    assert sum(alone) < 1 + 3 + 6 + 20


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_few_children_are_those_out_of_all_codes(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = catalogue(40, (4, 9, 5))
    model, rows = random_model(kind, ids, normalize="trie"), random_histories(ids)
    histories, trie = histories_of(rows, user_tokens(model, 4)), torch_trie(ids)
    found = []
    for worth in (0, 1e9):
        monkeypatch.setattr(steps, "WORTH_A_PRODUCT", worth)
        found.append(beam_search(model, histories, trie, 12, torch.tensor([[0, 1, 2]] * 4)))
    assert torch.equal(found[0].items, found[1].items)
    torch.testing.assert_close(found[0].scores, found[1].scores, atol=1e-5, rtol=1e-5)
    assert len(found[0].scores.unique()) > 12


def test_compacting_keeps_order_and_says_where_everything_went() -> None:
    wanted = torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 1, 0]], dtype=torch.bool)
    places, slots = compact(wanted)
    assert places[0].tolist() == [1, 2, 4]
    assert places[2, :2].tolist() == [0, 3]
    assert slots.tolist() == [[0, 0, 1, 1, 2], [0] * 5, [0, 0, 0, 1, 1]]
    assert compact(wanted[1:2])[0].shape == (1, 1)
