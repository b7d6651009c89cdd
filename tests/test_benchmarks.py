"""The parts of the benchmarks that decide what is trained, what is skipped, what is chosen and how runs are put together."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmarks import cold, pace, recommenders, runs, sweep, tables, validate
from felid.artifacts import write_json
from felid.data.histories import EvaluationSet, Sequences
from felid.evaluation import evaluate
from felid.evaluation.per_user import read_ranks
from felid.fusion import FusionChoice
from felid.metrics import recall_per_user
from felid.recipe import load_recipe
from felid.training import Examples

USERS = 40
SETTINGS = Path(recommenders.__file__).with_suffix(".yaml")


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


# processes, lanes, records


def test_the_processor_time_of_a_command_is_known(tmp_path: Path) -> None:
    busy = "import time; print('done')\nwhile time.process_time() < 0.3: pass"
    start = runs.cpu_minutes()
    runs.run(python("import time; time.sleep(0.5)"), tmp_path / "log")
    asleep = runs.cpu_minutes()
    runs.run(python(f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {busy!r}])"), tmp_path / "log")
    assert 60 * (asleep - start) < 0.3 <= 60 * (runs.cpu_minutes() - asleep), "that of grandchildren counts too"
    assert "done" in (tmp_path / "log").read_text()


def test_what_a_module_prints_comes_back_and_its_error_too() -> None:
    assert runs.output("json.tool", "--help").startswith("usage")
    with pytest.raises(runs.FailedError, match=r"status 2: .*unrecognized arguments"):
        runs.output("json.tool", "--no-such-option")


def test_a_command_that_fails_says_what_it_printed_last(tmp_path: Path) -> None:
    with pytest.raises(runs.FailedError, match=r"status 2: .*the loss is not finite"):
        runs.run(python("print('error: the loss is not finite after step 3'); raise SystemExit(2)"), tmp_path / "log")


def test_a_command_ends_with_the_benchmark_that_runs_it(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from benchmarks import runs; runs.end_with_children(); import sys; "
        "child = [sys.executable, '-S', '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)']; "
        f"runs.run(child, Path({str(tmp_path / 'log')!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "log").is_file() or len((tmp_path / "log").read_text().splitlines()) < 2:
        time.sleep(0.02)
    child = int((tmp_path / "log").read_text().splitlines()[1])
    process.terminate()
    assert process.wait(10) == 143
    assert not Path(f"/proc/{child}/cmdline").is_file() or not Path(f"/proc/{child}/cmdline").read_bytes()


def test_lanes_share_all_jobs_and_none_twice() -> None:
    jobs = list(range(7))
    assert sorted(runs.share_of(jobs, "0/2") + runs.share_of(jobs, "1/2")) == jobs
    assert runs.share_of(jobs, "0/1") == jobs
    assert runs.lane_of(Path("w"), "1/2") != runs.lane_of(Path("w"), "0/2")
    assert runs.a_share("1/2") == "1/2"
    for wrong in ("2/2", "0", "a/b", "-1/2"):
        with pytest.raises(argparse.ArgumentTypeError, match="counted from 0"):
            runs.a_share(wrong)


def test_two_processes_add_to_one_list_of_records(tmp_path: Path) -> None:
    path = tmp_path / "new" / "records.json"
    code = "import sys; from pathlib import Path; from benchmarks.runs import add_record\nfor i in range(20): "
    code += "add_record(Path(sys.argv[1]), {'from': sys.argv[2], 'number': i})"
    lanes = [subprocess.Popen([sys.executable, "-c", code, str(path), lane]) for lane in "ab"]
    assert [lane.wait() for lane in lanes] == [0, 0]
    found = runs.records(path)
    assert {(one["from"], one["number"]) for one in found} == {(lane, i) for lane in "ab" for i in range(20)}
    assert len(found) == 40
    assert [file.name for file in path.parent.iterdir()] == ["records.json"]


def test_a_record_replaces_the_former_one_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        runs.add_record(path, {"name": name, "value": value}, ("name",))
    assert runs.records(path) == [{"name": "b", "value": 2}, {"name": "a", "value": 3}]


# the sweep


@pytest.mark.parametrize("model", list(sweep.SPACES))
def test_every_drawn_setting_is_in_its_space_and_a_recipe_takes_it(model: str) -> None:
    space = sweep.SPACES[model]
    drawn = [sweep.settings_of(space, number, seed=0) for number in range(1, 200)]
    assert sweep.settings_of(space, 0, seed=0) == {}  # the recipe itself
    for settings in drawn:
        for key, values in space.items():
            if isinstance(values, tuple):
                assert settings[key] in values
            else:
                assert values.low <= float(settings[key]) <= values.high
        assert settings["model.feed_forward"] == 4 * int(settings["model.width"])
    for key, values in space.items():
        assert len({settings[key] for settings in drawn}) >= (len(values) if isinstance(values, tuple) else 50)
    recipe = load_recipe(sweep.RECIPES[model], [f"{key}={value}" for key, value in drawn[0].items()])
    assert recipe.model.width == drawn[0]["model.width"]
    assert recipe.training.weight_decay == drawn[0]["training.weight_decay"]


def test_both_models_have_equally_many_settings_to_sweep() -> None:
    assert len({len(space) for space in sweep.SPACES.values()}) == 1


def test_a_logarithmic_range_is_even_over_its_magnitudes() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([sweep._draw(sweep.Log(1e-4, 1.0), rng) for _ in range(2000)])
    assert np.allclose([(drawn < bound).mean() for bound in (1e-3, 1e-2, 1e-1)], [0.25, 0.5, 0.75], atol=0.05)


def test_a_trial_does_not_depend_on_the_others() -> None:
    space = sweep.SPACES["lynx"]
    assert sweep.settings_of(space, 3, 0) == sweep.settings_of(space, 3, 0)
    assert sweep.settings_of(space, 3, 0) != sweep.settings_of(space, 4, 0)
    assert sweep.settings_of(space, 3, 0) != sweep.settings_of(space, 3, 1)


CURVE = [
    {"epoch": e, "seconds": 10.0 * e, "ndcg@10": n, "recall@10": 0.1, "generative_ndcg@10": n / 2}
    for e, n in ((1.0, 0.02), (2.0, 0.04), (3.0, 0.03))
]
TRIED = ((0.0, 0.0, 0.041), (0.5, 0.0, 0.05), (0.0, 1.0, 0.045), (0.5, 1.0, 0.07))
"""Share of the generative head, factor of the memory, NDCG@10."""
PACE = {"start": 5.0, "epoch": 10.0, "end": 15.0}


def leave_training(folder: Path, tried: Sequence[tuple[float, float, float]] = TRIED) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "progress.json", {"curve": CURVE})
    if tried:
        FusionChoice(weight=0.5, memory_weight=1.0, curve=tuple(tried)).save(folder)


def test_a_trial_is_judged_as_its_system_is_used(tmp_path: Path) -> None:
    leave_training(tmp_path / "train" / "0123456789ab")
    lynx, sasrec = (sweep.result_of(tmp_path, model) for model in ("lynx", "sasrec"))
    assert (lynx["ndcg@10"], sasrec["ndcg@10"]) == (0.07, 0.05), "fused, and without the transition memory"
    assert [lynx[name] for name in sweep.FIGURES] == [0.07, 0.05, 0.04, 0.02]
    assert lynx["best"] == CURVE[1]
    assert lynx["curve"] == CURVE, "with every figure of the generative head"


def test_a_trial_that_went_astray_counts_as_nothing(tmp_path: Path) -> None:
    assert sweep.result_of(tmp_path, "lynx")["ndcg@10"] == 0
    leave_training(tmp_path / "train" / ".working-0123456789ab", ())
    found = sweep.result_of(tmp_path, "lynx")
    assert (found["ndcg@10"], found["fused"], found["dense"]) == (0, 0, 0.04)


def test_epochs_fill_the_budget() -> None:
    assert sweep.epochs_within(PACE, minutes=2) == 10
    assert sweep.epochs_within(PACE, minutes=2.49 / 60) == 1
    assert sweep.epochs_within(PACE, minutes=60) == sweep.MOST_EPOCHS


class FakeSweep:
    """Commands of a sweep that do nothing but note that they were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str, list[str]]] = []
        self.diverges = 0
        monkeypatch.setattr(sweep, "felid", self.felid)
        monkeypatch.setattr(sweep, "output", self.output)
        monkeypatch.setattr(sweep, "cpu_minutes", lambda: 2.0 * len(self.asked))

    def felid(self, stage: str, root: Path, recipe: str, overrides: Sequence[str] = ()) -> None:
        self.asked.append((stage, recipe, list(overrides)))
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / "run.json", {"stages": {"tokenize": "tokenize/0123456789ab"}})
        if stage == "train":
            assert not list(root.glob("train/*"))
            if len(self.stages("train")) == self.diverges:
                raise runs.FailedError("status 2: error: the loss is not finite after step 3; lower it")
            leave_training(root / "train" / "0123456789ab")

    def output(self, module: str, root: str, recipe: str, *overrides: str) -> str:
        assert module == "benchmarks.pace"
        assert not list(Path(root).glob("train/*"))
        self.asked.append(("pace", recipe, list(overrides)))
        return json.dumps(PACE)

    def stages(self, wanted: str) -> list[list[str]]:
        return [overrides for stage, _, overrides in self.asked if stage == wanted]


