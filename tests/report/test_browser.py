"""The page in a real browser: it draws, zooms, finds, fits a phone, and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from felid.report.measure import measure
from felid.report.subject import subject_of_run
from felid.report.tokenizer import page_of
from felid.report.verdicts import verdicts
from tests.report.browsing import opened

KEYS = ("tree", "usage", "neighbours", "categories", "stability", "losses", "utilisation")
TEN_EPOCHS = tuple(
    {"epoch": epoch, "loss": 1 / epoch, "reconstruction": 0.5 / epoch, "utilisation": [1.0, 0.9, 0.5]} for epoch in range(1, 11)
)


@pytest.fixture(scope="module")
def file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    subject = replace(subject_of_run(run), log=TEN_EPOCHS)
    report = measure(subject, None, with_stability=True)
    path = tmp_path_factory.mktemp("page") / "tokenizer.html"
    path.write_text(page_of(subject, report, verdicts(report)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def desktop(browser: Browser, file: Path) -> Iterator[Page]:
    with opened(browser, file) as page:
        yield page


@pytest.fixture(scope="module")
def phone(browser: Browser, file: Path) -> Iterator[Page]:
    with opened(browser, file, 360, "dark") as page:
        yield page


def test_every_figure_is_drawn(desktop: Page, tmp_path: Path) -> None:
    for key in KEYS:
        assert desktop.locator(f"#plot-{key} svg.main-svg").first.bounding_box()["height"] > 100, key
        assert desktop.locator(f"#plot-{key} svg path[d]").count() > 0, key
    assert desktop.locator("#plot-tree g.slice").count() >= 8
    assert desktop.locator("#findings li").count() >= 8
    assert desktop.locator("#levels-table tbody tr").count() == 4
    desktop.screenshot(path=tmp_path / "light.png", full_page=True)
    assert (tmp_path / "light.png").stat().st_size > 20_000


def test_a_click_zooms_and_fills_the_box(desktop: Page) -> None:
    slices = desktop.locator("#plot-tree g.slice")
    slices.nth(1).click()
    expect(desktop.locator("#prefix")).not_to_have_value("")
    prefix = desktop.input_value("#prefix")
    expect(slices.filter(has_text=f"{prefix}-").first).to_be_visible()
    codes = desktop.locator("#items tbody td:first-child").all_inner_texts()
    assert codes
    assert all(code.startswith(f"{prefix}-") for code in codes)
    _wait_until_still(desktop)
    desktop.locator("#plot-tree g.pathbar").first.click()  # and out again
    expect(desktop.locator("#prefix")).to_have_value("")
    expect(slices.filter(has_text=f"{prefix}-")).to_have_count(0)


def _wait_until_still(page: Page) -> None:
    """Until no slice of the tree moves any more: plotly takes no zoom while it draws another."""
    places: list[object] = []
    while len(places) < 2 or places[-1] != places[-2]:
        page.wait_for_timeout(400)
        places.append(
            page.locator("#plot-tree g.slice").evaluate_all("slices => slices.map(s => s.getBoundingClientRect().toJSON())")
        )


def test_the_box_lists_the_items_of_a_prefix(desktop: Page, run: Path) -> None:
    subject = subject_of_run(run)
    first = subject.codes[0].tolist()
    desktop.click("#clear")
    assert desktop.inner_text("#found") == "180 items in all."
    for length in (1, 2, len(first)):
        for mark in ("-", ", ", " "):
            desktop.fill("#prefix", mark.join(map(str, first[:length])))
            rows = (subject.codes[:, :length] == first[:length]).all(1)
            assert set(desktop.locator("#items tbody td:nth-child(2)").all_inner_texts()) == set(subject.item_ids[rows].tolist())
            assert desktop.inner_text("#found").startswith(f"{rows.sum()} item")
    assert desktop.locator("#items tbody td:nth-child(3)").all_text_contents() == [subject.titles[0]]  # as text, not as a tag
    desktop.click("#up")
    assert desktop.input_value("#prefix") == "-".join(map(str, first[:-1]))
    for text, answer in (("0-0-0-0-0", "5 codes given, an ID has 4."), ("99", "0 items with prefix 99.")):
        desktop.fill("#prefix", text)
        assert desktop.inner_text("#found") == answer
    desktop.click("#clear")
    desktop.locator("#next button").first.click()
    assert desktop.input_value("#prefix").isdigit()
    assert desktop.locator("#items tbody tr").count() > 0


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_phone_shows_it_without_scrolling_sideways(phone: Page, scheme: str, tmp_path: Path) -> None:
    phone.emulate_media(color_scheme=scheme)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    for key in KEYS:
        assert phone.locator(f"#plot-{key} svg.main-svg").first.bounding_box()["width"] <= 360
    phone.screenshot(path=tmp_path / f"phone-{scheme}.png", full_page=True)


def test_figures_follow_the_system_from_dark_to_light(phone: Page) -> None:
    title = phone.locator("#plot-usage .xtitle")
    for scheme, ground, ink in (("dark", "17, 20, 24", "232, 235, 239"), ("light", "246, 247, 249", "27, 31, 36")):
        phone.emulate_media(color_scheme=scheme)
        expect(phone.locator("body")).to_have_css("background-color", f"rgb({ground})")
        expect(title).to_have_css("fill", f"rgb({ink})")
