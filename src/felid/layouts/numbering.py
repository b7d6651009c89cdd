"""Items and users as numbers from 1: what systems read that take `user item item ...` lines.

`datamaps.json` leads back to the ids of the data: item2id, id2item, user2id, id2user, as S3-Rec's splits have it. Numbers and
text are told apart as JSON does it, so that "007" or "440" stays text. Beside it stands `item_text.json`, the list of the items'
texts.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from felid.artifacts import read_json, write_json
from felid.data.dataset import Dataset
from felid.data.filters import NO_FILTER
from felid.data.sources.sequences import SequencesConfig, load
from felid.errors import ArtifactError, FelidWarning
from felid.layouts.folder import read_json_as, write_lines
from felid.layouts.imported import dataset_of
from felid.layouts.source import RunSource

DATAMAPS = "datamaps.json"
TEXTS = "item_text.json"


def write_sequences(path: Path, run: RunSource) -> None:
    """Write one line per user, oldest item first, all parts together: user number, then item_index + 1 of each item."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sequences = run.split.sequences
    write_lines(
        path, (" ".join(map(str, (user + 1, *(sequences[user] + 1).tolist()))) for user in range(len(sequences.user_ids)))
    )


def write_datamaps(path: Path, run: RunSource) -> None:
    """Write which number stands for which id, and the items' texts beside it."""
    maps: dict[str, Any] = {}
    for name, ids in (("item", run.item_ids), ("user", run.split.sequences.user_ids.tolist())):
        maps[f"{name}2id"] = {str(one): number for number, one in enumerate(ids, 1)}
        maps[f"id2{name}"] = {str(number): one for number, one in enumerate(ids, 1)}
    write_json(path, maps)
    write_json(path.with_name(TEXTS), run.texts())


def read_items(datamaps: Path, count: int) -> list[Any]:
    """(N,) the id of each item number from 1, of the type that the file gives it; without `datamaps.json` the numbers themselves.

    Raises:
        ArtifactError: another number of items than `count`.
    """
    if not datamaps.is_file():
        return list(range(1, count + 1))
    known = read_json(datamaps, ("id2item",))["id2item"]
    if not isinstance(known, dict):
        raise ArtifactError(f"id2item of {datamaps} is a {type(known).__name__}, expected a dict: number -> id; export it again")
    if set(known) != {str(number) for number in range(1, count + 1)}:
        raise ArtifactError(f"{datamaps} numbers {len(known)} items, expected 1 to {count}, the rows of the item vectors")
    return [known[str(number)] for number in range(1, count + 1)]


def read_sequences(path: Path, datamaps: Path, item_ids: list[Any]) -> Dataset:
    """The interactions of `user item item ...` lines.

    Args:
        path: the lines.
        datamaps: ids of users and items; it and `item_text.json` beside it may be missing.
        item_ids: (N,) id of each item number from 1.

    Raises:
        DataError: the file is missing, or is no lines of this kind.
        ArtifactError: a number beyond the items, or another number of texts.
    """
    known = dict(enumerate(item_ids, 1))
    users = read_json(datamaps, ("id2user",))["id2user"] if datamaps.is_file() else {}
    texts = read_json_as(datamaps.with_name(TEXTS), list) if datamaps.with_name(TEXTS).is_file() else None
    if texts is not None and len(texts) != len(item_ids):
        raise ArtifactError(f"{datamaps.with_name(TEXTS)} has {len(texts)} texts for {len(item_ids)} items; export it again")
    items = {item: {} if texts is None else {"text": texts[row]} for row, item in enumerate(item_ids)}
    with warnings.catch_warnings():  # that these items have no text: their vectors come along
        warnings.simplefilter("ignore", FelidWarning)
        return _renamed(path, users, known, items)


def _renamed(path: Path, users: Mapping[str, Any], known: Mapping[Any, Any], items: Mapping[Any, Mapping[str, Any]]) -> Dataset:
    taken = load(SequencesConfig(path=path), NO_FILTER).interactions
    beyond = [item for item in taken["item_id"].to_list() if item not in known]
    if beyond:
        raise ArtifactError(
            f"{path} has items that are no numbers from 1 to {len(known)} (first: {beyond[0]!r}); check that the files belong "
            "together"
        )
    pairs = zip(taken["user_id"].to_list(), taken["item_id"].to_list(), strict=True)
    events = [(users.get(str(user), user), known[item], None) for user, item in pairs]
    return dataset_of(path.stem, events, items)
