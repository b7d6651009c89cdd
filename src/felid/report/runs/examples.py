"""Examples: users with their histories, and what the systems recommend to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from felid.errors import ArtifactError
from felid.recommender import Recommender
from felid.report.blocks import Block, Details, Lists, Prose, Section, Shown
from felid.report.runs.entrants import LIST_LENGTH, list_lengths
from felid.report.runs.opened import Indices, Opened
from felid.report.tree import shortened

SEED = 0
EACH = 6
"""Users with a hit, and as many without."""
HISTORY = 10
"""Last items of the history that are shown."""
MOST_SYSTEMS = 4
TITLE_LENGTH = 90


@dataclass(frozen=True, eq=False)
class Asked:
    """A system that is asked for its lists.

    Attributes:
        name: what it is called beside the others.
        opened: its run.
        recommender: in the system's mode.
    """

    name: str
    opened: Opened
    recommender: Recommender

    def lists(self, user_ids: Sequence[object], k: int) -> dict[object, list[Shown]]:
        """The list of each user whom the run knows, hits marked."""
        rows = {user: row for row, user in enumerate(self.opened.test.histories.user_ids.tolist())}
        known = [user for user in user_ids if user in rows]
        users = np.array([rows[user] for user in known], np.int64)
        found = self.opened.rank(self.recommender, users, k) if known else np.empty((0, k), np.int64)
        targets = self.opened.test.targets[users]
        return {
            user: [shown(self.recommender, item, is_hit=item == target) for item in items if item >= 0]
            for user, items, target in zip(known, found.tolist(), targets.tolist(), strict=True)
        }


def examples_section(asked: Sequence[Asked]) -> Section:
    """A dozen users of the first system's run, hits and misses, with the lists of all systems."""
    first = asked[0].opened
    k = min(LIST_LENGTH, *(list_lengths(one.opened.run.metrics)[-1] for one in asked))
    hits, misses = _groups(first, k)
    rng = np.random.default_rng(SEED)
    users = np.concatenate([np.sort(rng.permutation(group)[:EACH]) for group in (hits, misses)])
    drawn = min(EACH, len(hits))
    lists = [(one.name, one.lists(first.test.histories.user_ids[users].tolist(), k)) for one in asked]
    said = (
        f"{drawn} users of the {len(hits):,} for whom {first.run.system} has the item that they took next among its first {k}, "
        f"and {len(users) - drawn} of the {len(misses):,} others, drawn with seed {SEED}: the share of hits here is no result. "
        f"Items of the history are {'left out' if first.run.policy == 'seen_removed' else 'not left out'}."
    )
    blocks: list[Block] = [Prose([said], soft=True)]
    moved = _moved(first, users, lists[0][1], k)
    if moved:
        text = "of these users have the target at another place of the list than in the evaluation, which other code made"
        blocks.append(Prose([f"{moved} {text}; run `felid evaluate {first.run.root} --fresh`."]))
    for place, row in enumerate(users.tolist()):
        user = first.test.histories.user_ids[row : row + 1].tolist()[0]
        beside = [(name, found[user]) for name, found in lists if user in found]
        blocks.append(_example(first, row, "hit" if place < drawn else "miss", beside, is_open=place in (0, drawn)))
    return Section("examples", "Examples", "Examples", blocks)


def shown(recommender: Recommender, item: int, *, is_hit: bool = False) -> Shown:
    """An item by its title, or by its id where it has none."""
    name, title = str(recommender.ids.item_ids[item : item + 1].tolist()[0]), recommender.titles[item]
    return Shown(shortened(title, TITLE_LENGTH), name, is_hit) if title else Shown(name, "", is_hit)


def _moved(one: Opened, rows: Indices, lists: Mapping[object, Sequence[Shown]], k: int) -> int:
    """How many users have the target at another place of their list than it had in the evaluation."""
    ranks = one.run.ranks_of(one.run.system)[rows]
    found = [_rank(lists[user]) for user in one.test.histories.user_ids[rows].tolist()]
    return int((np.where(ranks <= k, ranks, 0) != np.array(found, np.int64)).sum())


def _rank(items: Sequence[Shown]) -> int:
    """The place of the hit in a list, 0 = there is none."""
    return next((place for place, item in enumerate(items, 1) if item.is_hit), 0)


def _groups(one: Opened, k: int) -> tuple[Indices, Indices]:
    """Rows of the test users with and without a hit."""
    ranks = one.run.ranks_of(one.run.system)
    if len(ranks) != len(one.test.targets):
        raise ArtifactError(
            f"the ranks in {one.run.artifact.path} are of other users; run `felid evaluate {one.run.root} --fresh`"
        )
    is_hit = (ranks > 0) & (ranks <= k)
    return np.flatnonzero(is_hit), np.flatnonzero(~is_hit)


def _example(one: Opened, row: int, outcome: str, lists: Sequence[tuple[str, Sequence[Shown]]], *, is_open: bool) -> Details:
    history = one.test.histories[row].tolist()
    target = shown(one.recommender, int(one.test.targets[row]))
    rank = _rank(lists[0][1])
    said = f"hit at rank {rank}" if rank else outcome
    user = one.test.histories.user_ids[row : row + 1].tolist()[0]
    known = [shown(one.recommender, item) for item in history[-HISTORY:]]
    lines = Lists(known, max(0, len(history) - HISTORY), target, lists)
    return Details(f"User {user}, {said}: took {target.title}", [lines], is_open)
