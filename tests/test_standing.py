"""What stands beside a run: all six baselines, a SASRec that is trained once, and nothing of the test part in any of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import felid.pipeline
from felid.artifacts import open_artifact, read_json, read_run
from felid.data.histories import EvaluationSet, HeldOut, LeaveOneOut, Sequences
from felid.evaluation.baselines import BASELINES
from felid.evaluation.protocol import Ranker
from felid.fitting import Fitting
from felid.models.base import Catalogue, Model
from felid.models.sasrec import SASRecConfig
from felid.pipeline import Pipeline
from felid.progress import plain_console
from felid.ranking import ItemRanker
from felid.recipe import Recipe, load_recipe
from felid.search.config import SearchConfig
from felid.standing import FOR_COLD, SASRecTraining, Standing, ranks_plainly
from felid.testing import check_ranker, toy_world
from felid.training import TrainingConfig

WORLD = toy_world(num_users=60)
COLD = np.array([3, 11])
SETTINGS = SASRecTraining(
    model=SASRecConfig(width=16, layers=1, feed_forward=16),
    training=TrainingConfig(epochs=2, batch_targets=64, learning_rate=0.01, patience=0, precision="fp32"),
    seed=0,
    exclude_seen=True,
)
SMALL = ["model.width=16", "model.feed_forward=16", "training.epochs=1"]
RUN = [
    *(
        *SMALL,
        "dataset.num_users=200",
        "quantizer.sizes=[8,8]",
        "embedding.dim=16",
        "search.num_beams=10",
        "search.candidates=10",
    ),
    *("holdout.rule=random", "holdout.share=0.1", "holdout.validation_share=0.1", "evaluation.bootstrap=20"),
    *("evaluation.variants=false", "evaluation.search_error_users=0", f"evaluation.baselines=[{','.join(BASELINES)}]"),
]
LYNX = "model.generative_weight=0"
"""The run's model is a lynx without beams: it is not what is tested."""


def held_out() -> HeldOut:
    test, validation = np.zeros(WORLD.num_items, bool), np.zeros(WORLD.num_items, bool)
    test[COLD] = True
    return HeldOut(validation, test, "by the test")


def standing(root: Path, split: LeaveOneOut, own: Path | None = None, inputs: str = "data") -> Standing:
    warm = split.warm_items(WORLD.num_items)
    catalogue = Catalogue(WORLD.vectors, warm, counts=split.item_counts(WORLD.num_items))
    ids, console = np.arange(WORLD.num_items), plain_console(quiet=True)
    training = SETTINGS.model, SETTINGS.training, SETTINGS.seed, SETTINGS.exclude_seen
    fitting = partial(Fitting, *training, catalogue, split, console, ids)
    return Standing(BASELINES, SETTINGS, fitting, root, {"data": inputs}, own, not warm.all(), console)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Standing:
    made = standing(tmp_path_factory.mktemp("standing"), LeaveOneOut(WORLD.sequences, held_out()))
    assert made.sasrec is not None
    return made


@pytest.fixture(scope="module")
def rankers(beside: Standing) -> dict[str, Ranker]:
    return beside.rankers(shown=False)


def no_training(*_: object, **__: object) -> None:
    raise AssertionError("trained although it was there")


def test_all_of_them_keep_the_contract_of_rankers(rankers: dict[str, Ranker]) -> None:
    part = WORLD.split.evaluation("test")
    few = EvaluationSet(part.histories.take(np.arange(5)), part.targets[:5])
    assert tuple(rankers) == BASELINES
    for name, ranker in rankers.items():
        if name != "sasrec":  # has no vector of cold items, so its lists may be shorter
            check_ranker(ranker, few, WORLD.num_items, 6)
    lists = rankers["sasrec"].rank(few.histories, WORLD.num_items, False)
    assert (lists[:, -2:] == -1).all() and not np.isin(lists, COLD).any()


