"""Steam from raw files in the public form (our own text), and what is said of files that are broken or absent."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from felid.data.filters import NO_FILTER, FilterConfig
from felid.data.sources import SteamConfig, fingerprint, load_dataset, steam
from felid.embedding import TextConfig, item_texts
from felid.errors import DataError
from tests.raw_files import RAW, put_steam


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The raw files in a data home without network."""
    monkeypatch.setenv("FELID_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(steam, "_URL", "http://127.0.0.1:9/")
    put_steam(tmp_path)
    return tmp_path


def rewrite(home: Path, name: str, change: object) -> None:
    """Change the list of lines of a raw file in place."""
    path = home / "steam" / f"{name}.json.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    change(lines)
    path.write_bytes(gzip.compress("".join(lines).encode()))


def test_reviews_become_interactions_in_the_order_of_days() -> None:
    with pytest.warns(UserWarning, match="items without any text: 1"):
        dataset = load_dataset(SteamConfig(), NO_FILTER)
    assert len(dataset.interactions) == 133
    ada = dataset.interactions.filter(pl.col("user_id") == "ada")
    days = [datetime.fromtimestamp(second, UTC).date().isoformat() for second in ada["timestamp"].to_list()]
    expected = [line for line in (RAW / "steam_reviews.txt").read_text().splitlines() if "u'ada'" in line]
    assert sorted(days) == days
    assert sorted(days) == sorted(line.split("u'date': u'")[1][:10] for line in expected)
    assert sorted(ada["item_id"].to_list()) == ["100", "110", "120", "190", "200"]
    assert {"Émile", "chaos λ", 'dee "dee"', "Bo's corner"} < set(dataset.interactions["user_id"].to_list())
    assert dataset.order_rule == "timestamp (day resolution), ties in file order"
    assert dataset.notes[:2] == (
        "reviews without username, left out: 1 of 134",
        "reviewed games without metadata, kept with empty columns: 1 of 14",
    )


def test_same_day_reviews_keep_the_order_of_the_file(home: Path) -> None:
    day = "{u'username': u'one', u'date': u'2015-01-01', u'product_id': u'%s'}\n"
    rewrite(home, "steam_reviews", lambda lines: lines.__setitem__(slice(None), [day % item for item in (200, 100, 130, 110)]))
    assert load_dataset(SteamConfig(), NO_FILTER).interactions["item_id"].to_list() == ["200", "100", "130", "110"]


def test_items_are_the_reviewed_games_with_their_text() -> None:
    dataset = load_dataset(SteamConfig(), FilterConfig(min_user_interactions=5, min_item_interactions=1))
    assert "230" not in dataset.item_ids, "nobody reviewed it"
    assert "777" not in dataset.item_ids, "only a short user reviewed it"
    rows = {row["item_id"]: row for row in dataset.items.iter_rows(named=True)}
    assert rows["110"] | {"release_date": ""} == {
        "item_id": "110",
        "title": "Lantern Harbor II: Café",
        "price": 14.99,
        "brand": "Quiet Tide",
        "categories": "Adventure, Indie",
        "tags": "Story Rich, Cooking",
        "specs": "Single-player, Steam Cloud",
        "developer": "Quiet Tide",
        "sentiment": "Positive",
        "release_date": "",
    }
    assert (rows["150"]["price"], rows["150"]["developer"]) == (0.0, None), "what is free to play costs nothing"
    assert rows["210"]["brand"] == "Fen Radio", "the developer where there is no publisher"
    assert rows["220"]["title"] == "Sleet", "app_name where there is no title"
    columns = {name: dataset.items[name].to_list() for name in dataset.items.columns}
    text = TextConfig(columns=("title", "categories", "tags", "specs", "brand", "developer", "price"))
    texts, notes = item_texts(columns, text)
    assert texts[dataset.item_ids.tolist().index("130")] == (
        "title: Iron Orchard; categories: Simulation, Strategy; tags: Farming, Economy; specs: Single-player; "
        "brand: Grand Ploughs; developer: Mill Street; price: 19.99"
    )
    assert notes == ()


def test_five_core_of_users_and_items() -> None:
    dataset = load_dataset(SteamConfig(), FilterConfig(min_user_interactions=5, min_item_interactions=5))
    assert dataset.interactions["item_id"].value_counts()["count"].min() >= 5
    assert dataset.statistics()["interactions_per_user"]["min"] >= 5
    assert len(dataset.interactions) == 125
    assert set(dataset.item_ids) == set(dataset.interactions["item_id"])


def test_account_numbers_instead_of_names() -> None:
    dataset = load_dataset(SteamConfig(user="user_id"), FilterConfig(min_item_interactions=1))
    assert set(dataset.interactions["user_id"]) == {f"7000000000{number:02d}" for number in range(0, 20, 2)}
    assert dataset.notes[0] == "reviews without user_id, left out: 74 of 134"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{u'username': u'x', u'product_id': u'100', u'date': u'2015-02-30'}\n", "has the date '2015-02-30'"),
        ("{u'username': u'x', u'product_id': u'100'}\n", "is not a review with product_id and date as text"),
        ("{u'username': u'x', u'product_id': 100, u'date': u'2015-02-03'}\n", "is not a review with product_id and date as text"),
        ("{u'username': u'x', u'product_id': u'100', u'date': \n", "is not a Python literal"),
        ("{u'username': __import__('os').getcwd(), u'product_id': u'1', u'date': u'2015-02-03'}\n", "is not a Python literal"),
        ("[u'a']\n", "holds a list, expected a dict"),
    ],
)
def test_broken_reviews_are_named_by_their_line(home: Path, line: str, says: str) -> None:
    rewrite(home, "steam_reviews", lambda lines: lines.__setitem__(40, line))
    with pytest.raises(DataError, match=rf"^line 41 of .*steam_reviews\.json\.gz {says}") as caught:
        load_dataset(SteamConfig())
    assert "\n" not in str(caught.value)


def test_broken_games_are_named_by_their_line(home: Path) -> None:
    rewrite(home, "steam_games", lambda lines: lines.__setitem__(2, "{u'id': u'120', 'title': open('/etc/passwd').read()}\n"))
    with pytest.raises(DataError, match=r"^line 3 of .*steam_games\.json\.gz is not a Python literal"):
        load_dataset(SteamConfig())


def test_reviews_without_any_user_are_refused(home: Path) -> None:
    rewrite(home, "steam_reviews", lambda lines: lines.__delitem__(slice(None)))
    with pytest.raises(DataError, match="has no review with a user"):
        load_dataset(SteamConfig())


def test_cut_file_is_named(home: Path) -> None:
    path = home / "steam" / "steam_reviews.json.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"steam_reviews\.json\.gz is not a whole gzip file"):
        load_dataset(SteamConfig())


def test_offline_says_what_to_put_where(home: Path) -> None:
    (home / "steam" / "steam_games.json.gz").unlink()
    for read in (load_dataset, fingerprint):
        with pytest.raises(
            DataError, match=r"put steam_reviews\.json\.gz and steam_games\.json\.gz .* into .*steam; .*could not"
        ) as caught:
            read(SteamConfig())
        assert "\n" not in str(caught.value)


def test_fingerprint_follows_the_content(home: Path) -> None:
    before = fingerprint(SteamConfig())
    rewrite(home, "steam_games", lambda lines: lines.pop())
    after = fingerprint(SteamConfig())
    assert (after["interactions"], after["items"] != before["items"]) == (before["interactions"], True)
