"""A prefix trie as flat tensors: what the likelihood of training and the search read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from felid.errors import SemanticIdError
from felid.trie import Trie

NodeVectors = tuple[Float[Tensor, "_ D"], ...]
"""A vector for each node of a trie: those of depth 1, those of depth 2, and so on to the leaves."""


@dataclass(frozen=True)
class TorchTrie:
    """The flat arrays of a `Trie` on a device, and each item's path through it.

    Attributes:
        depth_start: (L + 2) first node of each depth, and the number of nodes.
        paths: (N, L + 1) int64 node of every item's prefix at depth 0..L; -1 below the root for items not in the trie.
        fan_out: largest number of children at depth 0..L-1.
    """

    code: Tensor
    child_start: Tensor
    leaf_count: Tensor
    leaf_item: Tensor
    paths: Tensor
    depth_start: tuple[int, ...]
    sizes: tuple[int, ...]
    fan_out: tuple[int, ...]

    @classmethod
    def of(cls, trie: Trie, codes: np.ndarray, device: torch.device | str = "cpu") -> TorchTrie:
        """Move `trie` to a device; `codes` (N, L) are those of the whole catalogue, row = item_index."""
        if codes.shape[1] != trie.num_levels:
            raise SemanticIdError(
                f"codes have {codes.shape[1]} levels but the trie was built for {trie.num_levels}; "
                "rebuild it with Trie.from_codes(codes)"
            )
        paths = np.stack([trie.walk(codes[:, :depth]) for depth in range(trie.num_levels + 1)], 1)
        paths[paths[:, -1] < 0, 1:] = -1  # also where some item of the trie shares the prefix

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).long().to(device)

        return cls(
            code=tensor(trie.code),
            child_start=tensor(trie.child_start),
            leaf_count=tensor(trie.leaf_end - trie.leaf_start),
            leaf_item=tensor(trie.leaf_item),
            paths=tensor(paths),
            depth_start=tuple(trie.depth_start.tolist()),
            sizes=trie.sizes,
            fan_out=trie.max_children,
        )

    def to(self, device: torch.device) -> TorchTrie:
        """The same trie on another device."""
        names = ("code", "child_start", "leaf_count", "leaf_item", "paths")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def num_children(self, nodes: Tensor) -> Tensor:
        """How many codes may follow each node."""
        return self.child_start[nodes + 1] - self.child_start[nodes]

    def children_of(self, nodes: Int[Tensor, " M"]) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"]]:
        """The children of each node one after the other: the place of their parent in `nodes`, and the child's node."""
        counts = self.num_children(nodes)
        rows = torch.repeat_interleave(counts)
        first = self.child_start[nodes] - (counts.cumsum(0) - counts)
        return rows, first[rows] + torch.arange(len(rows), device=nodes.device)

    def means(self, vectors: Float[Tensor, "R D"], items: Int[Tensor, " R"]) -> NodeVectors:
        """Of every node below the root the mean of the vectors of the items below it.

        Args:
            vectors: of the items of the trie, and perhaps others, which do not count.
            items: which item each of them is of.
        """
        paths, found = self.paths[items], []
        inside = torch.nonzero(paths[:, -1] >= 0)[:, 0]
        sums, parents = vectors.index_select(0, inside), paths[inside, -1] - self.depth_start[-2]
        counts = torch.ones(len(sums), dtype=torch.long, device=sums.device)
        for depth in range(len(self.sizes), 0, -1):  # leaves from items, then each depth from the one below it
            first, end = self.depth_start[depth : depth + 2]
            sums = sums.new_zeros(end - first, sums.shape[1]).index_add(0, parents, sums)
            counts = counts.new_zeros(end - first).index_add(0, parents, counts)
            found.append(sums / counts[:, None])
            above = torch.arange(self.depth_start[depth - 1], first, device=sums.device)
            parents = torch.repeat_interleave(self.num_children(above))
        return tuple(reversed(found))

    def mask(self, nodes: Int[Tensor, " M"], level: int) -> Tensor:
        """(M, sizes[level]) bool: True where a code may follow the node (all nodes at depth `level`)."""
        rows, children = self.children_of(nodes)
        result = torch.zeros(len(nodes), self.sizes[level], dtype=torch.bool, device=nodes.device)
        result[rows, self.code[children]] = True
        return result
