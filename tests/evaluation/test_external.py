"""Lists of other systems: read from files, judged on a run's users, refused with row numbers where they cannot be."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from felid.artifacts import note_run, read_json, write_json
from felid.data.dataset import Dataset
from felid.data.histories import EvaluationSet, HeldOut, LeaveOneOut, Sequences
from felid.errors import DataError, FelidWarning, RequestError
from felid.evaluation import EvaluationConfig, Markov, evaluate_run, print_metrics
from felid.evaluation.external import judge_lists
from felid.evaluation.external_file import read_lists
from felid.evaluation.protocol import Ranker
from felid.evaluation.tables import aside_lines
from felid.evaluation.ties import ScoredLists, tie_metrics
from felid.progress import plain_console
from felid.testing import toy_world
from tests.test_pipeline import felid_command

WORLD = toy_world()
CONFIG = EvaluationConfig(ks=(5, 10), bootstrap=100)


def dataset_of(prefix: str | None = None) -> Dataset:
    """The toy world as a data set, ids as numbers, or as text with a prefix."""
    sequences = WORLD.sequences
    users, items = np.repeat(sequences.user_ids, sequences.lengths).tolist(), (100 + sequences.items).tolist()
    if prefix is not None:
        users, items = [f"{prefix}{one:02}" for one in users], [f"{prefix}{one}" for one in items]
    titles = pl.DataFrame({"item_id": sorted(set(items))}).with_columns(title=pl.lit("a title"))
    return Dataset.from_frames("toy", pl.DataFrame({"user_id": users, "item_id": items}), titles)


DATA = dataset_of()
SPLIT = LeaveOneOut(DATA.sequences())


def lists_of(ranker: Ranker, data: Dataset = DATA, *, exclude_seen: bool = False, k: int = 24) -> pl.DataFrame:
    """A file's rows: the lists of a ranker for the test part."""
    histories = LeaveOneOut(data.sequences()).evaluation("test").histories
    found = ranker.rank(histories, k, exclude_seen)
    users, places = np.nonzero(found >= 0)
    return pl.DataFrame(
        {
            "user_id": histories.user_ids[users].tolist(),
            "item_id": data.item_ids[found[users, places]].tolist(),
            "rank": places + 1,
        }
    )


MARKOV = Markov.fit(SPLIT.train(), 24)
LISTS = lists_of(MARKOV)


def judged(folder: Path, lists: pl.DataFrame, data: Dataset = DATA, config: EvaluationConfig = CONFIG, **options: Any) -> Any:
    """`metrics.json` of an evaluation of these lists, as CSV unless they go into another file."""
    path = folder / options.get("file", "lists.csv")
    lists.write_csv(path) if path.suffix == ".csv" else lists.write_parquet(path)
    split = LeaveOneOut(data.sequences())
    place = judge_lists(options.get("root", folder / "run"), path, options.get("name", "theirs"), data, split, config)
    return read_json(place / "metrics.json")


@pytest.mark.parametrize("file", ["lists.csv", "lists.parquet"])
def test_lists_of_a_ranker_have_exactly_its_metrics(file: str, tmp_path: Path) -> None:
    own = evaluate_run({"theirs": MARKOV}, SPLIT, DATA.item_ids, CONFIG, baselines={}).metrics
    found = judged(tmp_path, LISTS, file=file)
    for key in ("test", "test_seen_kept", "intervals", "intervals_seen_kept"):
        assert found[key] == own[key]
    assert "validation" not in found
    assert found["baselines"]["markov"] == own["test"], "the very same lists, found another way"
    assert found["differences"]["markov"]["recall@10"]["difference"] == 0
    assert found["external"].keys() == {"file", "sha256"}
    print_metrics(found, plain_console(quiet=True))


def test_scores_order_as_ranks_do_and_ties_stand_in_file_order(tmp_path: Path) -> None:
    scored = LISTS.with_columns((-pl.col("rank") / 7).alias("score")).drop("rank")
    shuffled = scored.sample(fraction=1.0, shuffle=True, seed=1)
    by_rank, by_score = judged(tmp_path, LISTS), judged(tmp_path, shuffled, file="scores.parquet")
    assert by_score["test"] == by_rank["test"]
    assert "0 of " in by_score["policy"]["ties"]
    tied = judged(tmp_path, scored.with_columns(score=pl.lit(1.0)), file="tied.csv")
    assert tied["test"] == by_rank["test"], "the rows stand in the order of the lists"
    assert f"{len(LISTS) - 96:,} of {len(LISTS):,} rows" in tied["policy"]["ties"]


def constant_scores() -> pl.DataFrame:
    """Lists that know nothing, each with the target written first."""
    test = SPLIT.evaluation("test")
    rows = [
        {"user_id": int(user), "item_id": 100 + item, "score": 1.0}
        for user, target in zip(test.histories.user_ids, test.targets.tolist(), strict=True)
        for item in (target, *(other for other in range(24) if other != target))
    ]
    return pl.DataFrame(rows)


