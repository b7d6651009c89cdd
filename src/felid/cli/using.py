"""Commands that ask a trained run for recommendations."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from felid.cli.shared import RunArgument, app, console
from felid.errors import RequestError

if TYPE_CHECKING:  # the commands import what they need: `felid --help` must not wait for torch
    import numpy as np
    from numpy.typing import NDArray

    from felid.recommender import ItemId, Recommendation, Recommender


@app.command()
def recommend(
    run: RunArgument,
    history: Annotated[
        str | None, typer.Option(help='Item ids, oldest first, as a CSV line: 7,"a,b".', metavar="ID,ID,...")
    ] = None,
    user: Annotated[str | None, typer.Option(help="A user of the data.", metavar="ID")] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="Every user of the data; needs --out.")] = False,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="Items of the history may come again.")] = False,
    mode: Annotated[
        Literal["generative", "dense", "fused", "hybrid"] | None,
        typer.Option(
            help="Rank by codes, by inner product, by both and counted transitions, or hybrid; default: that of the run."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file for --all-users.")] = None,
) -> None:
    """Recommend the next items for a history, a user or all users."""
    if (history is not None) + (user is not None) + all_users != 1:
        raise RequestError("give exactly one of --history, --user and --all-users")
    if all_users == (out is None):
        raise RequestError("--all-users and --out FILE.parquet go together")
    from felid.recommender import Recommender

    recommender = Recommender.load(run)
    if mode is not None:
        recommender = recommender.in_mode(mode)
    if out is not None:
        from felid.batch import recommend_all

        recommend_all(recommender, k, not keep_seen, out, console)
        return
    items: list[ItemId]
    users: list[ItemId] | None = None
    if user is not None:
        users = [_as_id(user, recommender.known.user_ids)]
        items = recommender.history_of(users[0])
    else:
        items = [_as_id(item, recommender.ids.item_ids) for item in _split(history or "")]
    _print_recommendations(recommender, items, recommender.recommend([items], k, not keep_seen, users)[0])


def _split(line: str) -> list[str]:
    """The fields of a CSV line; empty ones are skipped."""
    try:
        return [field for field in next(csv.reader([line], skipinitialspace=True), []) if field.strip()]
    except csv.Error as error:
        raise RequestError(
            f"--history {line!r} is no CSV line ({error}); separate ids by commas, quote an id that holds one"
        ) from error


def _as_id(text: str, known: NDArray[np.generic]) -> ItemId:
    """An id as the data has it: a number where the data's ids are numbers."""
    if known.dtype.kind != "i":
        return text.strip()
    try:
        return int(text)
    except ValueError as error:
        raise RequestError(f"id {text!r} is not a number, but the ids of this data are") from error


def _print_recommendations(recommender: Recommender, history: list[ItemId], found: list[Recommendation]) -> None:
    shown = "; ".join(f"{item} {recommender.title_of(item)}".strip() for item in history[-10:])
    console.print(f"the last {min(10, len(history))} of {len(history)} history items: {shown}")
    table = Table("rank", "item_id", "title", "semantic ID", "score")
    for rank, item in enumerate(found, 1):
        codes = "-".join(str(code) for code in item.semantic_id)
        table.add_row(str(rank), Text(str(item.item_id)), Text(item.title), codes, f"{item.score:.3f}")
    console.print(table)