def test_a_sweep_makes_what_is_missing_and_removes_its_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSweep(monkeypatch)
    fake.diverges = 2
    call = ["sasrec", "--trials", "3", "--minutes", "2", "--out", str(tmp_path), "--work", str(tmp_path / "work")]
    sweep.main([*call, "--share", "0/2"])
    assert [stage for stage, *_ in fake.asked] == ["embed", "tokenize", "pace", "train", "pace", "train"]
    path = tmp_path / "sweep-sasrec.json"
    assert [(one["trial"], one["diverged"], one["ndcg@10"]) for one in runs.records(path)] == [(0, False, 0.05), (2, True, 0.0)]
    first = runs.records(path)[0]
    assert (first["cpu_minutes"], first["codes_cpu_minutes"], first["pace"], first["epochs"]) == (2.0, 2.0, PACE, 10)
    paced, trained = fake.stages("pace")[0], fake.stages("train")[0]
    assert trained == [*paced, "training.epochs=10"]
    assert "training.patience=0" in paced
    sweep.main(call)
    assert [one["trial"] for one in runs.records(path)] == [0, 2, 1]
    before = len(fake.asked)
    capsys.readouterr()
    sweep.main(call)
    assert len(fake.asked) == before
    assert not list(tmp_path.glob("work/**/train"))
    shown = capsys.readouterr().out
    assert "sasrec: 3 trials, 6.0 processor minutes, and 2.0 for warm-up and codes: 8.0" in shown
    assert "unequal numbers of trials" in shown
    sweep.main(["lynx", *call[1:]])
    assert "unequal" not in capsys.readouterr().out


