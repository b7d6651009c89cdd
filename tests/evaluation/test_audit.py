"""Leak and sanity checks: each finds the fault that is planted for it and passes the clean world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest

from felid.data.dataset import Dataset
from felid.data.histories import Cuts, EvaluationSet, HeldOut, LeaveOneOut, Sequences
from felid.data.holdout import HoldoutConfig, hold_out
from felid.data.split import TimeConfig, cut
from felid.errors import FelidWarning
from felid.evaluation.audit import (
    Finding,
    Fit,
    Origin,
    Provenance,
    SearchedTrie,
    SystemFacts,
    as_rows,
    audit,
    check_lines,
    thresholds,
    warn_of_failed,
)
from felid.evaluation.audit.chance import effect, midranks, rank_effect
from felid.evaluation.audit.leaks import cold_groups, held_out_in_training, targets_in_training
from felid.evaluation.audit.leaks import test_users as check_test_users
from felid.evaluation.audit.numbering import item_ids, user_ids
from felid.evaluation.audit.origin import choices, fitting, training_part
from felid.evaluation.audit.repeats import duplicate_events, duplicate_users, ties_at_the_split
from felid.evaluation.audit.trie import check_trie, trie_paths
from felid.semantic_ids import SemanticIds
from felid.testing import unique_codes
from felid.trie import Trie

NUM_USERS, NUM_ITEMS, SIZES = 240, 90, (5, 5, 5)
IDS = np.array([f"item {number:03}" for number in range(NUM_ITEMS)], object)
CODES = unique_codes(NUM_ITEMS, SIZES, np.random.default_rng(2))


def rows_of(seed: int = 0) -> list[np.ndarray]:
    """Histories of 4 to 9 different items, drawn without any order."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(NUM_ITEMS)[: rng.integers(4, 10)] for _ in range(NUM_USERS)]


def sequences_of(rows: list[np.ndarray], users: np.ndarray | None = None) -> Sequences:
    return Sequences.from_lists(np.arange(len(rows)) if users is None else users, rows)


def data_of(rows: list[np.ndarray], times: list[np.ndarray] | None = None) -> Dataset:
    """The same as a data set; without `times` all events have different ones."""
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    moments = np.arange(len(users)) % 7919 if times is None else np.concatenate(times)
    columns = {"user_id": users, "item_id": IDS[np.concatenate(rows)].tolist(), "timestamp": moments}
    places = {} if times is None else {"position": np.concatenate([np.arange(len(row)) for row in rows])}
    return Dataset.from_frames("made up", pl.DataFrame(columns | places), pl.DataFrame({"item_id": IDS.tolist(), "title": "x"}))


def held_out_split(seed: int = 0) -> LeaveOneOut:
    plain = LeaveOneOut(sequences_of(rows_of(seed)))
    return replace(plain, held_out=hold_out(HoldoutConfig(rule="random", share=0.1, validation_share=0.1), plain, NUM_ITEMS))


CLEAN = held_out_split()
TEST = CLEAN.evaluation("test")
PARTS = {"validation": CLEAN.evaluation("validation"), "test": TEST}


def status(finding: Finding) -> str:
    assert (finding.remedy == "") == (finding.status == "passed"), "what is not passed needs a remedy"
    return finding.status


# targets, held-out items, groups, users


def test_an_item_taken_before_may_train_and_its_later_event_may_not() -> None:
    rows = [np.array([1, 2, 1, 3, 1]), np.array([4, 5, 6, 7])]
    split = LeaveOneOut(sequences_of(rows))
    parts = {"validation": split.evaluation("validation"), "test": split.evaluation("test")}
    assert status(targets_in_training(split.sequences, split.train(), parts)) == "passed"
    leaky = sequences_of([np.array([1, 2, 1, 1]), np.array([4, 5])])
    found = targets_in_training(split.sequences, leaky, parts)
    assert status(found) == "failed" and "1 user (0)" in found.finding


