"""Debian's Chromium, driven by Playwright: what the tests of the report and of the notebooks share."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
PATIENCE = 300  # seconds for one thing on a page: only so that a test cannot hang
# Chromium looks for its maker's hosts at every start; on a machine without a network that only costs time.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt install chromium)"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; one at a time in a process, closed before other tests use an event loop of their own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=1000 * PATIENCE)
        yield browser
        browser.close()


@contextmanager
def new_page(browser: Browser, *, offline: bool, dark: bool = False) -> Iterator[tuple[Page, list[str]]]:
    """Yield an empty page, and the list that its console errors and uncaught exceptions go to."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(offline=offline, color_scheme=scheme, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page, errors
    context.close()


def becomes(page: Page, ask: Callable[[], Any], answer: Any) -> None:
    """Ask the page until it gives this answer: a page draws when it comes to it."""
    until = time.monotonic() + PATIENCE
    while (found := ask()) != answer and time.monotonic() < until:
        page.wait_for_timeout(50)
    assert found == answer