def test_only_text_brings_cold_items_into_lists(rankers: dict[str, Ranker]) -> None:
    histories = WORLD.split.evaluation("test").histories
    listed = {name: np.isin(ranker.rank(histories, 8, True), COLD).any() for name, ranker in rankers.items()}
    assert not any(listed[name] for name in ("popularity", "markov", "item-knn", "sasrec"))
    assert listed["text-knn"]
    filled = rankers["sasrec-text-knn"]
    assert isinstance(filled, ItemRanker) and filled.search == FOR_COLD and filled.recommendable().all()


def test_a_planted_test_event_changes_nothing(rankers: dict[str, Ranker], tmp_path: Path) -> None:
    """Pitfall: trains on the test target, or selects the checkpoint on test."""
    items = WORLD.sequences.items.copy()
    items[WORLD.sequences.offsets[1:] - 1] = 0
    planted = LeaveOneOut(Sequences(WORLD.sequences.user_ids, WORLD.sequences.offsets, items), held_out())
    others = standing(tmp_path, planted).rankers(shown=False)
    histories = WORLD.split.evaluation("validation").histories
    for name, ranker in rankers.items():
        assert np.array_equal(ranker.rank(histories, 10, True), others[name].rank(histories, 10, True)), name


def test_sasrec_is_trained_once_and_again_for_other_data(
    beside: Standing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fitting, "fit", no_training)
    again = standing(beside.root, LeaveOneOut(WORLD.sequences, held_out()))
    assert again.made_by == beside.made_by and set(again.made_by) == {"sasrec"}
    with pytest.raises(AssertionError, match="trained although"):
        _ = standing(beside.root, WORLD.split, inputs="other data").sasrec
    assert beside.sasrec is not None
    own = standing(tmp_path, LeaveOneOut(WORLD.sequences, held_out()), own=beside.sasrec.path)
    assert own.made_by == {}, "the run's own training serves"
    histories = WORLD.split.evaluation("test").histories
    same = [made.rankers(shown=False)["sasrec"].rank(histories, 5, True) for made in (beside, own)]
    assert np.array_equal(*same)
    assert "sasrec" not in own.rankers(shown=True), "it is in the table by itself"


