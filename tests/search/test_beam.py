"""Beam search against exhaustive scoring and against a slow beam search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import TorchTrie
from felid.search import Results, beam_search, score_items
from felid.search.beam import Query, beam_searches
from felid.semantic_ids import SemanticIds
from felid.testing import CodeTable, code_tables
from felid.trie import Trie
from tests.search.dumb import dumb_beam_search
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

CATALOGUES = [
    *(catalogue(18, sizes) for sizes in ((20,), (5, 6), (4, 3, 5), (3, 2, 4, 2), (2, 3, 2, 3, 2))),
    catalogue(3, (4, 1, 4, 1, 4)),
    catalogue(1, (3, 3)),
]


def setting(kind: Kind, ids: SemanticIds, **changes: object) -> tuple[GenerativeModel, Histories, TorchTrie]:
    model, rows = random_model(kind, ids, **changes), random_histories(ids)
    return model, histories_of(rows, user_tokens(model, len(rows))), torch_trie(ids)


def exhaustive(
    model: GenerativeModel, histories: Histories, trie: TorchTrie, user: int, excluded: set[int]
) -> list[tuple[int, float]]:
    """All eligible items, best first, ties by semantic ID."""
    items = trie.leaf_item
    scores = score_items(model, histories, items.expand(len(histories.items), -1), trie)[user]
    found = [(item, score) for item, score in zip(items.tolist(), scores.tolist(), strict=True) if item not in excluded]
    return sorted(found, key=lambda pair: -pair[1])  # stable, and leaves are in trie order


def assert_found(results: Results, user: int, wanted: list[tuple[int, float]]) -> None:
    """The wanted items and scores in order (items of nearly equal score may swap), then -1 and -inf."""
    count = len(wanted)
    items, scores = results.items[user].tolist(), results.scores[user].tolist()
    assert items[count:] == [-1] * (len(items) - count)
    assert scores[count:] == [-np.inf] * (len(items) - count)
    assert scores[:count] == pytest.approx([score for _, score in wanted], abs=1e-5, rel=1e-5)
    assert sorted(items[:count]) == sorted(item for item, _ in wanted)
    by_item = dict(wanted)
    assert [by_item[item] for item in items[:count]] == pytest.approx(scores[:count], abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("ids", CATALOGUES, ids=lambda ids: "x".join(map(str, ids.sizes)))
def test_wide_beams_equal_scoring_the_whole_catalogue(kind: Kind, normalize: str, ids: SemanticIds) -> None:
    model, histories, trie = setting(kind, ids, normalize=normalize)
    results = beam_search(model, histories, trie, 25)
    assert results.items.shape == results.scores.shape == (4, 25)
    assert results.items.dtype == torch.int64
    assert results.scores.dtype == torch.float32
    for user in range(4):
        assert_found(results, user, exhaustive(model, histories, trie, user, set()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 2, 3, 5, 17, 18, 40])
def test_every_result_is_a_different_item_and_none_is_missing(kind: Kind, width: int) -> None:
    ids = catalogue(18, (3, 2, 4, 2))
    results = beam_search(*setting(kind, ids), width)
    for row, scores in zip(results.items.tolist(), results.scores, strict=True):
        found = [item for item in row if item >= 0]
        assert len(found) == len(set(found)) == min(width, 18)
        assert max(found) < 18
        assert torch.isfinite(scores[: len(found)]).all()
        assert (scores[1:] <= scores[:-1]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [1, 2, 4, 7])
def test_narrow_beams_equal_a_slow_beam_search(kind: Kind, normalize: str, seed: int, width: int) -> None:
    ids = [catalogue(14, (4, 3, 5), seed), catalogue(16, (3, 2, 4, 2), seed), catalogue(20, (2, 3, 2, 3, 2), seed)][seed]
    model, histories, trie = setting(kind, ids, normalize=normalize, seed=seed)
    known = {tuple(row): item for item, row in enumerate(ids.codes.tolist())}
    excluded = [set(), {0}, {1, 2, 5}, set(range(8))]
    padded = torch.tensor([sorted(items) + [-1] * (8 - len(items)) for items in excluded])
    results = beam_search(model, histories, trie, width, padded)
    users = user_tokens(model, 4)
    for user, row in enumerate(random_histories(ids)):
        alone = histories_of([row], None if users is None else users[user : user + 1])
        wanted = dumb_beam_search(model, alone, known, width, excluded[user])
        assert [item for item, _ in wanted] == results.items[user].tolist()[: len(wanted)]
        assert_found(results, user, wanted)


@settings(max_examples=40, deadline=None)
@given(code_tables(max_levels=5, max_size=4, max_items=24), st.integers(1, 30), st.randoms(use_true_random=False))
def test_any_catalogue_with_any_exclusions(table: CodeTable, width: int, random: object) -> None:
    """The trie holds a part of the catalogue; excluded lists have repeats, padding and items outside the trie."""
    codes, sizes = table
    ids = SemanticIds(codes, sizes, np.arange(len(codes)))
    kept = np.array(sorted(random.sample(range(len(codes)), random.randint(1, len(codes)))))
    trie = TorchTrie.of(Trie.from_codes(codes[kept], sizes, kept), codes)
    model, rows = random_model("lynx", ids, layers=1, decoder_layers=1), random_histories(ids)
    histories = histories_of(rows)
    excluded = torch.tensor([[random.randint(-1, len(codes) - 1) for _ in range(random.choice([5, 20]))] for _ in range(1)] * 4)
    excluded[1] = -1
    excluded[2, 1:] = excluded[2, 0]
    results = beam_search(model, histories, trie, width, excluded)
    for user in range(4):
        banned = set(excluded[user].tolist())
        wanted = exhaustive(model, histories, trie, user, banned)
        found = [item for item in results.items[user].tolist() if item >= 0]
        assert len(found) == len(set(found)) == min(width, len(wanted))
        assert set(found) <= set(kept.tolist()) - banned
        if width >= len(kept):
            assert_found(results, user, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eligible", [0, 1, 3])
def test_results_are_not_filled_up_when_fewer_than_w_items_match(kind: Kind, eligible: int) -> None:
    """-inf beams returned as if valid (pitfall: STATIC)."""
    ids = catalogue(18, (2, 3, 2, 3, 2))
    model, histories, trie = setting(kind, ids)
    left = {2, 9, 17} if eligible == 3 else set(range(eligible))
    excluded = torch.tensor([sorted(set(range(18)) - left)] * 4)
    for width in (1, 5, 50):
        results = beam_search(model, histories, trie, width, excluded)
        for user in range(4):
            wanted = exhaustive(model, histories, trie, user, set(range(18)) - left)
            assert_found(results, user, wanted[:width] if width >= 5 else [(int(i), float(s)) for i, s in first(results, user)])
            assert (results.items[user] >= 0).sum() == min(width, eligible)
            assert set(results.items[user].tolist()) <= left | {-1}


def first(results: Results, user: int) -> list[tuple[float, float]]:
    """The only result of a beam of width 1, which need not be the most probable item."""
    pairs = zip(results.items[user].tolist(), results.scores[user].tolist(), strict=True)
    return [pair for pair in pairs if pair[0] >= 0]


def test_whole_subtrees_are_excluded_at_every_depth() -> None:
    ids = catalogue(48, (2, 3, 2, 2, 2))  # every ID exists
    model, histories, trie = setting("lynx", ids)
    closed = [(0,), (1, 2), (1, 0, 1), (1, 1, 0, 0)]
    items = [item for item, row in enumerate(ids.codes.tolist()) if any(tuple(row[: len(p)]) == p for p in closed)]
    excluded = torch.tensor([items] * 4)
    for width in (1, 4, 100):
        results = beam_search(model, histories, trie, width, excluded)
        assert (results.items >= 0).sum(1).tolist() == [min(width, 48 - len(items))] * 4
        assert not set(results.items.flatten().tolist()) & set(items)
    for user in range(4):
        assert_found(results, user, exhaustive(model, histories, trie, user, set(items)))


@pytest.mark.parametrize("seed", [8, 9, 10])
def test_wide_beams_over_five_levels_never_return_an_excluded_item(seed: int) -> None:
    """Fillers of prefixes with few children must not disturb the order that exclusion relies on."""
    ids, rng = catalogue(32, (2, 2, 4, 2, 2), seed), np.random.default_rng(seed)
    model, histories, trie = setting("lynx", ids, seed=seed)
    for left in (1, 3, 15):
        excluded = torch.from_numpy(np.stack([rng.permutation(32)[left:] for _ in range(4)]))
        for width in (20, 40, 80, 200):
            results = beam_search(model, histories, trie, width, excluded)
            for user in range(4):
                wanted = exhaustive(model, histories, trie, user, set(excluded[user].tolist()))
                if width >= 32:
                    assert_found(results, user, wanted)
                assert {item for item, _ in wanted} == set(results.items[user].tolist()) - {-1}


@pytest.mark.parametrize("kind", KINDS)
def test_ties_go_to_the_smallest_semantic_id(kind: Kind) -> None:
    ids = catalogue(48, (2, 3, 2, 2, 2))  # complete, so that equal logits are equal scores under both normalisations
    for normalize in NORMALIZATIONS:
        plain = {"node_vectors": False} if kind == "lynx" else {}
        model, histories, trie = setting(kind, ids, normalize=normalize, **plain)
        torch.nn.init.zeros_(model.tokens.weight)
        for width in (1, 3, 7, 48):
            results = beam_search(model, histories, trie, width)
            assert results.items.tolist() == [ids.trie.leaf_item[:width].tolist()] * 4
            assert len(results.scores.unique()) == 1
        wanted = [item for item in ids.trie.leaf_item.tolist() if item not in (0, 5)]
        results = beam_search(model, histories, trie, 7, torch.tensor([[0, 5]] * 4))
        assert results.items.tolist() == [wanted[:7]] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_alone_gets_what_the_user_gets_in_a_batch(kind: Kind) -> None:
    ids = catalogue(30, (4, 3, 5))
    model, histories, trie = setting(kind, ids)
    rows, users = random_histories(ids), user_tokens(model, 4)
    excluded = torch.tensor([[1, -1], [2, 3], [-1, -1], [4, 4]])
    together = beam_search(model, histories, trie, 6, excluded)
    again = beam_search(model, histories, trie, 6, excluded)
    assert torch.equal(together.items, again.items)
    assert torch.equal(together.scores, again.scores)
    for user, row in enumerate(rows):
        alone = beam_search(
            model, histories_of([row], None if users is None else users[user : user + 1]), trie, 6, excluded[user : user + 1]
        )
        assert torch.equal(alone.items[0], together.items[user])
        torch.testing.assert_close(alone.scores[0], together.scores[user], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_beams_with_nothing_left_below_them_change_no_score(kind: Kind) -> None:
    """As many beams as items and many exclusions: most beams are copies of others, in rows wide enough for an unstable sort."""
    ids = catalogue(200, (6, 6, 6, 6))
    model, histories, trie = setting(kind, ids)
    random = torch.Generator().manual_seed(1)
    excluded = torch.stack([torch.randperm(200, generator=random)[:60] for _ in range(4)])
    removed, kept = beam_searches(model, histories, trie, [Query(200, excluded), Query(200)])
    for found, count in ((removed, 140), (kept, 200)):
        items = found.items[:, :count]
        torch.testing.assert_close(found.scores[:, :count], score_items(model, histories, items, trie), atol=1e-4, rtol=1e-5)
        assert (found.items[:, count:] == -1).all()
        assert all(len(set(row)) == count for row in items.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_several_searches_at_once_find_what_each_finds_alone(kind: Kind) -> None:
    """Among them one that ends on fewer items than it has beams, one for a single beam, and one that is asked twice."""
    ids = catalogue(30, (4, 3, 5))
    model, histories, trie = setting(kind, ids)
    most = torch.arange(26).expand(4, -1)
    some = torch.tensor([[1, -1], [2, 3], [-1, -1], [4, 4]])
    queries = [Query(6), Query(6, some), Query(6, most), Query(1), Query(6, some), Query(40, some, also=torch.tensor([[7]] * 4))]
    together = beam_searches(model, histories, trie, queries)
    for query, found in zip(queries, together, strict=True):
        alone = beam_search(model, histories, trie, query.num_beams, query.excluded, query.also)
        assert torch.equal(alone.items, found.items)
        torch.testing.assert_close(alone.scores, found.scores, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.also, found.also, atol=1e-5, rtol=1e-5)


def test_an_empty_list_of_exclusions_changes_nothing() -> None:
    ids = catalogue(18, (4, 3, 5))
    model, histories, trie = setting("lynx", ids)
    plain = beam_search(model, histories, trie, 5)
    for excluded in (torch.empty(4, 0, dtype=torch.long), torch.full((4, 3), -1)):
        assert torch.equal(beam_search(model, histories, trie, 5, excluded).items, plain.items)


def test_scores_of_results_are_those_of_scoring_items() -> None:
    ids = catalogue(18, (4, 3, 5))
    model, histories, trie = setting("tiger", ids)
    results = beam_search(model, histories, trie, 5)
    torch.testing.assert_close(results.scores, score_items(model, histories, results.items, trie), atol=1e-5, rtol=1e-5)