@pytest.mark.parametrize("late", [1, 2])
def test_training_on_validation_or_test_targets_is_found(late: int) -> None:
    usual = Cuts.last_two(CLEAN.sequences.lengths)
    leaky = LeaveOneOut(CLEAN.sequences, cuts=replace(usual, train=usual.train + late))
    found = targets_in_training(CLEAN.sequences, leaky.train(), PARTS)
    assert status(found) == "failed" and f"{NUM_USERS} users (0, 1, 2, ...)" in found.finding
    assert status(targets_in_training(CLEAN.sequences, CLEAN.train(), PARTS)) == "passed"


def test_a_history_that_holds_its_target_is_found() -> None:
    longer = EvaluationSet(CLEAN.sequences, TEST.targets)
    found = targets_in_training(CLEAN.sequences, CLEAN.train(), PARTS | {"test": longer})
    assert status(found) == "failed" and "histories of" in found.finding


def test_targets_of_a_split_in_time_are_not_in_training() -> None:
    data = data_of(rows_of())
    sequences = data.sequences()
    split = LeaveOneOut(sequences, cuts=cut(TimeConfig(test_share=0.2, validation_share=0.2), data, sequences))
    parts = {"validation": split.evaluation("validation"), "test": split.evaluation("test")}
    assert status(targets_in_training(sequences, split.train(), parts)) == "passed"
    assert status(targets_in_training(sequences, sequences, parts)) == "failed"


def test_held_out_items_in_training_histories_are_found() -> None:
    held = CLEAN.held_out
    assert status(held_out_in_training(CLEAN.train(), held, IDS, {})) == "passed"
    found = held_out_in_training(LeaveOneOut(CLEAN.sequences).train(), held, IDS, {})
    first = IDS[np.flatnonzero(held.either)[0]]
    assert status(found) == "failed" and f"{held.either.sum()} items" in found.finding and repr(first) in found.finding


def test_what_counts_or_learns_more_than_the_training_part_is_found() -> None:
    train, counts = CLEAN.train(), CLEAN.item_counts(NUM_ITEMS)
    everything = np.bincount(CLEAN.sequences.items, minlength=NUM_ITEMS)
    known = {"the transition memory": counts > 0}
    assert status(held_out_in_training(train, CLEAN.held_out, IDS, known, counts)) == "passed"
    found = held_out_in_training(train, CLEAN.held_out, IDS, {"the transition memory": everything > 0}, counts)
    assert status(found) == "failed" and "the transition memory know" in found.finding
    found = held_out_in_training(train, CLEAN.held_out, IDS, known, everything)
    assert status(found) == "failed" and f"{everything.sum() - counts.sum():,} interactions" in found.finding


def test_cold_groups_that_share_an_item_are_found() -> None:
    held = CLEAN.held_out
    assert status(cold_groups(held, IDS)) == status(cold_groups(None, IDS)) == "passed"
    assert status(cold_groups(HeldOut(held.either, held.test, "by hand"), IDS)) == "failed"


