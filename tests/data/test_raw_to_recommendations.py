"""From raw files in their public form to recommendations: Steam, lines of items with a pickle of vectors, and other splits."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from felid.artifacts import open_artifact, read_json
from felid.data.dataset import Dataset
from felid.data.sources import steam
from felid.pipeline import Pipeline
from felid.recipe import resolve
from felid.recommender import Recommender
from felid.report.subject import subject_of_run
from tests.raw_files import put_steam

SMALL = {
    "quantizer": {"kind": "rkmeans", "sizes": [4, 4]},
    "model": {"kind": "lynx", "width": 16, "heads": 2, "feed_forward": 32},
    "training": {"epochs": 1},
    "evaluation": {"ks": [5], "bootstrap": 20, "baselines": ["popularity", "markov"]},
    "search": {"num_beams": 10, "candidates": 10},
}


def run(root: Path, **sections: object) -> dict[str, object]:
    """A small run in a folder; its metrics."""
    Pipeline(resolve({**SMALL, **sections}), root).run()
    return read_json(root / "metrics.json")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FELID_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(steam, "_URL", "http://127.0.0.1:9/")
    return tmp_path


def test_steam_split_at_two_moments(home: Path) -> None:
    put_steam(home)
    metrics = run(
        home / "run",
        dataset={"kind": "steam"},
        filter={"min_user_interactions": 5, "min_item_interactions": 5},
        text={"columns": ["title", "brand", "price", "specs", "tags", "categories"]},
        embedding={"kind": "lsa", "dim": 8},
        split={"kind": "time", "test_share": 0.3, "validation_share": 0.2},
    )
    assert metrics["policy"]["split"].startswith("time: interactions before 20")
    data = Dataset.load(home / "run" / read_json(home / "run" / "run.json")["stages"]["data"])
    recommender = Recommender.load(home / "run")
    assert (
        recommender.history_of("Émile")
        == data.item_ids[data.sequences()[data.sequences().user_ids.tolist().index("Émile")]].tolist()
    )
    seen = metrics["test"]["num_users"], metrics["validation"]["num_users"]
    assert min(seen) > 0 and max(seen) < 20, "who took nothing before a moment, or nothing after it, is not evaluated"
    found = recommender.recommend(["130", "140"], k=3)
    assert len({item.item_id for item in found} - {"130", "140"}) == 3


@pytest.mark.filterwarnings("ignore:items have no columns besides item_id")
def test_lines_of_items_with_a_pickle_of_vectors_and_the_last_but_one_in_training(home: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [f"{user} {' '.join(str(item) for item in rng.permutation(24)[: 5 + user % 3] + 1)}\n" for user in range(1, 41)]
    (home / "all_data.txt").write_text("".join(lines))
    with (home / "final_data_reduced.pkl").open("wb") as stream:
        pickle.dump({item: rng.standard_normal(6).astype(np.float32) for item in range(1, 25)}, stream)
    sections = {
        "dataset": {"kind": "sequences", "path": str(home / "all_data.txt")},
        "embedding": {"kind": "precomputed", "vectors": str(home / "final_data_reduced.pkl")},
    }
    plain = run(home / "plain", **sections)
    metrics = run(home / "run", **sections, split={"kind": "leave-one-out", "train_target": "n-2", "validation_share": 0.2})
    assert "split" not in plain["policy"]
    assert metrics["policy"]["split"].startswith("last item = test; the last but one trains, except of 8 users")
    assert [found["validation"]["num_users"] for found in (plain, metrics)] == [40, 8]
    assert [found["test"]["num_users"] for found in (plain, metrics)] == [40, 40]
    keys = [read_json(home / name / "run.json")["stages"] for name in ("plain", "run")]
    assert [stage for stage in keys[0] if keys[0][stage] == keys[1][stage]] == ["data", "embed"], "the split comes after these"
    counts = [Recommender.load(home / name).ranker.catalogue.counts.sum() for name in ("plain", "run")]
    assert counts[1] - counts[0] == 32, "training of the reopened run has one item more of every user but eight"
    assert open_artifact(home / "run" / keys[1]["tokenize"]).manifest["config"]["split"]["train_target"] == "n-2"
    assert len(subject_of_run(home / "run").codes) == 24