def test_a_trial_is_made_again_when_recipe_space_or_budget_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeSweep(monkeypatch)
    call = ["lynx", "--trials", "2", "--out", str(tmp_path), "--work", str(tmp_path / "work")]
    space = {**sweep.SPACES, "lynx": {**sweep.SPACES["lynx"], "model.dropout": sweep.Even(0.7, 0.8)}}
    for made, changed in ((2, []), (4, ["--recipe", "default"]), (6, ["--minutes", "3"]), (7, ["--seed", "1"])):
        sweep.main([*call, *changed])
        assert len(fake.stages("train")) == made, "trial 0 changes nothing, whatever the seed and the space are"
        assert "lynx: 2 trials" in capsys.readouterr().out, "the table leaves the others out"
    monkeypatch.setattr(sweep, "SPACES", space)
    sweep.main(call)
    assert len(fake.stages("train")) == 8


def test_the_codes_cost_what_was_noted_when_they_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeSweep(monkeypatch)
    assert sweep.prepare(tmp_path, "tiny") == 2.0

    def stopped(stage: str, root: Path, recipe: str) -> None:
        fake.felid(stage, root, recipe)
        if stage == "tokenize":
            write_json(root / "run.json", {"stages": {"tokenize": "tokenize/other"}})
            raise SystemExit

    assert sweep.prepare(tmp_path, "tiny") == 2.0
    (tmp_path / "codes.json").unlink()
    monkeypatch.setattr(sweep, "felid", stopped)
    with pytest.raises(SystemExit):
        sweep.prepare(tmp_path, "tiny")
    monkeypatch.setattr(sweep, "felid", fake.felid)
    assert sweep.prepare(tmp_path, "tiny") == 4.0, "both sittings"


