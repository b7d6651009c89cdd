from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from felid.errors import RequestError
from felid.evaluation import compare_runs
from felid.evaluation.claims import Comparison, Question, compare_systems
from felid.evaluation.compared import RankedRun, pooled, systems_of
from felid.evaluation.conditions import condition_lines
from felid.evaluation.randomisation import randomisation_test
from felid.evaluation.statistics import Difference
from felid.metrics import recall_per_user

USERS = 300
GROUPS = ["warm"] * 200 + ["cold"] * 60 + ["other"] * 40
QUICK = Question(metrics=("recall@10",), draws=300, flips=999)


def ranks(share: float, seed: int) -> np.ndarray:
    """Hits of a share of the users; the same users are easy for all systems."""
    rng = np.random.default_rng([7, seed])
    easy = np.random.default_rng(0).random(USERS)
    return np.where(0.7 * easy + 0.3 * rng.random(USERS) < share, rng.integers(1, 11, USERS), 0)


def a_run(path: str, systems: dict[str, np.ndarray], seed: int | None = 0) -> RankedRun:
    columns = {
        "user_id": [f"u{row:03}" for row in range(USERS)],
        "target": [f"i{row % 40}" for row in range(USERS)],
        "group": GROUPS,
    }
    frames = [
        pl.DataFrame({**columns, "rank": of_users}).select(
            pl.lit(name).alias("system"), pl.lit("test").alias("part"), pl.lit("seen_removed").alias("policy"), pl.all()
        )
        for name, of_users in systems.items()
    ]
    recipe = None if seed is None else {"seed": seed, "model": {"kind": next(iter(systems))}}
    metrics = {
        "num_items": 40,
        "test": {"recall@5": 0.1, "recall@10": 0.1},
        "policy": {"candidates": "all 40 items, no sampling"},
    }
    return RankedRun(Path(path), pl.concat(frames), True, metrics, recipe)


MARKOV = ranks(0.3, 99)


def trainings(name: str, share: float, seeds: tuple[int, ...], shift: int = 0) -> list[RankedRun]:
    one = (
        {name: ranks(share, seed + shift), f"{name}, dense": ranks(share - 0.1, seed + shift), "markov": MARKOV} for seed in seeds
    )
    return [a_run(f"{name}-{seed}", systems, seed) for seed, systems in zip(seeds, one, strict=True)]


LYNX, SASREC = trainings("lynx", 0.6, (0, 1, 2)), trainings("sasrec", 0.5, (2, 0, 1), 50)


def compared(runs: list[RankedRun], *names: str, question: Question = QUICK, against: str | None = None) -> list[Comparison]:
    return compare_systems(systems_of(pooled(runs), names), question, against)[1]


