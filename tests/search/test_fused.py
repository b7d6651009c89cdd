"""Fusion of candidates against what every voice says of every item of the catalogue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from felid.models.base import Catalogue, DenseModel
from felid.models.generative import Decoded
from felid.models.lynx import Lynx
from felid.models.torch_trie import TorchTrie
from felid.search.dense import VectorScores
from felid.search.fused import Candidates, Voices, Weights, proposal
from felid.search.generative import CodeScores
from felid.search.plan import carry_out
from felid.semantic_ids import SemanticIds
from felid.trie import Trie
from tests.search.dumb import dumb_evidence
from tests.search.test_dense import dumb_log_probs
from tests.tiny import (
    DenseKind,
    catalogue,
    dense_model,
    histories_of,
    random_histories,
    random_memory,
    targets_after,
    tiny_catalogue,
)

SYSTEMS: dict[str, tuple[DenseKind, dict[str, object]]] = {
    "both heads": ("lynx", {}),
    "dense head": ("lynx", {"generative_weight": 0.0}),
    "sasrec": ("sasrec", {}),
}
MEMORY, TRAIN = random_memory()
EVIDENCE = np.array([dumb_evidence(TRAIN, row, 18) for row in random_histories(catalogue(18, (4, 3, 5)))])
COLD = (2, 7, 8)
SEEN = torch.tensor([[0, 3, -1], [5, -1, -1], [1, 2, 3], [4, 4, 4]])


def items_of(shared: bool) -> Catalogue:
    ids = catalogue(18, (4, 3, 5))
    if shared:
        ids = SemanticIds(ids.codes[:, :2], ids.sizes[:2], ids.item_ids, shared=True)
        assert max(np.bincount(ids.groups.group)) > 2
    return tiny_catalogue(ids, cold=COLD)


def proposed(
    voices: Voices, histories: Histories, seen: Tensor | None, count: int, num_beams: int, memory_weight: float
) -> Candidates:
    plan = proposal(voices, histories, seen, count, num_beams, memory_weight)
    return carry_out([plan], histories, voices.codes)[0]


def voices_of(system: str, some: Catalogue, with_cold: bool = True) -> tuple[DenseModel, Voices]:
    """A model with what has a say under it; the memory knows all items but two."""
    kind, changes = SYSTEMS[system]
    model, ids = dense_model(kind, some, **changes), some.ids
    assert ids is not None
    rows = np.arange(18) if with_cold else np.flatnonzero(some.warm)
    trie = TorchTrie.of(Trie.from_codes(ids.codes[rows], ids.sizes, rows, shared=ids.shared), ids.codes)
    bias = torch.zeros(18).masked_fill(trie.paths[:, -1] < 0, -torch.inf)
    codes = None
    if "generative" in model.modes:
        assert isinstance(model, Lynx)
        codes = CodeScores.of(model, trie, ids.groups if ids.shared else None)
    return model, Voices(VectorScores.of(model, model.item_vectors(), bias), codes, MEMORY)


@torch.no_grad()
def dumb_likelihood(model: DenseModel, rows: list[list[int]], trie: TorchTrie) -> np.ndarray:
    """(B, N) log-probabilities by teacher forcing of one item at a time, -inf for items outside the trie."""
    assert isinstance(model, Lynx)
    scores = np.full((len(rows), 18), -np.inf)
    for item in np.flatnonzero(trie.paths[:, -1].numpy() >= 0).tolist():
        targets, last = targets_after(model, rows, [item] * len(rows))
        flat, states = targets.clone(), model.target_states(histories_of(rows), targets)
        scores[:, item] = model.likelihood(Decoded(states.hidden[last], states.starts[last]), flat[last], trie)[0].numpy()
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


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("with_cold", [True, False])
@pytest.mark.parametrize("seen", [SEEN, None], ids=["removed", "kept"])
@pytest.mark.parametrize("count", [3, 18, 25])
def test_it_equals_fusing_the_union_of_what_each_head_proposes(
    system: str, shared: bool, with_cold: bool, seen: Tensor | None, count: int
) -> None:
    """With as many candidates as items, that is every item. A model without a generative head has dense scores alone."""
    some = items_of(shared)
    model, voices = voices_of(system, some, with_cold)
    assert some.ids is not None
    rows = random_histories(some.ids)
    histories = histories_of(rows)
    dense = dumb_log_probs(model, histories, voices.vectors.bias.double().numpy())
    likelihood = dense if voices.codes is None else dumb_likelihood(model, rows, voices.codes.trie)
    by_codes = None if voices.codes is None else brute_force(likelihood, seen)
    for factor in (0.0, 1.5):
        found = proposed(voices, histories, seen, count, num_beams=25, memory_weight=factor)
        by_vector = brute_force(dense + factor * EVIDENCE, seen)
        pool = [set(row[:count]) for row in by_vector]
        if by_codes is not None:
            pool = [own | set(row[:count]) for own, row in zip(pool, by_codes, strict=True)]
        for user in range(4):
            assert found.items[user][found.items[user] >= 0].tolist() == sorted(pool[user])
        for weights in (Weights(0.0, 0.0), Weights(0.3, 0.8), Weights(1.0, 1.5), Weights(0.0, 3.0)):
            assert_best(found, weights, fused(weights, dense, likelihood), seen, pool)


def fused(weights: Weights, dense: np.ndarray, generative: np.ndarray) -> np.ndarray:
    """(B, N) -inf for items that a head cannot score."""
    able = np.isfinite(dense) & np.isfinite(generative)
    some = (1 - weights.generative) * np.where(able, dense, 0) + weights.generative * np.where(able, generative, 0)
    return np.where(able, some + weights.memory * EVIDENCE, -np.inf)


def assert_best(found: Candidates, weights: Weights, scores: np.ndarray, seen: Tensor | None, pool: list[set[int]]) -> None:
    """The ten best items of each pool, with their scores."""
    wanted, lists = brute_force(scores, seen, pool), found.best(weights, 10)
    for user in range(4):
        items = [item for item in lists.items[user].tolist() if item >= 0]
        assert items == wanted[user][:10]
        assert lists.scores[user][: len(items)].tolist() == pytest.approx([scores[user][i] for i in items], abs=1e-4)
        assert (lists.items[user][len(items) :] == -1).all()
        assert torch.isneginf(lists.scores[user][len(items) :]).all()


def test_the_memory_brings_items_that_no_head_proposes() -> None:
    some = items_of(False)
    _, voices = voices_of("both heads", some)
    assert some.ids is not None
    histories = histories_of(random_histories(some.ids))
    without, with_it = (proposed(voices, histories, None, 2, 2, factor).items for factor in (0.0, 50.0))
    best = torch.from_numpy(EVIDENCE).argmax(1, keepdim=True)
    assert (with_it == best).any(1).all()
    assert not (without == best).any(1).all()


def test_without_a_memory_nothing_is_evident() -> None:
    some = items_of(False)
    _, voices = voices_of("both heads", some)
    assert some.ids is not None
    histories = histories_of(random_histories(some.ids))
    assert voices.evidence(histories).numpy() == pytest.approx(EVIDENCE, abs=1e-5)
    silent = proposed(replace(voices, memory=None), histories, None, 5, 5, memory_weight=9.0)
    plain = proposed(voices, histories, None, 5, 5, memory_weight=0.0)
    assert torch.equal(silent.items, plain.items)
    assert not silent.memory.any()


def test_an_item_that_one_head_cannot_score_is_not_recommended_whatever_the_weight() -> None:
    inf = torch.inf
    dense, generative = torch.tensor([[-1.0, -inf, -3.0, -inf]]), torch.tensor([[-2.0, -1.0, -inf, -inf]])
    memory = torch.tensor([[0.5, 9.0, 9.0, 9.0]])
    for weight in (0.0, 0.5, 1.0):
        assert Weights(weight, 2.0).fuse(dense, generative, memory).tolist() == [[-weight, -inf, -inf, -inf]]
    found = Candidates(torch.tensor([[1, 3, 5, 6]]), dense, generative, memory).best(Weights(0.5, 2.0), 3)
    assert found.items.tolist() == [[1, -1, -1]]


def test_ties_go_to_the_smaller_item_index() -> None:
    items, silent = torch.tensor([[-1, 2, 4, 9]]), torch.zeros(1, 4)
    dense, generative = torch.tensor([[-torch.inf, -2.0, -1.0, -2.0]]), torch.tensor([[-torch.inf, -1.0, -2.0, -1.0]])
    assert Candidates(items, dense, generative, silent).best(Weights(0.5, 1.0), 4).items.tolist() == [[2, 4, 9, -1]]
    assert Candidates(items, dense, generative, silent).best(Weights(1.0, 1.0), 2).items.tolist() == [[2, 9]]
    told = torch.tensor([[5.0, 0.0, 0.0, 1.0]])
    assert Candidates(items, dense, generative, told).best(Weights(0.0, 1.0), 3).items.tolist() == [[4, 9, 2]]
