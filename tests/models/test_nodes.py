"""Both ways to the inner products of queries and nodes, and the means that nodes have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from felid.models import nodes as module
from felid.models.nodes import node_logits
from felid.models.torch_trie import TorchTrie
from felid.semantic_ids import SemanticIds
from felid.trie import Trie
from tests.tiny import catalogue, torch_trie

IDS = catalogue(num_items=40)
TRIE = torch_trie(IDS)


def some(level: int, worth: float, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of 30 queries, most nodes several times and in no order, and the gradients by queries and vectors."""
    monkeypatch.setattr(module, "WORTH_A_PRODUCT", worth)
    random = torch.Generator().manual_seed(level)
    queries = torch.randn(30, 6, generator=random).requires_grad_()
    vectors = TRIE.means(torch.randn(40, 6, generator=random), torch.arange(40))
    table = vectors[level].requires_grad_()
    picked = TRIE.paths[torch.randint(0, 12, (30,), generator=random), level]
    logits = node_logits(queries, picked, TRIE, vectors, level)
    weights = torch.randn(logits.shape, generator=random)
    return logits.detach(), *torch.autograd.grad((logits * weights).sum(), (queries, table))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_products_of_blocks_and_of_gathered_rows_are_the_same(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for gathered, blocks in zip(some(level, 1e9, monkeypatch), some(level, 0, monkeypatch), strict=True):
        assert blocks.abs().sum() > 1
        torch.testing.assert_close(gathered, blocks, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("worth", [0, 1e9])
def test_each_child_has_the_product_with_its_vector(worth: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_A_PRODUCT", worth)
    vectors, queries = TRIE.means(torch.randn(40, 6), torch.arange(40)), torch.randn(5, 6)
    for level in range(3):
        picked = TRIE.paths[torch.tensor([7, 0, 7, 31, 12]), level]
        logits = node_logits(queries, picked, TRIE, vectors, level)
        wanted = torch.zeros_like(logits)
        for row, node in enumerate(picked.tolist()):
            for child in range(int(TRIE.child_start[node]), int(TRIE.child_start[node + 1])):
                wanted[row, TRIE.code[child]] = queries[row] @ vectors[level][child - TRIE.depth_start[level + 1]]
        torch.testing.assert_close(logits, wanted)


@pytest.mark.parametrize("worth", [0, 1e9])
def test_several_threads_add_up_gradients_in_a_fixed_order(worth: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact resume needs it; the gradient of `table[rows]` has no such order."""
    monkeypatch.setattr(module, "WORTH_A_PRODUCT", worth)
    ids = catalogue(num_items=1000, sizes=(5, 100, 5))
    trie, before = torch_trie(ids), torch.get_num_threads()
    queries, vectors = torch.randn(500, 128), trie.means(torch.randn(1000, 128), torch.arange(1000))
    picked = trie.paths[0, 1].expand(500)  # all at one node, so that threads meet at its children
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(10):
            table = vectors[1].clone().requires_grad_()
            logits = node_logits(queries, picked, trie, (vectors[0], table, vectors[2]), 1)
            found.append(torch.autograd.grad(logits.sin().sum(), table)[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("shared", [False, True])
def test_a_node_has_the_mean_of_the_items_of_the_trie_below_it(shared: bool) -> None:
    codes = np.concatenate((IDS.codes, IDS.codes[3:6])) if shared else IDS.codes
    ids = SemanticIds(codes, IDS.sizes, np.arange(len(codes)), shared=shared)
    inside = np.array([row for row in range(len(codes)) if row not in (5, 8, 9)])
    trie = TorchTrie.of(Trie.from_codes(codes[inside], ids.sizes, inside, shared=shared), codes)
    vectors, known = torch.randn(len(codes), 4), (trie.paths[:, -1] >= 0).numpy()
    means = trie.means(vectors.flip(0), torch.arange(len(codes)).flip(0))
    for depth in (1, 2, 3):
        assert len(means[depth - 1]) == trie.depth_start[depth + 1] - trie.depth_start[depth]
        for item in inside.tolist():
            below = known & (codes[:, :depth] == codes[item, :depth]).all(1)
            mean = means[depth - 1][trie.paths[item, depth] - trie.depth_start[depth]]
            torch.testing.assert_close(mean, vectors[torch.from_numpy(below)].mean(0))
