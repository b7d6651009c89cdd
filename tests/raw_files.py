"""Small raw files, written by hand in the form of the public ones, put where the sources look for them.

Their text is our own. `raw/steam_*.txt`: 23 users, of whom 20 have at least five reviews, and 13 games that they reviewed, each
at least five times; beside these a game without a row, one that nobody reviewed, a row without an id, a blank username, missing
publishers, prices that are words. `raw/amazon_*.txt`: 20 reviewers, 17 of them with at least five reviews, of 12 products; one
more product that only a short reviewer took, one without a row, one that nobody reviewed, one without title and price.
"""

from __future__ import annotations

import gzip
from pathlib import Path

RAW = Path(__file__).parent / "raw"


def put_steam(home: Path) -> Path:
    """Write `steam/steam_reviews.json.gz` and `steam/steam_games.json.gz` under a data home; returns their folder."""
    return _put(home / "steam", {"steam_reviews": "steam_reviews", "steam_games": "steam_games"})


def put_amazon(home: Path, name: str = "Beauty", core: str = "_5") -> Path:
    """Write the review and the metadata file of an Amazon 2014 category (`core=""`: all reviews); returns their folder."""
    return _put(home / "amazon-2014", {f"reviews_{name}{core}": "amazon_reviews", f"meta_{name}": "amazon_meta"})


def _put(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for target, source in files.items():
        (folder / f"{target}.json.gz").write_bytes(gzip.compress((RAW / f"{source}.txt").read_bytes(), mtime=0))
    return folder
