from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from felid.artifacts import read_json, read_run
from felid.cli import app
from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.errors import ArtifactError, RequestError, SemanticIdError
from felid.progress import plain_console
from felid.quantize.base import NO_CONTEXT, FitContext
from felid.quantize.health import HealthReport, LevelHealth, code_health
from felid.quantize.resolve import NearestFreeConfig, resolve_collisions
from felid.quantize.rkmeans import RKMeans
from felid.report import measure as measure_module
from felid.report import subject as subject_module
from felid.report import tokenizer_page as page_module
from felid.report.measure import categories_of, measure
from felid.report.subject import Subject, subject_of_file, subject_of_run
from felid.report.tokenizer import page_of, report_tokenizer
from felid.report.tree import ROOT, code_tree
from felid.report.verdicts import level_rows, summary, verdicts
from tests.report.reading import Document


def small(codes: np.ndarray, sizes: tuple[int, ...], **changes: object) -> Subject:
    return Subject("test", codes, sizes, np.arange(len(codes)), [f"title {i}" for i in range(len(codes))], **changes)


def printed(root: Path, width: int = 120) -> str:
    console = Console(file=StringIO(), width=width, markup=False, emoji=False, highlight=False)
    report_tokenizer(root, console)
    return console.file.getvalue()


def test_report_of_a_run_is_complete_and_saved_whole(run: Path) -> None:
    report = report_tokenizer(run, plain_console(quiet=True))
    saved = read_json(run / "tokenizer.json")
    assert json.loads(json.dumps(report.as_dict())) == {name: value for name, value in saved.items() if name != "findings"}
    assert report.source == "rkmeans"
    assert (report.num_items, len(report.levels), len(report.final)) == (180, 3, 4)
    assert report.changed == ()  # a suffix leaves the learnt levels as they are
    assert list(report.reconstruction_error) == sorted(report.reconstruction_error, reverse=True)
    assert report.category == "categories"
    assert report.categories[0].adjusted > 0.5  # the texts of a kind have words in common
    assert report.neighbours.prefixes[0] > 3 * report.neighbours.chance[0]
    assert len(report.stability) == 3
    assert report.after.rate == 0
    assert {one["status"] for one in saved["findings"]} <= {"good", "watch", "poor"}
    assert not list(run.glob(".*part"))


def test_report_without_saved_codes_encodes_again(run: Path, tmp_path: Path) -> None:
    folder = run / read_run(run)["stages"]["tokenize"]
    saved = np.load(folder / "quantizer_codes.npy")
    (folder / "quantizer_codes.npy").rename(tmp_path / "kept.npy")
    try:
        np.testing.assert_array_equal(subject_of_run(run).quantized, saved)
    finally:
        (tmp_path / "kept.npy").rename(folder / "quantizer_codes.npy")


