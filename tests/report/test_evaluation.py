from __future__ import annotations

import html
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from felid.artifacts import read_json
from felid.data.dataset import Dataset
from felid.errors import RecipeError
from felid.evaluation.baselines import BASELINES
from felid.evaluation.evaluated import EvaluatedRun
from felid.metrics import recall_at_k
from felid.progress import plain_console
from felid.recommender import Recommender
from felid.report.blocks import Figures
from felid.report.drawing import PALETTE, colour_of
from felid.report.runs import ids as ids_module
from felid.report.runs.curves import lengths_up_to
from felid.report.runs.entrants import Entrant, users
from felid.report.runs.make import page_of
from felid.report.runs.slices import slices_section
from tests.report.conftest import EVIL
from tests.report.reading import Document

QUIET = plain_console(quiet=True)
COLUMNS = ("recall@3", "ndcg@3", "recall@10", "ndcg@10", "mrr@10", "coverage@10")


@pytest.fixture(scope="module")
def run(evaluated_run: Path) -> EvaluatedRun:
    return EvaluatedRun.open(evaluated_run)


@pytest.fixture(scope="module")
def page(run: EvaluatedRun) -> Document:
    return Document(page_of([run], QUIET))


def changed(run: EvaluatedRun, **metrics: object) -> EvaluatedRun:
    kept = {name: value for name, value in run.metrics.items() if name not in metrics}
    return replace(run, metrics=kept | {name: value for name, value in metrics.items() if value is not None})


def expected_rows(metrics: dict[str, dict], suffix: str) -> list[list[str]]:
    systems = {metrics["system"]: metrics[f"test{suffix}"], **metrics[f"variants{suffix}"], **metrics[f"baselines{suffix}"]}
    systems[f"{metrics['system']}, validation"] = metrics.get(f"validation{suffix}")
    return [
        [name, *(f"{values[column]:.4f}" if column in values else "" for column in COLUMNS)]
        for name, values in systems.items()
        if values is not None
    ]


@pytest.mark.parametrize(
    ("table", "groups"),
    [("results-0-table", {"": "all test users"}), ("groups-0-table", {"_warm": "warm targets", "_cold": "cold targets"})],
)
def test_the_tables_have_every_number_of_both_policies(
    page: Document, run: EvaluatedRun, table: str, groups: dict[str, str]
) -> None:
    head, *rows = page.tables[table]
    assert head == ["system", *COLUMNS]
    expected = []
    for policy, words in (("", "seen items removed"), ("_seen_kept", "seen items kept")):
        for group, of in groups.items():
            count = run.metrics[f"test{group}{policy}"]["num_users"]
            expected += [[f"{of}, {words} ({count:,} users)"], *expected_rows(run.metrics, f"{group}{policy}")]
            found = run.metrics[f"intervals{group}{policy}"]["ndcg@10"]
            if run.metrics[f"test{group}{policy}"]["ndcg@10"]:
                assert f"{found['low']:.4f} to {found['high']:.4f}" in page.texts[table]
    assert rows == expected


def test_the_summary_says_what_was_evaluated_and_what_may_be_claimed(page: Document, run: EvaluatedRun) -> None:
    test, interval = run.metrics["test"], run.metrics["intervals"]["recall@10"]
    text = page.texts["summary"]
    assert f"recommends to {test['num_users']} users of shop" in text
    assert f"recall@10 {test['recall@10']:.4f} ({interval['low']:.4f} to {interval['high']:.4f})" in text
    assert "every one of the 180 items competes, seen items removed" in text
    for other, cells in run.metrics["differences"].items():
        said = f"{abs(cells['recall@10']['difference']):.4f}"
        shown = [line for line in page.texts["claims"].splitlines() if f" {other} " in line and "test recall@10" in line]
        assert len(shown) == (1 if other in run.metrics["baselines"] else 0)
        assert all(said in line for line in shown)


def test_the_policy_stands_under_the_table(page: Document, run: EvaluatedRun) -> None:
    rows = page.rows("policy-0-table")
    assert {(topic, " ".join(text.split())) for topic, text in run.metrics["policy"].items()} <= {
        (topic, " ".join(text.split())) for topic, (text,) in rows.items()
    }
    assert {"users", "search error"} <= rows.keys()