def test_an_interrupted_training_goes_on_where_it_was(
    beside: Standing, rankers: dict[str, Ranker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the second of two epochs leaves no artifact; the next time the second one alone is trained, with the same end."""
    plain, judged = Fitting.validation, list[str]()

    def validation(self: Fitting, model: Model) -> Callable[[Model], dict[str, float]]:
        def validate(model: Model) -> dict[str, float]:
            judged.append("once more")
            if len(judged) == 2:
                raise KeyboardInterrupt
            return plain(self, model)(model)

        return validate

    monkeypatch.setattr(Fitting, "validation", validation)
    split = LeaveOneOut(WORLD.sequences, held_out())
    with pytest.raises(KeyboardInterrupt):
        _ = standing(tmp_path, split).sasrec
    assert not list(tmp_path.glob("sasrec/*/manifest.json"))
    again = standing(tmp_path, split)
    assert again.sasrec is not None and len(judged) == 3
    curves = [read_json(made.sasrec.path / "progress.json")["curve"] for made in (beside, again) if made.sasrec]
    assert [entry["ndcg@10"] for entry in curves[0]] == pytest.approx([entry["ndcg@10"] for entry in curves[1]])
    histories = WORLD.split.evaluation("test").histories
    lists = [ranker.rank(histories, 5, True) for ranker in (rankers["sasrec"], again.rankers(shown=False)["sasrec"])]
    assert np.array_equal(*lists)


def test_without_cold_items_the_neighbours_would_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fitting, "fit", no_training)
    warm = standing(tmp_path, WORLD.split)
    assert not warm.cold
    alone = Standing(("markov", "sasrec-text-knn"), SETTINGS, warm.fitting, tmp_path, {}, None, False, warm.console)
    assert alone.made_by == {} and list(alone.rankers(shown=False)) == ["markov"]


def test_a_search_of_its_own_makes_another_system() -> None:
    assert ranks_plainly(SearchConfig()) and ranks_plainly(SearchConfig(mode="dense", num_beams=7))
    assert not any(
        ranks_plainly(SearchConfig(**changes))
        for changes in ({"mode": "fused"}, {"cold_neighbours": 3}, {"cold_bias": 1.0}, {"cold_share": 0.0})
    )


@pytest.fixture(scope="module")
def tuned() -> Recipe:
    """What stands for the recipe sasrec: the real one would be trained for as long as all other tests here together."""
    return load_recipe("sasrec", [*SMALL, "model.heads=1"])


@pytest.fixture(scope="module")
def run(tuned: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root, out = tmp_path_factory.mktemp("run"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(felid.pipeline, "load_recipe", lambda name: tuned)
        Pipeline(load_recipe("tiny", [*RUN, LYNX]), root, console=Console(file=out, width=200)).run()
    return root, out.getvalue()


@pytest.fixture
def evaluate(run: tuple[Path, str], tuned: Recipe, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, object]]:
    """The metrics of the run under other settings."""
    monkeypatch.setattr(felid.pipeline, "load_recipe", lambda name: tuned)

    def metrics(*overrides: str) -> dict[str, object]:
        return read_json(Pipeline(load_recipe("tiny", [*RUN, *overrides]), run[0]).run() / "metrics.json")

    return metrics


def test_all_six_stand_beside_a_run(run: tuple[Path, str]) -> None:
    root, printed = run
    metrics = read_json(root / "metrics.json")
    for part in ("baselines", "baselines_cold", "baselines_validation_seen_kept", "differences"):
        assert tuple(metrics[part]) == BASELINES
    assert metrics["baselines_cold"]["sasrec"]["recall@10"] == 0
    assert all(f"{name} = " in metrics["policy"]["baselines"] for name in BASELINES)
    assert "training SASRec to stand beside" in printed and "sasrec-text-knn" in printed
    inputs = open_artifact(root / read_run(root)["stages"]["evaluate"]).manifest["inputs"]
    assert inputs["sasrec"] == open_artifact(next((root / "sasrec").glob("*"))).digest


def test_other_evaluations_and_models_train_nothing_again(
    run: tuple[Path, str], evaluate: Callable[..., dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fitting, "fit", no_training)
    fewer = evaluate(LYNX, "evaluation.baselines=[item-knn,sasrec]")
    assert list(fewer["baselines"]) == ["item-knn", "sasrec"]
    whole = read_json(next(path for path in run[0].glob("evaluate/*/metrics.json") if "markov" in path.read_text()))
    assert all(fewer["baselines"][name] == whole["baselines"][name] for name in fewer["baselines"])
    assert evaluate(LYNX, "evaluation.baselines=[]")["baselines"] == {}


@pytest.mark.filterwarnings("ignore:the recipe's training settings were made for lynx")
def test_a_run_of_that_sasrec_trains_it_once(
    run: tuple[Path, str], tuned: Recipe, evaluate: Callable[..., dict[str, object]]
) -> None:
    text = [f"training.{name}={value}" for name, value in tuned.training.model_dump().items() if value is not None]
    before = {path.name for path in run[0].glob("sasrec/*")}
    own = ["model.kind=sasrec", *SMALL[:2], *text, "model.layers=1", "model.heads=1", "model.dropout=0.35"]
    own += ["model.positions=relative", "model.dense={similarity: cosine, temperature: 0.07}", "quantizer.kind=rkmeans"]
    metrics = evaluate(*own)
    assert load_recipe("tiny", [*RUN, *own]).model == tuned.model
    assert {path.name for path in run[0].glob("sasrec/*")} == before
    assert tuple(metrics["baselines"]) == tuple(name for name in BASELINES if name != "sasrec")
    beside = evaluate(*own, "search.cold_neighbours=2", "evaluation.baselines=[sasrec]")
    assert beside["baselines"] == {"sasrec, as tuned": metrics["test"]}
