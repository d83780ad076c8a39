"""The start page of ``glimp serve`` in a real browser. Needs Chromium and playwright."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scripts import pair
from serve.conftest import Serve, Served, servers
from serve.held import Held, held_pair, until

from benchmarks.screenshots import SCHEMES, WIDTHS, browser, browser_path

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Slow for the browser. What the page shows is tested without one in tests/serve.
pytestmark = pytest.mark.slow
HOSTILE = '<img src=x onerror="document.title=1">'
KEY = "a-key-of-this-server"


@pytest.fixture
def serve() -> Iterator[Serve]:
    with servers() as start:
        yield start


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    pytest.importorskip("playwright", reason="pip install playwright")
    path = browser_path()
    if path is None:
        pytest.skip("no Chromium or Chrome on this machine: apt-get install chromium")
    with browser(path) as running:
        yield running


class Seen:
    """A page, with what it asked for and complained of."""

    def __init__(self, chromium: Browser, served: Served, **options: Any) -> None:
        self.page: Page = chromium.new_context(**options).new_page()
        self.complaints: list[str] = []
        self.others: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url, served.root))
        self.page.goto(served.root + "/")

    def _note(self, url: str, root: str) -> None:
        if not url.startswith((root, "data:")):
            self.others.append(url)

    def ask(self) -> None:
        self.page.click("#ask")
        until(lambda: self.text("#totals"))

    def text(self, selector: str) -> str:
        return self.page.text_content(selector) or ""


@pytest.mark.parametrize(("scheme", "width"), list(product(SCHEMES, WIDTHS)))
def test_steps_have_the_colour_of_their_author(
    chromium: Browser, serve: Serve, tmp_path: Path, scheme: Any, width: int
) -> None:
    served = serve(pair("It", " is ", HOSTILE, "."))
    size = {"width": width, "height": 900}
    seen = Seen(chromium, served, viewport=size, color_scheme=scheme)
    page = seen.page
    until(lambda: "tiny" in seen.text("#served"))
    seen.ask()
    steps = page.eval_on_selector_all(
        ".step",
        "all => all.map(e => [e.dataset.author, e.textContent, getComputedStyle(e).borderColor])",
    )
    assert [author for author, _, _ in steps] == ["small", "large", "large"]
    assert "First." in steps[0][1] and "H = 0.10" in steps[0][1]
    assert steps[2][1] == f"It is {HOSTILE}."
    assert steps[0][2] != steps[1][2]
    assert "3 steps" in seen.text("#totals")
    until(lambda: seen.text("#replies") == "1")
    assert seen.text("#share") == "80.0 %"
    page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert (seen.complaints, seen.others, page.title()) == ([], [], "glimp serve")
    assert wide <= 0


def test_a_server_with_keys_asks_for_one(chromium: Browser, serve: Serve) -> None:
    served = serve(api_keys=[{"name": "anna", "key": KEY}])
    seen = Seen(chromium, served)
    seen.page.wait_for_selector("#key", state="visible")
    seen.page.fill("#key", KEY)
    seen.ask()
    assert seen.text("#answer") == "It is four."
    assert KEY not in seen.page.content()


def test_stop_stops_the_models(chromium: Browser, serve: Serve) -> None:
    models = held_pair()
    large: Held = models["large"]
    served = serve(models)
    seen = Seen(chromium, served)
    seen.page.click("#ask")
    until(lambda: large.waiting)
    seen.page.click("#stop")
    until(lambda: large.cancelled)
    large.free.set()
    seen.page.wait_for_selector("#ask:not([disabled])")
    seen.ask()
    assert seen.text("#error") == ""


def test_refusals_are_shown(chromium: Browser, serve: Serve) -> None:
    seen = Seen(chromium, serve(allow={"deadline": True}))
    seen.page.fill("#threshold", "2")
    seen.page.click("#ask")
    until(lambda: "glimp.threshold" in seen.text("#error"))