def test_pooled_runs_give_what_compare_runs_and_the_test_give() -> None:
    standings, [found] = compare_systems(systems_of(pooled([*LYNX, *SASREC])), Question(metrics=("recall@10",), flips=999))
    by_seed = sorted(SASREC, key=lambda run: run.seed)
    ours, theirs, expected = compare_runs([(run.ranks, "lynx") for run in LYNX], [(run.ranks, "sasrec") for run in by_seed])
    assert (found.ours, found.theirs, found.runs, found.paired, found.once) == ("lynx", "sasrec", (3, 3), True, ())
    assert (found.difference.mean, found.difference.low, found.difference.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert [one.mean for one in standings] == pytest.approx([ours, theirs])
    assert standings[1].seeds == (0, 1, 2) and standings[1].of_runs[0] == pytest.approx(
        recall_per_user(by_seed[0].ranks.filter(system="sasrec")["rank"].to_numpy(), 10).mean()
    )
    rows = [
        np.concatenate([recall_per_user(run.ranks.filter(system=name)["rank"].to_numpy(), 10) for run in runs])
        for name, runs in (("lynx", LYNX), ("sasrec", by_seed))
    ]
    assert found.p == randomisation_test(*rows, np.tile(np.arange(USERS), 3), flips=999)
    assert found.retrained is not None and found.retrained.mean == pytest.approx(found.difference.mean)
    assert found.claimed_of_new_trainings and "; so too for new trainings (95 % CI" in found.sentence
    assert found.sentence.startswith("test, seen removed, recall@10: lynx is above sasrec by 0.1")


def test_p_values_are_adjusted_for_all_that_is_shown() -> None:
    question = Question(metrics=("recall@10", "ndcg@10"), draws=300, flips=999)
    found = compared([*LYNX, *SASREC], "lynx", "sasrec", "markov", question=question)
    assert [(one.metric, one.theirs) for one in found] == [
        (metric, name) for metric in question.metrics for name in ("sasrec", "markov")
    ]
    assert {one.num_compared for one in found} == {4}
    assert [one.adjusted for one in found] == [0.004] * 4
    assert "p 0.0010, 0.0040 adjusted for 4" in found[0].sentence


def a_comparison(p: float, adjusted: float, low: float = 0.001, **changes: object) -> Comparison:
    values = {"num_compared": 6, "retrained": None, "runs": (1, 1), "paired": False, "once": ("a", "b"), **changes}
    return Comparison("a", "b", "recall@10", "test", Difference(0.01, low, 0.019, 0.95, 100), p, adjusted, **values)


def test_a_difference_is_claimed_only_where_interval_and_adjusted_p_value_allow_it() -> None:
    assert a_comparison(0.001, 0.006).claimed
    assert not a_comparison(0.02, 0.06).claimed
    assert not a_comparison(0.02, 0.05).claimed
    assert not a_comparison(0.001, 0.006, low=-0.001).claimed
    sentence = a_comparison(0.02, 0.06).sentence
    assert "no difference between a and b can be claimed" in sentence and "p 0.0200, 0.0600 adjusted for 6" in sentence
    assert sentence.endswith("one training of a and of b: nothing is said of new trainings")


def test_what_holds_of_these_trainings_need_not_hold_of_new_ones() -> None:
    wide = Difference(0.01, -0.02, 0.04, 0.95, 100)
    found = a_comparison(0.001, 0.006, retrained=wide, once=())
    assert found.claimed and not found.claimed_of_new_trainings
    assert found.sentence.endswith("not claimed for new trainings (95 % CI -0.0200 to +0.0400)")
    assert a_comparison(0.5, 1.0, retrained=wide, once=()).sentence.endswith("nor for new trainings (95 % CI -0.0200 to +0.0400)")


def test_one_training_says_nothing_of_new_ones() -> None:
    [found] = compared([*LYNX, *trainings("sasrec", 0.5, (0,))])
    assert found.retrained is None and found.once == ("sasrec",)
    assert found.sentence.endswith("; one training of sasrec: nothing is said of new trainings")


def test_other_seeds_are_not_paired() -> None:
    [found] = compared([*LYNX, *trainings("sasrec", 0.5, (2, 3, 4), 50)])
    assert (found.runs, found.paired) == ((3, 3), False)
    assert found.retrained is not None


def test_a_baseline_that_is_the_same_in_all_runs_stands_once_and_does_not_vary() -> None:
    standings, found = compare_systems(systems_of(pooled([*LYNX, *SASREC]), ["lynx", "markov"]), QUICK)
    assert [(one.system, len(one.seeds), one.fixed) for one in standings] == [("lynx", 3, False), ("markov", 6, True)]
    assert (found[0].runs, found[0].paired, found[0].once) == ((3, 6), False, ())
    assert found[0].retrained is not None
    [same] = compared([*LYNX, a_run("other", {"popularity": MARKOV}, None)], "markov", "popularity")
    assert same.once == ("popularity",) and same.difference.mean == 0


def test_systems_inside_a_run_are_compared_by_name() -> None:
    [found] = compared(LYNX, "lynx, dense", "lynx")
    assert (found.ours, found.theirs, found.paired) == ("lynx, dense", "lynx", True)
    assert found.difference.high < 0
    found = compared([*LYNX, *SASREC], "lynx, dense")  # the other runs have no such system and take part with their own
    assert [(one.ours, one.theirs) for one in found] == [("lynx, dense", "sasrec")]


def test_all_are_held_against_a_named_system() -> None:
    found = compared([*LYNX, *SASREC], "lynx", "sasrec", "markov", against="sasrec")
    assert [(one.ours, one.theirs) for one in found] == [("lynx", "sasrec"), ("markov", "sasrec")]
    with pytest.raises(RequestError, match="'bert' names 0 systems, expected one of: lynx; sasrec"):
        compared([*LYNX, *SASREC], against="bert")


def test_other_settings_are_another_system_of_that_name() -> None:
    short = [RankedRun(Path("short"), *(run.ranks, True, run.metrics, {**run.recipe, "training": 2})) for run in LYNX[:2]]
    [found] = compared([*LYNX, *short])
    assert (found.ours, found.theirs, found.runs) == ("lynx (lynx-0)", "lynx (short)", (3, 2))


def test_only_users_of_a_group_count() -> None:
    [found] = compared([*LYNX, *SASREC], question=Question(("recall@10",), group="cold", draws=300, flips=999))
    rows = [
        run.ranks.filter(system=name, group="cold")["rank"].to_numpy()
        for name, runs in (("lynx", LYNX), ("sasrec", SASREC))
        for run in runs
    ]
    means = [recall_per_user(np.concatenate(side), 10).mean() for side in (rows[:3], rows[3:])]
    assert found.difference.users == 60
    assert found.difference.mean == pytest.approx(means[0] - means[1])
    assert "test, seen removed, cold targets, recall@10" in found.sentence
    nobody = [
        RankedRun(run.path, run.ranks.with_columns(group=pl.lit("warm")), True, {}, run.recipe) for run in (LYNX[0], SASREC[0])
    ]
    with pytest.raises(RequestError, match="no user of the test part has a cold target"):
        compared(nobody, question=Question(("recall@10",), group="cold"))


def changed(run: RankedRun, *columns: pl.Expr, **metrics: object) -> RankedRun:
    return RankedRun(run.path, run.ranks.with_columns(*columns), run.has_ids, {**run.metrics, **metrics}, run.recipe)


FIRST = pl.col("user_id") == "u000"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (changed(SASREC[0], pl.when(FIRST).then(pl.lit("u999")).otherwise("user_id").alias("user_id")), "other users"),
        (
            changed(SASREC[0], pl.when(FIRST).then(pl.lit("i39")).otherwise("target").alias("target")),
            r"other targets \(1 of 300\)",
        ),
        (
            changed(SASREC[0], pl.when(FIRST).then(pl.lit("cold")).otherwise("group").alias("group")),
            r"held out other items \(1 users'",
        ),
        (changed(SASREC[0], pl.lit(3).alias("user_id")), r"other users \(300 of 300\)"),
        (changed(SASREC[0], num_items=41), r"chose among other items \(41 and 40\)"),
        (changed(SASREC[0], policy={"candidates": "100 sampled items, of"}), "chose among other items"),
        (changed(SASREC[0], pl.lit("seen_kept").alias("policy")), "no ranks of sasrec on test, seen_removed"),
        (changed(SASREC[0], test={"recall@5": 0.1}), "recall@10 needs lists of that length, sasrec-2 was judged to 5"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(other: RankedRun, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        compared([LYNX[0], other])


def test_fewer_users_are_refused_and_their_order_does_not_matter() -> None:
    fewer = RankedRun(Path("few"), SASREC[0].ranks.filter(~FIRST), True, {}, SASREC[0].recipe)
    with pytest.raises(RequestError, match="few and lynx-0 have 299 and 300 users"):
        compared([LYNX[0], fewer])
    turned = RankedRun(Path("turned"), SASREC[0].ranks.reverse(), True, {}, SASREC[0].recipe)
    assert compared([LYNX[0], turned], "lynx", "sasrec") == compared([LYNX[0], SASREC[0]], "lynx", "sasrec")


def test_records_that_nothing_shows_to_be_of_the_same_users_are_refused() -> None:
    def without_ids(name: str, systems: dict[str, np.ndarray]) -> RankedRun:
        run = a_run(name, systems)
        return RankedRun(run.path, run.ranks, False, run.metrics, run.recipe)

    other = without_ids("b", {"sasrec": ranks(0.5, 1)})
    with pytest.raises(RequestError, match=r"b and a share no baseline popularity or markov, .* give the run folders"):
        compared([without_ids("a", {"lynx": ranks(0.6, 0)}), other])
    [found] = compared([without_ids("a", {"lynx": ranks(0.6, 0), "tiger": ranks(0.4, 0)})], "lynx", "tiger")
    assert found.difference.users == USERS, "within one record there is nothing to prove"


def test_conditions_are_told_once_where_they_are_the_same_and_by_system_where_not() -> None:
    def told(name: str, **policy: str) -> RankedRun:
        metrics = {
            "policy": {"candidates": "all 12,101 items", "history": "whole", **policy},
            "num_users": USERS,
            "test": {"users_with_seen_target": 0},
            "checks": [{"name": "trie", "status": "failed", "finding": "3 paths"}] if name == "b" else [],
        }
        return RankedRun(Path(name), a_run(name, {f"system {name}": MARKOV}).ranks, True, metrics, {"seed": 0, "model": name})

    lines = condition_lines(systems_of(pooled([told("a"), told("b", split="the last but one trains")])))
    assert lines[:2] == ["candidates: all 12,101 items", "history: whole"]
    assert "split of system b: the last but one trains" in lines and "split of system a: nothing to say" in lines
    assert "checks of system b: 0 passed, 1 FAILED: trie (3 paths)" in lines and "checks of system a: not known" in lines
    assert condition_lines(systems_of(pooled([told("a"), told("c")])))[-1] == "checks: not known"
    unknown = [RankedRun(run.path, run.ranks, True, {}, run.recipe) for run in (LYNX[0], SASREC[0])]
    assert condition_lines(systems_of(pooled(unknown))) == [
        "conditions of the evaluations: not known, the ranks come without a metrics.json"
    ]


def test_runs_on_catalogues_of_thousands_are_told_apart_by_their_candidates() -> None:
    runs = [
        changed(run, policy={"candidates": f"all {count} items, no sampling"})
        for run, count in ((LYNX[0], "12,101"), (SASREC[0], "12,500"))
    ]
    with pytest.raises(RequestError, match=r"chose among other items \(all 12,500 items and all 12,101 items\)"):
        compared(runs)


def test_requests_without_an_answer_are_refused() -> None:
    with pytest.raises(RequestError, match=r"no run has a system 'bert', expected one of: lynx; lynx, dense; markov"):
        compared(LYNX, "bert")
    with pytest.raises(RequestError, match="got one system"):
        compared(LYNX)
    with pytest.raises(RequestError, match="metric is 'hits@10'"):
        compared([*LYNX, *SASREC], question=Question(("hits@10",)))
    with pytest.raises(RequestError, match="lynx-0 and lynx-0 have the same recipe and the same seed"):
        pooled([LYNX[0], LYNX[0]])