def test_statistics_of_lists_equal_those_of_the_metrics(page: Document, run: EvaluatedRun) -> None:
    head, *rows = page.tables["lists-0-table"]
    assert head[:3] == ["system", "coverage", "gini"]
    for name, *cells in rows:
        assert cells[1] == f"{run.metrics['lists'][name]['gini@10']:.4f}"
    assert len(rows) == len(run.metrics["lists"])


def test_curves_against_k_pass_through_the_metrics(page: Document, run: EvaluatedRun) -> None:
    for metric in ("recall", "ndcg"):
        band, *lines = page.figures()[f"{metric}-at-k"]["data"]
        systems = {run.system: "test", **dict.fromkeys(run.metrics["variants"], "variants")}
        assert [line["name"] for line in lines] == [*systems, *run.metrics["baselines"]]
        for line in lines:
            assert line["x"] == list(range(1, 11))
            name = line["name"]
            values = run.metrics["test"] if name == run.system else {**run.metrics["variants"], **run.metrics["baselines"]}[name]
            assert (line["y"][2], line["y"][9]) == pytest.approx((values[f"{metric}@3"], values[f"{metric}@10"]))
        ends = run.metrics["intervals"][f"{metric}@10"]
        assert (band["y"][9], band["y"][10]) == pytest.approx((ends["high"], ends["low"]))
    ranks = run.ranks_of("markov")
    (markov,) = (line for line in page.figures()["recall-at-k"]["data"] if line.get("name") == "markov")
    assert markov["y"] == pytest.approx([recall_at_k(ranks, k) for k in range(1, 11)])
    assert page.rows("lengths-table")["markov"] == [f"{value:.4f}" for value in markov["y"]]


def test_long_lists_are_judged_at_few_lengths() -> None:
    found = lengths_up_to(1000, (5, 10, 1000))
    assert found == sorted(set(found))
    assert len(found) <= 43
    assert {1, 5, 10, 1000} <= set(found)


def test_learning_curves_are_those_of_the_training(page: Document, run: EvaluatedRun) -> None:
    progress = read_json(run.source("train").path / "progress.json")
    for figure, keys in (("loss", ["loss", "loss_generative", "loss_dense"]), ("validation", ["recall@10", "ndcg@10"])):
        lines = {line["name"]: line for line in page.figures()[figure]["data"]}
        for key in keys:
            line = lines[key.replace("_", " ")]
            assert line["x"] == [entry["epoch"] for entry in progress["curve"]]
            assert line["y"] == [entry[key] for entry in progress["curve"]]
    (row,) = page.tables["learning-table"][1:]
    assert row[1:4] == ["2", f"{progress['step']:,}", f"{progress['targets']:,}"]
    assert progress["best_checkpoint"] in row[5]


def test_slices_have_a_bar_and_an_interval_per_system_and_group(page: Document, run: EvaluatedRun) -> None:
    assert {"popularity", "warm_cold"} <= run.metrics["slices"].keys()
    for name, groups in run.metrics["slices"].items():
        bars = page.figures()[f"slice-{name.replace('_', '-')}"]["data"]
        assert [bar["name"] for bar in bars] == list(groups[0]["systems"])
        for bar in bars:
            cells = [group["systems"][bar["name"]]["recall@10"] for group in groups]
            assert bar["y"] == [cell["value"] for cell in cells]
            high = np.add(bar["y"], bar["error_y"]["array"])
            low = np.subtract(bar["y"], bar["error_y"]["arrayminus"])
            np.testing.assert_allclose([low, high], [[cell[end] for cell in cells] for end in ("low", "high")], atol=1e-12)
            assert [label.replace("<br>", " ") for label in bar["x"]] == [
                html.escape(f"{group['group']} {users(group['num_users'])}") for group in groups
            ]