def test_a_pace_counts_whole_epochs_and_leaves_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, batches = [0.0], [0]
    collate, all_batches = Examples.collate, Examples.batches

    def counted(self: Examples, *given: Any) -> Any:
        steps[0] += 1
        return collate(self, *given)

    def measured(self: Examples, *given: Any) -> Any:
        found = all_batches(self, *given)
        batches[0] = len(found)
        return found

    monkeypatch.setattr(Examples, "collate", counted)
    monkeypatch.setattr(Examples, "batches", measured)
    monkeypatch.setattr(pace, "STEPS", 2)
    monkeypatch.setattr(pace, "time", SimpleNamespace(process_time=lambda: steps[0]))  # time goes by steps
    write_json(tmp_path / "recipe.json", {"dataset": {"kind": "synthetic", "num_users": 40}, "model": {"kind": "sasrec"}})
    changes = ["embedding.dim=8", "quantizer.sizes=[8,8]", "training.batch_targets=8"]
    assert pace.pace_of(tmp_path / "run", str(tmp_path / "recipe.json"), changes) == {"start": 0, "epoch": batches[0], "end": 0}
    assert batches[0] > 2
    assert not (tmp_path / "run" / "train").exists()


# runs put together


def ranks(systems: Mapping[str, np.ndarray], part: str = "test", cold: int = 0) -> pl.DataFrame:
    """Ranks as an evaluation leaves them; the first `cold` users have a cold target."""
    groups = ["cold"] * cold + ["warm"] * (USERS - cold)
    frames = [
        pl.DataFrame({"user_id": range(USERS), "target": range(USERS), "group": groups, "rank": values}).select(
            pl.lit(name).alias("system"), pl.lit(part).alias("part"), pl.lit(policy).alias("policy"), pl.all()
        )
        for name, values in systems.items()
        for policy in ("seen_removed", "seen_kept")
    ]
    return pl.concat(frames)


def drawn(seed: int, best: int = 30) -> np.ndarray:
    """Ranks of all users, 0 = not found."""
    values = np.random.default_rng(seed).integers(1, best, USERS)
    return np.where(values > 10, 0, values)


def test_pooled_metrics_are_those_of_all_rows_and_resample_users() -> None:
    values = [drawn(0), drawn(1)]
    pool, each = tables.pooled([(ranks({"lynx": one}), "lynx") for one in values], "recall@10")
    assert pool.mean == pytest.approx(np.concatenate([recall_per_user(one, 10) for one in values]).mean())
    assert each == [pytest.approx(recall_per_user(one, 10).mean()) for one in values]
    assert pool.users == USERS
    same = tables.pooled([(ranks({"lynx": drawn(0)}), "lynx")] * 4, "recall@10")[0]
    alone = tables.pooled([(ranks({"lynx": drawn(0)}), "lynx")], "recall@10")[0]
    assert [same.low, same.high] == pytest.approx([alone.low, alone.high])  # the same users again prove nothing


def test_pooled_metrics_of_a_group_are_those_of_its_users() -> None:
    found = drawn(0)
    pool, _ = tables.pooled([(ranks({"lynx": found}, cold=10), "lynx")], "recall@10", group="cold")
    assert pool.mean == pytest.approx(recall_per_user(found[:10], 10).mean())
    assert pool.users == 10


def test_systems_are_compared_seed_by_seed(tmp_path: Path) -> None:
    def record(name: str, seed: int, best: int) -> runs.Record:
        frame = ranks({name: drawn(seed, best), "markov": drawn(9), "popularity": np.zeros(USERS, np.int64)})
        both = pl.concat([frame, frame.with_columns(pl.lit("validation").alias("part"))])
        return {"name": name, "seed": seed, "ranks": both}

    found = recommenders.runs_of([record("lynx", 0, 11), record("sasrec", 1, 60), record("lynx", 1, 11), record("lynx", 2, 11)])
    assert list(found) == ["lynx", "sasrec", "markov", "popularity"]
    rows = recommenders.metric_rows(found)
    assert len(rows) == 2 * 2 * 4
    assert (rows[0]["system"], rows[0]["runs"], rows[0]["recall@10"]) == ("lynx", "3", "1.0000")
    sentences = recommenders.comparisons(found)
    assert any("recall@10: (lynx) is above (sasrec)" in line and line.endswith("1 pairs of runs") for line in sentences)
    assert any("(lynx) is above (markov)" in line and line.endswith("3 pairs of runs") for line in sentences)
    assert list(recommenders.runs_of([record("lynx, transductive", 0, 11)])) == ["markov", "popularity", "lynx, transductive"]


def write_ranks(path: Path, frame: pl.DataFrame) -> Path:
    """As the benchmarks keep them."""
    source = path.with_suffix(".source")
    frame.write_parquet(source)
    runs.keep_ranks(source, path.parent, path.name)
    return path