def test_places_of_items_that_are_no_candidates_are_struck_before_anything_is_counted(tmp_path: Path) -> None:
    split = LeaveOneOut(DATA.sequences(), HeldOut(np.zeros(24, bool), np.arange(24) < 4, "by hand"))
    path = tmp_path / "scores.csv"
    constant_scores().write_csv(path)
    config = CONFIG.model_copy(update={"candidates": "warm"})
    found = read_json(judge_lists(tmp_path / "run", path, "theirs", DATA, split, config) / "metrics.json")
    share = split.warm_items(24)[split.evaluation("test").targets].mean()
    assert 0 < share < 1
    assert found["test_seen_kept"]["recall@5"] == pytest.approx(share), "each list begins with its target"
    assert found["ties_seen_kept"]["file_order"]["recall@5"] == pytest.approx(share)
    assert f"{4 * 96} places with items that are no candidates were struck" in found["policy"]["recommendations"]
    assert found["policy"]["candidates"].startswith("20 of the 24 items")


def test_pitfall_a_target_first_among_its_equals_is_found_by_chance_alone(tmp_path: Path) -> None:
    found = judged(tmp_path, constant_scores(), file="tied.parquet")
    assert found["test_seen_kept"]["recall@5"] == found["ties_seen_kept"]["file_order"]["recall@5"] == 1
    assert found["ties_seen_kept"]["average"]["recall@5"] == pytest.approx(5 / 24)
    assert found["ties_seen_kept"]["average"]["ndcg@10"] == pytest.approx((1 / np.log2(np.arange(2, 12))).sum() / 24)
    assert found["ties"]["tied_targets"] == 96 and found["ties"]["pessimistic"]["recall@10"] == 0
    (line,) = (line for line in aside_lines(found) if line.startswith("equal scores"))
    assert "96 targets" in line and "recall@10 1.0000 in file order" in line and "0.0000 behind its equals" in line
    strict = judged(tmp_path, constant_scores(), config=CONFIG.model_copy(update={"ties": "pessimistic"}), file="tied.parquet")
    assert strict["test"]["recall@10"] == 0 and strict["ties"] == found["ties"]
    assert "behind all items of its score" in strict["policy"]["ties"]


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_ties_equal_the_mean_over_all_orders(exclude_seen: bool) -> None:
    """Four users with six items of three scores each; the last has no list. Every order of the equal items is tried."""
    rng, part = np.random.default_rng(0), SPLIT.evaluation("test")
    test = EvaluationSet(part.histories.take(np.arange(4)), part.targets[:4])
    listed = [rng.permutation(np.append(test.targets[row], test.histories[row][:2])) for row in range(3)]
    listed = [rng.permutation(np.append(row, [i for i in range(24) if i not in row.tolist()][:3])) for row in listed]
    scores = [np.sort(rng.integers(0, 3, 6).astype(np.float64))[::-1] for _ in listed]
    lists = ScoredLists(Sequences.from_lists(test.histories.user_ids[:3], listed), np.concatenate(scores), "x")
    found = tie_metrics(lists, test, (1, 3), exclude_seen=exclude_seen)
    means = {f"{policy}@{k}": 0.0 for policy in ("average", "pessimistic", "file_order") for k in (1, 3)}
    for row in range(3):
        seen = set(test.histories[row].tolist()) if exclude_seen else set()
        left = [(i, s) for i, s in zip(listed[row].tolist(), scores[row], strict=True) if i not in seen]
        orders = [order for order in permutations(left) if [s for _, s in order] == [s for _, s in left]]
        ranks = [[i for i, _ in order].index(int(test.targets[row])) + 1 for order in orders]
        for k in (1, 3):
            means[f"average@{k}"] += np.mean([rank <= k for rank in ranks]) / 4
            means[f"pessimistic@{k}"] += (max(ranks) <= k) / 4
            means[f"file_order@{k}"] += ([i for i, _ in left].index(int(test.targets[row])) < k) / 4
    assert {f"{name}@{k}": found[name][f"recall@{k}"] for name in list(found)[:3] for k in (1, 3)} == pytest.approx(means)
    assert found["tied_targets"] > 0