def test_missing_test_users_are_found() -> None:
    lengths = CLEAN.sequences.lengths
    assert status(check_test_users(CLEAN.sequences, lengths >= 3, {})) == "passed"
    short = sequences_of([*rows_of(), np.array([1, 2])])
    assert status(check_test_users(short, short.lengths >= 3, LeaveOneOut(short).left_out)) == "passed"
    found = check_test_users(CLEAN.sequences, np.arange(NUM_USERS) >= NUM_USERS // 4, {})
    assert status(found) == "failed" and "(0, 1, 2, ...)" in found.finding and "25.0%" in found.finding
    many = sequences_of([np.arange(3)] * 300)
    assert status(check_test_users(many, np.arange(300) > 0, {})) == "doubtful"


# what the system was made of


def provenance(split: LeaveOneOut = CLEAN, part: Literal["selection", "validation", "test"] = "selection") -> Provenance:
    chosen = split.selection() if part == "selection" else split.evaluation(part)
    return Provenance.of(split.train(), {"checkpoint": chosen}, split.sequences)


def test_a_training_on_another_split_is_found() -> None:
    train = CLEAN.train()
    assert status(training_part({"the training": provenance()}, train)) == "passed"
    other = provenance(LeaveOneOut(CLEAN.sequences))
    assert status(training_part({"the training": provenance(), "the warm-up": other}, train)) == "failed"
    assert status(training_part({"the training": None}, train)) == status(training_part({}, train)) == "doubtful"


def test_a_checkpoint_chosen_on_test_is_found(tmp_path: Path) -> None:
    provenance().save(tmp_path)
    read = Provenance.load(tmp_path)
    assert read is not None and Provenance.load(tmp_path / "no") is None
    assert status(choices(Origin({"the training": read}), CLEAN)) == "passed"
    found = choices(Origin({"the training": provenance(part="test")}), CLEAN)
    assert status(found) == "failed" and f"{NUM_USERS} test targets" in found.finding


def test_one_test_target_among_those_of_a_choice_is_found() -> None:
    events = provenance().chosen_on["checkpoint"].copy()
    events[5, 1] += 1
    mixed = replace(provenance(), chosen_on={"weights": events})
    assert "1 test targets, of 1 user" in choices(Origin({"the training": mixed}), CLEAN).finding
    events[5, 1] -= 2
    assert "targets of no part" in choices(Origin({"the training": mixed}), CLEAN).finding


def test_a_choice_on_targets_of_other_data_is_found() -> None:
    longest = int(CLEAN.sequences.lengths.max())
    row, place = provenance().chosen_on["checkpoint"][5]
    for event in ([NUM_USERS, 3], [row - 1, place + longest + 1], [-1, 3]):
        other = replace(provenance(), chosen_on={"checkpoint": np.array([event])})
        found = choices(Origin({"the training": other}), CLEAN)
        assert status(found) == "failed" and "users or places that these data do not have" in found.finding


def test_a_training_that_notes_no_target_is_doubtful() -> None:
    for chosen_on in ({}, {"checkpoint": np.empty((0, 2), np.int64)}):
        found = choices(Origin({"the training": replace(provenance(), chosen_on=chosen_on)}), CLEAN)
        assert status(found) == "doubtful" and "the training was chosen on is not noted" in found.finding


def test_a_choice_on_items_kept_for_the_test_is_found() -> None:
    found = choices(Origin({"the training": provenance(part="validation")}), CLEAN)
    assert status(found) == "failed" and "kept for the test" in found.finding


def test_choices_that_are_not_noted_or_not_made_by_validation_are_doubtful() -> None:
    assert status(choices(Origin({"the training": None}), CLEAN)) == status(choices(Origin({}), CLEAN)) == "doubtful"
    named = Origin({"the training": provenance()}, checkpoint="checkpoint-20", best="checkpoint-60")
    assert status(choices(named, CLEAN)) == "doubtful"


def test_fits_on_cold_items_are_found() -> None:
    cold = ~CLEAN.warm_items(NUM_ITEMS)
    warm = (Fit("item vectors from text", "lsa", "warm"), Fit("the quantiser", "rkmeans", "warm"))
    pretrained = (Fit("item vectors from text", "packaged-minilm", "nothing"), warm[1])
    for fits in (warm, pretrained):
        assert status(fitting(fits, cold, IDS, declared=False)) == "passed"
    leaky = (replace(warm[0], sees="all"), warm[1])
    assert status(fitting(leaky, cold, IDS, declared=False)) == "failed"
    declared = fitting(leaky, cold, IDS, declared=True)
    assert status(declared) == "doubtful" and declared.finding.startswith("declared")
    assert status(fitting((warm[0], replace(warm[1], same_split=False)), cold, IDS, declared=False)) == "failed"
    assert status(fitting((Fit("item vectors", "precomputed", None),), cold, IDS, declared=False)) == "doubtful"
    assert status(fitting((), cold, IDS, declared=False)) == "doubtful"
    clean, one_cold = np.flatnonzero(~cold), np.append(np.flatnonzero(~cold), np.flatnonzero(cold)[0])
    assert status(fitting((warm[0], replace(warm[1], rows=clean)), cold, IDS, declared=False)) == "passed"
    for rows in (one_cold, np.array([NUM_ITEMS])):
        found = fitting((warm[0], replace(warm[1], rows=rows)), cold, IDS, declared=False)
        assert status(found) == "failed" and "the quantiser (rkmeans) were fitted on" in found.finding, "whatever the recipe says"
    assert status(fitting((), np.zeros(NUM_ITEMS, bool), IDS, declared=False)) == "passed"


# ids


def renamed(users: list[object]) -> EvaluationSet:
    """The clean test part with other user ids, in the order of the ids, as data sets have them."""
    ids = np.array(users, np.int64 if isinstance(users[0], int) else object)
    order = np.array(sorted(range(NUM_USERS), key=ids.tolist().__getitem__))
    held = TEST.histories.take(order)
    return EvaluationSet(Sequences(ids[order], held.offsets, held.items), TEST.targets[order])


def permuted(seed: int = 3) -> list[int]:
    return np.random.default_rng(seed).permutation(NUM_USERS).tolist()


PLANTED_USERS = {
    "text": [f"u{number}-{IDS[target]}" for number, target in zip(permuted(), TEST.targets, strict=True)],
    "order": np.argsort(np.argsort(TEST.targets + np.random.default_rng(1).normal(0, 12, NUM_USERS))).tolist(),
    "neighbours": [
        f"{block}{number}"
        for block, number in zip(
            np.random.default_rng(4).permutation(NUM_ITEMS)[TEST.targets] + 100, np.array(permuted()) + 1000, strict=True
        )
    ],
    "remainder": (TEST.targets + NUM_ITEMS * np.array(permuted())).tolist(),
}
OTHER_WORDS = {
    "text": [f"u{number}-{IDS[target].upper()}" for number, target in zip(permuted(), TEST.targets, strict=True)],
    "remainder": [f"u{number}-{target}" for number, target in zip(permuted(), TEST.targets, strict=True)],
}


@pytest.mark.parametrize("name", OTHER_WORDS)
def test_targets_in_another_case_or_by_their_number_are_found_in_user_ids(name: str) -> None:
    found = user_ids(renamed(OTHER_WORDS[name]), IDS)
    assert status(found) == "failed" and f"{name} (p 0.0005)" in found.finding


@pytest.mark.parametrize("name", PLANTED_USERS)
def test_user_ids_that_carry_the_target_are_found(name: str) -> None:
    found = user_ids(renamed(PLANTED_USERS[name]), IDS)
    assert status(found) == ("doubtful" if name == "order" else "failed")
    assert f"{name} (p 0.0005)" in found.finding


def test_users_numbered_by_a_number_in_their_id_are_found() -> None:
    place = np.argsort(np.argsort(TEST.targets, kind="stable"), kind="stable")
    found = user_ids(renamed([f"user_{number}" for number in place.tolist()]), IDS)
    assert status(found) == "failed" and "order" in found.finding


@pytest.mark.parametrize(
    "users", [permuted(), [f"user {number}" for number in permuted()], [f"{n * 7919:x}" for n in permuted()]]
)
def test_user_ids_without_meaning_pass(users: list[object]) -> None:
    assert status(user_ids(renamed(users), IDS)) == "passed"


def test_user_ids_that_go_with_taste_pass() -> None:
    """Users in the order of what they take in general: their ids tell of the target what any other item tells as well."""
    rng = np.random.default_rng(0)
    tastes = np.sort(rng.integers(0, NUM_ITEMS - 20, NUM_USERS))
    rows = [taste + rng.permutation(20)[:8] for taste in tastes]
    found = user_ids(LeaveOneOut(sequences_of(rows)).evaluation("test"), IDS)
    assert status(found) == "passed" and "order 0.9" in found.finding


def relabelled(order: np.ndarray, rows: list[np.ndarray]) -> list[np.ndarray]:
    """The same histories where the item at place p of `order` gets the index p."""
    index = np.argsort(order)
    return [index[row] for row in rows]


def item_status(rows: list[np.ndarray], first: np.ndarray | None = None) -> tuple[str, str]:
    split = LeaveOneOut(sequences_of(rows))
    found = item_ids(split.sequences, split.evaluation("test"), NUM_ITEMS, first)
    return status(found), found.finding


def test_item_ids_in_the_order_of_time_are_found() -> None:
    first = np.random.default_rng(5).random(NUM_ITEMS)
    assert item_status(rows_of(), first)[0] == "passed"
    result, text = item_status(rows_of(), np.sort(first))
    assert result == "doubtful" and "goes with first time:" in text and "+1.00" in text


def test_item_ids_in_the_order_of_popularity_or_place_are_found() -> None:
    rng = np.random.default_rng(6)
    weights = np.arange(NUM_ITEMS, 0, -1) / np.arange(NUM_ITEMS, 0, -1).sum()
    popular = [rng.choice(NUM_ITEMS, 6, replace=False, p=weights) for _ in range(NUM_USERS)]
    result, text = item_status(popular)
    assert result == "doubtful" and "popularity" in text.split(":")[0]
    result, text = item_status([np.sort(row) for row in rows_of()])
    assert result == "doubtful" and "place in histories" in text.split(":")[0]
    assert item_status(relabelled(rng.permutation(NUM_ITEMS), popular))[0] == "passed"


def test_item_ids_in_the_order_of_company_are_found() -> None:
    rng = np.random.default_rng(7)
    rows = [(start + rng.permutation(6)) % NUM_ITEMS for start in rng.integers(NUM_ITEMS, size=NUM_USERS)]
    result, text = item_status(rows)
    assert result == "doubtful" and "company" in text.split(":")[0]
    assert item_status(relabelled(rng.permutation(NUM_ITEMS), rows))[0] == "passed"


def test_items_numbered_as_they_appear_in_the_sequences_are_found() -> None:
    """Then a user's new item has the number after the last one, in training and as a target."""
    items = np.random.default_rng(7).permutation(1000)
    shuffled, appearing = (LeaveOneOut(sequences_of(list(one.reshape(-1, 5)))) for one in (items, np.arange(1000)))
    found = [item_ids(one.sequences, one.evaluation("test"), 1000, None) for one in (shuffled, appearing)]
    assert [status(one) for one in found] == ["passed", "doubtful"]
    assert "next number:" in found[1].finding and "100.0% of the targets" in found[1].finding


def test_a_trifle_in_large_data_is_no_finding() -> None:
    """A correlation of .08 over 6,000 items is beyond any doubt, and too small to matter."""
    rng = np.random.default_rng(8)
    num_items = 6_000
    sequences = sequences_of(list(rng.permutation(num_items).reshape(-1, 5)))
    first = midranks(rng.permutation(num_items)) + 0.08 * np.arange(num_items)
    correlation, beyond_doubt = rank_effect(np.arange(num_items), first, bar=0.0)
    assert beyond_doubt.is_found and correlation < thresholds.CORRELATION
    test = LeaveOneOut(sequences).evaluation("test")
    assert status(item_ids(sequences, test, num_items, first)) == "passed"


# repeats


def test_duplicate_users_are_found() -> None:
    rows = rows_of()
    assert status(duplicate_users(sequences_of(rows))) == "passed"
    found = duplicate_users(sequences_of([*rows, *rows[:6]]))
    assert status(found) == "doubtful" and "12 of 246 users (4.88%)" in found.finding
    assert status(duplicate_users(sequences_of([*rows, rows[0]]))) == "passed", "two of 241 users are a trifle"


def test_equal_histories_that_chance_makes_pass() -> None:
    rng = np.random.default_rng(9)
    found = duplicate_users(sequences_of([rng.integers(0, 3, 3) for _ in range(200)]))
    assert status(found) == "passed" and "200 of 200 users" in found.finding


def distinct_times(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.arange(len(row), dtype=np.float64) for row in rows])


