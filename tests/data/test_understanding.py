"""Own tables as they come: separators, encodings, names of columns, and all faults at once."""

from __future__ import annotations

import gzip
import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from felid.advice import describe, expected, suggest_filter
from felid.data.dataset import Dataset
from felid.data.faults import inspect
from felid.data.filters import NO_FILTER
from felid.data.sources import FilesConfig, load_dataset
from felid.data.sources.tables import form_of, read_table
from felid.data.understanding import understand
from felid.errors import DataError, FelidWarning

LINES = "who{s}name{s}when\n7{s}Café{s}1700000000\n8{s}Thé{s}1700000100\n"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("packed", [False, True])
def test_separator_and_encoding_are_found_out(tmp_path: Path, separator: str, encoding: str, packed: bool) -> None:
    data = LINES.format(s=separator).encode(encoding)
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(data) if packed else data)
    assert read_table(path, ("who",)).rows() == [("7", "Café", 1_700_000_000), ("8", "Thé", 1_700_000_100)]
    assert form_of(path).separator == separator
    assert form_of(path).encoding == encoding.removesuffix("-sig")


def test_separators_inside_quotes_and_of_tsv_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,"b; c; d"\n1,2\n')
    (tmp_path / "b.tsv").write_text("a\tb, c, d\n1\t2\n")
    assert read_table(tmp_path / "a.csv", None).columns == ["a", "b; c; d"]
    assert read_table(tmp_path / "b.tsv", None).columns == ["a", "b, c, d"]


def test_what_the_ending_does_not_promise_is_a_note_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_bytes("user_id;item_id\n1;é\n1;b\n".encode("cp1252"))
    with pytest.warns(FelidWarning, match="no text to embed"):
        dataset = load_dataset(FilesConfig(interactions=tmp_path / "e.csv"), NO_FILTER)
    assert dataset.items["item_id"].to_list() == ["b", "é"]
    assert any("separator ';'" in note and "cp1252" in note for note in dataset.notes)


def test_a_line_with_too_many_fields_is_named(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("user_id,item_id\n1,2\n3,4,5\n")
    with pytest.raises(DataError, match="line 3 has 3 fields, the header 2"):
        load_dataset(FilesConfig(interactions=tmp_path / "e.csv"))


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("userId,movieId,rating,timestamp", {"user_id": "userId", "item_id": "movieId", "timestamp": None}),
        ("reviewerID,asin,overall,unixReviewTime", {"user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime"}),
        ("customer_no,product_id,quantity,date", {"user_id": "customer_no", "item_id": "product_id", "timestamp": "date"}),
        ("visitor_id,item_name,item_id,ts", {"user_id": "visitor_id", "item_id": "item_id", "timestamp": "ts"}),
    ],
)
def test_columns_are_known_by_many_names(tmp_path: Path, header: str, columns: dict[str, str | None]) -> None:
    row = ",".join("1700000000" if name in ("timestamp", "unixReviewTime", "date", "ts") else "5" for name in header.split(","))
    (tmp_path / "log.csv").write_text(f"{header}\n{row}\n")
    found = understand(tmp_path / "log.csv").config.columns
    assert {name: getattr(found, name) for name in columns} == columns


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.csv", "b.csv"], r"holds 2 tables with a user and an item in each row \(a.csv, b.csv\)"),
        ([], r"holds 0 tables .*\(no table\)"),
    ],
)
def test_a_folder_without_one_table_of_interactions_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_text("user_id,item_id\n1,2\n")
    with pytest.raises(DataError, match=message):
        understand(tmp_path)