def test_kept_ranks_are_those_of_the_evaluation_without_its_ids(tmp_path: Path) -> None:
    test = ranks({"lynx": drawn(0), "lynx, dense": drawn(1)}, cold=10)
    other = ranks({"lynx": drawn(2)}, part="validation").filter(pl.col("user_id") != pl.col("user_id").first())
    kept = read_ranks(write_ranks(tmp_path / "kept.parquet", pl.concat([test, other])))
    for system, part, given in (("lynx", "test", test), ("lynx, dense", "test", test), ("lynx", "validation", other)):
        found, wanted = (one.filter(system=system, part=part, policy="seen_kept") for one in (kept, given))
        assert found["rank"].equals(wanted["rank"]) and found["group"].equals(wanted["group"])
        assert found["user_id"].to_list() == list(range(len(wanted))) and set(found["target"]) == {0}
    assert len(kept) == len(test) + len(other)


def test_an_ablation_is_held_against_the_complete_system_mode_by_mode(tmp_path: Path) -> None:
    def record(name: str, modes: dict[str, np.ndarray]) -> runs.Record:
        path = write_ranks(tmp_path / f"{name}.parquet", ranks(modes, part="validation"))
        users = {mode: {"all": {"recall@10": 0.1, "ndcg@10": 0.05}} for mode in modes}
        return {"name": name, "seed": 0, "minutes": {"train": 1.0}, "ranks": path.name, "validation": users}

    every, none = np.ones(USERS, np.int64), np.zeros(USERS, np.int64)
    done = [record("complete", {"fused": every, "generative": none}), record("alone", {"generative": every, "none": none})]
    lines = recommenders.table_ablation(done, "complete", tmp_path).splitlines()
    assert "| complete | 0 | 1.0 | all | 0.1000 / 0.0500 | 0.1000 / 0.0500 |  |  |" in lines
    assert "| alone | 0 | 1.0 | all |  | 0.1000 / 0.0500 |  | generative +1.0000 [+1.0000, +1.0000] |" in lines


def test_an_ablation_on_held_out_items_tells_warm_and_cold_users_apart(tmp_path: Path) -> None:
    def record(name: str, rank: int) -> runs.Record:
        found = np.where(np.arange(USERS) < 10, rank, 1)
        path = write_ranks(tmp_path / f"{name}.parquet", ranks({"fused": found}, part="validation", cold=10))
        users = {group: {"recall@10": value, "ndcg@10": value} for group, value in (("all", 0.5), ("warm", 1.0), ("cold", 0.25))}
        return {"name": name, "seed": 0, "minutes": {"train": 1.0}, "ranks": path.name, "validation": {"fused": users}}

    lines = recommenders.table_ablation([record("complete", 1), record("less", 0)], "complete", tmp_path).splitlines()
    assert "| less | 0 | 1.0 | warm | 1.0000 / 1.0000 |  |  | fused +0.0000 [+0.0000, +0.0000] |" in lines
    assert "| less | 0 | 1.0 | cold | 0.2500 / 0.2500 |  |  | fused -1.0000 [-1.0000, -1.0000] |" in lines


def test_the_settings_of_all_trainings_are_recipes() -> None:
    settings = runs.load_settings(SETTINGS)
    assert {"lynx", "sasrec"} <= set(settings.systems)
    lynx = settings.systems["lynx"]
    for ablated in (settings, runs.load_settings(SETTINGS.with_name("shares.yaml"))):
        base = ablated.systems["lynx"].with_overrides(*ablated.ablated)
        ablations = [base.with_overrides(*changes).resolved for changes in ablated.ablation.values()]
        assert ablations[0] == base.resolved
        assert all(one not in ablations[:place] for place, one in enumerate(ablations)), "two ablations are the same"
    for name, system in settings.systems.items():
        assert load_recipe(system.recipe, system.overrides).model.kind == name
        for searches in cold.GRIDS[name]:
            assert cold._of_draw(name, system, 1, searches).resolved
    assert set(settings.once) == {"quality", "refit"}
    quality, refit = (system.resolved for system in settings.once.values())
    assert quality != lynx.resolved != refit != quality


def test_a_training_is_made_again_when_its_settings_have_changed() -> None:
    before, after = runs.System(recipe="tiny"), runs.System(recipe="tiny", overrides=("model.dropout=0.3",))
    options = recommenders._options(["run", "--seeds", "0", "1"])
    done = [recommenders.Job.of("lynx", seed, before).key for seed in (0, 1)]
    assert not recommenders.missing_jobs(options, {"lynx": before}, done)
    assert recommenders.current({"lynx": before}, done) == done
    assert [job.seed for job in recommenders.missing_jobs(options, {"lynx": after}, done)] == [0, 1]
    assert not recommenders.current({"lynx": after}, done)