def test_targets_that_stand_in_the_history_as_the_same_event_are_found() -> None:
    rows = rows_of()
    sequences, times = sequences_of(rows), distinct_times(rows)
    assert status(duplicate_events(sequences, sequences.lengths - 1, times)) == "passed"
    rows = [np.append(row, row[-1]) if place % 20 == 0 else row for place, row in enumerate(rows)]
    sequences, times = sequences_of(rows), distinct_times(rows)
    again = duplicate_events(sequences, sequences.lengths - 1, times)
    assert status(again) == "doubtful" and "12 of 240 test targets" in again.finding
    ends = sequences.offsets[1:] - 1
    times[ends] = np.where(sequences.items[ends] == sequences.items[ends - 1], times[ends - 1], times[ends])
    same = duplicate_events(sequences, sequences.lengths - 1, times)
    assert status(same) == "failed" and "24 have the user, item and time" in same.finding
    assert status(duplicate_events(sequences, sequences.lengths - 1, None)) == "doubtful"


def test_repeats_away_from_the_targets_are_doubtful() -> None:
    rows = [np.insert(row, 1, row[0]) for row in rows_of()]
    assert status(duplicate_events(sequences_of(rows), np.array([len(row) - 1 for row in rows]), None)) == "doubtful"


def test_ties_at_the_split_are_found() -> None:
    rows = rows_of()
    sequences, times = sequences_of(rows), distinct_times(rows)
    places = np.stack([sequences.lengths - 2, sequences.lengths - 1], axis=1)
    assert status(ties_at_the_split(sequences, places, times, "the file")) == "passed"
    ends = sequences.offsets[1:] - 1
    times[ends[::4]] = times[ends[::4] - 1]
    found = ties_at_the_split(sequences, places, times, "the file")
    assert status(found) == "doubtful" and "60 of 240 evaluated users (25.0%)" in found.finding and "the file" in found.finding
    unseen = ties_at_the_split(sequences, places, None, "the file")
    assert status(unseen) == "doubtful" and "no times" in unseen.finding


