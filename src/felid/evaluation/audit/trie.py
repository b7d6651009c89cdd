"""Whether the trie that is searched holds the catalogue, the whole of it, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from felid.evaluation.audit.finding import Finding, examples, of_items, passed

TRIE = "trie"
Indices = NDArray[np.int64]


def trie_paths(code: NDArray[np.integer], child_start: NDArray[np.integer], depth_start: Sequence[int]) -> Indices:
    """(M, L) codes on the way from the root to each leaf of a flat trie (`felid.trie.Trie` says what the arrays are)."""
    num_nodes = len(code)
    parents = np.zeros(num_nodes, np.int64)
    parents[1:] = np.repeat(np.arange(num_nodes), np.diff(np.asarray(child_start)[: num_nodes + 1]))[: num_nodes - 1]
    nodes, columns = np.arange(depth_start[-2], depth_start[-1]), []
    for _ in range(len(depth_start) - 2):
        columns.append(np.asarray(code, np.int64)[nodes])
        nodes = parents[nodes]
    return np.stack(columns[::-1], axis=1)


def check_trie(
    paths: Indices,
    leaf_items: Indices,
    codes: NDArray[np.integer],
    item_ids: NDArray[np.generic],
    must: NDArray[np.bool_],
    *,
    shared: bool,
) -> Finding:
    """Whether every item that must be there has exactly one path, and every path an item of the catalogue.

    Args:
        paths: (M, L) codes of every path (`trie_paths`).
        leaf_items: (M,) the item at the end of each path.
        codes: (N, L) codes of the catalogue.
        item_ids: (N,) ids by item_index.
        must: (N,) items that the search has to reach: those with training interactions.
        shared: whether several items may have one path.
    """
    distinct, which = np.unique(np.concatenate([paths, codes.astype(np.int64)]), axis=0, return_inverse=True)
    of_path, of_item = which.ravel()[: len(paths)], which.ravel()[len(paths) :]
    num_paths, num_owners = (np.bincount(one, minlength=len(distinct)) for one in (of_path, of_item))
    real = (leaf_items >= 0) & (leaf_items < len(codes))
    ends = np.where(real, of_item[np.where(real, leaf_items, 0)], -1)
    lacking, several = must & (num_paths[of_item] == 0), num_paths[of_item] > 1
    foreign, wrong = num_owners[of_path] == 0, (ends != of_path) & (num_owners[of_path] > 0)
    crowded = (num_owners[of_item] > 1) & (num_paths[of_item] > 0) if not shared else np.zeros(len(codes), bool)
    told = [f"{of_items(item_ids[marks])} {what}" for marks, what in _of_items(lacking, several, crowded) if marks.any()]
    told += [
        f"{int(marks.sum()):,} paths ({examples(paths[marks])}) {what}"
        for marks, what in _of_paths(foreign, wrong)
        if marks.any()
    ]
    if told:
        return Finding(
            TRIE,
            "failed",
            "; ".join(told),
            "build the trie from the codes of this catalogue (`Trie.from_codes`) and tokenize again",
        )
    without = int((num_paths[of_item] == 0).sum())
    return passed(
        TRIE,
        f"{len(paths):,} paths, each of an item; {without:,} of {len(codes):,} items, all of them cold, have none",
    )


def _of_items(
    lacking: NDArray[np.bool_], several: NDArray[np.bool_], crowded: NDArray[np.bool_]
) -> list[tuple[NDArray[np.bool_], str]]:
    return [
        (lacking, "with training interactions have no path, so that they are never recommended"),
        (several, "have several paths"),
        (crowded, "have a path together with another item"),
    ]


def _of_paths(foreign: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> list[tuple[NDArray[np.bool_], str]]:
    return [(foreign, "are those of no item"), (wrong, "lead to another item than the one with these codes")]
