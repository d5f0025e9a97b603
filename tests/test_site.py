"""The built documentation in a real browser: every page, on a wide and a narrow screen; pictures, search, console."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import SCREENS, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[1]
ABORTED = "net::ERR_ABORTED"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(words, cwd=ROOT, env=environment, check=True)
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(params=SCREENS)
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[tuple[Page, list[str]]]:
    """A page, and what its console and its requests complained of."""
    width, height = SCREENS[request.param]
    page, complaints = browser.new_page(viewport={"width": width, "height": height}), []
    page.on("console", lambda m: complaints.append(m.text) if m.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    # what the next page cuts short is aborted, and no failure
    page.on("requestfailed", lambda r: complaints.append(f"{r.url}: {r.failure}") if r.failure != ABORTED else None)
    page.on("response", lambda r: complaints.append(f"{r.url}: {r.status}") if r.status >= 400 else None)
    yield page, complaints
    page.close()


def test_every_page_is_whole(site: Path, address: str, page: tuple[Page, list[str]], tmp_path: Path) -> None:
    view, complaints = page
    names = sorted(str(path.parent.relative_to(site)) for path in site.rglob("index.html"))
    assert len(names) > 20
    for name in names:
        view.goto(f"{address}/{name}/")  # waits for the pictures, too
        broken: list[str] = view.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)")
        assert not broken, name
        wider: int = view.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wider <= 0, f"{name} is {wider} pixels wider than the screen"
        assert view.locator("h1").first.is_visible(), name
    assert not complaints


def test_the_gallery_shows_every_recipe(address: str, page: tuple[Page, list[str]]) -> None:
    from tensorfact.recipes import RECIPES

    view, complaints = page
    view.goto(f"{address}/gallery/")
    for name in RECIPES:
        assert view.locator(f"h2#{name}").count() == 1
    pictures: Any = view.evaluate(
        "[...document.images].filter(i => i.src.includes('recipes/')).map(i => i.clientWidth)"
    )
    assert len(pictures) >= len(RECIPES)
    assert all(width > 100 for width in pictures)
    assert not complaints


@pytest.mark.parametrize(("words", "page_found"), [("monarch", "gallery"), ("subtract_start", "options")])
def test_search_finds_what_there_is(address: str, page: tuple[Page, list[str]], words: str, page_found: str) -> None:
    view, complaints = page
    view.goto(f"{address}/")
    view.keyboard.press("/")  # the theme's key
    view.wait_for_function("document.querySelector('.md-search-result__meta').textContent.includes('Type to start')")
    view.locator("input.md-search__input").press_sequentially(words)
    view.wait_for_selector(".md-search-result__link", state="attached")
    links: list[str] = view.evaluate("[...document.querySelectorAll('.md-search-result__link')].map(a => a.href)")
    assert any(page_found in link for link in links), links
    assert not complaints
