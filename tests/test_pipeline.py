"""The path from a recipe to recommendations: caching, resuming, interruption, one door, bad input."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

import felid
from felid.artifacts import lock, open_artifact, read_json
from felid.cli import main
from felid.data.dataset import Dataset
from felid.data.holdout import split_of
from felid.errors import FelidWarning, RequestError
from felid.evaluation import EvaluationConfig
from felid.evaluation.audit import audit_run
from felid.evaluation.audit.provenance import events_of
from felid.fusion import FusionChoice
from felid.judging import check_beams
from felid.models.base import Mode
from felid.pipeline import STAGES, Pipeline
from felid.recipe import SASREC_TRAINING, Recipe, load_recipe, resolve
from felid.recommender import best_checkpoint
from felid.search.config import SearchConfig
from felid.search.fused import Weights
from tests.search.dumb import dumb_evidence

SMALL = [
    "dataset.num_users=300",
    "quantizer.sizes=[8,8]",
    "embedding.dim=16",
    "model.width=32",
    "model.feed_forward=64",
    "training.epochs=2",
    "search.num_beams=20",
    "search.candidates=20",
]


def small(*overrides: str) -> Recipe:
    return load_recipe("tiny", [*SMALL, *overrides])


@dataclass
class Outcome:
    returncode: int
    stdout: str
    stderr: str


def felid_command(*arguments: str | Path) -> Outcome:
    """The `felid` command in this process: what it prints and its exit code."""
    out, err, argv, status = io.StringIO(), io.StringIO(), sys.argv, -1
    sys.argv = ["felid", *map(str, arguments)]
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():  # restores showwarning too
        warnings.simplefilter("default")
        try:
            main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    sys.argv = argv
    return Outcome(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "small"
    Pipeline(small(), root).run()
    return root


def manifests(root: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in root.glob("*/*/manifest.json")}


def test_metrics_have_the_published_shape(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for part in ("validation", "test"):
        assert 0 <= metrics[part]["recall@10"] <= 1
        assert 0 <= metrics[part]["ndcg@10"] <= 1
    assert set(metrics["baselines"]) == {"popularity", "markov"}
    assert metrics["differences"]["markov"]["recall@10"]["low"] <= metrics["differences"]["markov"]["recall@10"]["high"]


def test_the_same_recipe_gives_the_same_numbers(run: Path, tmp_path: Path) -> None:
    Pipeline(small(), tmp_path).run()
    curves = [read_json(next(root.glob("train/*/progress.json")))["curve"] for root in (run, tmp_path)]
    assert [entry["loss"] for entry in curves[0]] == [entry["loss"] for entry in curves[1]]
    assert read_json(run / "metrics.json") == read_json(tmp_path / "metrics.json")


def test_second_run_does_no_work(run: Path) -> None:
    before = manifests(run)
    start = time.perf_counter()
    Pipeline(small(), run).run()
    assert manifests(run) == before
    assert time.perf_counter() - start < 10


def test_changing_the_model_keeps_the_embeddings_and_the_earlier_model(run: Path) -> None:
    before = manifests(run)
    Pipeline(small("model.layers=2"), run).run("train")
    made = set(manifests(run)) - set(before)
    assert {Path(path).parents[1].name for path in made} == {"train"}
    assert set(before) <= set(manifests(run))
    Pipeline(small(), run).run()  # back again: everything is still there
    assert set(manifests(run)) == set(before) | made


def test_fresh_makes_the_named_stage_again(run: Path) -> None:
    recipe = small("evaluation.bootstrap=50")
    pipeline = Pipeline(recipe, run)
    folder = pipeline.run()
    first = (folder / "manifest.json").stat().st_mtime_ns
    Pipeline(recipe, run).run(fresh=("evaluate",))
    assert (folder / "manifest.json").stat().st_mtime_ns > first
    Pipeline(small(), run).run()


def test_shuffled_input_rows_give_the_same_artifacts(tmp_path: Path) -> None:
    dataset = felid.load_dataset("synthetic", num_users=200)
    interactions = dataset.interactions.drop("position")
    assert interactions.select("user_id", "timestamp").n_unique() == len(interactions)
    digests = []
    for name, seed in (("a", 1), ("b", 2)):
        paths = tmp_path / f"{name}-log.csv", tmp_path / f"{name}-items.csv"
        interactions.sample(fraction=1, shuffle=True, seed=seed).write_csv(paths[0])
        dataset.items.sample(fraction=1, shuffle=True, seed=seed).write_csv(paths[1])
        recipe = load_recipe(
            "default",
            [
                "dataset.kind=files",
                f"dataset.interactions={paths[0]}",
                f"dataset.items={paths[1]}",
                "quantizer.sizes=[8,8]",
                "embedding.dim=8",
            ],
        )
        pipeline = Pipeline(recipe, tmp_path / name)
        pipeline.run("tokenize")
        ids = felid.SemanticIds.load(pipeline.done["tokenize"].path)
        digests.append((ids.codes.tobytes(), ids.item_ids.tolist(), pipeline.done["embed"].digest))
    assert digests[0] == digests[1]


def test_library_command_line_and_evaluation_agree(run: Path) -> None:
    """One door: the library, the command line and the evaluated ranks give the same lists."""
    recommender = felid.Recommender.load(run)
    user = recommender.known.user_ids.tolist()[0]
    history = recommender.history_of(user)
    expected = recommender.recommend([history], 5)[0]
    printed = felid_command("recommend", run, "--user", str(user), "-k", "5")
    assert printed.returncode == 0, printed.stderr
    for item in expected:
        assert str(item.item_id) in printed.stdout
        assert f"{item.score:.3f}" in printed.stdout
    out = run.parent / "recs.parquet"
    assert felid_command("recommend", run, "--all-users", "-k", "5", "--out", out).returncode == 0
    batch = pl.read_parquet(out).filter(pl.col("user_id") == user).sort("rank")
    assert batch["item_id"].to_list() == [item.item_id for item in expected]
    np.testing.assert_allclose(batch["score"].to_numpy(), [item.score for item in expected], atol=1e-4)

    ranks = pl.read_parquet(open_artifact(run / read_json(run / "run.json")["stages"]["evaluate"]).path / "ranks.parquet")
    row = ranks.filter(system="lynx", part="test", policy="seen_removed", user_id=user)
    listed = [item.item_id for item in recommender.recommend([history[:-1]], 10)[0]]  # test history: all but the test item
    target = history[-1]
    assert row["rank"].item() == (listed.index(target) + 1 if target in listed else 0)


def test_python_interface(tmp_path: Path) -> None:
    dataset = felid.load_dataset("synthetic", num_users=300)
    recipe = small().model_copy(update={"description": "given data"})
    recommender = felid.fit(dataset, recipe, tmp_path / "run")
    history = recommender.history_of(dataset.interactions["user_id"][0])
    found = recommender.recommend(history, k=3)
    assert len(found) == 3
    assert not {item.item_id for item in found} & set(history)
    assert found[0].title
    np.testing.assert_allclose(
        recommender.score(history, [item.item_id for item in found]), [item.score for item in found], atol=1e-4
    )
    assert len(recommender.similar(history[0], 4)) == 4
    before = manifests(tmp_path / "run")
    assert len(before) == len(STAGES) + 1  # the codes are an artifact beside the IDs
    felid.fit(dataset, recipe, tmp_path / "run")
    assert manifests(tmp_path / "run") == before


def test_tiger_runs_with_the_same_recipe(tmp_path: Path) -> None:
    tiger = ["model.kind=tiger", "model.width=32", "model.heads=2", "model.head_width=16", "model.feed_forward=64"]
    kept = [o for o in SMALL if not o.startswith("model.")]
    with pytest.warns(felid.FelidWarning, match="made for lynx"):
        recipe = load_recipe("tiny", [*kept, *tiger, "model.encoder_layers=1", "model.decoder_layers=1", "training.epochs=1"])
    assert recipe.training.learning_rate == 5e-4  # tiger's own default
    Pipeline(recipe, tmp_path).run()
    metrics = read_json(tmp_path / "metrics.json")
    assert metrics["system"] == "tiger"
    recommender = felid.Recommender.load(tmp_path)
    assert recommender.model.layout.num_user_buckets == 2000
    user = recommender.known.user_ids[:1].tolist()  # a known user's token is read, and by every door
    row = recommender.known.take(np.zeros(1, np.int64))
    named = recommender.recommend([recommender.history_of(user[0])], 5, users=user)[0]
    assert [item.score for item in named] == pytest.approx(recommender.search_items(row, 5, True)[1][0].tolist(), abs=1e-5)
    nameless = recommender.recommend([recommender.history_of(user[0])], 5)[0]
    assert [item.score for item in nameless] != pytest.approx([item.score for item in named], abs=1e-5)


def test_interrupted_training_resumes_and_leaves_nothing_half(tmp_path: Path) -> None:
    """SIGINT in the middle of training: exit code 130 and no train artifact; the same command goes on from there."""
    command = ["run", "tiny", *SMALL, "training.epochs=6", "training.checkpoint_seconds=0.3", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "felid", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("train/.working-*/progress.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert not list(tmp_path.glob("train/*/manifest.json"))
    assert not (tmp_path / "metrics.json").exists()
    step = read_json(next(tmp_path.glob("train/.working-*")) / "progress.json")["step"]
    assert step > 0

    result = felid_command(*command)
    assert result.returncode == 0, result.stderr
    assert f"training resumes at step {step:,}" in result.stdout
    assert (tmp_path / "metrics.json").is_file()


def test_two_processes_do_not_share_a_run_folder(run: Path) -> None:
    with lock(run):
        result = felid_command("run", "tiny", *SMALL, "--out", run)
    assert result.returncode == 2
    assert "another felid process" in result.stderr


def test_stage_commands_work_on_a_run_folder(tmp_path: Path) -> None:
    missing = felid_command("embed", tmp_path / "new")
    assert missing.returncode == 2
    assert "--recipe" in missing.stderr
    for stage in STAGES:
        begin = ["--recipe", "tiny", *SMALL] if stage == "data" else []
        result = felid_command(stage, tmp_path / "new", *begin)
        assert result.returncode == 0, result.stderr
        assert stage in read_json(tmp_path / "new" / "run.json")["stages"]
    assert (tmp_path / "new" / "metrics.json").is_file()


def test_recipes_and_show() -> None:
    listed = felid_command("recipes").stdout
    assert "movielens" in listed
    assert "beauty" in listed
    shown = felid_command("show", "beauty", "model.kind=tiger", "model.width=64").stdout
    assert "kind: tiger" in shown
    assert "width: 64" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "tiny", "model.widht=3"], "did you mean 'width'"),
        (["run", "tiny", "trainnig.epochs=3"], "did you mean 'training'"),
        (["run", "tiny", "training.epochs"], "key=value"),
        (["show", "tiny", "model=3"], "model"),
        (["run", "tiny", "model.width=30"], "no multiple of heads"),
        (["run", "nowhere"], "no recipe is called"),
        (["run", "missing.yaml"], "does not exist"),
        (["run", "default", "dataset.kind=files", "dataset.interactions=nowhere.csv"], "nowhere.csv"),
        (["run", "tiny", "evaluation.ks=[100000]", *SMALL], "864 items compete"),
        (["recommend", "nowhere", "--user", "1"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = felid_command(*arguments)
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert expected in lines[0]


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_run(tmp_path: Path, interactions: str, items: str | None = None, *more: str) -> Outcome:
    (tmp_path / "log.csv").write_text(interactions)
    given = ["dataset.kind=files", "dataset.interactions=log.csv", "filter.min_user_interactions=0"]
    if items is not None:
        (tmp_path / "items.csv").write_text(items)
        given.append("dataset.items=items.csv")
    return felid_command("run", "default", *given, *more, "--out", "run")


LOG = "user_id,item_id,timestamp\n" + "".join(f"{u},{(u + i) % 6},{u * 100 + i}\n" for u in range(6) for i in range(6))
WORDS = ("alder", "birch", "cedar", "dogwood", "elm", "fir")
ITEMS = "item_id,title\n" + "".join(f"{i},thing number {i} {word}\n" for i, word in enumerate(WORDS))


@pytest.mark.parametrize(
    ("interactions", "items", "expected"),
    [
        ("user,item_id\n1,2\n", None, "user_id"),
        ("user_id,item_id\n", None, "no rows"),
        (LOG, "item_id,title\n0,one\n", "without"),
        (LOG.replace("1,2,101", "1,2,yesterday"), ITEMS, "timestamp"),
    ],
)
def test_bad_tables_are_refused(interactions: str, items: str | None, expected: str, in_folder: Path) -> None:
    result = files_run(in_folder, interactions, items)
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert expected in result.stderr
    assert not list((in_folder / "run").glob("*/*/manifest.json"))


def test_nan_embedding_is_refused(in_folder: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    vectors[3, 1] = np.nan
    np.save(in_folder / "v.npy", vectors)
    (in_folder / "ids.json").write_text(json.dumps(list(range(6))))
    given = ["embedding.kind=precomputed", "embedding.vectors=v.npy", "embedding.ids=ids.json"]
    result = files_run(in_folder, LOG, ITEMS, *given, "evaluation.ks=[3]")
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "NaN" in result.stderr
    assert not list((in_folder / "run").glob("embed/*/manifest.json"))


def test_k_above_the_catalogue_is_refused(run: Path) -> None:
    result = felid_command("recommend", run, "--user", "0", "-k", "1000000")
    assert result.returncode == 2
    assert result.stderr.startswith("error: k is 1000000")


def test_levels_that_do_not_fit_the_trie_are_refused(run: Path) -> None:
    with pytest.raises(felid.FelidError, match="4 levels but the trie was built for 3"):
        felid.Recommender.load(run).ids.trie.walk(np.zeros((1, 4), int))


def test_output_without_terminal_has_no_progress_bar(tmp_path: Path) -> None:
    console = Console(file=(tmp_path / "out.txt").open("w"), force_terminal=False, width=200)
    Pipeline(small(), tmp_path / "run", console=console).run("train")
    console.file.close()
    text = (tmp_path / "out.txt").read_text()
    assert "targets/s" not in text
    assert "\x1b" not in text


# what a fresh pair of eyes found


@pytest.mark.parametrize("arguments", [[], ["nosuch"], ["run"], ["show", "tiny", "--oops"]])
def test_usage_errors_are_no_tracebacks(arguments: list[str]) -> None:
    result = felid_command(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "felid" in result.stderr + result.stdout


def test_titles_are_no_markup(in_folder: Path) -> None:
    items = ITEMS.replace("thing number 1", "[red]thing[/b]").replace("thing number 2", "[bold]Straße 東京")
    assert files_run(in_folder, LOG, items, "embedding.dim=4", "quantizer.sizes=[2,2]", "evaluation.ks=[3]").returncode == 0
    shown = felid_command("recommend", "run", "--user", "0", "-k", "6", "--keep-seen")
    assert shown.returncode == 0, shown.stderr
    assert "[red]thing[/b]" in shown.stdout
    assert "Straße 東京" in shown.stdout


def test_an_earlier_stage_or_a_failed_recipe_leaves_the_recommender_alone(run: Path) -> None:
    before = felid.Recommender.load(run).recommend([0], 3)
    assert felid_command("data", run).returncode == 0
    assert felid_command("run", "tiny", *SMALL, "evaluation.ks=[5000]", "--out", run).returncode == 2
    assert felid_command("tokenize", run, "quantizer.sizes=[4,4]").returncode == 0
    assert felid.Recommender.load(run).recommend([0], 3) == before
    assert felid_command("evaluate", run, "quantizer.sizes=[8,8]").returncode == 0
    assert felid.Recommender.load(run).recommend([0], 3) == before


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["evaluation.ks=[5000]"], "864 items compete"),
        (["search.num_beams=7"], "7 beams for lists of 10 (evaluation.ks), expected at least 10; set search.num_beams=10"),
    ],
)
def test_impossible_k_is_refused_before_anything_is_trained(overrides: list[str], expected: str, tmp_path: Path) -> None:
    result = felid_command("run", "tiny", *SMALL, *overrides, "--out", tmp_path)
    assert result.returncode == 2
    assert expected in result.stderr
    assert not list(tmp_path.glob("embed/*"))


def test_beams_matter_where_something_is_generated() -> None:
    narrow = SearchConfig(num_beams=7)
    with pytest.raises(RequestError, match="judge lists of at most 7"):
        check_beams(("fused", "generative", "dense"), narrow.model_copy(update={"mode": "dense"}), EvaluationConfig())
    alone = EvaluationConfig(variants=False)
    check_beams(("fused", "generative", "dense"), narrow.model_copy(update={"mode": "dense"}), alone)
    check_beams(("fused", "generative", "dense"), narrow, EvaluationConfig(ks=(7,)))
    check_beams(("dense", "fused"), narrow, EvaluationConfig())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.kind=sasrec", "search.mode=generative"], "ranks under dense and fused, not generative"),
        (["model.kind=tiger", "search.mode=fused"], "ranks under generative, not fused"),
        (["model.kind=sasrec", "search.mode=hybrid"], "ranks under dense and fused, not hybrid"),
        (["model.dense_weight=0", "search.mode=dense"], "ranks under generative, not dense"),
        (["search.mode=hybrid", "evaluation.ks=[10,21]"], "20 generated candidates for lists of 21"),
        (["collision={kind: none, allow_training: true}", "search.cold_share=0.1"], "semantic IDs that several items share"),
        (["collision={kind: none, allow_training: true}", "evaluation.candidates=warm"], "evaluation.candidates to all"),
        (["evaluation.oracle_pool=true", "evaluation.candidates=warm"], "leave one of them out"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_made(overrides: list[str], expected: str, tmp_path: Path) -> None:
    result = felid_command("run", "tiny", *overrides, "--out", tmp_path)
    assert result.returncode == 2
    assert expected in result.stderr
    assert not list(tmp_path.glob("*/*"))


def test_metrics_of_another_model_do_not_stay(tmp_path: Path) -> None:
    Pipeline(small("training.epochs=1"), tmp_path).run()
    assert (tmp_path / "metrics.json").is_file()
    Pipeline(small("training.epochs=1", "seed=9"), tmp_path).run("train")
    assert not (tmp_path / "metrics.json").exists()


def test_stages_after_fit_keep_the_given_data(tmp_path: Path) -> None:
    run = tmp_path / "run"
    felid.fit(felid.load_dataset("synthetic", num_users=300), small(), run)
    before = manifests(run)
    assert len(before) == len(STAGES) + 1  # the codes are an artifact beside the IDs
    assert felid_command("run", "default", "dataset.kind=files", "dataset.interactions=no.csv", "--out", run).returncode == 2
    result = felid_command("evaluate", run)
    assert result.returncode == 0, result.stderr
    assert manifests(run) == before
    assert (run / "metrics.json").is_file()
    assert "given by felid.fit" in felid_command("train", run, "filter.min_user_interactions=3").stderr


def test_evaluation_uses_the_search_settings_of_its_recipe(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    load = felid.Recommender.load.__func__

    def spy(cls: type[felid.Recommender], *arguments: object, **settings: object) -> felid.Recommender:
        recommender: felid.Recommender = load(cls, *arguments, **settings)
        seen.append(recommender.ranker.search.num_beams)
        return recommender

    monkeypatch.setattr(felid.Recommender, "load", classmethod(spy))
    for beams in (11, 12, 13):
        Pipeline(small(f"search.num_beams={beams}"), run).run()
    assert seen == [11, 12, 13]
    assert felid.Recommender.load(run).ranker.search.num_beams == 13


def test_starting_over_keeps_the_recommender_until_the_new_one_is_whole(run: Path) -> None:
    """SIGKILL in the middle of `train --fresh`: the old recommender still answers, and the next run finishes the new one."""
    Pipeline(small(), run).run()
    before = felid.Recommender.load(run).recommend([0], 3)
    slow = "import felid.fitting as p, os\np.train = lambda *_, **__: os.kill(os.getpid(), 9)\n"
    code = f"{slow}from felid.cli import main\nimport sys\nsys.argv = ['felid', 'train', {str(run)!r}, '--fresh']\nmain()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert felid.Recommender.load(run).recommend([0], 3) == before
    Pipeline(small(), run).run()
    assert felid.Recommender.load(run).recommend([0], 3) == before
    assert not list(run.glob("*/.working-*")) + list(run.glob("*/.old-*"))


def test_selection_policy_is_part_of_the_training_key(run: Path) -> None:
    before = set(manifests(run))
    Pipeline(small("evaluation.exclude_seen=false"), run).run("train")
    assert {Path(path).parents[1].name for path in set(manifests(run)) - before} == {"train"}


def test_damaged_artifact_is_made_again(tmp_path: Path) -> None:
    pipeline = Pipeline(small(), tmp_path)
    folder = pipeline.run("tokenize")
    codes = np.load(folder / "codes.npy")
    np.save(folder / "codes.npy", codes[::-1])
    with pytest.warns(felid.FelidWarning, match=r"codes\.npy is missing or changed"):
        Pipeline(small(), tmp_path).run("tokenize")
    np.testing.assert_array_equal(np.load(folder / "codes.npy"), codes)


def test_another_model_on_a_run_folder_starts_from_its_own_training_defaults(run: Path) -> None:
    with pytest.warns(felid.FelidWarning, match="made for lynx"):
        recipe = resolve(read_json(run / "recipe.json"), ["model.kind=tiger"])
    assert recipe.training.batch_targets == 64
    assert resolve(read_json(run / "recipe.json"), ["seed=3"]).training == small().training


def test_precomputed_vectors_need_no_item_text(in_folder: Path) -> None:
    np.save(in_folder / "v.npy", np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32))
    (in_folder / "ids.json").write_text(json.dumps(list(range(6))))
    given = ["embedding.kind=precomputed", "embedding.vectors=v.npy", "embedding.ids=ids.json", "quantizer.sizes=[2,2]"]
    result = files_run(in_folder, LOG, None, *given, "evaluation.ks=[3]")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("out", ["plain", "plain/x", "/proc/nothing"])
def test_unusable_run_folder_is_one_line(out: str, in_folder: Path) -> None:
    (in_folder / "plain").write_text("a file")
    result = felid_command("run", "tiny", "--out", out)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("name", "content"), [("run.json", "[]"), ("recipe.json", "[]"), ("run.json", "{}")])
def test_damaged_run_folder_is_one_line(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / name).write_text(content)
    command = ["recommend", tmp_path, "--user", "1"] if name == "run.json" else ["data", tmp_path]
    result = felid_command(*command)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1


def test_ids_with_commas_can_be_quoted(in_folder: Path) -> None:
    log = LOG.replace(",0,", ',"a,0",')
    items = ITEMS.replace("\n0,", '\n"a,0",').replace(",thing", ",00")
    given = ["embedding.dim=4", "embedding.min_df=1", "quantizer.sizes=[2,2]", "evaluation.ks=[3]"]
    assert files_run(in_folder, log, items, *given).returncode == 0
    result = felid_command("recommend", "run", "--history", '1, "a,0",', "-k", "2")
    assert result.returncode == 0
    assert result.stderr == ""
    assert "00 number 0" in result.stdout  # and a title of digits stays text


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> felid.Recommender:
    """A joint lynx for the small world in which every item has a cold twin."""
    dataset = felid.load_dataset("synthetic", num_users=300)
    items = pl.concat([dataset.items, dataset.items.with_columns(pl.col("item_id") + 10_000)])
    doubled = felid.Dataset.from_frames("twins", dataset.interactions, items)
    return felid.fit(doubled, small("evaluation.bootstrap=10"), tmp_path_factory.mktemp("twins"))


@pytest.mark.parametrize("mode", ["generative", "dense"])
def test_scores_are_probabilities_over_all_items_that_can_be_recommended(twins: felid.Recommender, mode: Mode) -> None:
    history = twins.history_of(0)[:-2]
    scores = twins.in_mode(mode).score(history, twins.ids.item_ids.tolist())
    assert np.isfinite(scores).all()
    assert np.exp(scores.astype(np.float64)).sum() == pytest.approx(1, abs=1e-3)


def test_a_trie_that_was_not_trained_beside_other_codes_recommends_no_cold_items(tmp_path: Path) -> None:
    recipe = small("model.level_share=0", "model.dense_weight=0", "evaluation.bootstrap=10")
    Pipeline(recipe, tmp_path).run()
    metrics = read_json(tmp_path / "metrics.json")
    assert metrics["variants"] == {}
    assert (
        "items of the catalogue, no sampling; 127 of them, without training interactions, lynx never recommends"
        in (metrics["policy"]["candidates"])
    )
    recommender = felid.Recommender.load(tmp_path)
    history = recommender.history_of(0)[:-2]
    scores = recommender.score(history, recommender.ids.item_ids.tolist())
    assert np.isfinite(scores).sum() == len(scores) - 127
    assert np.exp(scores.astype(np.float64)).sum() == pytest.approx(1, abs=1e-3)


# several ways to rank, and models without codes


def test_every_mode_of_a_model_is_evaluated_and_can_be_asked_for(run: Path) -> None:
    Pipeline(small(), run).run()
    metrics = read_json(run / "metrics.json")
    assert metrics["system"] == "lynx"
    assert list(metrics["variants"]) == ["lynx, generative", "lynx, dense"]
    chosen = read_json(open_artifact(run / read_json(run / "run.json")["stages"]["train"]).path / "search.json")
    weights = f"lynx: {chosen['weight']:g} of the generative score, transitions x {chosen['memory_weight']:g} (chosen"
    assert metrics["policy"]["fusion"].startswith(weights)
    ranks = pl.read_parquet(open_artifact(run / read_json(run / "run.json")["stages"]["evaluate"]).path / "ranks.parquet")
    recommender = felid.Recommender.load(run)
    user = recommender.known.user_ids.tolist()[0]
    history = recommender.history_of(user)
    for mode in ("fused", "generative", "dense"):
        system = "lynx" if mode == "fused" else f"lynx, {mode}"
        row = ranks.filter(system=system, part="test", policy="seen_removed", user_id=user)
        listed = [item.item_id for item in recommender.in_mode(mode).recommend([history[:-1]], 10)[0]]
        assert row["rank"].item() == (listed.index(history[-1]) + 1 if history[-1] in listed else 0)
        printed = felid_command("recommend", run, "--user", str(user), "-k", "3", "--mode", mode)
        for item in recommender.in_mode(mode).recommend([history], 3)[0]:
            assert f"{item.score:.3f}" in printed.stdout
    assert felid_command("recommend", run, "--user", str(user), "--mode", "dence").returncode == 2


def test_other_modes_are_left_out_on_request(run: Path) -> None:
    Pipeline(small("evaluation.variants=false"), run).run()
    metrics = read_json(run / "metrics.json")
    assert metrics["system"] == "lynx" and metrics["variants"] == {}
    assert set(metrics["differences"]) == {"popularity", "markov"}


def test_fused_weights_are_those_chosen_on_validation_unless_they_are_given(run: Path) -> None:
    train = open_artifact(run / read_json(run / "run.json")["bundle"]["stages"]["train"]).path
    chosen = FusionChoice.load(train)
    assert chosen is not None
    assert weights_of(run) == Weights(chosen.weight, chosen.memory_weight)
    FusionChoice(weight=0.85, memory_weight=1.25, curve=()).save(train)
    assert weights_of(run) == felid.Recommender.load(run).in_mode("fused").ranker.weights == Weights(0.85, 1.25)
    assert weights_of(run, fusion_weight=0.15) == Weights(0.15, 1.25)
    assert weights_of(run, memory_weight=0.0) == Weights(0.85, 0.0)
    chosen.save(train)


def weights_of(run: Path, **search: float) -> Weights:
    """Of the recommender of a run, opened with the given settings or else its own."""
    return felid.Recommender.load(run, search=SearchConfig.model_validate(search) if search else None).ranker.weights


def test_transitions_of_the_training_part_have_a_say_in_an_opened_run(run: Path) -> None:
    recommender = felid.Recommender.load(run, search=SearchConfig(fusion_weight=0.0, memory_weight=2.0))
    ids, history = recommender.ids.item_ids.tolist(), recommender.history_of(0)[:-2]
    split = split_of(Dataset.load(run / read_json(run / "run.json")["bundle"]["stages"]["data"]), small().holdout)
    rows, train = [ids.index(item) for item in history], split.train()
    sequences = [train[user].tolist() for user in range(len(train)) if set(rows[-3:]) & set(train[user].tolist())]
    told = dumb_evidence(sequences, rows, len(ids))
    assert max(told) > 0
    gained = recommender.score(history, ids) - recommender.in_mode("dense").score(history, ids)
    assert gained.tolist() == pytest.approx([2 * gain for gain in told], abs=1e-4)


def test_another_mode_than_the_best_is_named(run: Path) -> None:
    Pipeline(small("search.mode=dense", "evaluation.bootstrap=10"), run).run()
    metrics = read_json(run / "metrics.json")
    assert metrics["system"] == "lynx, dense"
    assert list(metrics["variants"]) == ["lynx", "lynx, generative"]
    assert felid.Recommender.load(run).ranker.mode == "dense"
    Pipeline(small(), run).run()
    assert metrics["test"]["recall@10"] == read_json(run / "metrics.json")["variants"]["lynx, dense"]["recall@10"]


def test_sasrec_runs_with_the_same_recipe_and_leaves_its_vectors_for_others(tmp_path: Path) -> None:
    with pytest.warns(felid.FelidWarning, match="made for lynx"):
        recipe = small("model.kind=sasrec", *SMALL[3:], "evaluation.bootstrap=10")
    assert recipe.training.learning_rate == SASREC_TRAINING.learning_rate
    Pipeline(recipe, tmp_path / "a").run()
    metrics = read_json(tmp_path / "a" / "metrics.json")
    assert metrics["system"] == "sasrec"
    assert list(metrics["variants"]) == ["sasrec, fused"]
    for system in ("sasrec", "sasrec, fused"):
        assert f"127 of them, without training interactions, {system} never recommends" in metrics["policy"]["candidates"]
    assert felid.Recommender.load(tmp_path / "a").ranker.mode == "dense"
    assert felid_command("recommend", tmp_path / "a", "--user", "0", "--mode", "fused").returncode == 0
    refused = felid_command("recommend", tmp_path / "a", "--user", "0", "--mode", "generative")
    assert refused.returncode == 2
    assert "ranks under dense and fused, not generative" in refused.stderr
    left = next(tmp_path.glob("a/train/*/item_vectors"))
    given = f"collaborative={{kind: precomputed, vectors: {left / 'raw.npy'}, ids: {left / 'item_ids.json'}}}"
    aligned = ["quantizer={kind: rqvae, sizes: [8, 8], hidden: [8], latent: 4, epochs: 2, alignment_weight: 1}"]
    Pipeline(small(*aligned, given), tmp_path / "b").run("tokenize")


def test_items_that_are_held_out_of_training_are_reported_alone(tmp_path: Path) -> None:
    held_out = ["holdout.rule=newest", "holdout.share=0.1", "evaluation.bootstrap=10"]
    Pipeline(small(*held_out, "embedding.kind=lsa"), tmp_path).run()
    metrics = read_json(tmp_path / "metrics.json")
    assert metrics["test_cold"]["num_users"] + metrics["test_warm"]["num_users"] < metrics["test"]["num_users"]
    assert "newest 10 %" in metrics["policy"]["cold"]
    recommender = felid.Recommender.load(tmp_path)
    catalogue = recommender.ranker.catalogue
    split = split_of(Dataset.load(tmp_path / read_json(tmp_path / "run.json")["stages"]["data"]), small(*held_out).holdout)
    assert split.held_out is not None
    assert not catalogue.warm[split.held_out.either].any()
    with_them = read_json(next(tmp_path.glob("embed/*/manifest.json")))["inputs"]
    assert set(with_them) == {"data", "holdout"}


# checks before an evaluation


def test_an_evaluation_stores_its_checks_and_prints_them_in_one_line(run: Path) -> None:
    checks = {row["name"]: row for row in read_json(run / "metrics.json")["checks"]}
    assert len(checks) == 13 and not [name for name, row in checks.items() if row["status"] == "failed"]
    known = ("training part", "choices", "fitting", "trie", "targets in training")
    assert {checks[name]["status"] for name in known} == {"passed"}
    printed = felid_command("evaluate", run).stdout.splitlines()
    assert [line for line in printed if line.startswith("checks: ") and " passed" in line]


def test_leaks_planted_in_a_run_are_found_and_warned_of(run: Path, tmp_path: Path) -> None:
    """The checkpoint chosen on test targets, item vectors and a quantiser that learnt cold items."""
    shutil.copytree(run, tmp_path / "run")
    root, places = tmp_path / "run", read_json(run / "run.json")["stages"]
    data = Dataset.load(root / places["data"])
    split = split_of(data, small().holdout)
    assert not split.warm_items(len(data.items)).all(), "the world needs a cold item"
    np.save(root / places["train"] / "chosen_on_checkpoint.npy", events_of(split.evaluation("test"), split.sequences))
    np.save(root / places["train"] / "item_vectors" / "known.npy", np.ones(len(data.items), bool))
    np.save(root / places["tokenize"] / "fitted_on.npy", np.arange(len(data.items)))
    checkpoint = best_checkpoint(root / places["train"])
    with pytest.warns(FelidWarning) as heard:
        rows = audit_run(root, felid.Recommender.load(root), split, data, checkpoint, transductive=False)
    failed = {row["name"] for row in rows if row["status"] == "failed"}
    assert failed == {"choices", "held-out items in training", "fitting"}
    assert all(any(f"the check of {name} failed" in str(one.message) for one in heard) for name in failed)