def test_labels_of_many_groups_fit_side_by_side_on_a_phone(run: EvaluatedRun) -> None:
    """Six groups have some 300 pixels, a letter of this size about 5."""
    cell = {"value": 0.5, "low": 0.4, "high": 0.6}
    names = ("under a day", "1 day to 1 week", "1 week to 1 month", "1 month to 3 months", "3 months to 1 year", "1 year or more")
    groups = [{"group": name, "num_users": 12_345, "systems": {run.system: {"recall@10": cell}}} for name in names]
    section = slices_section([Entrant("lynx", changed(run, slices={"item_age": groups}), run.system, False)], 10)
    assert section is not None
    (figures,) = (block for block in section.blocks if isinstance(block, Figures))
    content = figures.figures[0].content
    assert content["layout"]["xaxis"]["tickfont"]["size"] == 9
    assert max(len(line) for label in content["data"][0]["x"] for line in label.split("<br>")) <= 8


def test_the_ids_are_those_that_were_evaluated(page: Document, run: EvaluatedRun) -> None:
    figures = page.figures()
    (tree,) = (trace for trace in figures["tree-0"]["data"] if trace["type"] == "treemap")
    assert tree["values"][0] == 180
    assert {"usage-0", "neighbours-0", "categories-0"} <= figures.keys()
    assert page.texts["findings-0"].count("Level ") >= 3
    assert len(page.tables["levels-0-table"]) == 5  # a head, three levels, and the suffix


def test_cold_items_are_counted_in_the_lists(page: Document, run: EvaluatedRun) -> None:
    recommender = Recommender.load(run.root)
    is_cold = ~recommender.ranker.catalogue.warm
    for name, mode in {"lynx": "fused", "lynx, dense": "dense"}.items():
        asked = recommender.in_mode(mode)
        places, cold = 0, 0
        histories = [recommender.history_of(f"u{user}")[:-1] for user in range(90)]
        for items in asked.recommend(histories, 10):
            rows = [np.flatnonzero(recommender.ids.item_ids == item.item_id)[0] for item in items]
            places, cold = places + len(rows), cold + int(is_cold[rows].sum())
        assert page.rows("exposure-table")[name][:2] == [f"{100 * cold / places:.2f} %", f"{100 * is_cold.mean():.2f} %"]
    cells = page.rows("cold-table")["markov"]
    expected = [
        run.metrics[f"baselines{group}"]["markov"][f"{name}@10"]
        for group in ("", "_warm", "_cold")
        for name in ("recall", "ndcg")
    ]
    assert cells == [f"{value:.4f}" for value in expected]


def test_examples_show_what_the_recommender_gives_and_what_was_taken(page: Document, run: EvaluatedRun) -> None:
    text = page.texts["examples"]
    ranks = {
        row["user_id"]: row["rank"] for row in run.ranks.filter(system="lynx", part="test", policy="seen_removed").to_dicts()
    }
    shown = {
        line.split(",")[0].removeprefix("User "): line for line in map(str.strip, text.splitlines()) if line.startswith("User ")
    }
    hits = [user for user in shown if ranks[user]]
    assert len(hits) == min(6, sum(map(bool, ranks.values())))
    assert len(shown) - len(hits) == min(6, sum(not rank for rank in ranks.values()))
    recommender = Recommender.load(run.root)
    for user, line in shown.items():
        *history, target = recommender.history_of(user)
        assert (f"hit at rank {ranks[user]}:" in line) if ranks[user] else (f"User {user}, miss:" in line)
        for item in (*history, target):
            assert recommender.title_of(item) in text
        for found in recommender.recommend(history, 10):
            assert f"{found.title} {found.item_id}" in text
    assert text.count("✓ hit") >= len(hits)
    assert "the share of hits here is no result" in text


def test_lists_that_are_not_those_of_the_evaluation_are_said_to_be_others(page: Document, evaluated_run: Path) -> None:
    assert "another place of the list" not in page.texts["examples"]
    run = EvaluatedRun.open(evaluated_run)
    run.__dict__["ranks"] = run.ranks.with_columns(rank=pl.when(pl.col("rank") > 0).then(pl.col("rank") % 9 + 1).otherwise(0))
    text = Document(page_of([run], QUIET)).texts["examples"]
    assert "6 of these users have the target at another place of the list than in the evaluation, which other code made" in text


