"""A real browser for tests marked `browser`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SCREENS = {"wide": (1440, 900), "narrow": (390, 844)}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Open the installed browser."""
    from playwright.sync_api import sync_playwright  # an extra of its own

    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert found, f"none of {BROWSERS} is installed; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
