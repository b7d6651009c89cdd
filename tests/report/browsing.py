"""A page in a real browser that asks the network for nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
expect.set_options(timeout=60_000)  # drawing takes its time on a busy machine
PATIENCE = 270_000
"""Most milliseconds until a page is drawn."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The installed Chromium; without one the test is skipped, or fails where FELID_REQUIRE_BROWSER=1."""
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


@contextmanager
def opened(browser: Browser, file: Path, width: int = 1200, scheme: str = "light") -> Iterator[Page]:
    """The page once its figures are drawn; afterwards nothing must have gone wrong or have been asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    faults: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri(), wait_until="commit")
    page.wait_for_selector("html[data-ready=true]")
    yield page
    assert faults == []
    assert [url for url in asked if url != file.as_uri() and not url.startswith("data:")] == []
    assert page.evaluate("window.broken") is None  # no title was run
    page.close()
