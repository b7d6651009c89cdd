"""The page in a real browser: it draws, zooms, finds, fits a phone, and asks the network for nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from felid.report.measure import measure
from felid.report.subject import subject_of_run
from felid.report.tokenizer import page_of
from felid.report.verdicts import verdicts

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
KEYS = ("tree", "usage", "neighbours", "categories", "stability", "losses", "utilisation")
TEN_EPOCHS = tuple(
    {"epoch": epoch, "loss": 1 / epoch, "reconstruction": 0.5 / epoch, "utilisation": [1.0, 0.9, 0.5]} for epoch in range(1, 11)
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        remedy = "no Chromium is installed; on Debian run `apt-get install chromium`"
        if os.environ.get("FELID_REQUIRE_BROWSER") == "1":
            pytest.fail(remedy)
        pytest.skip(remedy)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    subject = replace(subject_of_run(run), log=TEN_EPOCHS)
    report = measure(subject, None, with_stability=True)
    path = tmp_path_factory.mktemp("page") / "tokenizer.html"
    path.write_text(page_of(subject, report, verdicts(report)), encoding="utf-8")
    return path


@contextmanager
def opened(browser: Browser, file: Path, width: int = 1200, scheme: str = "light") -> Iterator[Page]:
    """The page once its figures are drawn; afterwards nothing must have gone wrong or have been asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready=true]", timeout=60_000)
    yield page
    assert faults == []
    assert [url for url in asked if url != file.as_uri() and not url.startswith("data:")] == []
    assert page.evaluate("window.broken") is None  # no title was run
    page.close()


def test_every_figure_is_drawn(browser: Browser, file: Path, tmp_path: Path) -> None:
    with opened(browser, file) as page:
        for key in KEYS:
            marks = page.locator(f"#plot-{key} svg.main-svg").first
            assert marks.bounding_box()["height"] > 100, key
            assert page.locator(f"#plot-{key} svg path[d]").count() > 0, key
        assert page.locator("#plot-tree g.slice").count() >= 8
        assert page.locator("#findings li").count() >= 8
        assert page.locator("#levels-table tbody tr").count() == 4
        page.screenshot(path=tmp_path / "light.png", full_page=True)
    assert (tmp_path / "light.png").stat().st_size > 20_000


def test_a_click_zooms_and_fills_the_box(browser: Browser, file: Path) -> None:
    with opened(browser, file) as page:
        labels = page.locator("#plot-tree g.slice text")
        before = labels.all_inner_texts()
        page.locator("#plot-tree g.slice").nth(1).click()
        page.wait_for_function("document.getElementById('prefix').value !== ''")
        prefix = page.input_value("#prefix")
        page.wait_for_function(
            f"[...document.querySelectorAll('#plot-tree g.slice text')].some(t => t.textContent.includes('{prefix}-'))"
        )
        assert labels.all_inner_texts() != before
        codes = page.locator("#items tbody td:first-child").all_inner_texts()
        assert codes
        assert all(code.startswith(f"{prefix}-") for code in codes)


def test_the_box_lists_the_items_of_a_prefix(browser: Browser, file: Path, run: Path) -> None:
    subject = subject_of_run(run)
    first = subject.codes[0].tolist()
    with opened(browser, file) as page:
        assert page.inner_text("#found") == "180 items in all."
        for length in (1, 2, len(first)):
            for mark in ("-", ", ", " "):
                page.fill("#prefix", mark.join(map(str, first[:length])))
                rows = (subject.codes[:, :length] == first[:length]).all(1)
                assert set(page.locator("#items tbody td:nth-child(2)").all_inner_texts()) == set(subject.item_ids[rows].tolist())
                assert page.inner_text("#found").startswith(f"{rows.sum()} item")
        assert page.locator("#items tbody td:nth-child(3)").all_text_contents() == [subject.titles[0]]  # as text, not as a tag
        page.click("#up")
        assert page.input_value("#prefix") == "-".join(map(str, first[:-1]))
        page.fill("#prefix", "0-0-0-0-0")
        assert page.inner_text("#found") == "5 codes given, an ID has 4."
        page.fill("#prefix", "99")
        assert page.inner_text("#found") == "0 items with prefix 99."
        page.click("#clear")
        page.locator("#next button").first.click()
        assert page.locator("#items tbody tr").count() > 0
        assert page.input_value("#prefix").isdigit()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, file: Path, scheme: str, tmp_path: Path) -> None:
    with opened(browser, file, 360, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator("#plot-tree svg.main-svg").first.bounding_box()["width"] <= 360
        page.screenshot(path=tmp_path / f"phone-{scheme}.png", full_page=True)


def test_dark_mode_turns_figures_dark_and_back(browser: Browser, file: Path, tmp_path: Path) -> None:
    ink = "getComputedStyle(document.querySelector('#plot-usage .xtitle')).fill"
    with opened(browser, file, scheme="dark") as page:
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 24)"
        assert page.evaluate(ink) == "rgb(232, 235, 239)"
        page.screenshot(path=tmp_path / "dark.png", full_page=True)
        page.emulate_media(color_scheme="light")
        page.wait_for_function(f"{ink} === 'rgb(27, 31, 36)'")