def test_ties_after_a_target_are_found_where_a_split_in_time_takes_the_first_event() -> None:
    sequences = sequences_of([np.arange(6)] * 100)
    places, times = np.array([[-1, 3]] * 100), np.tile([0.0, 1, 2, 3, 3, 4], 100)
    found = ties_at_the_split(sequences, places, times, "the file")
    assert status(found) == "doubtful" and "100 of 100 evaluated users" in found.finding and "in 100% of" in found.finding
    alone = np.tile([0.0, 1, 2, 3, 4, 4], 100)
    assert status(ties_at_the_split(sequences, places, alone, "the file")) == "passed"
    next_user = np.tile([4.0, 5, 6, 2, 3, 4], 100)
    assert status(ties_at_the_split(sequences, np.array([[-1, 5]] * 100), next_user, "the file")) == "passed"


def test_ties_within_the_training_part_do_not_matter() -> None:
    rows = rows_of()
    sequences, times = sequences_of(rows), distinct_times(rows)
    times[sequences.offsets[:-1] + 1] = 0
    places = np.stack([sequences.lengths - 2, sequences.lengths - 1], axis=1)
    long = np.where((sequences.lengths > 4)[:, None], places, -1)
    assert status(ties_at_the_split(sequences, long, times, "the file")) == "passed"


