"""Open a page as a person does, in a real browser without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

PHONE: Final = 420  # pixels


@contextmanager
def browsing() -> Iterator[Any]:
    """Yield playwright's browser; skip the test where none is installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium to open the page with")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def width_on_a_phone(path: Path) -> int:
    """Return how wide a page is on a narrow screen, in pixels: more than PHONE where something sticks out."""
    with browsing() as browser:
        opened = browser.new_page(viewport={"width": PHONE, "height": 900})
        opened.goto(path.as_uri())
        opened.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        return int(opened.evaluate("document.documentElement.scrollWidth"))
