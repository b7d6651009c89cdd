"""From people's own tables to recommendations: `felid data check`, the recipe that it suggests, and the page that says so."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from felid.artifacts import read_json
from felid.recipe import load_recipe
from tests.test_pipeline import Outcome, felid_command

WORDS = ("hat", "scarf", "coat", "sock", "glove", "shawl")
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
QUICK = [
    *(
        "training.epochs=1",
        "model.width=16",
        "model.feed_forward=32",
        "embedding.dim=16",
        "search.num_beams=10",
    ),
    *("evaluation.baselines=[popularity,markov]", "evaluation.variants=false", "evaluation.bootstrap=50", "search.candidates=10"),
    *("evaluation.search_error_users=0",),
]


def check(*arguments: str | Path) -> Outcome:
    return felid_command("data", "check", *arguments)


def write_shop(folder: Path, step: int = 1) -> Path:
    """Eight users who go round six products in the same order, three days long."""
    folder.mkdir(exist_ok=True)
    lines = [f"u{user},P{(user + step * day) % 6},2024-01-{1 + day:02d},4" for day in range(3) for user in range(8)]
    (folder / "sales.csv").write_text("\n".join(["buyer,sku,day,stars", *lines]) + "\n")
    (folder / "goods.csv").write_text("sku,name\n" + "".join(f"P{n},warm {word} of wool\n" for n, word in enumerate(WORDS)))
    return folder


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_shop(tmp_path / "shop")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
    assert [shlex.split(command)[1] for command in commands] == [
        *("examples/shop.py", "data", "run", "recommend", "recommend", "recommend", "record")
    ]
    for command in commands:
        program, *rest = shlex.split(command)
        if program == "python":
            subprocess.run([sys.executable, ROOT / rest[0], *rest[1:], "60"], check=True)
            continue
        result = felid_command(*rest, *(QUICK if rest[0] == "run" else []))
        assert result.returncode == 0, result.stderr
        assert result.stdout
    assert pl.read_parquet("recommendations.parquet")["user_id"].n_unique() == 60
    record = read_json(Path("reports/shop/record.json"))
    assert record["data"]["statistics"]["num_users"] == 60
    assert record["runs"][0]["trained_with"]["command"].startswith("felid run shop.yaml")


def test_what_is_understood_is_said_and_written_as_a_recipe(shop: Path) -> None:
    result = check("shop", "--recipe", "shop.yaml")
    assert result.returncode == 0, result.stderr
    for text in (
        *("user_id = buyer", "item_id = sku", "timestamp = day", "rating = stars", "ISO dates", "title = name"),
        *(
            "8 users, 6 items, 24 interactions",
            "users with a test item (at least 3 interactions): 8",
            "from 2024-01-01 to 2024-01-03",
        ),
    ):
        assert text in result.stdout, text
    assert re.search(r"markov +removed +recall@6 +1\.0000", result.stdout), "every user goes round in the same order"
    recipe = load_recipe("shop.yaml")
    assert recipe.dataset.columns.user_id == "buyer"
    assert recipe.dataset.item_columns == {"item_id": "sku", "title": "name"}
    assert recipe.filter.min_user_interactions == 3, "nobody has five"
    assert recipe.text.columns == ("title",)
    again = check("shop", "--recipe", "shop.yaml")
    assert again.returncode == 0
    made = felid_command("tokenize", "run", "--recipe", "shop.yaml", "embedding.dim=5")
    assert made.returncode == 0, made.stderr
    assert "6 items" in made.stdout
    Path("shop.yaml").write_text("seed: 3\n")
    refused = check("shop", "--recipe", "shop.yaml")
    assert refused.returncode == 2
    assert "exists and is another" in refused.stderr
    assert yaml.safe_load(Path("shop.yaml").read_text()) == {"seed": 3}


def test_seen_items_stay_in_the_lists_where_users_come_back_to_them(shop: Path) -> None:
    write_shop(shop, step=3)
    result = check("shop", "--recipe", "shop.yaml")
    assert "100% of the test items are in the user's history" in result.stdout
    assert not load_recipe("shop.yaml").evaluation.exclude_seen


def test_faults_are_named_with_their_rows_and_the_exit_code(shop: Path) -> None:
    with (shop / "sales.csv").open("a") as stream:
        stream.write(",P1,2024-02-01,4\nu1,P9,2024-02-01,4\nu1,P1,soon,4\nu1,P1,2190-01-01,4\nu2,P1,2024-02-01,good\n")
    result = check("shop")
    assert result.returncode == 1
    for text in (
        "interactions with a missing or empty user_id: 1 (data rows 25)",
        "interactions with an item that has no row in the items file: 1 (data rows 26)",
        "interactions with a missing, unreadable or negative time: 1 (data rows 27)",
        "interactions in the future: 1 (data rows 28)",
        "interactions with a rating that is not a number: 1 (data rows 29)",
        "rows that are to be mended are left out: 4",
        "8 users, 6 items, 25 interactions",
    ):
        assert text in result.stdout, text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["shop", "--column", "user_id=byuer"], "has no column 'byuer'"),
        (["shop", "--column", "user=buyer"], "names no column of ours"),
        (["shop", "--column", "buyer"], "OURS=THEIRS"),
        (["shop", "--recipe", "shop.txt"], "call it shop.yaml"),
        (["shop/sales.csv", "--recipe", "shop.yaml"], "items without text"),
        (["shop/goods.csv"], "is clearly the user"),
    ],
)
def test_what_cannot_be_told_is_one_line_with_a_remedy(shop: Path, arguments: list[str], expected: str) -> None:
    result = check(*arguments)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert expected in result.stderr
    assert not Path("shop.yaml").exists()


def test_the_stage_stands_beside_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`felid data RUN` is the stage, whatever the folder is called, options first or last."""
    monkeypatch.chdir(tmp_path)
    begin = ["--recipe", "tiny", "dataset.num_users=40"]
    for arguments in (["./check", *begin], ["RUN", *begin], ["--fresh", "RUN"]):
        result = felid_command("data", *arguments)
        assert result.returncode == 0, result.stderr
        assert "40 users" in result.stdout
    assert (tmp_path / "check" / "run.json").is_file()
    assert (tmp_path / "RUN" / "run.json").is_file()
    assert "check" in felid_command("data", "--help").stdout