# the trie

ALL = np.ones(NUM_ITEMS, bool)


def searched(trie: Trie) -> tuple[np.ndarray, np.ndarray]:
    return trie_paths(trie.code, trie.child_start, tuple(trie.depth_start.tolist())), trie.leaf_item


def test_paths_are_the_codes_of_the_items_at_their_ends() -> None:
    paths, items = searched(Trie.from_codes(CODES, SIZES))
    assert np.array_equal(paths, CODES[items]) and len(paths) == NUM_ITEMS


def test_a_trie_of_the_catalogue_passes() -> None:
    assert status(check_trie(*searched(Trie.from_codes(CODES, SIZES)), CODES, IDS, ALL, shared=False)) == "passed"
    warm = np.arange(NUM_ITEMS) % 7 > 0
    of_warm = Trie.from_codes(CODES[warm], SIZES, np.flatnonzero(warm))
    assert status(check_trie(*searched(of_warm), CODES, IDS, warm, shared=False)) == "passed"


def test_a_trie_that_lacks_items_is_found() -> None:
    few = Trie.from_codes(CODES[2:], SIZES, np.arange(2, NUM_ITEMS))
    found = check_trie(*searched(few), CODES, IDS, ALL, shared=False)
    assert status(found) == "failed" and "2 items ('item 000', 'item 001')" in found.finding


def test_a_trie_with_paths_of_no_item_is_found() -> None:
    more = Trie.from_codes(CODES, SIZES)
    found = check_trie(*searched(more), CODES[:-3], IDS[:-3], ALL[:-3], shared=False)
    assert status(found) == "failed" and "3 paths" in found.finding and "of no item" in found.finding


