"""One checkpoint scored under the conventions of others: how far figures move that are called by the same name.

`docs/evaluation.md` says who has which convention. Rows that are marked as not comparable answer another question than the
ranking of a whole catalogue and must stand beside no figure of one. Nothing is trained; draws are seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from felid.data.dataset import Dataset
from felid.data.histories import Cuts, EvaluationSet, LeaveOneOut, Sequences
from felid.evaluation.protocol import PER_USER, Evaluation, Ranker, evaluate
from felid.ranking import ItemRanker

Indices = NDArray[np.int64]
Values = NDArray[np.float64]
CUT = 20
"""Items of a history that short-history conventions leave."""
SAMPLED = 99
"""Negatives of the sampled convention."""
POOLS = ("all items", "items with training interactions")
"""What the target competes with where the figures are comparable."""
Ties = Literal["optimistic", "pessimistic", "average"]


@dataclass(frozen=True)
class Row:
    """Figures under one convention.

    Attributes:
        convention: what differs from the first row of its block.
        values: metrics by name, means over users.
        users: how many.
        comparable: whether the figures rank a whole catalogue by the target item.
        note: what a reader must know.
    """

    convention: str
    values: Mapping[str, float]
    users: int
    comparable: bool = True
    note: str = ""


def list_rows(ranker: Ranker, split: LeaveOneOut, ks: tuple[int, ...], num_items: int, id_groups: Indices | None) -> list[Row]:
    """Conventions that a system's lists tell apart; the first row is felid's own.

    Args:
        ranker: the system.
        split: what it was trained on.
        ks: list lengths.
        num_items: size of the catalogue.
        id_groups: (N,) which items have the same semantic ID (without the level that tells them apart); None = each has its own.
    """
    test = split.evaluation("test")

    def judged(part: EvaluationSet, exclude_seen: bool = True, groups: Indices | None = None) -> Evaluation:
        return evaluate(ranker, part, ks, exclude_seen, num_items, groups)

    own = judged(test, groups=id_groups)
    warm = split.warm_items(num_items)[test.targets]
    rows = [
        _row("felid: seen items removed, whole history, given order", own),
        _row("seen items kept", judged(test, exclude_seen=False)),
        _row(f"history cut to its last {CUT} items", judged(EvaluationSet(last(test.histories, CUT), test.targets))),
    ]
    if _last_two(split):
        earlier = test.histories.take(np.arange(len(warm)), drop_last=1)
        rows.append(_row("validation item not in the history", judged(EvaluationSet(earlier, test.targets))))
    if not warm.all():
        note = "users whose target has training interactions (`in-set`)"
        rows.append(_row("users with an unseen target left out", own.of(warm), note=note))
    if id_groups is not None:
        note = "any item with the target's semantic ID counts as the target"
        values = own.id_level()
        rows.append(Row("semantic-ID level", values, len(warm), comparable=False, note=note))
    return rows


def named_rows(own: Row, ranker: Ranker, split: LeaveOneOut, ks: tuple[int, ...], num_items: int) -> list[Row]:
    """What one system would be published with under the conventions of S3-Rec, RecBole, cornac and LIGER, each as a whole.

    Where a history is cut, items before the cut are not known as seen either. All are at the level of items, since the IDs of
    cornac and LIGER are unique.

    Args:
        own: felid's own row, which stands first.
        ranker: the system.
        split: what it was trained on.
        ks: list lengths.
        num_items: size of the catalogue.
    """
    test = split.evaluation("test")
    warm = split.warm_items(num_items)[test.targets]

    def judged(length: int, exclude_seen: bool) -> Evaluation:
        part = EvaluationSet(last(test.histories, length), test.targets)
        return evaluate(ranker, part, ks, exclude_seen, num_items)

    seen = "it sets the scores of seen items to 0, which removes them unless scores below 0 are listed"
    cut = f"it cuts sequences to {CUT} items before the split, for training too"
    left_out = "seen items kept, users with an unseen target left out"
    return [
        own,
        _row("S3-Rec, full ranking: history of 50, seen items removed", judged(50, exclude_seen=True), seen),
        _row("RecBole, sequential models: history of 50, seen items kept", judged(50, exclude_seen=False)),
        _row(
            f"cornac, TIGER: history of {CUT}, {left_out}",
            judged(CUT, exclude_seen=False).of(warm),
            "it ranks items with training interactions alone",
        ),
        _row(f"LIGER, in-set: history of {CUT - 1}, {left_out}", judged(CUT - 1, exclude_seen=False).of(warm), cut),
    ]


def order_rows(ranker: Ranker, split: LeaveOneOut, dataset: Dataset, ks: tuple[int, ...], seed: int) -> list[Row]:
    """The order of same-time events drawn by lot in place of that of the file; no rows for data without timestamps."""
    if "timestamp" not in dataset.interactions.columns or not _last_two(split):
        return []
    times = dataset.interactions["timestamp"].to_numpy().astype(np.float64)
    shuffled, note = shuffle_ties(split, times, seed)
    found = evaluate(ranker, shuffled.evaluation("test"), ks, True, len(dataset.items))
    return [_row("same-time events in random order", found, note=note)]


def shuffle_ties(split: LeaveOneOut, times: Values, seed: int) -> tuple[LeaveOneOut, str]:
    """The same split of sequences in which events of one user at one time are in random order, and how many users that changes.

    A user whose new test item is in the user's training part keeps the given order: a checkpoint has learnt to predict that item.

    Args:
        split: last item and last but one held out.
        times: (interactions,) in the order of the sequences, growing for each user.
        seed: of the order.
    """
    s = split.sequences
    users = np.repeat(np.arange(len(s)), s.lengths)
    order = np.lexsort((np.random.default_rng(seed).random(len(users)), times, users))
    drawn, ends = s.items[order], s.offsets[split.evaluated + 1] - 1
    changed = split.evaluated[drawn[ends] != s.items[ends]]
    train, size = split.train(), int(s.items.max()) + 1
    known = np.repeat(np.arange(len(s)), train.lengths) * size + train.items
    trained = changed[np.isin(changed * size + drawn[s.offsets[changed + 1] - 1], known)]
    items = np.where(np.isin(users, trained), s.items, drawn)
    note = (
        f"{len(changed):,} users have another test item; {len(trained):,} of them keep the given order, because the checkpoint "
        "trained on it"
    )
    return replace(split, sequences=Sequences(s.user_ids, s.offsets, items)), note


def score_rows(ranker: ItemRanker, split: LeaveOneOut, ks: tuple[int, ...], seed: int) -> list[Row]:
    """Conventions that need the score of every item, by the dense head alone; no rows for a model without one.

    Seen items are removed in all of them.

    Args:
        ranker: of mode `dense`.
        split: what it was trained on.
        ks: list lengths.
        seed: of the sampled negatives.
    """
    if ranker.vectors is None:
        return []
    test, num_items = split.evaluation("test"), len(ranker.catalogue.warm)
    pools = _pools(split.item_counts(num_items), np.random.default_rng(seed))
    above, equal = ({name: np.zeros(len(test.targets), np.int64) for name in pools} for _ in range(2))
    for users, scores in _scores(ranker, test.histories):
        target = np.arange(len(users)), test.targets[users]
        own, scores[target] = scores[target], -np.inf
        for name, choose in pools.items():
            chosen = choose(scores) & np.isfinite(scores)
            above[name][users] = np.where(np.isfinite(own), (chosen & (scores > own[:, None])).sum(axis=1), num_items)
            equal[name][users] = (chosen & (scores == own[:, None])).sum(axis=1)

    def row(label: str, name: str, how: Ties = "average", note: str = "") -> Row:
        values = tied(above[name], equal[name], ks, how)
        return Row(f"dense head, {label}", values, len(test.targets), comparable=name in POOLS, note=note)

    whole, note = POOLS[0], f"{(equal[POOLS[0]] > 0).sum():,} targets have the score of another item"
    rows = [row("ties averaged", whole, note=note), row("ties optimistic", whole, "optimistic")]
    rows.append(row("ties pessimistic", whole, "pessimistic"))
    return rows + [row(name, name) for name in pools if name != whole]


def _pools(counts: Indices, rng: np.random.Generator) -> dict[str, Callable[[Values], NDArray[np.bool_]]]:
    """What competes with the target, by name: of (B, N) scores, -inf for items that may not, which items do."""
    even, popular = np.ones(len(counts)), counts.astype(np.float64) + 1e-9  # the items nobody took come last
    whole, warm = POOLS
    return {
        whole: lambda scores: np.ones_like(scores, bool),
        warm: lambda scores: np.broadcast_to(counts > 0, scores.shape),
        f"target and {SAMPLED} random items": lambda scores: draw(scores, even, rng),
        f"target and {SAMPLED} items by popularity": lambda scores: draw(scores, popular, rng),
    }


def tied(above: Indices, equal: Indices, ks: tuple[int, ...], how: Ties) -> dict[str, float]:
    """Recall and NDCG where other items have the target's score.

    Args:
        above: (U,) items with a higher score than the target.
        equal: (U,) other items with the same.
        ks: list lengths.
        how: `optimistic` puts the target before its equals, `pessimistic` behind them, `average` is the mean over all orders.
    """
    found = {}
    for k in ks:
        for name in ("recall", "ndcg"):
            gains = np.concatenate(([0.0], np.cumsum(PER_USER[name](np.arange(1, k + 1), k))))
            first = np.minimum(above + (equal if how == "pessimistic" else 0), k)
            last = np.minimum(above + 1 + (0 if how == "optimistic" else equal), k)
            found[f"{name}@{k}"] = float(((gains[last] - gains[first]) / (equal + 1 if how == "average" else 1)).mean())
    return found


def draw(scores: Values, weights: Values, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(B, N) True for `SAMPLED` items of each row with a finite score, drawn by weight without replacement.

    The items with the smallest exponential keys of rate `weights` are such a draw (Efraimidis and Spirakis 2006).
    """
    keys = np.where(np.isfinite(scores), rng.exponential(size=scores.shape) / weights, np.inf)
    count = min(SAMPLED, scores.shape[1])
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, np.argpartition(keys, count - 1, axis=1)[:, :count], values=True, axis=1)
    return chosen


def last(histories: Sequences, count: int) -> Sequences:
    """The last `count` items of each history."""
    ends = np.repeat(histories.offsets[1:], histories.lengths)
    return histories.where(ends - np.arange(len(histories.items)) <= count)


def _last_two(split: LeaveOneOut) -> bool:
    """Whether the validation item stands right before the test item."""
    return split.cuts is None or split.cuts.rule == Cuts.last_two(split.sequences.lengths).rule


def _scores(ranker: ItemRanker, histories: Sequences) -> Iterator[tuple[Indices, Values]]:
    """Rows of the users of each batch, and their scores (B, N) of all items; -inf for seen ones and those never recommended."""
    assert ranker.vectors is not None
    for users, batch, seen in ranker.batches(histories, exclude_seen=True):
        assert seen is not None
        scores = ranker.vectors.log_probs(batch).cpu().numpy().astype(np.float64)
        known = seen.cpu().numpy()
        row, place = np.nonzero(known >= 0)
        scores[row, known[row, place]] = -np.inf
        yield users, scores


def _row(convention: str, found: Evaluation, note: str = "") -> Row:
    values = {name: value for name, value in found.metrics().items() if name.startswith(("recall@", "ndcg@"))}
    return Row(convention, values, len(found.ranks), note=note)
