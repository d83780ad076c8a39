"""Traces in a real browser: phone and desk, light and dark. Needs Chromium and playwright."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.screenshots import (
    HOSTILE,
    SCHEMES,
    WIDTHS,
    browser,
    browser_path,
    look,
    made_up,
    notebook,
    problems,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow
VIEWS = list(product(SCHEMES, WIDTHS))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    pytest.importorskip("playwright", reason="pip install playwright")
    path = browser_path()
    if path is None:
        pytest.skip("no Chromium or Chrome on this machine: apt-get install chromium")
    with browser(path) as running:
        yield running


@pytest.mark.parametrize(("scheme", "width"), VIEWS)
def test_a_page_of_200_steps(chromium: Browser, tmp_path: Path, scheme, width) -> None:
    page = tmp_path / "page.html"
    page.write_text(made_up(200).to_html('<script>document.title="taken"</script>'), "utf-8")
    picture = tmp_path / "page.png"
    seen = look(chromium, page, scheme, width, picture)
    assert problems(seen) == []
    assert seen.bars == (200, 199)
    assert seen.title == '<script>document.title="taken"</script>'  # as text, and not run
    for text in (HOSTILE[0], HOSTILE[1], HOSTILE[3], HOSTILE[4]):
        assert text in seen.text
    assert "before \u202eoverridden\u202c after ␛[2J ␇" in seen.text
    assert picture.stat().st_size > 20_000


@pytest.mark.parametrize(("scheme", "width"), VIEWS)
def test_two_traces_in_somebody_elses_page(chromium: Browser, scheme, width) -> None:
    one, other = made_up(200)._repr_html_(), made_up(3, seed=2)._repr_html_()
    seen = look(chromium, notebook(one, other), scheme, width)
    assert problems(seen) == []
    assert seen.bars == (203, 201)
    assert seen.text.count("Text of the notebook.") == 2


@pytest.mark.parametrize(
    ("html", "told"),
    [
        ("<div style='width:2000px'>wide</div>", "sideways"),
        ("<img src='http://127.0.0.1:9/x.png'>", "requested http://127.0.0.1:9/x.png"),
        ("<script>throw new Error('broken')</script>", "complained: broken"),
    ],
)
def test_the_browser_notices_what_is_wrong(chromium: Browser, html: str, told: str) -> None:
    assert any(told in problem for problem in problems(look(chromium, html, "light", 390)))
