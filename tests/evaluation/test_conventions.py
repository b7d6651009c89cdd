"""One system under the conventions of others, each row against a slower way to the same figure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from benchmarks.conventions import sampled, table
from felid.data.dataset import Dataset
from felid.data.histories import EvaluationSet, LeaveOneOut, Sequences
from felid.evaluation.conventions import draw, last, list_rows, named_rows, order_rows, score_rows, shuffle_ties, tied
from felid.evaluation.protocol import Evaluation, evaluate
from felid.metrics import ndcg_at_k, recall_at_k
from felid.ranking import ItemRanker
from felid.search.config import SearchConfig
from felid.testing import toy_world
from tests.tiny import any_model, catalogue, dense_model, tiny_catalogue

WORLD = toy_world(num_items=30, length=(5, 26))
SPLIT = WORLD.split
ITEMS = tiny_catalogue(catalogue(30))
RANKER = ItemRanker(dense_model("lynx", ITEMS), ITEMS, SearchConfig(mode="dense", batch_users=17))
KS = (3, 7)


def test_rows_of_lists_are_evaluations_of_changed_parts() -> None:
    groups = np.arange(30) // 2
    rows = {row.convention: row for row in list_rows(RANKER, SPLIT, KS, 30, groups)}
    test = SPLIT.evaluation("test")
    short = [test.histories[u][-20:] for u in range(96)]
    earlier = [test.histories[u][:-1] for u in range(96)]
    expected = {
        "felid: seen items removed, whole history, given order": evaluate(RANKER, test, KS, True, 30),
        "seen items kept": evaluate(RANKER, test, KS, False, 30),
        "history cut to its last 20 items": evaluate(RANKER, part_of(short), KS, True, 30),
        "validation item not in the history": evaluate(RANKER, part_of(earlier), KS, True, 30),
    }
    for name, found in expected.items():
        assert rows[name].values.items() <= found.metrics().items()
        assert rows[name].users == 96
    assert max(len(row) for row in short) == 20 < test.histories.lengths.max()
    assert [name for name, row in rows.items() if not row.comparable] == ["semantic-ID level"]
    assert rows["semantic-ID level"].values["recall@7"] > expected["seen items kept"].metrics()["recall@7"] * 0.5
    assert rows.keys() - expected.keys() == {"semantic-ID level"}, "no target is unseen here"


def part_of(rows: list[np.ndarray]) -> EvaluationSet:
    test = SPLIT.evaluation("test")
    return EvaluationSet(Sequences.from_lists(test.histories.user_ids, rows), test.targets)


def test_users_with_unseen_targets_are_left_out_in_a_row_of_their_own() -> None:
    few = replace(SPLIT, sequences=SPLIT.sequences.take(np.arange(6)))
    warm = few.warm_items(30)[few.evaluation("test").targets]
    assert 0 < warm.sum() < 6
    row = next(row for row in list_rows(RANKER, few, KS, 30, None) if "unseen" in row.convention)
    assert row.users == warm.sum()


def test_conventions_of_others_as_a_whole_are_evaluations_of_their_parts() -> None:
    few = replace(SPLIT, sequences=SPLIT.sequences.take(np.arange(6)))
    test = few.evaluation("test")
    warm = few.warm_items(30)[test.targets]

    def judged(length: int, exclude_seen: bool) -> Evaluation:
        rows = [test.histories[user][-length:] for user in range(6)]
        part = EvaluationSet(Sequences.from_lists(test.histories.user_ids, rows), test.targets)
        return evaluate(RANKER, part, KS, exclude_seen, 30)

    own = list_rows(RANKER, few, KS, 30, None)[0]
    first, *rows = named_rows(own, RANKER, few, KS, 30)
    expected = {"S3-Rec": judged(50, True), "RecBole": judged(50, False)}
    expected |= {"cornac": judged(20, False).of(warm), "LIGER": judged(19, False).of(warm)}
    assert first is own and len(rows) == len(expected)
    for row, (name, found) in zip(rows, expected.items(), strict=True):
        assert row.convention.startswith(name)
        assert row.values.items() <= found.metrics().items() and "ndcg@7" in row.values
        assert row.comparable
    assert [row.users for row in rows] == [6, 6, warm.sum(), warm.sum()]


def test_rows_of_scores_begin_with_the_metrics_of_the_lists() -> None:
    first, optimistic, pessimistic, warm, even, popular = score_rows(RANKER, SPLIT, KS, seed=0)
    own = evaluate(RANKER, SPLIT.evaluation("test"), KS, True, 30).metrics()
    for row in (first, optimistic, pessimistic, warm):  # no two items have one score, and all items are warm
        assert row.values == pytest.approx({name: own[name] for name in row.values})
        assert row.comparable
    for row in (even, popular):
        assert not row.comparable, "fewer than 99 items are left, so all of them are drawn"
        assert row.values == pytest.approx(first.values)
    assert score_rows(ItemRanker(any_model("tiger", ITEMS), ITEMS), SPLIT, KS, seed=0) == []


def test_ties_are_the_mean_over_all_orders() -> None:
    """Against the double loop over the places that a target may take among its equals."""
    above, equal, k = np.array([0, 2, 4, 30]), np.array([3, 0, 4, 2]), 5
    orders = [[a + 1 + place for place in range(e + 1)] for a, e in zip(above.tolist(), equal.tolist(), strict=True)]
    for how, pick in (("average", None), ("optimistic", 0), ("pessimistic", -1)):
        chosen = [places if pick is None else [places[pick]] for places in orders]
        found = tied(above, equal, (k,), how)
        for name, metric in (("recall@5", recall_at_k), ("ndcg@5", ndcg_at_k)):
            assert found[name] == pytest.approx(np.mean([metric(np.array(places), k) for places in chosen]))


def test_draws_are_of_the_items_that_may_be_drawn_and_follow_weights() -> None:
    scores = np.zeros((400, 200))
    scores[:, :50] = -np.inf
    weights = np.where(np.arange(200) < 100, 9.0, 1.0)
    chosen = draw(scores, weights, np.random.default_rng(0))
    assert (chosen.sum(axis=1) == 99).all()
    assert not chosen[:, :50].any()
    assert chosen[:, 50:100].mean() > 1.5 * chosen[:, 100:].mean()
    assert np.array_equal(chosen, draw(scores, weights, np.random.default_rng(0)))


def test_pitfall_shuffled_ties_give_no_target_that_was_trained_on() -> None:
    s = SPLIT.sequences
    times = np.concatenate([np.arange(length) // 4 for length in s.lengths]).astype(np.float64)
    shuffled, note = shuffle_ties(SPLIT, times, seed=1)
    changed = [u for u in range(96) if shuffled.sequences[u][-1] != s[u][-1]]
    assert changed
    for user in range(96):
        assert sorted(shuffled.sequences[user].tolist()) == sorted(s[user].tolist())
        moved = shuffled.sequences[user]
        order = [int(np.flatnonzero(s[user] == item)[0]) // 4 for item in moved.tolist()]
        assert order == sorted(order), "only events of one time change places"
    for user in changed:
        assert shuffled.sequences[user][-1] not in SPLIT.train()[user]
    told = int(note.split()[0])
    assert told > len(changed), "the others keep the order that was trained on"
    assert shuffle_ties(SPLIT, np.arange(len(s.items), dtype=float), seed=1)[0].sequences.items.tolist() == s.items.tolist()


def test_the_order_row_needs_timestamps_and_two_last_items() -> None:
    users, items = np.repeat(np.arange(96), WORLD.sequences.lengths), WORLD.sequences.items
    frame = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": np.zeros(len(users), np.int64)})
    catalogue_of = pl.DataFrame({"item_id": np.arange(30), "title": ["a"] * 30})
    dated = Dataset.from_frames("toy", frame, catalogue_of)
    (row,) = order_rows(RANKER, LeaveOneOut(dated.sequences()), dated, KS, seed=0)
    assert "keep the given order" in row.note
    plain = Dataset.from_frames("toy", frame.drop("timestamp"), catalogue_of)
    assert order_rows(RANKER, LeaveOneOut(plain.sequences()), plain, KS, seed=0) == []


def test_the_table_says_how_far_figures_move_and_what_is_not_comparable() -> None:
    few = sampled(SPLIT, 20, seed=0)
    assert np.array_equal(few.train().items, SPLIT.train().items)
    rows = list_rows(RANKER, few, KS, 30, np.arange(30) // 2)
    assert {row.users for row in rows} == {20}
    assert any("validation item" in row.convention for row in rows), "still the last two items"
    lines = table(rows, 7).splitlines()
    assert len(lines) == 2 + len(rows)
    assert "%" not in lines[2]
    kept = rows[1].values["recall@7"] / rows[0].values["recall@7"] - 1
    assert f"{kept:+.1%}" in lines[3]
    assert [line for line in lines if "not comparable" in line] == [lines[-1]]
    assert last(few.sequences, 2).lengths.tolist() == [2] * 96