def test_scores_beside_ranks_tell_which_items_are_equals(tmp_path: Path) -> None:
    ranked, path = constant_scores().with_columns(rank=pl.int_range(1, pl.len() + 1).over("user_id")), tmp_path / "lists.parquet"
    for score, known in ((pl.lit(1.0), True), (-pl.col("rank") // 2, True), (pl.col("rank"), False), (pl.lit(None), False)):
        found = read_lists(written(ranked.with_columns(score=score), path), SPLIT.sequences.user_ids, DATA.item_ids)
        assert (found.scores is not None, "so are their scores" in found.order) == (known, known)
        assert found.items.items[::24].tolist() == SPLIT.evaluation("test").targets.tolist(), "the rank counts"
    assert "2,208 of 2,304 rows" in read_lists(written(ranked, path), SPLIT.sequences.user_ids, DATA.item_ids).order


def written(lists: pl.DataFrame, path: Path) -> Path:
    lists.write_parquet(path)
    return path


def test_ties_of_ranks_cannot_be_turned_round(tmp_path: Path) -> None:
    with pytest.warns(FelidWarning, match="no effect where no scores are known"):
        found = judged(tmp_path, LISTS, config=CONFIG.model_copy(update={"ties": "pessimistic"}))
    assert "ties" not in found


@pytest.mark.parametrize("file", ["lists.csv", "lists.parquet"])
def test_ids_that_are_text_stay_text(file: str, tmp_path: Path) -> None:
    data = dataset_of("0")
    lists = lists_of(Markov.fit(LeaveOneOut(data.sequences()).train(), 24), data)
    assert lists["item_id"][0].startswith("0")
    assert judged(tmp_path, lists, data, file=file)["test"] == judged(tmp_path, LISTS, file="numbers.csv")["test"]


def test_a_parquet_file_may_write_numbers_as_text(tmp_path: Path) -> None:
    lists = LISTS.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    assert judged(tmp_path, lists, file="text.parquet")["test"] == judged(tmp_path, LISTS)["test"]


def test_users_without_a_list_are_misses_and_others_are_not_read(tmp_path: Path) -> None:
    some = LISTS.filter(pl.col("user_id") < 48)
    found, whole = judged(tmp_path, some), judged(tmp_path, LISTS, file="whole.csv")
    assert found["test"]["num_users"] == 96
    assert found["test"]["recall@5"] == pytest.approx(whole["test"]["recall@5"] / 2), "Markov finds every successor"
    assert "of 96 test users 48 have no list and count as misses" in found["policy"]["recommendations"]


def test_pitfall_items_of_the_history_take_the_places_of_others(tmp_path: Path) -> None:
    """With seen items removed afterwards a list of ten may have fewer; this is said, and the rest moves up."""
    test = SPLIT.evaluation("test")
    rows: list[tuple[int, int]] = []
    for user, target in enumerate(test.targets.tolist()):
        history = test.histories[user].tolist()
        new = [item for item in range(24) if item not in {*history, target}]
        rows += [(user, item) for item in (*history[-2:], target, *new)][:10]
    lists = pl.DataFrame(
        {
            "user_id": [u for u, _ in rows],
            "item_id": [100 + i for _, i in rows],
            "rank": [place % 10 + 1 for place in range(len(rows))],
        }
    )
    found = judged(tmp_path, lists)
    assert (found["test"]["mrr@10"], found["test_seen_kept"]["mrr@10"]) == (1, pytest.approx(1 / 3))
    assert "96 lists hold items of the history" in found["policy"]["recommendations"]
    assert "96 lists have fewer than 10 items: a longer list" in found["policy"]["recommendations"]


def test_the_own_evaluation_stands_beside_and_stays_as_it_is(tmp_path: Path) -> None:
    root, folder = tmp_path / "run", tmp_path / "run/evaluate/abc"
    folder.mkdir(parents=True)
    reverse = {"lynx": Backwards(), "lynx, dense": MARKOV}
    evaluate_run(reverse, SPLIT, DATA.item_ids, CONFIG).save(folder)
    write_json(folder / "manifest.json", {"digest": "0", "files": {}, "bytes": {}})
    note_run(root, stages={"evaluate": "evaluate/abc"})
    before = (folder / "metrics.json").read_bytes()
    found, own = judged(tmp_path, LISTS), read_json(folder / "metrics.json")
    assert found["variants"] == {"lynx": own["test"], "lynx, dense": own["variants"]["lynx, dense"]}
    assert found["variants_seen_kept"]["lynx"] == own["test_seen_kept"]
    expected = {name: -cell["difference"] for name, cell in own["differences"]["lynx, dense"].items()}
    assert {name: cell["difference"] for name, cell in found["differences"]["lynx"].items()} == pytest.approx(expected)
    assert found["differences"]["lynx"]["recall@5"]["low"] > 0
    assert (folder / "metrics.json").read_bytes() == before
    assert not (root / "metrics.json").exists()
    with pytest.raises(RequestError, match="'lynx, dense' is that of a system of the run itself"):
        judged(tmp_path, LISTS, name="lynx, dense")
    changed = judged(tmp_path, LISTS, dataset_of(), EvaluationConfig(ks=(5,), bootstrap=100, exclude_seen=False))
    assert changed["variants"]["lynx"] == own["test_seen_kept"]
    assert changed["differences"]["lynx"].keys() == {"recall@5", "ndcg@5", "mrr@5"}


class Backwards:
    """Recommends what comes last in the catalogue."""

    def rank(self, histories: Any, k: int, exclude_seen: bool) -> np.ndarray:
        result = np.full((len(histories), k), -1)
        for row in range(len(histories)):
            items = [i for i in range(23, -1, -1) if not exclude_seen or i not in set(histories[row].tolist())][:k]
            result[row, : len(items)] = items
        return result


FAULTS = {
    "unknown user": (
        LISTS.with_columns(user_id=pl.col("user_id") + 1),
        r"user that the data does not have: 24 \(data rows 2281,",
    ),
    "unknown item": (
        LISTS.with_columns(item_id=pl.col("item_id") - 1),
        r"item that the data does not have: 96 .*99.*such as 100",
    ),
    "text for numbers": (
        LISTS.with_columns(item_id=pl.when(pl.col("rank") == 2).then(pl.lit("x")).otherwise(pl.col("item_id").cast(pl.String))),
        r"item_id that is no integer: 96 \(data rows 2, 26, 50",
    ),
    "an item twice": (pl.concat([LISTS, LISTS.tail(2)]), r"item of the same user again: 2 \(data rows 2305, 2306\); keep one"),
    "a gap": (LISTS.filter(pl.col("rank") != 4), r"rank or a gap: .*data row 4 has rank 5 in place of 4; number"),
    "a rank twice": (LISTS.with_columns(pl.col("rank").replace(4, 3)), r"data row 4 has rank 3 in place of 4"),
    "ranks from 0": (LISTS.with_columns(pl.col("rank") - 1), r"ranks below 1: 96 .*expected 1 = best; add 1"),
    "half ranks": (LISTS.with_columns(pl.col("rank") / 2), r"no whole number: 1152 \(data rows 1, 3, 5"),
    "no order": (LISTS.drop("rank"), r"no column 'rank' or 'score'; it has user_id, item_id, expected"),
    "no items": (LISTS.rename({"item_id": "item"}), r"no column 'item_id'; it has user_id, item, rank"),
    "nan": (
        LISTS.rename({"rank": "score"}).with_columns(score=pl.lit(float("nan"))),
        r"score that is missing or not finite: 2304",
    ),
    "no rows": (LISTS.clear(), r"no rows"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_with_their_rows(name: str, tmp_path: Path) -> None:
    lists, expected = FAULTS[name]
    lists.write_csv(tmp_path / "lists.csv")
    with pytest.raises(DataError, match=expected):
        read_lists(tmp_path / "lists.csv", SPLIT.sequences.user_ids, DATA.item_ids)


def test_lists_too_short_for_k_and_names_of_baselines_are_refused(tmp_path: Path) -> None:
    short = LISTS.filter(pl.col("rank") <= 7)
    with pytest.raises(RequestError, match=r"longest list of .* has 7 items but lists of 10 .* evaluation.ks=\[5\]"):
        judged(tmp_path, short)
    with pytest.raises(RequestError, match="name 'markov' is that of a baseline"):
        judged(tmp_path, LISTS, name="markov")
    with pytest.raises(DataError, match="does not exist"):
        judge_lists(tmp_path / "run", tmp_path / "none.csv", None, DATA, SPLIT, CONFIG)
    assert not list((tmp_path / "run").glob("external/[!.]*")), "nothing half-made"


def test_the_command_needs_no_more_than_the_data(tmp_path: Path) -> None:
    root, path = tmp_path / "run", tmp_path / "other.csv"
    begun = felid_command("data", root, "--recipe", "tiny", "dataset.num_users=40")
    assert begun.returncode == 0, begun.stderr
    data = Dataset.load(root / read_json(root / "run.json")["stages"]["data"])
    split = LeaveOneOut(data.sequences())
    lists_of(Markov.fit(split.train(), len(data.items)), data, k=10).write_csv(path)
    done = felid_command("evaluate", root, "--recommendations", path, "--name", "Somebody's")
    assert done.returncode == 0, done.stderr
    (metrics,) = root.glob("external/*/metrics.json")
    found = read_json(metrics)
    assert found["system"] == "Somebody's"
    for said in ("Somebody's", "markov", "count as misses", "ordered by their ranks", str(metrics.parent.name)):
        assert said in done.stdout
    assert {path.name for path in root.iterdir()} <= {"data", "external", "recipe.json", "run.json", ".lock"}
    for wrong, expected in (
        (("--name", "x"), "--name is that of the system of --recommendations"),
        (("--recommendations", path, "--fresh"), "leave out --fresh"),
        (("--recommendations", path, "evaluation.ks=[5,20]"), "longest list of"),
    ):
        refused = felid_command("evaluate", root, *wrong)
        assert (refused.returncode, expected in refused.stderr) == (2, True), refused.stderr