def test_texts_of_the_data_stay_texts(page: Document, run: EvaluatedRun) -> None:
    assert len(page.scripts) == 3  # plotly, figures, the page's own: no title made a fourth
    assert page.loaded == []
    assert not {"img", "iframe", "b1"} & set(page.tags)
    shown = "".join(text for text in page.texts.values())
    assert sum(title in shown for title in EVIL) >= 1  # among the histories
    assert "&lt;" in json.dumps(page.read("figure-data"))
    name = "<img src=x onerror='window.broken = 1'>{{ 7 * 7 }}"
    renamed = changed(run, baselines={name: run.metrics["baselines"]["markov"]}, policy={"<script>": "</script><script>1"})
    other = Document(page_of([renamed], QUIET, examples=False))
    assert (len(other.scripts), other.loaded) == (3, [])
    assert name in other.rows("results-0-table")
    assert other.rows("policy-0-table")["<script>"] == ["</script><script>1"]


def test_checks_stand_with_the_worst_first(run: EvaluatedRun) -> None:
    checks = [
        {"name": "ties", "status": "passed", "finding": "none found", "remedy": ""},
        {"name": "scaler", "status": "failed", "finding": "fitted on <cold> items", "remedy": "Fit it again."},
        {"name": "order", "status": "doubtful", "finding": "3 users", "remedy": "Look at them."},
    ]
    page = Document(page_of([changed(run, checks=checks)], QUIET, examples=False))
    text = page.texts["checks-0"]
    assert (
        text.index("✗ failedscaler: fitted on <cold> itemsFit it again.")
        < text.index("! doubtfulorder")
        < text.index("✓ passedties")
    )
    assert "Of 3 leak and sanity checks 1 passed, 1 doubtful, 1 failed." in page.texts["summary"]


def test_data_recipe_and_environment(page: Document, run: EvaluatedRun) -> None:
    statistics = Dataset.load(run.source("data").path).statistics()
    cells = page.rows("data-0-table")
    assert cells["interactions"] == [f"{statistics['num_interactions']:,}"]
    assert cells["items without interactions"] == ["20"]
    (bars,) = page.figures()["user-lengths-0"]["data"]
    assert (bars["x"], bars["y"]) == (["6"], [90])
    assert yaml.safe_load(page.texts["recipe"].partition("The resolved recipe")[2]) == read_json(run.root / "recipe.json")
    assert page.rows("versions-table")["torch"] == [run.artifact.manifest["versions"]["torch"]]
    assert [row[0] for row in page.tables["stages-table"][1:]] == ["data", "embed", "tokenize", "train", "evaluate"]


def test_parts_without_data_are_left_out(run: EvaluatedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EvaluatedRun, "source", lambda self, stage: None)
    groups = [name for name in run.metrics if "_warm" in name or "_cold" in name]
    groups += ["checks", "lists", "slices", "search_error", "users", "systems", "variants"]
    old = changed(run, **dict.fromkeys(groups))
    page = Document(page_of([old], QUIET))
    assert {"results", "lengths", "recipe", "environment"} <= page.texts.keys()
    assert not {"learning", "slices", "ids-0", "cold", "examples", "checks", "data-0"} & page.texts.keys()
    assert page.rows("results-0-table")[run.system][0] == f"{run.metrics['test']['recall@3']:.4f}"
    assert "No examples of small: the model in" in page.texts["missing"]


def test_no_two_systems_have_one_colour() -> None:
    """A model of three modes beside all six baselines."""
    assert len(PALETTE) >= 3 + len(BASELINES)
    assert len({colour_of(place) for place in range(len(PALETTE))}) == len(PALETTE)


def test_ids_of_settings_that_are_unknown_are_left_out(run: EvaluatedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RecipeError("quantizer: not known any more")

    monkeypatch.setattr(ids_module, "subject_of_run", refuse)
    page = Document(page_of([run], QUIET, examples=False))
    assert "ids-0" not in page.texts
    assert "environment" in page.texts
    assert "Nothing on the IDs of small: quantizer: not known any more." in page.texts["missing"]


def test_without_examples_no_model_is_loaded(run: EvaluatedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recommender, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    page = Document(page_of([run], QUIET, examples=False))
    assert "examples" not in page.texts
    assert "cold-table" in page.texts
    assert "exposure-table" not in page.texts
    assert "--no-examples" in page.texts["missing"]
