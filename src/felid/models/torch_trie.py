"""A prefix trie as flat tensors: what the likelihood of training and the search read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from felid.errors import SemanticIdError
from felid.trie import Trie


@dataclass(frozen=True)
class TorchTrie:
    """The flat arrays of a `Trie` on a device, and each item's path through it.

    Attributes:
        paths: (N, L + 1) int64 node of every item's prefix at depth 0..L; -1 below the root for items not in the trie.
        fan_out: largest number of children at depth 0..L-1.
    """

    code: Tensor
    child_start: Tensor
    leaf_count: Tensor
    leaf_item: Tensor
    paths: Tensor
    first_leaf: int
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
            first_leaf=int(trie.depth_start[-2]),
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

    def mask(self, nodes: Int[Tensor, " M"], level: int) -> Tensor:
        """(M, sizes[level]) bool: True where a code may follow the node (all nodes at depth `level`)."""
        counts = self.num_children(nodes)
        rows = torch.repeat_interleave(counts)
        first = self.child_start[nodes] - (counts.cumsum(0) - counts)
        children = first[rows] + torch.arange(len(rows), device=nodes.device)
        result = torch.zeros(len(nodes), self.sizes[level], dtype=torch.bool, device=nodes.device)
        result[rows, self.code[children]] = True
        return result
