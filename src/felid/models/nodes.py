"""Inner products of queries with the vectors of the nodes below some nodes of a trie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from felid.models.torch_trie import NodeVectors, TorchTrie

WORTH_A_PRODUCT = 256
"""Inner products per node from which on a matrix product for each node is faster than gathered rows."""


def node_logits(
    queries: Float[Tensor, "M D"], nodes: Int[Tensor, " M"], trie: TorchTrie, vectors: NodeVectors, level: int
) -> Float[Tensor, "M K"]:
    """Inner products of each query with the vectors of the children of its node, by code; 0 for codes without a child.

    Args:
        queries: float32.
        nodes: one of depth `level` for each query.
        trie: what the nodes are of.
        vectors: of its nodes.
        level: of the codes.
    """
    found, table, first = queries.new_zeros(len(nodes), trie.sizes[level]), vectors[level], trie.depth_start[level + 1]
    if level == 0:  # all at the root: one matrix product
        return found.index_add(1, trie.code[first : first + len(table)], F.linear(queries, table).float())
    ordered, order = nodes.sort()
    owners, children = trie.children_of(ordered)
    distinct, counts = torch.unique_consecutive(ordered, return_counts=True)
    if len(children) < WORTH_A_PRODUCT * len(distinct):
        # index_select, not [...]: the gradient of that adds up in no fixed order where there are several threads
        products = (queries.index_select(0, order[owners]) * table.index_select(0, children - first)).sum(-1)
    else:
        ends = trie.child_start[torch.stack((distinct, distinct + 1))] - first
        apply: Callable[..., Tensor] = _BlockProducts.apply
        products = apply(queries.index_select(0, order), table, counts.tolist(), ends[0].tolist(), ends[1].tolist())
    return found.index_put((order[owners], trie.code[children]), products)


class _BlockProducts(torch.autograd.Function):
    """Blocks of rows of one matrix times blocks of rows of another, one after the other in one flat result."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, counts: list[int], first: list[int], last: list[int]) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.blocks = blocks = list(zip(counts, first, last, strict=True))
        found, row, place = left.new_empty(sum(count * (b - a) for count, a, b in blocks)), 0, 0
        for count, a, b in blocks:
            size = count * (b - a)
            torch.mm(left[row : row + count], right[a:b].T, out=found[place : place + size].view(count, b - a))
            row, place = row + count, place + size
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        left, right = ctx.saved_tensors
        of_left, of_right, row, place = torch.empty_like(left), torch.zeros_like(right), 0, 0
        for count, a, b in ctx.blocks:
            size = count * (b - a)
            block = outer[place : place + size].view(count, b - a)
            torch.mm(block, right[a:b], out=of_left[row : row + count])
            torch.mm(block.T, left[row : row + count], out=of_right[a:b])  # each node stands in one block
            row, place = row + count, place + size
        return of_left, of_right, None, None, None