class FakeTrainings:
    """Commands of the other benchmarks: they leave what `felid` would, and note which stage was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        self.asked: list[tuple[str, ...]] = []
        for name in ("felid", "output"):
            monkeypatch.setattr(module, name, getattr(self, name))
        monkeypatch.setattr(module, "minutes_of", lambda root: {"train": 1.0})

    def felid(self, stage: str, root: Path, recipe: str, overrides: Sequence[str] = (), *, threads: int = 1) -> None:
        self.asked.append((stage, *overrides))
        for folder in ("evaluate", "train"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        write_json(root / "run.json", {"stages": {"evaluate": "evaluate", "train": "train"}})
        write_json(root / "recipe.json", {})
        write_json(root / "train" / "progress.json", {"curve": CURVE})
        write_json(root / "train" / "search.json", {"weight": 0.3})
        if stage == "evaluate":
            metrics = {part: {"recall@10": 0.1, "ndcg@10": 0.05} for part in ("test", "test_seen_kept", "validation")}
            metrics |= {part: {"recall@10": {"low": 0.09, "high": 0.11}} for part in ("intervals", "intervals_seen_kept")}
            write_json(root / "evaluate" / "metrics.json", metrics)
            other = "lynx" if recipe == "sasrec" else "sasrec"
            names = [name for name in recommenders.SHOWN if not name.startswith(other)]
            frame = ranks(dict.fromkeys(names, drawn(len(self.asked))), cold=10)
            both = pl.concat([frame, frame.with_columns(pl.lit("validation").alias("part"))])
            both.write_parquet(root / "evaluate" / "ranks.parquet")

    def output(self, module: str, root: str, *arguments: str, threads: int = 1) -> str:
        assert module == "benchmarks.validate"
        self.asked.append(("validate", *arguments))
        if "--ranks" in arguments:
            path = Path(arguments[arguments.index("--ranks") + 1])
            ranks({"fused": drawn(0)}, part="validation", cold=10).write_parquet(path)
        lines = " ".join(arguments).split("--search ")[1:] or ["none"]
        users = [{"recall@10": value, "ndcg@10": value} for value in (0.1, 0.1 + 0.01 * len(self.asked))]
        return "\n".join(json.dumps({"fused": {"all": users[0], "warm": users[0], "cold": users[1]}}) for _ in lines)

    def stages(self) -> list[str]:
        stages = [stage for stage, *_ in self.asked]
        self.asked.clear()
        return stages


def recommender_options(command: str, folder: Path) -> argparse.Namespace:
    places = ["--seeds", "0", "--out", str(folder / "out"), "--work", str(folder / "work")]
    return recommenders._options([command, *places])


def test_runs_are_evaluated_once_and_their_ranks_outlive_the_run_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, options = FakeTrainings(monkeypatch, recommenders), recommender_options("run", tmp_path)
    shown = recommenders.run_systems(options)
    assert fake.stages() == ["evaluate", "evaluate"]
    shutil.rmtree(tmp_path / "work")
    assert recommenders.table_systems(options) == shown == recommenders.run_systems(options)
    assert not fake.stages()
    (tmp_path / "out" / "lynx-0" / "per-user.parquet").unlink()
    assert "(lynx) " not in recommenders.table_systems(options), "without its ranks a record says nothing"
    recommenders.run_systems(options)
    assert fake.stages() == ["evaluate"]
    assert len(runs.records(tmp_path / "out" / "runs.json")) == 2
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "out", tmp_path / "moved" / "out")
    assert "(lynx) " in recommenders.table_systems(recommender_options("table", tmp_path / "moved"))


def test_an_ablation_does_not_read_test_and_keeps_its_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, options = FakeTrainings(monkeypatch, recommenders), recommender_options("ablation", tmp_path)
    shown, count = recommenders.run_ablation(options), len(runs.load_settings(SETTINGS).ablation)
    assert fake.stages() == ["train", "validate"] * count
    assert len(list(tmp_path.glob("out/ablation/*.parquet"))) == count
    shutil.rmtree(tmp_path / "work")
    assert recommenders.run_ablation(options) == shown
    assert not fake.stages()


def test_a_record_outlives_settings_that_are_newer_and_no_changed_one(tmp_path: Path) -> None:
    whole = runs.load_settings(SETTINGS).systems["lynx"].resolved
    older = {
        **whole,
        "evaluation": {key: value for key, value in whole["evaluation"].items() if key not in ("variants", "baselines")},
    }
    changed = {**whole, "seed": 1}
    write_json(tmp_path / "runs.json", [{"resolved": tree} for tree in (older, changed, {"no": "recipe"})])
    found = [record["resolved"] for record in runs.records(tmp_path / "runs.json")]
    assert found == [whole, changed, {"no": "recipe"}]


@pytest.mark.parametrize("command", ["quality", "refit"])
def test_what_is_run_once_reads_test_once_at_the_end(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, options = FakeTrainings(monkeypatch, recommenders), recommender_options(command, tmp_path)
    assert f"| {command} | 0 | 1 |" in recommenders.run_once(options)
    assert fake.stages() == ["train", "evaluate"]
    recommenders.run_once(options)
    assert not fake.stages()
    [record] = runs.records(tmp_path / "out" / f"{command}.json")
    assert record["test"]["recall@10"] == 0.1 and record["intervals"]


def test_the_warm_up_counts_with_all_its_sittings(tmp_path: Path) -> None:
    def stage(name: str, digest: str, **inputs: str) -> None:
        (tmp_path / name / "0").mkdir(parents=True)
        manifest = {"digest": digest, "files": {}, "bytes": {}, "inputs": inputs, "wall_seconds": 6.0}
        write_json(tmp_path / name / "0" / "manifest.json", manifest)

    for name in ("data", "embed", "train"):
        stage(name, name)
    stage("tokenize", "t", codes="q")
    stage("quantize", "q", warmup="w")
    stage("warmup", "w")
    write_json(tmp_path / "warmup" / "0" / "progress.json", {"seconds": 180.0})
    write_json(tmp_path / "train" / "0" / "progress.json", {"seconds": 600.0})
    write_json(tmp_path / "train" / "0" / "manifest.json", {"digest": "", "files": {}, "bytes": {}, "wall_seconds": 630.0})
    write_json(tmp_path / "run.json", {"stages": {name: f"{name}/0" for name in ("data", "embed", "tokenize", "train")}})
    rest = dict.fromkeys(("data", "embed", "tokenize", "quantize"), 0.1)
    assert runs.minutes_of(tmp_path) == {**rest, "warmup": 3.0, "train": 10.0, "fusion": 0.5}


# new items


def cold_options(command: str, folder: Path) -> argparse.Namespace:
    return cold._options([command, "--draws", "0", "1", "--out", str(folder / "out"), "--work", str(folder / "work")])


def test_every_draw_has_a_choice_of_its_own_and_its_ranks_outlive_the_run_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, options, settings = FakeTrainings(monkeypatch, cold), cold_options("run", tmp_path), runs.load_settings(SETTINGS)
    for name in cold.GRIDS:
        cold.run_system(name, settings.systems[name], options)
        assert [stage for stage, *_ in fake.asked] == ["train", "validate", "evaluate", "evaluate"] * 2
        assert [f"holdout.seed={draw}" in fake.asked[4 * draw] for draw in (0, 1)] == [True, True]
        assert all("--every-mode" not in asked for asked in fake.asked)
        fake.asked.clear()
    choices = runs.records(tmp_path / "out" / "choices.json")
    assert [(one["system"], one["draw"]) for one in choices] == [(name, draw) for name in cold.GRIDS for draw in (0, 1)]
    shutil.rmtree(tmp_path / "work")
    shown = cold.table(options.out, settings)
    assert "lynx, chosen, draw 1: cold_neighbours=" in shown
    assert not cold.current(settings, [{"system": "gone", "draw": 0, "search": [], "resolved": ""}])
    for name in cold.GRIDS:
        cold.run_system(name, settings.systems[name], options)
    assert not fake.asked
    (tmp_path / "out" / "lynx-0-chosen" / "per-user.parquet").unlink()
    cold.run_system("lynx", settings.systems["lynx"], options)
    assert fake.stages() == ["evaluate"]
    assert len(runs.records(tmp_path / "out" / "runs.json")) == 8


def test_a_choice_is_made_with_the_one_mode_that_the_system_ranks_with() -> None:
    assert cold._of_one_mode({"fused": {"all": {"recall@10": 0.1}}}) == {"all": {"recall@10": 0.1}}
    with pytest.raises(ValueError, match="too many"):
        cold._of_one_mode({"fused": {}, "dense": {}})


def test_the_choice_for_new_items_may_not_cost_all_users_much() -> None:
    def of(every: float, new: float) -> cold.Metrics:
        users = {"all": every, "cold": new}
        return {name: {"recall@10": value, "ndcg@10": value / 2} for name, value in users.items()}

    plain = of(0.1, 0.0)
    assert cold.choose(plain, [of(0.1, 0.0), of(0.0996, 0.02), of(0.0994, 0.09), of(0.11, 0.01)]) == 1
    assert cold.choose(plain, [of(0.08, 0.9), of(0.09, 0.5)]) == 1  # where all cost more, the one that costs least
    worse = {**of(0.1, 0.5), "all": {"recall@10": 0.1, "ndcg@10": 0.04}}
    assert cold.choose(plain, [of(0.1, 0.1), worse]) == 0


def test_the_baseline_for_new_items_always_has_neighbours() -> None:
    assert all(int(search[0].removeprefix("cold_neighbours=")) > 0 for search in cold.GRIDS["sasrec"])
    assert cold.PLAIN["lynx"] == ("cold_share=0",), "without new items, as SASRec without neighbours"


def test_draws_are_pooled_and_compared_on_cold_users_and_on_all() -> None:
    def frames(name: str, cold_rank: int, warm_rank: int) -> dict[int, pl.DataFrame]:
        values = np.where(np.arange(USERS) < 10, cold_rank, warm_rank)
        rest = {other: np.zeros(USERS, np.int64) for names in cold.SHOWN.values() for other in names if other != name}
        return {draw: ranks({name: values, **rest}, cold=10) for draw in range(2)}

    found = {("lynx", "plain"): frames("lynx", 0, 1), ("lynx", "chosen"): frames("lynx", 1, 1)}
    found |= {("sasrec", "plain"): frames("sasrec", 0, 1), ("sasrec", "chosen"): frames("sasrec", 0, 2)}
    row = cold.metric_rows(found)[0]
    assert (row["system"], row["new items"], row["targets"], row["draws"], row["recall@10"]) == (
        *("lynx", "chosen", "cold", "2"),
        "1.0000",
    )
    sentences = cold.comparisons(found)
    assert any(
        "cold targets, seen removed, recall@10: (lynx, chosen) is above (sasrec, chosen) by 1.0000" in s for s in sentences
    )
    assert any("all targets, seen removed, recall@10: (lynx, chosen) is above (lynx, plain) by 0.2500" in s for s in sentences)
    assert any("warm targets, seen removed, ndcg@10: (sasrec, chosen) is below" in s and "-36.91%" in s for s in sentences)
    for users in ("all", "warm"):
        assert any(f"{users} targets, seen removed, ndcg@10: (lynx, chosen) is above (sasrec, chosen)" in s for s in sentences)


def test_validation_metrics_are_reported_by_group() -> None:
    histories = Sequences.from_lists(np.arange(4), [np.array([4])] * 4)

    class First:
        def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> np.ndarray:
            return np.tile(np.r_[np.arange(4), 5, np.full(k - 5, -1)], (len(histories), 1))

    result = evaluate(First(), EvaluationSet(histories, np.array([0, 5, 6, 7])), (5, 10), True, 12)
    groups = np.array(["warm", "cold", "warm", "warm"])
    sizes = {"warm": 3, "cold": 1}
    found = validate.metrics_of(result, groups, sizes)
    assert (found["all"]["recall@10"], found["warm"]["recall@10"], found["cold"]["recall@10"]) == (0.5, pytest.approx(1 / 3), 1.0)
    assert found["all"] == pytest.approx({name: dict(result.metrics())[name] for name in result.names})
    more = validate.metrics_of(result, groups, {"warm": 30, "cold": 1})
    assert more["all"]["recall@10"] == pytest.approx((30 / 3 + 1) / 31), "a sample of the warm users stands for all of them"
    assert "cold" not in validate.metrics_of(result, np.full(4, "warm"), {"warm": 4, "cold": 0})
    assert sorted(validate.sample_of(np.arange(9), None)) == list(range(9))
    assert len(set(validate.sample_of(np.arange(9), 4).tolist())) == 4
    frame = validate.ranks_of("dense", result, groups)
    assert frame.filter(group="cold")["rank"].to_list() == [5]
    assert frame["part"].unique().to_list() == ["validation"]
