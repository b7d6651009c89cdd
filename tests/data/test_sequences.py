"""Users' lines of items, the form of `all_data.txt`."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from felid.data.filters import NO_FILTER
from felid.data.histories import LeaveOneOut
from felid.data.sources import SequencesConfig, fingerprint, load_dataset
from felid.errors import DataError

LINES = "10 3 1 2\n9 2 2 3 1 5\n\n11 4\n"
no_text = pytest.mark.filterwarnings("ignore:items have no columns besides item_id")


def write(folder: Path, text: str, name: str = "all_data.txt") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@no_text
@pytest.mark.parametrize("name", ["all_data.txt", "all_data.txt.gz"])
def test_items_stand_in_the_order_of_the_line(tmp_path: Path, name: str) -> None:
    dataset = load_dataset(SequencesConfig(path=write(tmp_path, LINES, name)), NO_FILTER)
    assert dataset.interactions.columns == ["user_id", "item_id", "position"]
    assert dataset.interactions.rows() == [
        *((9, item, place) for place, item in enumerate((2, 2, 3, 1, 5))),
        *((10, item, place) for place, item in enumerate((3, 1, 2))),
        (11, 4, 0),
    ]
    assert (dataset.name, dataset.item_ids.tolist()) == ("all_data", [1, 2, 3, 4, 5])
    assert dataset.order_rule == "the order of the items in each user's line"
    test = LeaveOneOut(dataset.sequences()).evaluation("test")
    assert dataset.item_ids[test.targets].tolist() == [5, 2]


@no_text
def test_ids_that_are_no_integers_stay_text(tmp_path: Path) -> None:
    dataset = load_dataset(SequencesConfig(path=write(tmp_path, "u1 007 8 9\nu2 8 007\n")), NO_FILTER)
    assert dataset.interactions["item_id"].to_list() == ["007", "8", "9", "8", "007"]
    assert dataset.interactions["user_id"].unique(maintain_order=True).to_list() == ["u1", "u2"]


def test_an_items_table_gives_the_text(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku,title\n5,five\n3,three\n1,one\n2,two\n4,four\n7,seven\n")
    config = SequencesConfig(path=write(tmp_path, LINES), items=tmp_path / "items.csv", item_columns={"item_id": "sku"})
    dataset = load_dataset(config, NO_FILTER)
    assert dataset.items.rows() == [(1, "one"), (2, "two"), (3, "three"), (4, "four"), (5, "five"), (7, "seven")]
    assert set(fingerprint(config)) == {"path", "items"}


@no_text
def test_a_user_without_items_is_counted(tmp_path: Path) -> None:
    dataset = load_dataset(SequencesConfig(path=write(tmp_path, LINES + "12\n")), NO_FILTER)
    assert dataset.notes[0] == "users without items, left out: 1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 2 3\n2 3\n1 4\n", "line 3 of .* repeats user '1' of line 1; give each user one line"),
        ("1\n2\n", "has no items, expected lines `user item item ...`"),
        ("", "has no items"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_dataset(SequencesConfig(path=write(tmp_path, text)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.txt"
    with pytest.raises(DataError, match=re.escape(f"{path} does not exist") + ".*correct dataset.path"):
        load_dataset(SequencesConfig(path=path))
