"""Recommendations for every user of the data, in one file."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
from rich.console import Console

from felid.errors import RequestError
from felid.progress import progress_bar
from felid.recommender import Recommender


def recommend_all(recommender: Recommender, k: int, exclude_seen: bool, out: Path, console: Console) -> None:
    """Write a Parquet table: user_id, rank (1-based), item_id, score; at most k rows per user.

    Raises:
        RequestError: `out` is a folder, or k is out of range.
    """
    known = recommender.known
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir():
        raise RequestError(f"--out {out} is a folder, expected a file such as {out / 'recommendations.parquet'}")
    with progress_bar(console, "recommending", total=len(known), unit="users") as bar:
        items, scores = recommender.search_items(known, k, exclude_seen, bar.advance)
    found = items >= 0
    frame = pl.DataFrame(
        {
            "user_id": known.user_ids.repeat(found.sum(1)).tolist(),
            "rank": [rank for row in found.sum(1).tolist() for rank in range(1, row + 1)],
            "item_id": recommender.ids.item_ids[items[found]].tolist(),
            "score": scores[found],
        }
    )
    part = out.with_name(f".{out.name}.part")
    frame.write_parquet(part)
    os.replace(part, out)
    console.print(f"{len(frame):,} recommendations for {len(known):,} users in {out}", soft_wrap=True)
