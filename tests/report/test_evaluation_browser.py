"""The report on runs in a real browser: every figure is drawn, on a desk and on a phone, in light, in dark and on paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from felid.evaluation.evaluated import EvaluatedRun
from felid.progress import plain_console
from felid.report.runs.make import page_of
from tests.report.browsing import opened
from tests.report.reading import Document

PHONE = 390
EVIL = "<img src=x onerror='window.broken = 1'>, </script><script>window.broken = 1</script>"
CROWDED = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => {
  const boxes = (which) => [...plot.querySelectorAll(which)].map((text) => text.getBoundingClientRect());
  const meet = (a, b) =>
    a.width && b.width && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const x = boxes(".xtick text");
  const title = boxes(".g-ytitle text").some((a) => boxes(".ytick text").some((b) => meet(a, b)));
  return title || x.some((a, place) => x.slice(place + 1).some((b) => meet(a, b))) ? [plot.firstElementChild.id] : [];
})"""
"""Figures in which a label lies upon another one, or the title of an axis upon its labels."""


@pytest.fixture(scope="module")
def file(evaluated_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a system and a check whose names try to break out."""
    run = EvaluatedRun.open(evaluated_run)
    baselines = {**run.metrics["baselines"], EVIL: run.metrics["baselines"]["markov"]}
    checks = [{"name": EVIL, "status": "failed", "finding": EVIL, "remedy": EVIL}]
    path = tmp_path_factory.mktemp("page") / "report.html"
    page = page_of([replace(run, metrics={**run.metrics, "baselines": baselines, "checks": checks})], plain_console(quiet=True))
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def keys(file: Path) -> list[str]:
    return list(Document(file.read_text(encoding="utf-8")).figures())


@pytest.fixture(scope="module")
def page(browser: Browser, file: Path) -> Iterator[Page]:
    with opened(browser, file) as page:
        yield page


def check_drawn(page: Page, keys: list[str], width: int, *, page_too: bool = True) -> None:
    """Every figure has something drawn in it and is no wider than the page."""
    found = page.evaluate(
        """keys => keys.map((key) => {
          const svg = document.querySelector(`#plot-${key} svg.main-svg`);
          const box = svg.getBoundingClientRect();
          const place = svg.closest(".plot").getBoundingClientRect();
          return [key, svg.querySelectorAll("path[d]").length, box.width, Math.min(box.height, place.height)];
        })""",
        keys,
    )
    assert [key for key, paths, wide, high in found if not paths or high < 100 or not 0 < wide <= width] == []
    assert not page_too or page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CROWDED) == []


def test_every_figure_is_drawn(page: Page, keys: list[str]) -> None:
    assert {"recall-at-k", "ndcg-at-k", "loss", "validation", "tree-0", "user-lengths-0", "slice-popularity"} <= set(keys)
    check_drawn(page, keys, 1200)
    assert page.locator("#plot-slice-popularity g.errorbar").count() > 0
    assert page.locator("h1, h2, h3").count() > 20
    assert page.locator("th[scope=col]").count() > 20


def test_a_phone_in_the_dark_shows_it_without_scrolling_sideways(page: Page, keys: list[str], tmp_path: Path) -> None:
    page.set_viewport_size({"width": PHONE, "height": 844})
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body")).to_have_css("background-color", "rgb(17, 20, 24)")
    expect(page.locator("#plot-recall-at-k .xtitle")).to_have_css("fill", "rgb(232, 235, 239)")
    expect(page.locator(f"#plot-{keys[-1]} svg.main-svg").first).to_have_css("width", re.compile(r"3\d\dpx"))  # drawn last
    check_drawn(page, keys, PHONE)
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    page.set_viewport_size({"width": 1200, "height": 900})


def test_paper_is_white_and_has_what_was_folded(page: Page, keys: list[str]) -> None:
    page.emulate_media(color_scheme="dark", media="print")
    folded = page.locator("details:not([open])")
    assert folded.count() > 3
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert folded.count() == 0
    expect(page.locator("body")).to_have_css("background-color", "rgb(255, 255, 255)")
    expect(page.locator("#plot-recall-at-k .xtitle")).to_have_css("fill", "rgb(0, 0, 0)")
    check_drawn(page, keys, 700, page_too=False)
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert folded.count() > 3
    page.emulate_media(color_scheme="light", media="screen")


def test_the_contents_lead_to_every_part(page: Page) -> None:
    targets = page.locator("nav a").evaluate_all("links => links.map((link) => link.getAttribute('href'))")
    assert len(targets) > 8
    for target in targets:
        assert page.locator(target).count() == 1, target
    page.locator("nav a").last.click()
    expect(page.locator(targets[-1])).to_be_in_viewport()
