"""MovieLens-100K (Harper and Konstan, 2015): 943 users, 1,682 films, 100,000 ratings, with titles, years and genres."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import polars as pl

from felid.config import Config
from felid.data.dataset import Dataset
from felid.data.filters import FilterConfig
from felid.data.sources.download import data_home, fetch
from felid.errors import DataError

_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
_MD5 = "0e33842e24a9c977be4e0107933c0723"
_ATOMIC = ("ml-100k.inter", "ml-100k.item")
_GROUPLENS = ("u.data", "u.item")
_GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_MISSING = "unkonwn"
"""How RecBole's file spells an unknown title or year."""


class MovieLens100KConfig(Config):
    """MovieLens-100K: every rating is an interaction, whatever its value."""

    kind: Literal["movielens-100k"] = "movielens-100k"
    """Source."""


def locate(config: MovieLens100KConfig) -> dict[str, Path]:
    """The two files read: from `FELID_DATA_HOME/ml-100k`, else the installed wheel recbole==1.2.1, else downloaded."""
    home = data_home() / "ml-100k"
    for folder, names in ((home, _ATOMIC), (home, _GROUPLENS), (_recbole_folder(), _ATOMIC)):
        if folder is not None and all((folder / name).is_file() for name in names):
            return dict(zip(("interactions", "items"), (folder / name for name in names), strict=True))
    return _download(home)


def load(config: MovieLens100KConfig, filters: FilterConfig) -> Dataset:
    """Read the located files; item columns are title, release_year (int64) and categories (genres, ", " between)."""
    paths = locate(config)
    try:
        if paths["interactions"].name == _ATOMIC[0]:
            interactions, items = _read_atomic(paths["interactions"], paths["items"])
        else:
            interactions, items = _read_grouplens(paths["interactions"], paths["items"])
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{paths['interactions'].parent} holds unreadable files ({reason}); replace them") from error
    return Dataset.from_frames("movielens-100k", interactions, items, filters=filters)


def _recbole_folder() -> Path | None:
    spec = find_spec("recbole")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) / "dataset_example" / "ml-100k" if places else None


def _download(home: Path) -> dict[str, Path]:
    try:
        archive = fetch(_URL, home / "ml-100k.zip", md5=_MD5)
    except DataError as error:
        raise DataError(
            f"MovieLens-100K is not here: put u.data and u.item (or RecBole's ml-100k.inter and ml-100k.item) into {home}, or "
            f"run `pip install --no-deps recbole==1.2.1`; {error}"
        ) from error
    with zipfile.ZipFile(archive) as packed:
        for name in _GROUPLENS:
            part = home / f"{name}.part"
            part.write_bytes(packed.read(f"ml-100k/{name}"))
            part.replace(home / name)
    return {"interactions": home / "u.data", "items": home / "u.item"}


def _read_atomic(inter: Path, item: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """RecBole's atomic files: tab separated, `name:type` headers."""
    tables = []
    for path in (inter, item):
        raw = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)
        tables.append(raw.rename({column: column.split(":")[0] for column in raw.columns}))
    interactions = tables[0].select(pl.col("user_id", "item_id").cast(pl.Int64), _seconds(), pl.col("rating").cast(pl.Float64))
    known = [pl.col(name).replace(_MISSING, None) for name in ("movie_title", "release_year")]
    items = tables[1].select(
        pl.col("item_id").cast(pl.Int64),
        known[0].alias("title"),
        known[1].cast(pl.Int64, strict=False),
        pl.col("class").str.split(" ").list.join(", ").alias("categories"),
    )
    return interactions, items


def _read_grouplens(data: Path, item: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """GroupLens' own files: u.data is tab separated, u.item is Latin-1 with | between fields and one 0/1 column per genre."""
    names = ["user_id", "item_id", "rating", "timestamp"]
    raw = pl.read_csv(data, separator="\t", has_header=False, new_columns=names, infer_schema=False)
    interactions = raw.select(pl.col("user_id", "item_id").cast(pl.Int64), _seconds(), pl.col("rating").cast(pl.Float64))
    rows = [line.split("|") for line in item.read_text(encoding="latin-1").splitlines() if line]
    titles = pl.Series([row[1] for row in rows], dtype=pl.String)
    genres = [", ".join(name for name, flag in zip(_GENRES, row[5:], strict=False) if flag == "1") for row in rows]
    items = pl.DataFrame(
        {
            "item_id": pl.Series([row[0] for row in rows], dtype=pl.String).cast(pl.Int64),
            "title": titles.str.replace(r"\s*\(\d{4}\)\s*$", "").replace("unknown", None),
            "release_year": titles.str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64),
            "categories": genres,
        }
    )
    return interactions, items


def _seconds() -> pl.Expr:
    return pl.col("timestamp").cast(pl.Float64).cast(pl.Int64)