def test_a_folder_of_strange_names_is_told_with_its_columns_and_what_to_say(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Kunden-Nr;Artikel-Nr.\n1;2\n")
    pl.DataFrame({"event": [{"who": 1, "what": 2}], "n": [1]}).write_parquet(tmp_path / "b.parquet")
    columns = r"a.csv: Kunden-Nr, Artikel-Nr.; b.parquet: n, event with who, what inside; unpack nested columns first"
    with pytest.raises(DataError, match=f"{columns}.*--column user_id=NAME --column item_id=NAME"):
        understand(tmp_path)
    known = understand(tmp_path, given={"user_id": "Kunden-Nr", "item_id": "Artikel-Nr."})
    assert known.config.interactions == tmp_path / "a.csv"
    assert "no column of b.parquet is called like the items' id (say which file by --items FILE)" in known.lines[1]


@pytest.mark.parametrize("ids", [[3, 4], ["3", "4"]])
def test_a_table_with_the_items_ids_as_id_is_theirs_and_one_with_others_is_not(tmp_path: Path, ids: list[object]) -> None:
    (tmp_path / "log.csv").write_text("user,item\n1,3\n1,4\n")
    pl.DataFrame({"id": ids, "name": ["red hat", "cap"]}).write_parquet(tmp_path / "things.parquet")
    (tmp_path / "staff.csv").write_text("id,name\n77,Ann Lee\n")
    assert understand(tmp_path).config.items == tmp_path / "things.parquet"


@pytest.mark.parametrize(
    ("columns", "rows", "doubt"),
    [
        (
            "Order Date",
            "03/04/2023 05/06/2023",
            r"'Order Date' is called like a time, but .* such as '03/04/2023', cannot be read",
        ),
        ("ordered_date,shipped_date", "2023-01-01,2023-01-02", "columns ordered_date, shipped_date could each be the time"),
        ("Order Date", "13/04/2023 05/06/2023", None),
        ("amount", "5 6", None),
    ],
)
def test_times_that_are_not_taken_are_a_doubt(tmp_path: Path, columns: str, rows: str, doubt: str | None) -> None:
    lines = [f"u,P{place},{row}" for place, row in enumerate(rows.split())]
    (tmp_path / "log.csv").write_text("\n".join([f"user,item,{columns}", *lines]) + "\n")
    known = understand(tmp_path / "log.csv")
    assert len(known.doubts) == (doubt is not None)
    assert doubt is None or re.search(doubt, known.doubts[0])
    assert (known.config.columns.timestamp is not None) == ("13" in rows)


def test_a_file_without_a_header_is_told(tmp_path: Path) -> None:
    (tmp_path / "u.tsv").write_text("196\t242\t3\n186\t302\t3\n")
    with pytest.raises(DataError, match="looks like data, expected names of columns"):
        understand(tmp_path / "u.tsv")


def test_text_is_what_reads_like_it(tmp_path: Path) -> None:
    pl.DataFrame({"user": [1, 1], "id": [3, 4]}).rename({"id": "item"}).write_parquet(tmp_path / "log.parquet")
    items = {"item": [3, 4], "name": ["red hat", "cap"], "link": ["https://a", "https://b"], "weight": ["3.5", "4"]}
    more = {"tags": [["wool", "red"], []], "language": ["en", "en"], "description": ["warm", "for summer days"]}
    pl.DataFrame({**items, **more}).write_parquet(tmp_path / "things.parquet")
    known = understand(tmp_path)
    assert known.config.items == tmp_path / "things.parquet"
    assert known.texts == ("title", "tags", "description")


def test_a_title_is_known_by_its_values_where_no_name_tells_it(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\n1,3\n")
    rows = [f"{n};X{n}-{n};2023-01-0{n + 1} 10:00;{'lang ' * 40}{n};Lampe {n};Schöne Möbel" for n in range(8)]
    (tmp_path / "artikel.csv").write_text("\n".join(["item;Code;Seit;Beschreibung;Bezeichnung;Kategorie", *rows]) + "\n")
    known = understand(tmp_path)
    assert known.config.item_columns == {"item_id": "item", "title": "Bezeichnung"}
    assert "title = Bezeichnung" in known.lines[1]
    assert known.texts[0] == "title"


def inspected(tmp_path: Path, log: str, items: str | None = None) -> tuple[dict[str, bool], Dataset]:
    (tmp_path / "e.csv").write_text(log)
    if items is not None:
        (tmp_path / "i.csv").write_text(items)
    config = FilesConfig(interactions=tmp_path / "e.csv", items=tmp_path / "i.csv" if items is not None else None)
    found = inspect(config, now=datetime(2024, 6, 1, tzinfo=UTC))
    return {fault.text: fault.fatal for fault in found.faults}, found.dataset


def test_all_faults_are_found_at_once(tmp_path: Path) -> None:
    good = "".join(f"1,{item},{1_700_000_000 + item}\n" for item in range(4))
    log = f"user_id,item_id,timestamp\n{good}1,3,1700000003\n2,1,-5\n2, 1,1700000000\n3,2,12\n3,1,12\n3,0,1800000000\n"
    items = "item_id,title\n0,a\n1,b\n2,\n3,d\n3,e\n 1,f\n5,f\n"
    faults, dataset = inspected(tmp_path, log, items)
    assert faults == {
        "interactions with a missing, unreadable or negative time: 1 (data rows 6)": True,
        "items with the item_id of an earlier row: 1 (data rows 5)": True,
        "interactions whose item_id begins or ends with a blank (ids are compared as they are): 1 (data rows 7)": False,
        "interactions in the future: 1 (data rows 10)": False,
        "interactions before 1990 (another unit?): 2 (data rows 8, 9)": False,
        "interactions at the same time as another one of that user (their order is that of the file): "
        "4 (data rows 4, 5, 8, ...)": False,
        "rows that are equal to an earlier one (they are dropped): 1 (data rows 5)": False,
        "items whose item_id begins or ends with a blank (ids are compared as they are): 1 (data rows 6)": False,
        "items without any text: 1 (data rows 3)": False,
        "items that differ from another one in nothing but the item_id: 2 (data rows 6, 7)": False,
        "users with fewer than 3 interactions: 1 of 3 (first: 2)": False,
        "items that nobody took: 1 of 6": False,
    }
    assert len(dataset.interactions) == 8


def test_ids_that_stand_for_missing_ones_are_told(tmp_path: Path) -> None:
    faults, _ = inspected(tmp_path, "user_id,item_id\na,p\nNULL,p\n nan,p\na,None such\n")
    assert (
        "interactions whose user_id reads like a missing one, such as 'NULL' (it is taken for an id): 2 (data rows 2, 3)"
        in faults
    )


def test_rows_with_unreadable_times_are_not_called_equal(tmp_path: Path) -> None:
    faults, _ = inspected(tmp_path, "user_id,item_id,timestamp\n1,2,12\n1,2,soon\n1,2,later\n1,2,12\n")
    assert "rows that are equal to an earlier one (they are dropped): 1 (data rows 4)" in faults


def test_a_table_without_one_usable_row_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no row of .*e.csv can be used \(.*unreadable or negative time: 2 \(data rows 1, 2\)\)"):
        inspected(tmp_path, "user_id,item_id,timestamp\n1,2,soon\n1,3,later\n")


def test_clean_tables_have_no_faults(tmp_path: Path) -> None:
    log = "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{1_700_000_000 + 10 * u + i}\n" for u in range(3) for i in range(3))
    faults, dataset = inspected(tmp_path, log, "item_id,title\n0,a\n1,b\n2,c\n")
    assert faults == {}
    assert len(dataset.interactions) == 9


def users_of(*lengths: int, same_time: int = 0) -> Dataset:
    """Users who take items 0, 1, 2, ...; the last two of the first `same_time` users at the same time."""
    rows = [
        (user, item, 100 * user + (item if user >= same_time or item < length - 1 else item - 1))
        for user, length in enumerate(lengths)
        for item in range(length)
    ]
    return Dataset.from_frames("x", pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"), None)


@pytest.mark.filterwarnings("ignore::felid.errors.FelidWarning")
def test_statistics_are_those_of_the_split() -> None:
    found = describe(users_of(5, 5, 6, 2, same_time=2))
    assert (found["num_users"], found["num_evaluated"]) == (4, 3)
    assert found["share_ties_at_split"] == pytest.approx(2 / 3)
    assert found["num_cold_items"] == 2, "items 4 and 5 are the targets of the longest user alone, or of others"
    assert found["share_cold_targets"] == 1.0
    assert found["length_quantiles"]["50"] == 5.0


@pytest.mark.filterwarnings("ignore::felid.errors.FelidWarning")
def test_expected_quality_is_that_of_the_baselines_with_intervals() -> None:
    rows, seen = expected(users_of(*[6] * 5, *[7] * 5), draws=100)
    assert seen == 0.0
    markov = {row.policy: row for row in rows if row.system == "markov" and row.metric.startswith("recall")}
    assert set(markov) == {"seen_removed", "seen_kept"}
    assert all(0 <= row.low <= row.mean <= row.high <= 1 for row in rows)
    assert markov["seen_removed"].mean == 1.0, "seven items, lists of seven"
    assert list(dict.fromkeys(row.system for row in rows)) == ["popularity", "markov", "item-knn"]


@pytest.mark.filterwarnings("ignore::felid.errors.FelidWarning")
def test_of_many_users_some_are_drawn_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    world = users_of(*[6] * 15, *[12] * 15)
    whole, _ = expected(world, draws=50)
    monkeypatch.setattr("felid.advice.MOST_USERS", 7)
    rows, _ = expected(world, draws=50)
    assert rows == expected(world, draws=50)[0]
    shares = {row.mean * 7 for row in rows if row.metric.startswith("recall")}
    assert all(share == pytest.approx(round(share)) for share in shares)
    assert [row.mean for row in rows] != [row.mean for row in whole]


@pytest.mark.filterwarnings("ignore::felid.errors.FelidWarning")
def test_the_filter_is_lowered_where_it_would_drop_most_users() -> None:
    assert suggest_filter(users_of(5, 6, 3)).min_user_interactions == 5
    assert suggest_filter(users_of(5, 4, 3)).min_user_interactions == 3
