"""The parts of the benchmarks that decide what is trained, what is skipped, what is chosen and how runs are put together."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import cold, recommenders, runs, sweep, tables, validate
from felid.data.histories import EvaluationSet, Sequences
from felid.evaluation import evaluate
from felid.metrics import recall_per_user
from felid.recipe import load_recipe

USERS = 40
SETTINGS = Path(recommenders.__file__).with_suffix(".yaml")


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


# processes, lanes, records


def test_a_command_ends_by_itself_or_when_its_minutes_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "GRACE_SECONDS", 0.1)
    log = tmp_path / "log"
    assert runs.run(python("print('done')"), log)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    start = time.perf_counter()
    assert not runs.run(python(stubborn), log, minutes=0.3 / 60)
    assert time.perf_counter() - start < 10
    assert "done" in log.read_text()


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
    with pytest.raises(AssertionError, match="counted from 0"):
        runs.share_of(jobs, "2/2")


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


# the sweep


@pytest.mark.parametrize("model", list(sweep.SPACES))
def test_every_drawn_setting_is_in_its_space_and_a_recipe_takes_it(model: str) -> None:
    space = sweep.SPACES[model]
    drawn = [sweep.settings_of(space, number, seed=0) for number in range(200)]
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


@pytest.mark.parametrize("folder", ["train/0123456789ab", "train/.working-0123456789ab"])
def test_a_trial_is_judged_by_its_best_validation_wherever_it_lies(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    values = [(1, 0.02, 0.05), (2, 0.04, 0.08), (3, 0.03, 0.09)]
    curve = [{"epoch": e, "seconds": 10.0 * e, "ndcg@10": n, "recall@10": r} for e, n, r in values]
    (tmp_path / folder / "progress.json").write_text(json.dumps({"curve": curve}))
    found = sweep.result_of(tmp_path)
    assert (found["ndcg@10"], found["recall@10"], found["epoch"]) == (0.04, 0.08, 2)
    assert found["curve"].startswith("1 10 0.0200; 2 20 0.0400")


def test_a_trial_without_a_validation_counts_as_nothing(tmp_path: Path) -> None:
    assert sweep.result_of(tmp_path)["ndcg@10"] == 0


def test_a_sweep_makes_what_is_missing_and_removes_its_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def felid(stage: str, root: Path, recipe: str, overrides: tuple[str, ...] = (), **_: object) -> bool:
        asked.append((stage, list(overrides)))
        if stage == "train":
            assert not list(root.glob("train/*"))
            if len(asked) == 3:
                raise runs.FailedError("status 2: error: the loss is not finite after step 3; lower it")
            folder = root / "train" / ".working-0123456789ab"
            folder.mkdir(parents=True)
            curve = [{"epoch": 1.0, "seconds": 5.0, "ndcg@10": 0.01 * len(asked), "recall@10": 0.5}]
            (folder / "progress.json").write_text(json.dumps({"curve": curve}))
        return stage != "train"

    monkeypatch.setattr(sweep, "felid", felid)
    out = tmp_path / "sweep.json"
    call = ["sasrec", "--trials", "3", "--minutes", "1", "--out", str(out), "--work", str(tmp_path / "work")]
    sweep.main([*call, "--share", "0/2"])
    assert [stage for stage, _ in asked] == ["tokenize", "train", "train"]
    assert [(one["trial"], one["finished"], one["ndcg@10"]) for one in runs.records(out)] == [(0, False, 0.02), (2, True, 0.0)]
    sweep.main(call)
    assert [one["trial"] for one in runs.records(out)] == [0, 2, 1]
    sweep.main(call)
    assert len(asked) == 5
    assert not list(tmp_path.glob("work/**/train"))


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


def test_an_ablation_is_held_against_the_complete_system_mode_by_mode(tmp_path: Path) -> None:
    def record(name: str, modes: dict[str, np.ndarray]) -> runs.Record:
        path = tmp_path / f"{name}.parquet"
        ranks(modes, part="validation").write_parquet(path)
        users = {mode: {"all": {"recall@10": 0.1, "ndcg@10": 0.05}} for mode in modes}
        return {"name": name, "seed": 0, "minutes": {"train": 1.0}, "ranks": str(path), "validation": users}

    every, none = np.ones(USERS, np.int64), np.zeros(USERS, np.int64)
    done = [record("complete", {"fused": every, "generative": none}), record("alone", {"generative": every, "none": none})]
    lines = recommenders.table_ablation(done, "complete").splitlines()
    assert "| complete | 0 | 1.0 | 0.1000 / 0.0500 | 0.1000 / 0.0500 |  |  |" in lines
    assert "| alone | 0 | 1.0 |  | 0.1000 / 0.0500 |  | generative +1.0000 [+1.0000, +1.0000] |" in lines


def test_the_settings_of_all_trainings_are_recipes() -> None:
    settings = runs.load_settings(SETTINGS)
    assert {"lynx", "sasrec"} <= set(settings.systems)
    lynx = settings.systems["lynx"]
    ablations = {name: lynx.with_overrides(*changes).resolved for name, changes in settings.ablation.items()}
    assert next(iter(ablations.values())) == lynx.resolved
    assert len(set(ablations.values())) == len(ablations), "two ablations are the same"
    for name, system in settings.systems.items():
        assert load_recipe(system.recipe, system.overrides).model.kind == name
        for searches in cold.GRIDS[name]:
            assert cold._of_draw(system, 1, searches).resolved
    assert settings.quality.resolved != lynx.resolved


def test_a_training_is_made_again_when_its_settings_have_changed() -> None:
    before, after = runs.System(recipe="tiny"), runs.System(recipe="tiny", overrides=("model.dropout=0.3",))
    options = recommenders._options(["run", "--seeds", "0", "1"])
    done = [recommenders.Job.of("lynx", seed, before).key for seed in (0, 1)]
    assert not recommenders.missing_jobs(options, {"lynx": before}, done)
    assert recommenders.current({"lynx": before}, done) == done
    assert [job.seed for job in recommenders.missing_jobs(options, {"lynx": after}, done)] == [0, 1]
    assert not recommenders.current({"lynx": after}, done)


# new items


def test_the_choice_for_new_items_may_not_cost_all_users_much() -> None:
    def of(every: float, new: float) -> cold.Metrics:
        return {"all": {"recall@10": every, "ndcg@10": every / 2}, "cold": {"recall@10": new, "ndcg@10": new / 2}}

    plain = of(0.1, 0.0)
    assert cold.choose(plain, [of(0.1, 0.0), of(0.0996, 0.02), of(0.0994, 0.09), of(0.11, 0.01)]) == 1
    assert cold.choose(plain, [of(0.08, 0.9), of(0.09, 0.5)]) == 1  # where all cost more, the one that costs least
    worse = {**of(0.1, 0.5), "all": {"recall@10": 0.1, "ndcg@10": 0.04}}
    assert cold.choose(plain, [of(0.1, 0.1), worse]) == 0


def test_the_baseline_for_new_items_always_has_neighbours() -> None:
    assert all(int(search[0].removeprefix("cold_neighbours=")) > 0 for search in cold.GRIDS["sasrec"])
    assert cold.PLAIN["lynx"] in cold.GRIDS["lynx"]


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


def test_validation_metrics_are_reported_by_group() -> None:
    histories = Sequences.from_lists(np.arange(4), [np.array([4])] * 4)

    class First:
        def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> np.ndarray:
            return np.tile(np.r_[np.arange(4), 5, np.full(k - 5, -1)], (len(histories), 1))

    result = evaluate(First(), EvaluationSet(histories, np.array([0, 5, 6, 7])), (5, 10), True, 12)
    groups = np.array(["warm", "cold", "warm", "warm"])
    found = validate.metrics_of(result, groups)
    assert (found["all"]["recall@10"], found["warm"]["recall@10"], found["cold"]["recall@10"]) == (0.5, pytest.approx(1 / 3), 1.0)
    assert "cold" not in validate.metrics_of(result, np.full(4, "warm"))
    frame = validate.ranks_of("dense", result, groups)
    assert frame.filter(group="cold")["rank"].to_list() == [5]
    assert frame["part"].unique().to_list() == ["validation"]
