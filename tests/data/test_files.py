"""Own tables: formats, column maps, ids, times, and one clear sentence for each fault."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from felid.config import as_tree, validate
from felid.data.dataset import Dataset
from felid.data.filters import NO_FILTER
from felid.data.sources import FilesConfig, fingerprint, load_dataset
from felid.data.sources.written import parse_numbers, parse_times
from felid.errors import DataError, RecipeError

EVENTS = pl.DataFrame({"who": [1, 1, 2, 1], "what": [10, 11, 10, 12], "when": [300, 100, 50, 200]})
ITEMS = pl.DataFrame({"sku": [12, 10, 11], "name": ["cap", "hat, red", 'tie "slim"'], "price": [1.5, 2.0, 3.0]})
COLUMNS = {"user_id": "who", "item_id": "what", "timestamp": "when"}
ITEM_COLUMNS = {"item_id": "sku", "title": "name"}


def write(frame: pl.DataFrame, path: Path) -> Path:
    match path.name.split(".", 1)[1].removesuffix(".gz"):
        case "csv":
            data = frame.write_csv().encode()
        case "tsv":
            data = frame.write_csv(separator="\t").encode()
        case "jsonl" | "ndjson":
            data = frame.write_ndjson().encode()
        case _:
            frame.write_parquet(path)
            return path
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def load(
    tmp_path: Path, events: pl.DataFrame = EVENTS, items: pl.DataFrame = ITEMS, ending: str = "csv", **change: object
) -> Dataset:
    tree: dict[str, object] = {
        "interactions": str(write(events, tmp_path / f"events.{ending}")),
        "items": str(write(items, tmp_path / f"items.{ending}")),
        "columns": COLUMNS,
        "item_columns": ITEM_COLUMNS,
    }
    return load_dataset(validate(FilesConfig, tree | change), NO_FILTER)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "ndjson", "parquet", "csv.gz", "tsv.gz", "jsonl.gz"])
def test_every_format_gives_the_same_dataset(tmp_path: Path, ending: str) -> None:
    dataset = load(tmp_path, ending=ending)
    assert dataset.interactions.rows() == [(1, 11, 0, 100), (1, 12, 1, 200), (1, 10, 2, 300), (2, 10, 0, 50)]
    assert dataset.items.columns == ["item_id", "title", "price"]
    assert dataset.items.rows() == [(10, "hat, red", 2.0), (11, 'tie "slim"', 3.0), (12, "cap", 1.5)]
    assert dataset.name == "events"


def test_canonical_names_need_no_map_and_survive_the_resolved_recipe(tmp_path: Path) -> None:
    events = write(EVENTS.rename({"who": "user_id", "what": "item_id", "when": "timestamp"}), tmp_path / "e.csv")
    items = write(ITEMS.rename({"sku": "item_id"}), tmp_path / "i.csv")
    config = validate(FilesConfig, {"interactions": str(events), "items": str(items)})
    again = validate(FilesConfig, as_tree(config))
    assert again == config
    assert load_dataset(again, NO_FILTER).interactions["item_id"].to_list() == [11, 12, 10, 10]


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    config = FilesConfig(interactions=write(EVENTS, tmp_path / "e.csv"), items=write(ITEMS, tmp_path / "i.csv"))
    before = fingerprint(config)
    assert set(before) == {"interactions", "items"}
    write(EVENTS[:3], tmp_path / "e.csv")
    after = fingerprint(config)
    assert after["interactions"] != before["interactions"]
    assert after["items"] == before["items"]


def test_ids_with_leading_zeros_stay_text_in_both_tables(tmp_path: Path) -> None:
    events = EVENTS.with_columns(what=pl.Series(["10", "007", "10", "7"]))
    dataset = load(tmp_path, events, pl.DataFrame({"sku": ["007", "7", "10"], "name": ["a", "b", "c"]}))
    assert dataset.item_ids.tolist() == ["007", "10", "7"]


def test_item_ids_are_text_in_both_tables_if_one_has_text(tmp_path: Path) -> None:
    items = pl.DataFrame({"sku": ["10", "11", "12", "x"], "name": list("abcd")})
    assert load(tmp_path, items=items).item_ids.tolist() == ["10", "11", "12", "x"]


def test_typed_tables_that_disagree_on_the_id_type_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="item_id is Int64 in interactions but String in items; cast one of them"):
        load(tmp_path, items=ITEMS.with_columns(pl.col("sku").cast(pl.String)), ending="parquet")


def test_untyped_ids_follow_a_typed_table_of_text(tmp_path: Path) -> None:
    items = write(ITEMS.with_columns(pl.col("sku").cast(pl.String)), tmp_path / "items.parquet")
    events = write(EVENTS, tmp_path / "e.csv")
    config = validate(
        FilesConfig, {"interactions": str(events), "items": str(items), "columns": COLUMNS, "item_columns": ITEM_COLUMNS}
    )
    assert load_dataset(config, NO_FILTER).item_ids.tolist() == ["10", "11", "12"]


def test_file_order_rules_without_time_and_is_said(tmp_path: Path) -> None:
    dataset = load(tmp_path, EVENTS.drop("when"), columns={"user_id": "who", "item_id": "what"})
    assert dataset.interactions["item_id"].to_list() == [10, 11, 12, 10]
    assert "order of the rows in the file" in dataset.order_rule


@pytest.mark.parametrize(
    ("times", "seconds", "note"),
    [
        ([1_700_000_000, 0], [1_700_000_000, 0], None),
        ([1_700_000_000.5, 0.0], [1_700_000_000.5, 0.0], None),
        ([1_700_000_000_500, 1_700_000_001_000], [1_700_000_000.5, 1_700_000_001.0], "milliseconds"),
        ([1_700_000_000_000_000] * 2, [1_700_000_000.0] * 2, "microseconds"),
        ([1_700_000_000_000_000_000] * 2, [1_700_000_000.0] * 2, "nanoseconds"),
        (["100", "2.5"], [100.0, 2.5], None),
        (["1970-01-02", "1970-01-01T00:00:01Z"], [86_400.0, 1.0], "ISO dates"),
        (["1970-01-01 02:00:00+02:00", "1970-01-01T00:00:00.25"], [0.0, 0.25], "ISO dates"),
        (["100", "200", "soon"], [100.0, 200.0, None], None),
        (["2020-01-01", "soon", None], [1_577_836_800.0, None, None], "ISO dates"),
        (["03.01.1970 00:01", "32.13.1970", "2.1.1970"], [172_860.0, None, 86_400.0], "dates with the day first"),
        (["13/01/1970", "2/1/1970 00:00:01"], [1_036_800.0, 86_401.0], "dates with the day first"),
        (
            ["01/13/1970", "1/2/1970 1:00 PM", "1/2/1970 12:00 AM"],
            [1_036_800.0, 133_200.0, 86_400.0],
            "dates with the month first",
        ),
        (["1970/01/03", "1970/01/02"], [172_800.0, 86_400.0], "dates with the year first"),
        (["19700103", "19700102"], [172_800.0, 86_400.0], "days such as 20230324"),
        ([20_000_000, 20_000_001], [20_000_000, 20_000_001], None),
    ],
)
def test_times_of_many_kinds_become_unix_seconds(times: list[object], seconds: list[float | None], note: str | None) -> None:
    parsed, notes = parse_times(pl.Series(times))
    assert parsed.to_list() == seconds
    assert notes == ((f"timestamps read as {note}",) if note else ())


@pytest.mark.parametrize("times", [["03/04/2023", "05/06/2023"], ["13/01/2023", "01/13/2023"], ["1.2.23"], ["soon"]])
def test_dates_that_could_mean_another_day_are_not_read(times: list[str]) -> None:
    parsed, notes = parse_times(pl.Series(times))
    assert parsed.null_count() == len(times)
    assert notes == (f"timestamps cannot be read, the first is {times[0]!r}",)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (["1.299,90", "12,5", None, "7"], [1299.9, 12.5, None, 7.0]),
        (["1299.90", "12"], [1299.9, 12.0]),
        (["1,299", "5,000"], None),
        (["12,90 €", "3,00 €"], None),
    ],
)
def test_decimal_commas_are_numbers_and_commas_between_thousands_stay_text(
    text: list[str | None], numbers: list[float | None] | None
) -> None:
    assert parse_numbers(pl.Series(text)).to_list() == (text if numbers is None else numbers)


def test_parquet_dates_become_unix_seconds() -> None:
    text = pl.Series(["1970-01-02", "1970-01-03"])
    assert parse_times(text.str.to_date())[0].to_list() == [86_400.0, 172_800.0]
    zoned = text.str.to_datetime("%Y-%m-%d").dt.replace_time_zone("Europe/Berlin")
    assert parse_times(zoned)[0].to_list() == [82_800.0, 169_200.0]


def test_unreadable_times_are_counted_with_their_rows(tmp_path: Path) -> None:
    events = EVENTS.with_columns(when=pl.Series(["2020-01-01", "soon", None, "2020-01-02"]))
    with pytest.raises(DataError, match=r"unreadable or negative timestamp: 2 \(data rows 2, 3\).*`felid data check` names all"):
        load(tmp_path, events)


def test_missing_file_says_which(tmp_path: Path) -> None:
    config = FilesConfig(interactions=tmp_path / "nowhere.csv")
    for read in (load_dataset, fingerprint):
        with pytest.raises(DataError, match=r"interactions file .*nowhere\.csv does not exist.*correct dataset\.interactions"):
            read(config)


@pytest.mark.parametrize("name", ["item_id", "timestamp", "position", "rating"])
def test_wrong_column_lists_those_there_and_the_nearest(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no column 'whhen'; it has who, what, when; did you mean 'when'\?"):
        load(tmp_path, columns=COLUMNS | {name: "whhen"})


def test_wrong_item_column_lists_those_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"items file .* has no column 'label'; it has sku, name, price"):
        load(tmp_path, item_columns={"item_id": "sku", "title": "label"})


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_empty_table_is_an_error(tmp_path: Path, ending: str) -> None:
    if ending != "jsonl":
        with pytest.raises(DataError, match="has no rows"):
            load(tmp_path, EVENTS.clear(), ending=ending)
    path = tmp_path / f"none.{ending}"
    path.touch()
    with pytest.raises(DataError, match=r"is empty|cannot be read"):
        load_dataset(FilesConfig(interactions=path), NO_FILTER)


@pytest.mark.parametrize(
    ("name", "message"), [("x.parquet", "cannot be read as .parquet"), ("x.xlsx", "ends in '.xlsx', expected .csv")]
)
def test_foreign_files_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 not a table")
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(FilesConfig(interactions=tmp_path / name))
    assert "\n" not in str(caught.value)


def test_missing_ids_in_text_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("user_id,item_id\n1,5\n,6\n2,\n")
    with pytest.raises(DataError, match=r"missing or empty user_id: 1 \(data rows 2\)"):
        load_dataset(FilesConfig(interactions=tmp_path / "e.csv"))


def test_unknown_canonical_column_names_the_nearest_key() -> None:
    with pytest.raises(RecipeError, match="did you mean 'timestamp'"):
        validate(FilesConfig, {"interactions": "x.csv", "columns": {"timestmp": "when"}})
