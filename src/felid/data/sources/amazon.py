"""Amazon Review Data 2014 (McAuley et al., 2015), from S3-Rec's Beauty split or the public files."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any, Literal

import polars as pl

from felid.config import Config
from felid.data.dataset import Dataset
from felid.data.filters import FilterConfig
from felid.data.sources.download import data_home, fetch
from felid.data.sources.literals import mapping, numbered_lines
from felid.errors import DataError

_URL = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
_ASIN = re.compile(r"\{'asin': '([^'\\]+)'")

Category = Literal[
    "Amazon_Instant_Video",
    "Apps_for_Android",
    "Automotive",
    "Baby",
    "Beauty",
    "Books",
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Digital_Music",
    "Electronics",
    "Grocery_and_Gourmet_Food",
    "Health_and_Personal_Care",
    "Home_and_Kitchen",
    "Kindle_Store",
    "Movies_and_TV",
    "Musical_Instruments",
    "Office_Products",
    "Patio_Lawn_and_Garden",
    "Pet_Supplies",
    "Sports_and_Outdoors",
    "Tools_and_Home_Improvement",
    "Toys_and_Games",
    "Video_Games",
]


class Amazon2014Config(Config):
    """One category of the reviews; every review is an interaction, whatever its rating."""

    kind: Literal["amazon-2014"] = "amazon-2014"
    """Source."""
    name: Category = "Beauty"
    """Category, spelled as in the public file names."""
    reviews: Literal["5-core", "all"] = "5-core"
    """`5-core`: the file in which every user and every item has at least five reviews. `all`: the file of all reviews, from
    which `filter` makes other cores, such as five reviews per user and none per item."""


def locate(config: Amazon2014Config) -> dict[str, Path]:
    """The two files read: prepared Parquet for Beauty's 5-core where present, else the public files, downloaded if need be."""
    prepared = data_home() / "amazon-beauty-2014"
    tables = {"interactions": prepared / "interactions.parquet", "items": prepared / "items.parquet"}
    is_prepared = config.name == "Beauty" and config.reviews == "5-core"
    if is_prepared and all(path.is_file() for path in tables.values()):
        return tables
    folder, core = data_home() / "amazon-2014", "_5" if config.reviews == "5-core" else ""
    names = {"interactions": f"reviews_{config.name}{core}.json.gz", "items": f"meta_{config.name}.json.gz"}
    try:
        return {key: fetch(_URL + name, folder / name) for key, name in names.items()}
    except DataError as error:
        beauty = f", or interactions.parquet and items.parquet into {prepared}" if is_prepared else ""
        raise DataError(
            f"Amazon-2014 {config.name} is not here: put {' and '.join(names.values())} (from {_URL}) into {folder}{beauty}; "
            f"{error}"
        ) from error


def load(config: Amazon2014Config, filters: FilterConfig) -> Dataset:
    """Read the located files.

    The prepared Parquet holds user_id, item_id (integers) and position, and items with asin, title, brand, categories.
    The public files give reviewer and ASIN as text, unix seconds of day resolution (same-day ties stay in file order) and
    ratings; items are the reviewed products, with title, price (US dollars), brand, categories and description. Category
    paths lose their root, which all items share; " > " separates their parts, ", " several paths.
    """
    name, paths = f"amazon-2014-{config.name}" + ("-all" if config.reviews == "all" else ""), locate(config)
    if paths["items"].suffix == ".parquet":
        rule = "the position given by the file (S3-Rec's sequences: oldest first, same-day ties as they stand there)"
        return Dataset.from_frames(name, *_read_prepared(paths), order_rule=rule, filters=filters)
    interactions = _read_reviews(paths["interactions"])
    items, missing = _read_products(paths["items"], interactions["item_id"].unique(maintain_order=True))
    notes = (f"reviewed items without metadata, kept with empty columns: {missing} of {len(items)}",) if missing else ()
    rule = "timestamp (day resolution), ties in file order"
    return Dataset.from_frames(name, interactions, items, rule, notes, filters)


def _read_prepared(paths: dict[str, Path]) -> tuple[pl.DataFrame, pl.DataFrame]:
    try:
        return pl.read_parquet(paths["interactions"]), pl.read_parquet(paths["items"])
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{paths['items'].parent} holds unreadable Parquet ({error}); put the two files there again") from error


def _read_reviews(path: Path) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {"reviewerID": [], "asin": [], "unixReviewTime": [], "overall": []}
    for number, line in numbered_lines(path):
        review = _review(line, where := f"line {number} of {path}")
        try:
            for name, values in columns.items():
                values.append(review[name])
        except (KeyError, TypeError) as error:
            raise DataError(f"{where} is not a review ({error!r}); replace the file") from error
    types = {"reviewerID": pl.String, "asin": pl.String, "unixReviewTime": pl.Int64, "overall": pl.Float64}
    names = {"reviewerID": "user_id", "asin": "item_id", "unixReviewTime": "timestamp", "overall": "rating"}
    try:
        return pl.DataFrame(columns, schema=types).rename(names)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} mixes types within a field ({error}); replace the file") from error


def _review(line: str, where: str) -> Any:
    """One review, written as JSON or, as in some of the files of all reviews, as a Python literal."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return mapping(line, where)


def _read_products(path: Path, item_ids: pl.Series) -> tuple[pl.DataFrame, int]:
    """Rows of the given items in their order, and how many of them have no metadata."""
    found: dict[str, dict[str, Any]] = {}
    wanted = set(item_ids.to_list())
    for number, line in numbered_lines(path):
        match = _ASIN.match(line)
        if match and match[1] not in wanted:
            continue
        product = mapping(line, where := f"line {number} of {path}")
        if "asin" not in product:
            raise DataError(f"{where} is not a product with an asin; replace the file")
        if product["asin"] in wanted:
            found[product["asin"]] = _columns(product)
    rows = [{"item_id": item, **found.get(item, {})} for item in item_ids.to_list()]
    text = dict.fromkeys(("title", "brand", "categories", "description"), pl.String)
    table = pl.DataFrame(rows, schema={"item_id": pl.String, "price": pl.Float64, **text})
    return table.select("item_id", "title", "price", "brand", "categories", "description"), len(rows) - len(found)


def _columns(product: dict[str, Any]) -> dict[str, Any]:
    text = {name: html.unescape(str(product.get(name) or "")) or None for name in ("title", "brand", "description")}
    paths = [path[1:] if len(path) > 1 else path for path in product.get("categories") or []]
    joined = ", ".join(" > ".join(html.unescape(str(part)) for part in path) for path in paths)
    price = product.get("price")
    return {**text, "price": float(price) if isinstance(price, int | float) else None, "categories": joined or None}
