"""Trackers write what they are told, where they say, and change nothing else. Their files are read back."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import polars as pl
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

import felid.tracking
from felid import judging
from felid.artifacts import read_json
from felid.errors import RecipeError
from felid.pipeline import Pipeline
from felid.recipe import Recipe, load_recipe
from felid.tracking import PACKAGES, Tracking, TrackingConfig, flat

SETTINGS = {"kind": "tiger", "layers": [1, 2], "inner": {"rate": 0.1}}
STEPS = [({"loss": 1.5, "ndcg@10": 0.25, "codes": [0.5, 2], "note": "x"}, 3), ({"loss": 1.25, "ndcg@10": 0.5}, 4)]


def track(root: Path, *trackers: str, **settings: str) -> None:
    """One curve of two steps."""
    config = TrackingConfig.model_validate({"to": trackers, **settings})
    with Tracking(config, root).curve("tiger", "abc", SETTINGS) as curve:
        for values, step in STEPS:
            curve(values, step)


def tensorboard_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def wandb_records(path: Path) -> Iterator[Record]:
    """The records of an offline run: LevelDB's log format after a header of seven bytes."""
    data, place, block, parts = path.read_bytes(), 7, 32768, b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def finished_records(path: Path) -> list[Record]:
    """All of them: a process of W&B's own writes them, and may still do so after the run has ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        records = list(wandb_records(path))
        if records and records[-1].HasField("exit"):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} was not finished")


def test_tensorboard(tmp_path: Path) -> None:
    track(tmp_path, "tensorboard")
    curves = tensorboard_curves(tmp_path / "tensorboard_logs" / "tiger" / "abc")
    assert curves["loss"] == [(3, 1.5), (4, 1.25)]
    assert [value for name, ((_, value), *_) in sorted(curves.items()) if name.startswith("codes")] == [0.5, 2.0]
    assert len(curves) == 4
    assert not (tmp_path / "mlruns").exists() and not (tmp_path / "wandb").exists()


def test_the_folder_of_tensorboard_may_be_elsewhere(tmp_path: Path) -> None:
    track(tmp_path / "run", "tensorboard", tensorboard_folder=str(tmp_path / "logs"))
    assert list((tmp_path / "logs" / "tiger" / "abc").glob("events*"))
    assert not (tmp_path / "run").exists()


def test_mlflow_in_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    track(tmp_path, "mlflow", project="shop")
    from mlflow import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    (experiment,) = [one for one in client.search_experiments() if one.name == "shop"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "tiger-abc"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"kind": "tiger", "layers/0": "1", "layers/1": "2", "inner/rate": "0.1"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(3, 1.5), (4, 1.25)]
    assert run.data.metrics["ndcg_at_10"] == 0.5, "MLflow takes no @"
    assert run.data.metrics["codes/1"] == 2.0


def test_wandb_offline(tmp_path: Path) -> None:
    track(tmp_path, "wandb", project="shop")
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    records = finished_records(path)
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.project, run.display_name, run.run_group, run.job_type) == ("shop", "tiger-abc", tmp_path.name, "tiger")
    steps = [record.history for record in records if record.HasField("history")]
    told = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in step.item} for step in steps]
    assert [(step["_step"], step["loss"], step["ndcg@10"]) for step in told] == [(3, 1.5, 0.25), (4, 1.25, 0.5)]


def test_what_is_not_told_anything_writes_nothing(tmp_path: Path) -> None:
    config = TrackingConfig(to=("tensorboard", "wandb", "mlflow"))
    with Tracking(config, tmp_path).curve("tiger", "abc", SETTINGS):
        pass
    with Tracking(TrackingConfig(), tmp_path).curve("tiger", "abc", SETTINGS) as curve:
        curve(*STEPS[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tracker", PACKAGES)
def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(distribution: str) -> str:
        raise PackageNotFoundError(distribution)

    monkeypatch.setattr(felid.tracking, "version", missing)
    (tmp_path / "wandb").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name is no package
    recipe = load_recipe("tiny", [f"tracking.to=[{tracker}]"])
    extra = {"tensorboard": "track"}.get(tracker, tracker)
    with pytest.raises(RecipeError, match=rf"tracking.to has {tracker}.*not installed.*felid\[{extra}\]"):
        Pipeline(recipe, tmp_path / "run").run()
    assert not (tmp_path / "run").exists()


def test_names_of_nested_values() -> None:
    assert flat({"a": {"b": [1, {"c": 2}]}, "d": "x", "e": ()}) == {"a/b/0": 1, "a/b/1/c": 2, "d": "x"}


SMALL = [
    "dataset.num_users=200",
    "embedding.dim=8",
    *("model.kind=tiger", "model.width=16", "model.encoder_layers=1", "model.decoder_layers=1", "model.feed_forward=16"),
    *("model.heads=2", "model.head_width=8", "training.epochs=1", "training.batch_targets=256", "search.num_beams=10"),
    *("quantizer.kind=rqvae", "quantizer.sizes=[8,8]", "quantizer.hidden=[8]", "quantizer.latent=4", "quantizer.epochs=3"),
    *("tokenize.vectors=collaborative", "collaborative.kind=warmup", "collaborative.training.epochs=1"),
    *("collaborative.model.width=16", "collaborative.model.feed_forward=16", "evaluation.bootstrap=20"),
]


def tracked(*overrides: str) -> Recipe:
    with pytest.warns(match="training settings were made for lynx"):
        return load_recipe("tiny", [*SMALL, *overrides])


def test_every_training_of_a_run_and_its_evaluation_are_tracked_and_the_run_is_the_same(tmp_path: Path) -> None:
    """SASRec (as a warm-up), RQ-VAE and TIGER under `tensorboard_logs/`, beside the stages that they belong to."""
    Pipeline(tracked("tracking.to=[tensorboard]"), tmp_path).run()
    stages = {"sasrec": "warmup", "rqvae": "quantize", "tiger": "train", "tiger-evaluation": "train"}
    logs = {name: next((tmp_path / "tensorboard_logs" / name).iterdir()) for name in stages}
    assert {path.name for path in (tmp_path / "tensorboard_logs").iterdir()} == set(stages)
    for name, stage in stages.items():
        assert (tmp_path / stage / logs[name].name / "manifest.json").is_file(), "of the same key"
    curves = {name: tensorboard_curves(folder) for name, folder in logs.items()}
    progress = read_json(next(tmp_path.glob("train/*/progress.json")))
    ((step, loss),) = curves["tiger"]["loss"]
    assert (step, loss) == (progress["step"], pytest.approx(progress["curve"][0]["loss"]))
    assert "loss_dense" in curves["sasrec"]
    assert [step for step, _ in curves["rqvae"]["reconstruction"]] == [1, 2, 3]
    metrics = read_json(tmp_path / "metrics.json")
    found = [points for name, points in curves["tiger-evaluation"].items() if name.startswith("test/recall") and "10" in name]
    assert found == [[(int(progress["best_checkpoint"].partition("-")[2]), pytest.approx(metrics["test"]["recall@10"]))]]
    made = sorted(tmp_path.glob("*/*/manifest.json"))
    assert not [name for path in made for name in read_json(path)["files"] if "events" in name], "no part of what is reused"
    times = [path.stat().st_mtime_ns for path in made]
    Pipeline(tracked("tracking.to=[]"), tmp_path).run()
    assert sorted(tmp_path.glob("*/*/manifest.json")) == made
    assert [path.stat().st_mtime_ns for path in made] == times, "trackers are no part of a stage's key"


def test_where_a_system_ranks_as_liger_does_its_names_are_tracked_too(tmp_path: Path) -> None:
    """In a folder of its own, whatever an earlier run of this process has used."""
    track(tmp_path / "other", "mlflow")
    metrics = {
        "system": "liger",
        "systems": {"liger": {"mode": "hybrid", "candidates": 20, "pool": "cold"}},
        "test": {"recall@10": 0.25, "num_users": 4},
        "variants": {},
        "policy": {"seen": "removed"},
    }
    tracking = Tracking(TrackingConfig(to=("mlflow",)), tmp_path / "run")
    judging.track(judging.Report(metrics, pl.DataFrame()), tracking, "liger-evaluation", "abc", "checkpoint-600")
    names = {str(path).rpartition("/metrics/")[2] for path in (tmp_path / "run").rglob("*") if "/metrics/" in str(path)}
    assert {"test/recall_at_10", "uni_in_test/Gen20_Recall_at_10", "uni_in_test/Recall_at_10"} <= names
    (path,) = tmp_path.rglob("metrics/uni_in_test/Gen20_Recall_at_10")
    assert path.read_text().split()[1:] == ["0.25", "600"]


def test_the_older_setting_of_a_training_still_means_tensorboard() -> None:
    assert load_recipe("tiny", ["training.track=tensorboard"]).trackers == ("tensorboard",)
    both = load_recipe("tiny", ["training.track=tensorboard", "tracking.to=[mlflow,tensorboard]"])
    assert both.trackers == ("mlflow", "tensorboard")
    assert load_recipe("tiny").trackers == ()
