"""Amazon Review Data 2014, 5-core (McAuley et al., 2015), from S3-Rec's Beauty split or the public files."""

from __future__ import annotations

import ast
import gzip
import html
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl

from felid.config import Config
from felid.data.dataset import Dataset
from felid.data.filters import FilterConfig
from felid.data.sources.download import data_home, fetch
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
    """One category of the 5-core reviews; every review is an interaction, whatever its rating."""

    kind: Literal["amazon-2014"] = "amazon-2014"
    """Source."""
    name: Category = "Beauty"
    """Category, spelled as in the public file names."""


def locate(config: Amazon2014Config) -> dict[str, Path]:
    """The two files read: prepared Parquet for Beauty where present, else the public files, downloaded if need be."""
    prepared = data_home() / "amazon-beauty-2014"
    tables = {"interactions": prepared / "interactions.parquet", "items": prepared / "items.parquet"}
    if config.name == "Beauty" and all(path.is_file() for path in tables.values()):
        return tables
    folder = data_home() / "amazon-2014"
    names = {"interactions": f"reviews_{config.name}_5.json.gz", "items": f"meta_{config.name}.json.gz"}
    try:
        return {key: fetch(_URL + name, folder / name) for key, name in names.items()}
    except DataError as error:
        beauty = f", or interactions.parquet and items.parquet into {prepared}" if config.name == "Beauty" else ""
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
    name, paths = f"amazon-2014-{config.name}", locate(config)
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


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a gzipped text file, blank ones left out."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            yield from ((number, line) for number, line in enumerate(stream, start=1) if line.strip())
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file of UTF-8 text ({error}); delete it and run again") from error


def _read_reviews(path: Path) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {"reviewerID": [], "asin": [], "unixReviewTime": [], "overall": []}
    for number, line in _lines(path):
        try:
            review = json.loads(line)
            for name, values in columns.items():
                values.append(review[name])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"line {number} of {path} is not a review ({error!r}); replace the file") from error
    types = {"reviewerID": pl.String, "asin": pl.String, "unixReviewTime": pl.Int64, "overall": pl.Float64}
    names = {"reviewerID": "user_id", "asin": "item_id", "unixReviewTime": "timestamp", "overall": "rating"}
    try:
        return pl.DataFrame(columns, schema=types).rename(names)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} mixes types within a field ({error}); replace the file") from error


def _read_products(path: Path, item_ids: pl.Series) -> tuple[pl.DataFrame, int]:
    """Rows of the given items in their order, and how many of them have no metadata."""
    found: dict[str, dict[str, Any]] = {}
    wanted = set(item_ids.to_list())
    for number, line in _lines(path):
        match = _ASIN.match(line)
        if match and match[1] not in wanted:
            continue
        product = _literal(line, f"line {number} of {path}")
        if product["asin"] in wanted:
            found[product["asin"]] = _columns(product)
    rows = [{"item_id": item, **found.get(item, {})} for item in item_ids.to_list()]
    text = dict.fromkeys(("title", "brand", "categories", "description"), pl.String)
    table = pl.DataFrame(rows, schema={"item_id": pl.String, "price": pl.Float64, **text})
    return table.select("item_id", "title", "price", "brand", "categories", "description"), len(rows) - len(found)


def _literal(line: str, where: str) -> dict[str, Any]:
    """One product: the metadata are Python literals, which JSON parsers refuse."""
    try:
        product = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"{where} is not a Python literal ({error}); replace the file") from error
    if not isinstance(product, dict) or "asin" not in product:
        raise DataError(f"{where} is not a product with an asin; replace the file")
    return product


def _columns(product: dict[str, Any]) -> dict[str, Any]:
    text = {name: html.unescape(str(product.get(name) or "")) or None for name in ("title", "brand", "description")}
    paths = [path[1:] if len(path) > 1 else path for path in product.get("categories") or []]
    joined = ", ".join(" > ".join(html.unescape(str(part)) for part in path) for path in paths)
    price = product.get("price")
    return {**text, "price": float(price) if isinstance(price, int | float) else None, "categories": joined or None}
