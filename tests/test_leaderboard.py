"""README's table and reports/leaderboard.md say what the records say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from benchmarks import leaderboard
from benchmarks.records import figures_of
from felid.artifacts import read_json, write_json
from felid.records import RECORD

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages() -> dict[Path, str]:
    return leaderboard.made_pages(ROOT)


def test_pages_are_what_the_records_say(pages: dict[Path, str]) -> None:
    """Red: run `make leaderboard`."""
    for path, text in pages.items():
        assert path.read_text(encoding="utf-8") == text, path.name


def test_the_short_board_is_short_and_the_long_one_has_every_system(pages: dict[Path, str]) -> None:
    readme, long = pages.values()
    board = readme[readme.index(leaderboard.BEGIN) : readme.index(leaderboard.END)]
    assert 3 <= board.count("\n| ") - 2 <= 22
    ours = [line.split(" | ")[0] for line in board.splitlines() if "/record.json" in line]
    assert len(set(ours)) == len(ours), "a system stands there once"
    for path in (ROOT / "reports").rglob(RECORD):
        if "baselines" in (found := read_json(path)):
            for system in set(found["figures"]) - set(found["baselines"]):
                assert f"| {system} |" in long


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The pages with two of the records."""
    for name in ("recommenders/lynx", "recommenders/sasrec"):
        shutil.copytree(ROOT / "reports" / name, tmp_path / "reports" / name)
    shutil.copy(ROOT / "reports" / leaderboard.PUBLISHED, tmp_path / "reports")
    shutil.copy(ROOT / "README.md", tmp_path)
    leaderboard.main(["--root", str(tmp_path)])
    return tmp_path


def test_a_changed_record_is_noticed_and_then_shown(copy: Path) -> None:
    leaderboard.main(["--root", str(copy), "--check"])
    path = copy / "reports" / "recommenders" / "lynx" / RECORD
    found = read_json(path)
    found["figures"]["lynx"]["test"]["all"]["seen_removed"]["recall@10"]["mean"] = 0.4321
    write_json(path, found)
    with pytest.raises(SystemExit, match=r"README\.md.*not what the records say"):
        leaderboard.main(["--root", str(copy), "--check"])
    before = (copy / "README.md").read_text()
    leaderboard.main(["--root", str(copy)])
    after = (copy / "README.md").read_text()
    assert "| 0.4321 |" in after
    assert [after.split(mark)[side] for mark, side in ((leaderboard.BEGIN, 0), (leaderboard.END, 1))] == [
        before.split(mark)[side] for mark, side in ((leaderboard.BEGIN, 0), (leaderboard.END, 1))
    ], "nothing else changes"


def test_rows_are_sorted_and_equal_baselines_stand_once(copy: Path) -> None:
    records = {name: read_json(copy / "reports" / name / RECORD) for name in ("recommenders/lynx", "recommenders/sasrec")}
    (board,) = leaderboard.boards(records).values()
    rows = board["seen_removed all"]
    assert [row.order for row in rows] == sorted(row.order for row in rows)
    assert [row.system for row in rows].count("markov") == 1
    assert {row.system: row.minutes is not None for row in rows if row.system in ("lynx", "markov")} == {
        "lynx": True,
        "markov": False,
    }


def test_marks_that_are_gone_are_said() -> None:
    with pytest.raises(SystemExit, match="needs the two lines"):
        leaderboard.between("no marks", "board")


def test_published_figures_have_a_convention_and_a_source() -> None:
    others = yaml.safe_load((ROOT / "reports" / leaderboard.PUBLISHED).read_text(encoding="utf-8"))
    for one in others:
        assert one["convention"]
        assert one["source"]
        assert set(one["figures"]) <= set(leaderboard.METRICS)
        assert all(0 < value < 1 for value in one["figures"].values())
        for less, more in (("ndcg@5", "recall@5"), ("ndcg@10", "recall@10"), ("recall@5", "recall@10"), ("ndcg@5", "ndcg@10")):
            assert not {less, more} <= set(one["figures"]) or one["figures"][less] < one["figures"][more], one["system"]


@pytest.mark.parametrize(
    ("name", "systems", "metrics"),
    [
        ("recommenders/lynx", ("lynx", "lynx, generative", "markov"), ("recall@10", "ndcg@10")),
        ("recommenders/sasrec", ("sasrec",), ("recall@10", "ndcg@10")),
        ("movielens", ("lynx", "popularity", "markov"), ("recall@10",)),
    ],
)
def test_figures_in_the_text_of_the_readme_are_those_of_the_records(
    name: str, systems: tuple[str, ...], metrics: tuple[str, ...]
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Measured")[2]
    found = read_json(ROOT / "reports" / name / RECORD)["figures"]
    for system in systems:
        cells = found[system]["test"]["all"]["seen_removed"]
        values = " / ".join(f"{cells[metric]['mean']:.4f}" for metric in metrics)
        assert values in text or values.replace("0.", ".") in text, f"{name}: {system} {values}"


def test_converted_records_hold_the_figures_of_their_metrics() -> None:
    """Records older than `felid record` were made of these files, and of nothing else."""
    for folder in ("movielens", "systems/liger-short"):
        metrics = read_json(ROOT / "reports" / folder / "metrics.json")
        found = read_json(ROOT / "reports" / folder / RECORD)
        assert found["figures"] == figures_of(metrics)
        assert found["num_users"] == metrics["num_users"]
    for seed in (0, 1, 2):
        metrics = read_json(ROOT / "reports" / "recommenders" / f"lynx-{seed}" / "metrics.json")
        record = read_json(ROOT / "reports" / "recommenders" / "lynx" / RECORD)
        cell = record["figures"]["lynx"]["test"]["all"]["seen_kept"]["ndcg@5"]
        assert cell["runs"][seed] == pytest.approx(metrics["test_seen_kept"]["ndcg@5"], abs=1e-6)
