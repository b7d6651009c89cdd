"""Fusion of candidates against both scores of every item of the catalogue."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from felid.models.base import Catalogue
from felid.models.lynx import Lynx
from felid.models.torch_trie import TorchTrie
from felid.search.dense import VectorScores
from felid.search.fused import Candidates, fuse, propose
from felid.search.generative import CodeScores
from felid.semantic_ids import SemanticIds
from felid.trie import Trie
from tests.search.test_dense import dumb_log_probs
from tests.tiny import catalogue, dense_model, histories_of, random_histories, targets_after, tiny_catalogue

COLD = (2, 7, 8)
SEEN = torch.tensor([[0, 3, -1], [5, -1, -1], [1, 2, 3], [4, 4, 4]])


def items_of(shared: bool) -> Catalogue:
    ids = catalogue(18, (4, 3, 5))
    if shared:
        ids = SemanticIds(ids.codes[:, :2], ids.sizes[:2], ids.item_ids, shared=True)
        assert max(np.bincount(ids.groups.group)) > 2
    return tiny_catalogue(ids, cold=COLD)


def heads(some: Catalogue, with_cold: bool = True) -> tuple[Lynx, CodeScores, VectorScores]:
    model, ids = dense_model("lynx", some), some.ids
    assert isinstance(model, Lynx) and ids is not None
    rows = np.arange(18) if with_cold else np.flatnonzero(some.warm)
    trie = TorchTrie.of(Trie.from_codes(ids.codes[rows], ids.sizes, rows, shared=ids.shared), ids.codes)
    bias = torch.zeros(18).masked_fill(trie.paths[:, -1] < 0, -torch.inf)
    codes = CodeScores(model, trie, ids.groups if ids.shared else None)
    return model, codes, VectorScores.of(model, model.item_vectors(), bias)


@torch.no_grad()
def dumb_likelihood(model: Lynx, rows: list[list[int]], trie: TorchTrie) -> np.ndarray:
    """(B, N) log-probabilities by teacher forcing of one item at a time, -inf for items outside the trie."""
    scores = np.full((len(rows), 18), -np.inf)
    for item in np.flatnonzero(trie.paths[:, -1].numpy() >= 0).tolist():
        targets, last = targets_after(model, rows, [item] * len(rows))
        flat, states = targets.clone(), model.target_states(histories_of(rows), targets)
        scores[:, item] = model.likelihood(states[last], flat[last], trie)[0].numpy()
    return scores


def brute_force(scores: np.ndarray, seen: Tensor | None, pool: list[set[int]] | None = None) -> list[list[int]]:
    """Eligible items, best first, ties by item_index; of each user's pool if there are pools."""
    banned = [set(row) for row in seen.tolist()] if seen is not None else [set()] * len(scores)
    return [
        sorted(
            (i for i in range(18) if np.isfinite(row[i]) and i not in banned[user] and (pool is None or i in pool[user])),
            key=lambda i: (-round(float(row[i]), 5), i),
        )
        for user, row in enumerate(scores)
    ]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("with_cold", [True, False])
@pytest.mark.parametrize("seen", [SEEN, None], ids=["removed", "kept"])
@pytest.mark.parametrize("count", [3, 18, 25])
def test_it_equals_fusing_the_union_of_what_each_head_proposes(
    shared: bool, with_cold: bool, seen: Tensor | None, count: int
) -> None:
    """With as many candidates as items, that is every item."""
    some = items_of(shared)
    model, codes, vectors = heads(some, with_cold)
    assert some.ids is not None
    rows = random_histories(some.ids)
    histories = histories_of(rows)
    found = propose(codes, vectors, histories, seen, count, num_beams=25)
    dense = dumb_log_probs(model, histories, vectors.bias.double().numpy())
    likelihood = dumb_likelihood(model, rows, codes.trie)
    by_codes, by_vector = brute_force(likelihood, seen), brute_force(dense, seen)
    pool = [set(a[:count]) | set(b[:count]) for a, b in zip(by_codes, by_vector, strict=True)]
    for user in range(4):
        assert found.items[user][found.items[user] >= 0].tolist() == sorted(pool[user])
    for weight in (0.0, 0.3, 1.0):
        fused = (1 - weight) * np.where(np.isfinite(dense), dense, 0) + weight * np.where(np.isfinite(dense), likelihood, 0)
        fused[~np.isfinite(dense)] = -np.inf
        wanted = brute_force(fused, seen, pool)
        lists = found.best(weight, 10)
        for user in range(4):
            items = [item for item in lists.items[user].tolist() if item >= 0]
            assert items == wanted[user][:10]
            assert lists.scores[user][: len(items)].tolist() == pytest.approx([fused[user][i] for i in items], abs=1e-4)
            assert (lists.items[user][len(items) :] == -1).all()
            assert torch.isneginf(lists.scores[user][len(items) :]).all()


def test_an_item_that_one_head_cannot_score_is_not_recommended_whatever_the_weight() -> None:
    inf = torch.inf
    dense, generative = torch.tensor([[-1.0, -inf, -3.0, -inf]]), torch.tensor([[-2.0, -1.0, -inf, -inf]])
    for weight in (0.0, 0.5, 1.0):
        assert fuse(dense, generative, weight).tolist() == [[-1.0 - weight, -inf, -inf, -inf]]
    found = Candidates(torch.tensor([[1, 3, 5, 6]]), dense, generative).best(0.5, 3)
    assert found.items.tolist() == [[1, -1, -1]]


def test_ties_go_to_the_smaller_item_index() -> None:
    items = torch.tensor([[-1, 2, 4, 9]])
    dense, generative = torch.tensor([[-torch.inf, -2.0, -1.0, -2.0]]), torch.tensor([[-torch.inf, -1.0, -2.0, -1.0]])
    assert Candidates(items, dense, generative).best(0.5, 4).items.tolist() == [[2, 4, 9, -1]]
    assert Candidates(items, dense, generative).best(1.0, 2).items.tolist() == [[2, 9]]