def test_a_folder_without_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no data stage yet; run `felid tokenize"):
        subject_of_run(tmp_path)


def test_titles_cannot_leave_their_place_in_the_page(run: Path) -> None:
    subject = subject_of_run(run)
    report = measure(subject, None, with_stability=False)
    page = Document(page_of(subject, report, verdicts(report)))
    assert len(page.scripts) == 4  # plotly, figures, items, the page's own: no title made a fifth
    assert page.loaded == []
    items = page.read("item-data")
    assert set(items["titles"]) == {title if len(title) <= 100 else title[:99].rstrip() + "…" for title in subject.titles}
    assert any("</script>" in title for title in items["titles"])
    (tree,) = (figure for figure in page.read("figure-data") if figure["key"] == "tree")
    shown = "".join(tree["data"][0]["hovertext"])
    assert not re.search(r"<(?!/?b>|br>)", shown)  # our own bold and line breaks; a title's are text
    assert "&lt;" in shown


def test_the_box_knows_each_item_in_the_order_of_the_ids(run: Path) -> None:
    subject = subject_of_run(run)
    report = measure(subject, None, with_stability=False)
    items = Document(page_of(subject, report, verdicts(report))).read("item-data")
    codes = np.array(items["codes"]).reshape(-1, items["levels"])
    assert [tuple(row) for row in codes.tolist()] == sorted(map(tuple, subject.codes.tolist()))
    rows = {item: row for row, item in enumerate(subject.item_ids.tolist())}
    assert subject.codes[[rows[item] for item in items["ids"]]].tolist() == codes.tolist()


def test_large_catalogues_are_sampled_and_say_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "POOL", 60)
    monkeypatch.setattr(page_module, "MAX_ITEMS", 50)
    subject = subject_of_run(run)
    report = measure(subject, None, with_stability=True)
    assert report.neighbours.num_searched == 60
    assert any("measured on 60 of 180 items" in note for note in report.notes)
    assert len(report.stability) == 3  # the second seed's codes too are those of the 60
    page = page_of(subject, report, verdicts(report))
    items = Document(page).read("item-data")
    assert (len(items["titles"]), items["total"]) == (50, 180)
    assert "knows 50 of 180 items" in page


@pytest.mark.parametrize("limits", [(100, 100, 100), (3, 4, 5), (2, 1)])
def test_the_counts_of_the_tree_add_up(limits: tuple[int, ...]) -> None:
    codes = np.random.default_rng(0).integers(0, (5, 4, 3, 9), (400, 4)).astype(np.int32)
    nodes = code_tree(codes, [f"title {i}" for i in range(400)], [str(i % 3) for i in range(400)], limits)
    counts = {node.name: node.count for node in nodes}
    assert len(counts) == len(nodes)
    assert counts[ROOT] == 400
    children: dict[str, int] = {}
    for node in nodes[1:]:
        children[node.parent] = children.get(node.parent, 0) + node.count
    assert all(counts[parent] == total for parent, total in children.items())
    for node in nodes:
        if node.parent and not node.is_rest:
            prefix = [int(code) for code in node.name.split("-")]
            assert node.count == int((codes[:, : len(prefix)] == prefix).all(1).sum())
    for depth, limit in enumerate(limits):
        assert sum(node.name.count("-") == depth and not node.is_rest and node.parent != "" for node in nodes) <= limit


def test_categories_come_from_the_first_part_that_differs() -> None:
    codes = np.zeros((4, 1), np.int32)
    columns = {
        "categories": ["Beauty > Hair > A", "Beauty > Skin > B", "Beauty > Hair", None],
        "genres": ["Action, Crime", "Drama", "Drama, War", ""],
        "tags": [["x", "y"], ["z"], [], None],
        "year": [1999, 2000, 2000, 1999],
    }
    subject = small(codes, (1,), columns=columns)
    assert categories_of(subject, None) == ("categories", ["Hair", "Skin", "Hair", None], "part 2 of the paths in")
    assert categories_of(subject, "genres")[1] == ["Action", "Drama", "Drama", None]
    assert categories_of(subject, "tags")[1] == ["x", "z", None, None]
    assert categories_of(subject, "year")[1:] == (["1999", "2000", "2000", "1999"], "the")
    with pytest.raises(RequestError, match="'colour' is no column of the catalogue; columns: categories, genres"):
        categories_of(subject, "colour")
    assert categories_of(replace(subject, columns={}), None) == ("", [], "")


def test_collapse_is_called_poor_with_a_remedy() -> None:
    codes = np.zeros((500, 2), np.int32)
    codes[:, 1] = np.arange(500) % 250
    subject = small(codes, (256, 256), quantized=codes)
    found = verdicts(measure(subject, None, with_stability=False))
    assert (found[0].status, found[1].status) == ("poor", "good")
    assert found[0].text.startswith("Level 0 uses 0.4 % of its codes (1 of 256)")
    assert "quantizer.sizes at level 0" in found[0].remedy
    assert summary(found).startswith("2 of 4 findings are poor")
    assert [one.status for one in found[2:]] == ["poor", "watch"]  # everyone shares; nobody resolved it


def test_codes_that_hold_most_items_have_their_own_remedy() -> None:
    codes = np.r_[np.zeros(2000, np.int32), np.arange(100, dtype=np.int32)][:, None]
    levels, whole = code_health(codes, (100,))
    found = verdicts(HealthReport("x", len(codes), levels, levels, whole, whole))
    assert found[0].status == "watch"
    assert found[0].remedy.startswith("Some codes hold most items: try quantizer.balanced=true")


def test_a_collapsed_last_level_stays_visible_behind_nearest_free() -> None:
    quantized = np.stack([np.arange(400) % 8, np.full(400, 3)], axis=1).astype(np.int32)
    costs = np.random.default_rng(0).random((400, 64)).astype(np.float32)
    final = resolve_collisions(quantized, (8, 64), NearestFreeConfig(), lambda rows: costs[rows])
    subject = small(final.codes, final.sizes, quantized=quantized)
    report = measure(subject, None, with_stability=False)
    found = verdicts(report)
    assert [one.status for one in found[:2]] == ["good", "poor"]
    assert "Level 1 uses 1.6 % of its codes (1 of 64)" in found[1].text
    assert (report.levels[1].used, report.final[1].used, report.changed) == (1, 64, (1,))
    assert [name for name, _, _ in level_rows(report)] == ["0", "1", "1 (moved)"]
    page = Document(page_of(subject, report, found))
    (usage,) = (figure for figure in page.read("figure-data") if figure["key"] == "usage")
    assert [line["name"] for line in usage["data"]] == [
        "level 0 (8 of 8 used)",
        "level 1 (1 of 64 used)",
        "level 1, moved (64 of 64 used)",
    ]
    (tree,) = (figure for figure in page.read("figure-data") if figure["key"] == "tree")
    known = {"-".join(map(str, row)) for row in final.codes.tolist()}  # the tree's leaves are IDs that the box finds
    assert {name for name in tree["data"][0]["ids"] if name.count("-") == 1} == known


@pytest.mark.parametrize("transductive", [False, True])
def test_the_second_seed_learns_from_what_the_first_saw(
    run: Path, transductive_run: Path, transductive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = transductive_run if transductive else run
    seen: list[tuple[str, list[int]]] = []

    class Spy(RKMeans):
        def fit(self, x: np.ndarray, context: FitContext = NO_CONTEXT) -> Spy:
            seen.append(("fit", context.items.tolist()))
            np.testing.assert_array_equal(x, subject.vectors[context.items])
            return super().fit(x, context)

        def encode(self, x: np.ndarray, items: np.ndarray | None = None) -> np.ndarray:
            seen.append(("encode", items.tolist()))
            return super().encode(x, items)

    monkeypatch.setattr(measure_module, "POOL", 60)
    monkeypatch.setattr(subject_module, "build_quantizer", Spy)
    subject = subject_of_run(root)
    report = measure(subject, None, with_stability=True)
    data = Dataset.load(root / read_run(root)["stages"]["data"])
    warm = LeaveOneOut(data.sequences()).warm_items(len(data.items))
    assert 0 < (~warm).sum() < 60
    (fit, fitted), (encode, encoded) = seen
    assert (fit, encode, report.transductive) == ("fit", "encode", transductive)
    assert fitted == (list(range(180)) if transductive else np.flatnonzero(warm).tolist())
    assert len(encoded) == 60  # those of the comparison, not the catalogue


def test_transductive_stands_beside_the_numbers(run: Path, transductive_run: Path) -> None:
    for root, expected in ((run, False), (transductive_run, True)):
        text, page = printed(root), (root / "tokenizer.html").read_text()
        assert ("rkmeans, transductive" in text) is expected
        assert ("<h1>rkmeans, transductive: 180 items</h1>" in page) is expected
        assert ("<dd>transductive</dd>" in page) is expected
        assert read_json(root / "tokenizer.json")["transductive"] is expected


def test_the_console_has_every_number_of_the_prefixes_and_every_note(run: Path) -> None:
    text = printed(run)
    report = read_json(run / "tokenizer.json")
    for note in report["notes"]:
        assert note in text
    rows = [line.split() for line in text.replace(" %", "%").splitlines()]
    for length, found in enumerate(report["categories"]):
        near, chance = (report["neighbours"][name][length] for name in ("prefixes", "chance"))
        cells = [f"{length + 1}", f"{100 * near:.1f}%", f"{100 * chance:.2g}%", f"{found['purity']:.2f}"]
        for one in (found, report["stability"][length]):
            cells += [f"{one['normalized']:.2f}", f"{one['adjusted']:z.2f}"]
        assert cells in rows
    for place, level in enumerate(report["levels"]):
        (row,) = (row for row in rows if row[:2] == [f"{place}", f"{level['size']}"])
        assert row[-3:-1] == [f"{level['largest_code']}", f"{100 * level['largest_share']:.1f}%"]


def test_the_tables_fit_a_narrow_terminal(run: Path) -> None:
    lines = printed(run, 80).splitlines()
    assert not any("…" in line for line in lines)
    assert any(line.lstrip().startswith("3 (suffix)") for line in lines)


def test_numbers_too_large_for_a_browser_stay_themselves() -> None:
    ids = np.array([2**53 + 1, 2**53 + 2], np.int64)
    codes = np.array([[0], [1]], np.int32)
    subject = Subject("test", codes, (2,), ids, ["a", "b"])
    report = measure(subject, None, with_stability=False)
    items = Document(page_of(subject, report, verdicts(report))).read("item-data")
    assert items["ids"] == ["9007199254740993", "9007199254740994"]


def test_fewer_items_than_codes_is_no_collapse() -> None:
    codes = np.arange(20, dtype=np.int32)[:, None]
    levels, whole = code_health(codes, (256,))
    found = verdicts(HealthReport("x", 20, levels, levels, whole, whole))
    assert (found[0].status, found[0].remedy) == ("good", "")
    assert "(20 of 20)" in found[0].text
    assert all(isinstance(level, LevelHealth) for level in levels)


def test_imported_ids_with_a_catalogue(run: Path, tmp_path: Path) -> None:
    own = subject_of_run(run)
    tokens = {
        item: [f"<{'abcd'[level]}_{code}>" for level, code in enumerate(codes)]
        for item, codes in zip(own.item_ids.tolist(), own.codes[:, :3].tolist(), strict=True)
    }
    (tmp_path / "other.json").write_text(json.dumps({**tokens, "unknown": ["<a_0>", "<b_0>", "<c_0>"]}))
    report = report_tokenizer(run, plain_console(quiet=True), file=tmp_path / "other.json")
    assert (report.source, report.num_items, report.before, report.reconstruction_error) == ("other.json", 180, None, None)
    assert report.after == measure(own, None, with_stability=False).before
    assert report.neighbours.prefixes[0] > 0.2
    assert (run / "tokenizer-other.html").is_file()
    assert "180 items are in both the file (181) and the catalogue (180)" in report.notes


def test_imported_ids_alone(tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text(json.dumps({"a": [1, 2], "b": [1, 2], "c": [0, 5]}))
    report = report_tokenizer(tmp_path / "nowhere", plain_console(quiet=True), file=tmp_path / "ids.json")
    assert [level.size for level in report.levels] == [2, 6]
    assert (report.after.num_ids, report.after.largest_group) == (2, 2)
    assert (tmp_path / "nowhere" / "tokenizer-ids.html").stat().st_size > 1e6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no mapping of item ids"),
        ({}, "no mapping of item ids"),
        ({"a": [1], "b": [1, 2]}, "IDs of 1 to 2 levels"),
        ({"a": ["<a_1>", "b2"]}, "item 'a' in .* expected codes such as"),
        ({"a": [1, -2]}, "item 'a'"),
        ({"a": [True]}, "item 'a'"),
        ({"a": 7}, "item 'a'"),
        ({"a": []}, "item 'a'"),
        ({"a": ["<b_7>", "<a_42>"]}, "the letters in the order of the levels"),
        ({"a": ["<a_7>", "<a_42>"]}, "the letters in the order of the levels"),
        ({"a": [0], "b": [2**31 - 1]}, "item 'b' .* has code 2147483647; expected codes below 1048576"),
        ({"a": ["<a_2000000000>"]}, "item 'a'"),
        ({"a": ["<a_99999999>"]}, "item 'a' .* expected codes below 1048576"),
    ],
)
def test_unusable_imports_are_refused(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "ids.json").write_text(json.dumps(content))
    with pytest.raises(SemanticIdError, match=message):
        subject_of_file(tmp_path / "ids.json", tmp_path)


def test_imports_of_another_catalogue_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text(json.dumps({"zz": [1]}))
    with pytest.raises(SemanticIdError, match=r"none of the 1 item ids .* is in the catalogue"):
        subject_of_file(tmp_path / "ids.json", run)


def test_command_line(run: Path, tmp_path: Path) -> None:
    def call(*arguments: str | Path) -> object:
        return CliRunner().invoke(app, ["tokenize", str(run), *map(str, arguments)])

    (run / "tokenizer.html").unlink(missing_ok=True)
    result = call("--report", "--no-stability", "--category", "categories")
    assert result.exit_code == 0, result.output
    assert "Level 0 uses" in result.output
    assert (run / "tokenizer.html").is_file()
    assert read_json(run / "tokenizer.json")["stability"] is None
    assert isinstance(call("--category", "title").exception, RequestError)
    (tmp_path / "ids.json").write_text(json.dumps({"i000": [1], "i001": [0]}))
    assert "tokenizer-ids.html" in call("--ids", tmp_path / "ids.json").output.replace("\n", "")
    assert isinstance(call("--ids", tmp_path / "ids.json", "--fresh").exception, RequestError)
