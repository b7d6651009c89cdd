"""A prefix trie over semantic IDs in flat arrays: which codes may follow a prefix, and which item an ID is.

Nodes are numbered breadth first and, within a depth, in the lexicographic order of their prefixes: the children of a node
are one contiguous run in ascending code order, and so are the leaves below it. Compared with a dictionary of prefixes,
any number of nodes is looked up in one indexing operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from felid.errors import SemanticIdError

ROOT = 0


@dataclass(frozen=True, eq=False)
class Trie:
    """The set of valid semantic IDs.

    Attributes:
        sizes: number of codes per level, L of them.
        depth_start: (L + 2,) first node of each depth; depth 0 is the root, depth L are the leaves.
        code: (M,) int32 code on the edge into each node; -1 at the root.
        child_start: (M + 1,) int32; the children of node n are the nodes child_start[n] .. child_start[n + 1] - 1.
        leaf_start: (M + 1,) int64 rank of the first leaf below each node; see `leaf_end`.
        leaf_item: (N',) int64 item_index of each leaf, in leaf order; where items share IDs the lowest of each.
    """

    sizes: tuple[int, ...]
    depth_start: NDArray[np.int64]
    code: NDArray[np.int32]
    child_start: NDArray[np.int32]
    leaf_start: NDArray[np.int64]
    leaf_end: NDArray[np.int64]
    leaf_item: NDArray[np.int64]

    @classmethod
    def from_codes(
        cls, codes: ArrayLike, sizes: tuple[int, ...] | None = None, items: ArrayLike | None = None, *, shared: bool = False
    ) -> Trie:
        """Build from one row of codes per item.

        Args:
            codes: (N', L) integers, rows unique unless `shared`.
            sizes: codes per level; default: largest code + 1.
            items: (N',) item_index of each row; default: 0..N'-1.
            shared: several items may have an ID; its leaf then stands for the lowest item_index of them.

        Raises:
            SemanticIdError: items share an ID, or the arguments do not fit each other.
        """
        table = np.asarray(codes)
        if table.ndim != 2 or not len(table) or not table.shape[1]:
            raise SemanticIdError(f"codes have shape {table.shape}, expected (items, levels) with at least one of each")
        sizes = sizes or tuple(int(n) for n in table.max(axis=0) + 1)
        if len(sizes) != table.shape[1]:
            raise SemanticIdError(
                f"codes have {table.shape[1]} levels but the trie was to be built for {len(sizes)}; "
                "rebuild it with Trie.from_codes(codes)"
            )
        if (table < 0).any() or (table >= np.asarray(sizes)).any():
            raise SemanticIdError(f"codes lie outside the level sizes {sizes}")
        rows = np.arange(len(table)) if items is None else np.asarray(items)
        if rows.shape != table.shape[:1]:
            raise SemanticIdError(f"{len(table)} rows of codes for items of shape {rows.shape}; give one item_index per row")
        order = np.lexsort((rows, *table.T[::-1])) if shared else np.lexsort(table.T[::-1])
        table, leaf_item = table[order].astype(np.int32), rows[order].astype(np.int64)
        if shared:
            first = np.append(True, (table[1:] != table[:-1]).any(axis=1))
            table, leaf_item = table[first], leaf_item[first]
        return cls._from_sorted(table, sizes, leaf_item)

    @classmethod
    def _from_sorted(cls, table: NDArray[np.int32], sizes: tuple[int, ...], leaf_item: NDArray[np.int64]) -> Trie:
        num, levels = table.shape
        new = np.zeros(num, bool)
        new[0] = True
        starts = [np.zeros(1, np.int64)]
        for level in range(levels):
            new[1:] |= table[1:, level] != table[:-1, level]
            starts.append(np.flatnonzero(new))
        if len(starts[-1]) != num:
            clash = np.flatnonzero(~new)[0]
            pair = f"items {leaf_item[clash - 1]} and {leaf_item[clash]}"
            raise SemanticIdError(f"{pair} share the ID {table[clash].tolist()}; resolve collisions first")
        depth_start = np.concatenate(([0], np.cumsum([len(s) for s in starts]))).astype(np.int64)
        code = np.concatenate([[-1], *(table[s, level] for level, s in enumerate(starts[1:]))]).astype(np.int32)
        child = [depth_start[depth + 1] + np.searchsorted(starts[depth + 1], s) for depth, s in enumerate(starts[:-1])]
        past_the_end = np.full(num + 1, depth_start[-1])
        leaf_start = np.concatenate(starts)
        leaf_end = np.concatenate([np.append(s[1:], num) for s in starts])
        child_start = np.concatenate([*child, past_the_end]).astype(np.int32)
        return cls(sizes, depth_start, code, child_start, leaf_start, leaf_end, leaf_item)

    @property
    def num_levels(self) -> int:
        return len(self.sizes)

    @property
    def num_items(self) -> int:
        """Number of leaves: of items, or of distinct IDs where items share them."""
        return len(self.leaf_item)

    @property
    def num_nodes(self) -> int:
        return len(self.code)

    @cached_property
    def max_children(self) -> tuple[int, ...]:
        """Largest number of children of a node at depth 0..L-1."""
        counts = np.diff(self.child_start)
        return tuple(int(counts[a:b].max()) for a, b in zip(self.depth_start[:-2], self.depth_start[1:-1], strict=True))

    def children(self, node: int) -> NDArray[np.int32]:
        """Codes that may follow `node`, ascending."""
        return self.code[self.child_start[node] : self.child_start[node + 1]]

    def child(self, nodes: ArrayLike, codes: ArrayLike) -> NDArray[np.int64]:
        """The child of each node over the edge with the given code, -1 where there is none (also for node -1)."""
        nodes, codes = np.broadcast_arrays(np.asarray(nodes, np.int64), np.asarray(codes, np.int64))
        low, end = self.child_start[nodes].astype(np.int64), self.child_start[nodes + 1].astype(np.int64)
        high, last = end.copy(), self.num_nodes - 1
        while (low < high).any():  # all binary searches at once
            middle = (low + high) // 2
            right = (low < high) & (self.code[np.minimum(middle, last)] < codes)
            low, high = np.where(right, middle + 1, low), np.where(right, high, np.minimum(middle, high))
        found = (nodes >= 0) & (low < end) & (self.code[np.minimum(low, last)] == codes)
        return np.where(found, low, -1)

    def walk(self, codes: ArrayLike) -> NDArray[np.int64]:
        """(..., l) code prefixes, l <= L, to the nodes they lead to; -1 for a prefix of no item."""
        table = np.asarray(codes, np.int64)
        if table.shape[-1] > self.num_levels:
            raise SemanticIdError(
                f"codes have {table.shape[-1]} levels but the trie was built for {self.num_levels}; "
                "rebuild it with Trie.from_codes(codes)"
            )
        nodes = np.zeros(table.shape[:-1], np.int64)
        for level in range(table.shape[-1]):
            nodes = self.child(nodes, table[..., level])
        return nodes

    def item(self, codes: ArrayLike) -> NDArray[np.int64]:
        """(..., L) codes to item_index; -1 for an ID of no item (never a wrong item)."""
        leaves = self.leaf(codes)
        return np.where(leaves >= 0, self.leaf_item[np.maximum(leaves, 0)], -1)

    def leaf(self, codes: ArrayLike) -> NDArray[np.int64]:
        """(..., L) codes to the rank of their leaf, 0-based; -1 for an ID of no item."""
        table = np.asarray(codes)
        if table.shape[-1] != self.num_levels:
            raise SemanticIdError(f"IDs have {table.shape[-1]} levels but the trie was built for {self.num_levels}")
        ranks: NDArray[np.int64] = np.maximum(self.walk(table) - self.depth_start[-2], -1)
        return ranks

    def mask(self, nodes: ArrayLike, level: int) -> NDArray[np.bool_]:
        """(n, sizes[level]) True where a code may follow the node; all nodes must lie at depth `level`."""
        nodes = np.asarray(nodes, np.int64)
        counts = (self.child_start[nodes + 1] - self.child_start[nodes]).astype(np.int64)
        first = np.cumsum(counts) - counts
        children = np.repeat(self.child_start[nodes] - first, counts) + np.arange(counts.sum())
        result = np.zeros((len(nodes), self.sizes[level]), bool)
        result[np.repeat(np.arange(len(nodes)), counts), self.code[children]] = True
        return result
