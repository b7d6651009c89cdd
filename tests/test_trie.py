from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from felid.errors import SemanticIdError
from felid.testing import CodeTable, code_tables
from felid.trie import ROOT, Trie

SMALL = [[1, 0, 2], [0, 3, 1], [1, 0, 0], [1, 2, 2], [0, 3, 0]]


def node_prefixes(trie: Trie) -> list[tuple[int, ...]]:
    """Prefix of every node, by following the edges one by one."""
    prefixes: dict[int, tuple[int, ...]] = {ROOT: ()}
    for node in range(trie.num_nodes):
        for child in range(trie.child_start[node], trie.child_start[node + 1]):
            prefixes[child] = (*prefixes[node], int(trie.code[child]))
    return [prefixes[node] for node in range(trie.num_nodes)]


def every_prefix(sizes: tuple[int, ...], length: int) -> np.ndarray:
    found = list(itertools.product(*(range(size) for size in sizes[:length])))
    return np.array(found, np.int64).reshape(len(found), length)


@given(code_tables(max_levels=5, max_size=4))
def test_membership_is_set_membership(table: CodeTable) -> None:
    codes, sizes = table
    trie, members = Trie.from_codes(codes, sizes), {tuple(row): item for item, row in enumerate(codes.tolist())}
    ids = every_prefix(sizes, len(sizes))
    assert trie.item(ids).tolist() == [members.get(tuple(row), -1) for row in ids.tolist()]


@given(code_tables(max_levels=4, max_size=4))
def test_walk_reaches_exactly_the_prefixes_of_items(table: CodeTable) -> None:
    codes, sizes = table
    trie = Trie.from_codes(codes, sizes)
    prefixes = node_prefixes(trie)
    for length in range(len(sizes) + 1):
        wanted = every_prefix(sizes, length)
        valid = {tuple(row[:length]) for row in codes.tolist()}
        for prefix, node in zip(wanted.tolist(), trie.walk(wanted).tolist(), strict=True):
            assert (node >= 0) == (tuple(prefix) in valid)
            assert node < 0 or prefixes[node] == tuple(prefix)


@given(code_tables())
def test_nodes_are_breadth_first_and_in_order_of_their_prefixes(table: CodeTable) -> None:
    codes, sizes = table
    trie = Trie.from_codes(codes, sizes)
    prefixes = node_prefixes(trie)
    assert prefixes == sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
    for depth in range(len(sizes) + 1):
        assert {len(p) for p in prefixes[trie.depth_start[depth] : trie.depth_start[depth + 1]]} == {depth}


@given(code_tables())
def test_leaf_ranges_equal_brute_force(table: CodeTable) -> None:
    codes, sizes = table
    trie = Trie.from_codes(codes, sizes)
    leaves = sorted(map(tuple, codes.tolist()))
    for node, prefix in enumerate(node_prefixes(trie)):
        below = [rank for rank, leaf in enumerate(leaves) if leaf[: len(prefix)] == prefix]
        assert list(range(trie.leaf_start[node], trie.leaf_end[node])) == below
    assert [tuple(codes[item].tolist()) for item in trie.leaf_item] == leaves


@given(code_tables(), st.data())
def test_child_equals_a_look_up_and_minus_one_stays_minus_one(table: CodeTable, data: st.DataObject) -> None:
    codes, sizes = table
    trie = Trie.from_codes(codes, sizes)
    edges = {
        (node, int(trie.code[child])): child
        for node in range(trie.num_nodes)
        for child in range(trie.child_start[node], trie.child_start[node + 1])
    }
    pairs = data.draw(st.lists(st.tuples(st.integers(-1, trie.num_nodes - 1), st.integers(-2, 8)), min_size=1, max_size=30))
    nodes, wanted = np.array(pairs).T
    assert trie.child(nodes, wanted).tolist() == [edges.get(pair, -1) for pair in pairs]


@given(code_tables())
def test_mask_is_true_for_children_only(table: CodeTable) -> None:
    codes, sizes = table
    trie = Trie.from_codes(codes, sizes)
    for level, size in enumerate(sizes):
        nodes = np.arange(trie.depth_start[level], trie.depth_start[level + 1])[::-1]
        mask = trie.mask(nodes, level)
        assert mask.shape == (len(nodes), size)
        for row, node in zip(mask, nodes.tolist(), strict=True):
            assert np.flatnonzero(row).tolist() == trie.children(node).tolist()


@given(code_tables(), st.randoms())
def test_row_order_changes_nothing_but_the_item_numbers(table: CodeTable, random) -> None:
    codes, sizes = table
    order = list(range(len(codes)))
    random.shuffle(order)
    straight, shuffled = Trie.from_codes(codes, sizes), Trie.from_codes(codes[order], sizes, items=order)
    for name in ("depth_start", "code", "child_start", "leaf_start", "leaf_end", "leaf_item"):
        assert np.array_equal(getattr(straight, name), getattr(shuffled, name)), name