def test_paths_to_wrong_items_and_paths_that_stand_twice_are_found() -> None:
    paths, items = searched(Trie.from_codes(CODES, SIZES))
    wrong = check_trie(paths, np.roll(items, 1), CODES, IDS, ALL, shared=False)
    assert status(wrong) == "failed" and "lead to another item" in wrong.finding
    twice = check_trie(np.append(paths, paths[:1], 0), np.append(items, items[:1]), CODES, IDS, ALL, shared=False)
    assert status(twice) == "failed" and "several paths" in twice.finding


def test_items_on_one_path_are_found_unless_they_may_share_it() -> None:
    codes = CODES.copy()
    codes[1] = codes[0]
    trie = Trie.from_codes(codes, SIZES, shared=True)
    assert status(check_trie(*searched(trie), codes, IDS, ALL, shared=True)) == "passed"
    found = check_trie(*searched(trie), codes, IDS, ALL, shared=False)
    assert status(found) == "failed" and "together with another item" in found.finding


# all together


def clean_system() -> SystemFacts:
    warm = CLEAN.warm_items(NUM_ITEMS)
    rows = np.flatnonzero(warm)
    trie = SearchedTrie(*searched(Trie.from_codes(CODES[rows], SIZES, rows)), CODES, shared=False)
    origin = Origin({"the training": provenance()}, (Fit("the quantiser", "rkmeans", "warm"),))
    return SystemFacts(origin, {"the transition memory": warm}, CLEAN.item_counts(NUM_ITEMS), trie)


def test_a_clean_system_on_clean_data_passes_every_check(recwarn: pytest.WarningsRecorder) -> None:
    findings = audit(CLEAN, data_of(rows_of()), clean_system())
    assert [finding.name for finding in findings if status(finding) != "passed"] == []
    assert len({finding.name for finding in findings}) == len(findings) == 13
    warn_of_failed(findings)
    assert not recwarn.list
    assert check_lines({"checks": as_rows(findings)}) == ["checks: 13 passed"]


def test_an_audit_runs_every_check_and_says_the_same_again() -> None:
    system, train_all = clean_system(), Cuts.last_two(CLEAN.sequences.lengths)
    leaky = LeaveOneOut(CLEAN.sequences, CLEAN.held_out, replace(train_all, train=CLEAN.sequences.lengths))
    findings = audit(leaky, data_of(rows_of()), system)
    failed = {finding.name for finding in findings if finding.status == "failed"}
    assert failed == {"targets in training", "training part"}
    assert as_rows(findings) == as_rows(audit(leaky, data_of(rows_of()), system))


def test_nothing_known_of_a_system_is_doubtful_and_not_passed() -> None:
    findings = audit(CLEAN, data_of(rows_of()))
    assert [finding.name for finding in findings if finding.status == "doubtful"] == ["training part", "choices", "fitting"]


def test_failed_checks_are_warned_of_with_their_remedy() -> None:
    findings = [
        Finding("trie", "failed", "3 paths are those of no item", "tokenize again"),
        Finding("ties", "doubtful", "some", "x"),
    ]
    with pytest.warns(FelidWarning, match=r"trie failed: 3 paths are those of no item; tokenize again"):
        warn_of_failed(findings)
    (line,) = check_lines({"checks": as_rows(findings)})
    assert line == "checks: 0 passed, 1 doubtful: ties, 1 FAILED: trie (3 paths are those of no item)"
    assert check_lines({}) == []


# chance


def test_p_values_of_nothing_are_uniform_enough_and_never_zero() -> None:
    found = [effect(float(seed), lambda rng: float(rng.integers(1000)), lambda chance: True).p for seed in (0, 500, 2000)]
    assert found[0] == 1 and found[1] == pytest.approx(0.5, abs=0.06) and found[2] == 1 / (thresholds.DRAWS + 1)
    assert effect(2000.0, lambda rng: 0.0, lambda chance: False).p == 1


def test_the_smallest_p_value_can_pass_the_bar() -> None:
    assert 1 / (thresholds.DRAWS + 1) < thresholds.LEVEL


def test_semantic_ids_have_the_trie_that_the_check_expects() -> None:
    ids = SemanticIds(CODES, SIZES, IDS)
    assert status(check_trie(*searched(ids.trie), ids.codes, IDS, ALL, shared=ids.shared)) == "passed"
