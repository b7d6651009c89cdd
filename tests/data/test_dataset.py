"""Canonical order, door checks and filters."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felid.artifacts import file_digest
from felid.data.dataset import BY_FILE, BY_POSITION, BY_TIME, Dataset
from felid.data.filters import FilterConfig
from felid.errors import ArtifactError, DataError, FelidWarning

ITEMS = pl.DataFrame({"item_id": [30, 4, 100, 7], "title": ["c", "a", "d", "b"]})
EVENTS = pl.DataFrame(
    {
        "user_id": ["b", "a", "b", "a", "a"],
        "item_id": [7, 30, 4, 7, 4],
        "timestamp": [50, 20, 10, 30, 10],
    }
)


def same(left: Dataset, right: Dataset) -> bool:
    return left.interactions.equals(right.interactions) and left.items.equals(right.items)


def test_rows_are_sorted_and_indexed_canonically() -> None:
    dataset = Dataset.from_frames("toy", EVENTS, ITEMS)
    assert dataset.item_ids.tolist() == [4, 7, 30, 100]
    assert dataset.item_ids.dtype == np.int64
    sequences = dataset.sequences()
    assert sequences.user_ids.tolist() == ["a", "b"]
    assert sequences.user_ids.dtype == object
    assert [sequences[row].tolist() for row in range(2)] == [[0, 2, 1], [0, 1]]
    assert dataset.interactions["position"].to_list() == [0, 1, 2, 0, 1]
    assert dataset.order_rule == BY_TIME


def test_integer_ids_sort_by_value_and_text_ids_by_letters() -> None:
    numbers = Dataset.from_frames("toy", pl.DataFrame({"user_id": [10, 9], "item_id": [4, 4]}), ITEMS)
    assert numbers.sequences().user_ids.tolist() == [9, 10]
    letters = Dataset.from_frames("toy", pl.DataFrame({"user_id": ["10", "9"], "item_id": [4, 4]}), ITEMS)
    assert letters.sequences().user_ids.tolist() == ["10", "9"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), min_size=1, max_size=60), st.integers(0, 99))
def test_shuffled_rows_with_distinct_times_give_the_same_dataset(events: list[tuple[int, int]], seed: int) -> None:
    frame = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user, _ in events],
            "item_id": [item for _, item in events],
            "timestamp": range(len(events)),
        }
    )
    items = pl.DataFrame({"item_id": range(9), "title": [f"t{i}" for i in range(9)]})
    straight = Dataset.from_frames("toy", frame, items)
    shuffled = Dataset.from_frames(
        "toy", frame.sample(fraction=1, shuffle=True, seed=seed), items.sample(9, shuffle=True, seed=seed)
    )
    assert same(straight, shuffled)
    assert straight.notes == shuffled.notes


def test_saved_files_do_not_depend_on_row_order(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        events, items = EVENTS.sample(5, shuffle=True, seed=seed), ITEMS.sample(4, shuffle=True, seed=seed)
        Dataset.from_frames("toy", events, items).save(tmp_path / name)
        digests.append({path.name: file_digest(path) for path in (tmp_path / name).iterdir()})
    assert digests[0] == digests[1]


def test_ties_keep_the_order_of_the_file() -> None:
    item_ids = np.random.default_rng(0).permutation(500)
    events = pl.DataFrame({"user_id": np.arange(500) % 3, "item_id": item_ids, "timestamp": np.zeros(500, np.int64)})
    dataset = Dataset.from_frames("ties", events, pl.DataFrame({"item_id": np.arange(500), "title": ["x"] * 500}))
    for user in range(3):
        assert dataset.sequences()[user].tolist() == item_ids[user::3].tolist()


def test_order_without_time_is_the_order_of_the_file() -> None:
    dataset = Dataset.from_frames("toy", EVENTS.drop("timestamp"), ITEMS)
    assert [row.tolist() for row in (dataset.sequences()[0], dataset.sequences()[1])] == [[2, 1, 0], [1, 0]]
    assert dataset.order_rule == BY_FILE


def test_position_goes_before_timestamp() -> None:
    dataset = Dataset.from_frames("toy", EVENTS.with_columns(position=pl.Series([1, 9, 2, 5, 7])), ITEMS)
    assert dataset.sequences()[0].tolist() == [1, 0, 2]
    assert dataset.interactions["position"].to_list() == [0, 1, 2, 0, 1]
    assert dataset.interactions["timestamp"].to_list() == [30, 10, 20, 50, 10]
    assert dataset.order_rule == BY_POSITION


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    dataset = Dataset.from_frames("toy", EVENTS.with_columns(rating=pl.lit(4)), ITEMS, notes=("from a test",))
    dataset.save(tmp_path)
    again = Dataset.load(tmp_path)
    assert same(dataset, again)
    assert (again.name, again.order_rule, again.notes) == (dataset.name, dataset.order_rule, dataset.notes)
    assert again.statistics() == dataset.statistics()
    (tmp_path / "items.parquet").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match="felid data"):
        Dataset.load(tmp_path)


def test_statistics_count_cold_and_repeated() -> None:
    events = pl.concat([EVENTS, pl.DataFrame({"user_id": ["b"], "item_id": [7], "timestamp": [60]})])
    statistics = Dataset.from_frames("toy", events, ITEMS).statistics()
    assert statistics["num_users"] == 2
    assert statistics["num_items"] == 4
    assert statistics["num_items_without_interactions"] == 1
    assert statistics["num_repeated_interactions"] == 1
    assert statistics["interactions_per_user"] == {"min": 3, "median": 3.0, "mean": 3.0, "max": 3}


def test_identical_rows_are_dropped_and_repeats_kept_and_both_counted() -> None:
    events = pl.concat([EVENTS, EVENTS[:1], pl.DataFrame({"user_id": ["a"], "item_id": [4], "timestamp": [99]})])
    dataset = Dataset.from_frames("toy", events, ITEMS)
    assert len(dataset.interactions) == 6
    assert "identical interaction rows dropped: 1 of 7" in dataset.notes
    assert "interactions that repeat an item of the same user: 1 of 6, kept" in dataset.notes


def test_equal_rows_are_repeats_when_only_the_file_orders_them() -> None:
    events = pl.DataFrame({"user_id": [1, 1, 1], "item_id": [4, 4, 4]})
    assert len(Dataset.from_frames("toy", events, ITEMS).interactions) == 3


def test_short_users_are_counted() -> None:
    assert Dataset.from_frames("toy", EVENTS, ITEMS).notes == (
        "users with fewer than 3 interactions: 1 of 2; they train but are not evaluated",
    )


@pytest.mark.parametrize(
    ("events", "items", "message"),
    [
        (
            EVENTS.rename({"user_id": "userid"}),
            ITEMS,
            "interactions has no column 'user_id'; it has userid.*did you mean 'userid'",
        ),
        (EVENTS.clear(), ITEMS, "interactions has no rows"),
        (EVENTS, ITEMS.clear(), "items has no rows"),
        (EVENTS, ITEMS.drop("item_id"), "items has no column 'item_id'"),
        (EVENTS.with_columns(user_id=pl.Series(["a", None, "", " ", "b"])), ITEMS, r"empty user_id: 3 \(data rows 2, 3, 4\)"),
        (EVENTS.with_columns(item_id=pl.Series([4, None, 4, 4, 4])), ITEMS, r"empty item_id: 1 \(data rows 2\)"),
        (EVENTS.with_columns(pl.col("item_id").cast(pl.Float64)), ITEMS, "has type Float64, expected integers or text"),
        (EVENTS.with_columns(pl.col("item_id").cast(pl.String)), ITEMS, "item_id is String in interactions but Int64 in items"),
        (EVENTS, pl.concat([ITEMS, ITEMS[:2]]), r"repeated item_id rows: 2 \(data rows 5, 6\), for example 30"),
        (EVENTS.with_columns(timestamp=pl.Series([1, -5, 2, 3, None])), ITEMS, r"timestamp: 2 \(data rows 2, 5\)"),
        (
            EVENTS.with_columns(timestamp=pl.Series([1.0, 2.0, float("nan"), 3.0, float("inf")])),
            ITEMS,
            r"timestamp: 2 \(data rows",
        ),
        (EVENTS.with_columns(timestamp=pl.lit("today")), ITEMS, "timestamp has type String"),
        (EVENTS.with_columns(position=pl.Series([1, None, 2, 3, 4])), ITEMS, r"missing position: 1 \(data rows 2\)"),
        (EVENTS.with_columns(position=pl.lit(0.5)), ITEMS, "position has type Float64"),
        (EVENTS.with_columns(rating=pl.Series(["5", "good", None, "1", "2"])), ITEMS, r"not a number: 1 \(data rows 2\)"),
        (EVENTS.with_columns(item_id=pl.lit(2**63, pl.UInt64)), ITEMS, "beyond 64 bits"),
    ],
)
def test_door_checks_name_the_fault_the_count_and_the_rows(events: pl.DataFrame, items: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset.from_frames("toy", events, items)


def test_unknown_item_is_an_error_and_never_item_zero() -> None:
    events = pl.concat([EVENTS, pl.DataFrame({"user_id": ["a", "b", "b"], "item_id": [999, 999, 888], "timestamp": [1, 2, 3]})])
    expected = "id in interactions without item row: 2 item ids in 3 interactions, for example 888, 999; add their rows"
    with pytest.raises(DataError, match=re.escape(expected)):
        Dataset.from_frames("toy", events, ITEMS)


def test_missing_items_table_makes_bare_ids_and_warns() -> None:
    with pytest.warns(FelidWarning, match="no text to embed"):
        dataset = Dataset.from_frames("toy", EVENTS, None)
    assert dataset.items.to_dict(as_series=False) == {"item_id": [4, 7, 30]}


def test_items_without_text_are_counted_with_a_warning() -> None:
    items = ITEMS.with_columns(title=pl.Series(["c", " ", None, "b"]), price=pl.Series([None, None, 3.0, 1.0]))
    with pytest.warns(FelidWarning, match=r"items without any text: 1 \(data rows 2\) of 4"):
        dataset = Dataset.from_frames("toy", EVENTS, items)
    assert "empty title: 2 of 4 items" in dataset.notes


def test_categorical_ids_become_text() -> None:
    dataset = Dataset.from_frames("toy", EVENTS.with_columns(pl.col("user_id").cast(pl.Categorical)), ITEMS)
    assert dataset.interactions["user_id"].dtype == pl.String


def chain(lengths: dict[str, int]) -> pl.DataFrame:
    """User u takes items 0, 1, ..., length - 1."""
    rows = [(user, item) for user, length in lengths.items() for item in range(length)]
    return pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")


CATALOGUE = pl.DataFrame({"item_id": range(10), "title": list("abcdefghij")})


def filtered(lengths: dict[str, int], users: int, items: int) -> Dataset:
    config = FilterConfig(min_user_interactions=users, min_item_interactions=items)
    return Dataset.from_frames("toy", chain(lengths), CATALOGUE, filters=config)


def test_user_filter_alone_keeps_the_catalogue() -> None:
    dataset = filtered({"a": 5, "b": 4, "c": 6}, 5, 0)
    assert dataset.sequences().user_ids.tolist() == ["a", "c"]
    assert len(dataset.items) == 10
    expected = "filters (at least 5 interactions per user, 0 per item) dropped 1 users, 0 items and 4 interactions"
    assert dataset.notes == (expected,)


def test_item_filter_alone_drops_rare_items_everywhere() -> None:
    dataset = filtered({"a": 5, "b": 4, "c": 6}, 0, 2)
    assert dataset.items["item_id"].to_list() == [0, 1, 2, 3, 4]
    assert len(dataset.interactions) == 14


def test_filters_alternate_until_nothing_changes() -> None:
    # d is too short; without d, items 3 and 4 are too rare; without them, c is too short.
    users = {"a": [0, 1, 2], "b": [0, 1, 2], "c": [2, 3, 4], "d": [3, 4]}
    events = pl.DataFrame([(user, item) for user, items in users.items() for item in items], ["user_id", "item_id"], orient="row")
    config = FilterConfig(min_user_interactions=3, min_item_interactions=2)
    dataset = Dataset.from_frames("toy", events, CATALOGUE, filters=config)
    assert dataset.sequences().user_ids.tolist() == ["a", "b"]
    assert dataset.item_ids.tolist() == [0, 1, 2]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60), st.integers(0, 4), st.integers(0, 4))
def test_filters_reach_the_largest_core(events: list[tuple[int, int]], users: int, items: int) -> None:
    frame = pl.DataFrame(events, schema=["user_id", "item_id"], orient="row")
    expected = list(events)
    while True:
        kept = [(u, i) for u, i in expected if sum(v == u for v, _ in expected) >= users]
        kept = [(u, i) for u, i in kept if sum(j == i for _, j in kept) >= items]
        if kept == expected:
            break
        expected = kept
    config = FilterConfig(min_user_interactions=users, min_item_interactions=items)
    if not expected:
        with pytest.raises(DataError, match="lower the minima"):
            Dataset.from_frames("toy", frame, CATALOGUE, filters=config)
        return
    got = Dataset.from_frames("toy", frame, CATALOGUE, filters=config).interactions
    assert sorted(got.select("user_id", "item_id").rows()) == sorted(expected)
    for (_user,), part in got.group_by("user_id"):
        assert sorted(part["position"].to_list()) == list(range(len(part)))


def test_nothing_left_names_the_longest_user() -> None:
    with pytest.raises(DataError, match=r"none of 9 interactions.*longest user has 5\)"):
        filtered({"a": 5, "b": 4}, 6, 0)


def test_healthy_data_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Dataset.from_frames("toy", EVENTS, ITEMS)