@given(code_tables(max_size=3), st.integers(1, 30), st.randoms())
def test_shared_ids_are_one_leaf_each_of_the_lowest_item(table: CodeTable, copies: int, random) -> None:
    codes, sizes = table
    rows = np.concatenate([codes, codes[[random.randrange(len(codes)) for _ in range(copies)]]])
    items = list(range(10, 10 + len(rows)))
    random.shuffle(items)
    trie, plain = Trie.from_codes(rows, sizes, items, shared=True), Trie.from_codes(codes, sizes)
    for name in ("depth_start", "code", "child_start", "leaf_start", "leaf_end"):
        assert np.array_equal(getattr(trie, name), getattr(plain, name)), name
    listed = rows.tolist()
    lowest = [min(item for item, other in zip(items, listed, strict=True) if other == row) for row in listed]
    assert trie.item(rows).tolist() == lowest
    assert trie.leaf_item[trie.leaf(rows)].tolist() == lowest


def test_leaves_are_ranked_in_the_order_of_their_ids() -> None:
    trie = Trie.from_codes(SMALL)
    assert trie.leaf(SMALL).tolist() == [3, 1, 2, 4, 0]
    assert trie.leaf([[1, 1, 2], [0, 0, 0], [-1, 0, 2]]).tolist() == [-1, -1, -1]


def test_unique_ids_give_the_same_trie_whether_or_not_items_may_share() -> None:
    alone, shared = Trie.from_codes(SMALL, items=[5, 3, 8, 1, 2]), Trie.from_codes(SMALL, items=[5, 3, 8, 1, 2], shared=True)
    for name in ("depth_start", "code", "child_start", "leaf_start", "leaf_end", "leaf_item"):
        assert np.array_equal(getattr(alone, name), getattr(shared, name)), name


def test_an_id_with_codes_of_two_items_is_no_item() -> None:
    """Pitfall: a set of codes per position passed off as a trie."""
    trie = Trie.from_codes(SMALL)
    assert trie.item([[0, 3, 1], [0, 0, 1], [0, 2, 2]]).tolist() == [1, -1, -1]


@pytest.mark.parametrize("bad", [[-1, 0, 0], [1, -1, 0], [1, 0, -1], [99, 0, 0], [1, 0, 99]])
def test_an_invalid_id_is_minus_one_and_never_item_zero(bad: list[int]) -> None:
    """Pitfall: an invalid ID silently becomes item 0."""
    assert int(Trie.from_codes(SMALL).item(bad)) == -1


def test_items_follow_the_given_numbers() -> None:
    trie = Trie.from_codes(SMALL, items=[50, 40, 30, 20, 10])
    assert trie.item(SMALL).tolist() == [50, 40, 30, 20, 10]
    assert trie.item(np.array(SMALL).reshape(1, 5, 3)).tolist() == [[50, 40, 30, 20, 10]]


def test_one_level_and_one_item() -> None:
    flat = Trie.from_codes([[2], [0]])
    assert (flat.num_levels, flat.num_items, flat.num_nodes, flat.max_children) == (1, 2, 3, (2,))
    assert flat.mask([ROOT], 0).tolist() == [[True, False, True]]
    single = Trie.from_codes([[0, 0, 0, 0]])
    assert (single.num_nodes, single.max_children) == (5, (1, 1, 1, 1))
    assert int(single.item([0, 0, 0, 0])) == 0


def test_max_children_counts_the_widest_node_of_each_depth() -> None:
    assert Trie.from_codes(SMALL).max_children == (2, 2, 2)


def test_the_empty_prefix_is_the_root() -> None:
    assert Trie.from_codes(SMALL).walk(np.empty((3, 0), np.int64)).tolist() == [ROOT] * 3


@pytest.mark.parametrize(
    ("codes", "sizes", "items", "message"),
    [
        ([[1, 2], [0, 0], [1, 2]], None, None, r"items 0 and 2 share the ID \[1, 2\]; resolve collisions first"),
        ([[1, 2, 3, 4]], (5, 5, 5), None, "codes have 4 levels but the trie was to be built for 3"),
        ([[0, 5]], (2, 5), None, "outside the level sizes"),
        ([[0, -1]], (2, 5), None, "outside the level sizes"),
        (np.empty((0, 3), int), None, None, "at least one of each"),
        ([1, 2, 3], None, None, "expected"),
        ([[0], [1]], None, [7], "one item_index per row"),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes, sizes, items, message: str) -> None:
    with pytest.raises(SemanticIdError, match=message):
        Trie.from_codes(codes, sizes, items)


def test_four_levels_against_a_trie_of_three_are_refused() -> None:
    trie = Trie.from_codes(SMALL)
    with pytest.raises(SemanticIdError, match="4 levels but the trie was built for 3"):
        trie.walk([[1, 0, 2, 0]])
    with pytest.raises(SemanticIdError, match="4 levels but the trie was built for 3"):
        trie.item([[1, 0, 2, 0]])
    with pytest.raises(SemanticIdError, match="2 levels but the trie was built for 3"):
        trie.item([[1, 0]])
