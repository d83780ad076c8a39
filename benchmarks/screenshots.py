"""Look at traces in a browser: pictures of the page, and what the browser says of it.

    python -m benchmarks.screenshots pictures/                # a made-up trace of 200 steps
    python -m benchmarks.screenshots pictures/ trace.json     # and a saved one

Needs Chromium or Chrome on this machine and ``pip install playwright`` (its own download of a
browser is not used). Every trace is drawn light and dark, 1280 and 390 px wide; a page that scrolls
sideways, asks for anything, or complains is an error. A notebook's fragment is drawn too.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from glimp_integrations import StepRecord, Trace
from glimp_integrations.trace.files import load

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDTHS = (1280, 390)
# A word that no line holds, markup, a right-to-left override, control characters, an emoji of
# several code points, Arabic.
HOSTILE = [
    '<script>document.title = "taken"</script></style></pre>',
    "x" * 300,
    "before \u202eoverridden\u202c after \x1b[2J \x07",
    "👩‍👩‍👧‍👦 é ﷺ مرحبا بالعالم: 12 + 30 = 42",
    "\\[ \\frac{1}{2} \\] & \"quotes\" 'too' <img src=https://example.com/x.png onerror=alert(1)>",
]
_CHATTER = (
    "so the total is then we know that each of them takes half an hour longer than before which "
    "means 12 + 30 = 42 minutes and therefore nothing else is left to check except the last case"
)


@dataclass(slots=True)
class Seen:
    """What the browser reported about one page.

    Attributes:
        requests: Addresses it requested, apart from the page itself.
        complaints: Errors and warnings of its console.
        overflow: How far the page scrolls sideways, in CSS pixels.
        text: All visible text.
        title: The document's title at the end.
        bars: Steps and bars that were drawn.
    """

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    overflow: int = 0
    text: str = ""
    title: str = ""
    bars: tuple[int, int] = (0, 0)


def made_up(steps: int = 200, seed: int = 1, hostile: bool = True) -> Trace:
    """A trace of so many steps, as a pair with think tags might have written it."""
    dice = random.Random(seed)  # noqa: S311 - repeatable, no secret
    vocabulary = _CHATTER.split()
    records: list[StepRecord] = []
    for number in range(steps):
        last = number == steps - 1
        entropy = None if last else dice.expovariate(1.6)
        large = last or (entropy or 0.0) > 1.0
        words = dice.randint(8, 45) if dice.random() < 0.95 else 420
        text = " ".join(dice.choice(vocabulary) for _ in range(words)).capitalize() + "."
        if hostile and number % 9 == 4:
            text = HOSTILE[number // 9 % len(HOSTILE)]
        tokens = max(1, len(text) // 4)
        records.append(
            StepRecord(
                index=number,
                kind="answer" if last else "reasoning",
                text=text + ("" if last else "\n\n"),
                author="large" if large else "small",
                entropy=entropy,
                estimator="topk_renorm@20",
                threshold=1.0,
                tokens=tokens,
                discarded_tokens=int(large and not last),
                requests=int(large),
                prefilled_tokens=None,
                cached_tokens=None,
                first_token_seconds=0.1,
                seconds=tokens * (0.05 if large else 0.012),
                end="eos" if last else "budget" if number % 50 == 49 else "delimiter",
            )
        )
    return Trace(
        small_model="Qwen3-4B",
        large_model="Qwen3-32B",
        strategy="fused",
        strategy_reason="the small model's streams carry log-probabilities",
        steps=records,
        stop_reason="think_end",
        answer_stop="eos",
        requests=sum(record.requests for record in records) + 1,
        seconds=sum(record.seconds for record in records) * 1.05,
        prompt_tokens=120,
        errors=["large model: HTTP 503 [step 17]; the small model went on alone"]
        if hostile
        else [],
        cost=0.001734,
        large_alone_cost=0.002918,
    )


def browser_path() -> str | None:
    """Where a Chromium is on this machine."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def browser(path: str) -> Iterator[Browser]:
    """A headless Chromium that shares nothing with anybody's profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        # Without the sandbox: containers often forbid it, and the pages are ours.
        running = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield running
        finally:
            running.close()


def look(
    running: Browser,
    document: str | Path,
    scheme: Literal["light", "dark"],
    width: int,
    picture: Path | None = None,
    *,
    height: int = 900,
    whole: bool = False,
    scale: float = 1,
) -> Seen:
    """Open a page, take its picture and ask the browser about it.

    Args:
        running: The browser.
        document: HTML, or a file with it.
        scheme: What ``prefers-color-scheme`` says.
        width: Of the window, in CSS pixels.
        picture: Where the PNG goes.
        height: Of the window, in CSS pixels.
        whole: Picture the whole page, not the window only.
        scale: Device pixels a CSS pixel.
    """
    seen = Seen()
    context = running.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        device_scale_factor=scale,
        is_mobile=width < 600,
    )
    try:
        page = context.new_page()
        page.on("console", lambda message: seen.complaints.append(message.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("request", lambda request: _note(seen, request.url))
        if isinstance(document, Path):
            page.goto(document.resolve().as_uri())
        else:
            page.set_content(document)
        _ask(page, seen)
        if picture is not None:
            page.screenshot(path=picture, full_page=whole)
    finally:
        context.close()
    return seen


def _note(seen: Seen, url: str) -> None:
    if not url.startswith(("file:", "data:", "about:")):
        seen.requests.append(url)


def _ask(page: Page, seen: Seen) -> None:
    root: Any = page.evaluate(
        "() => { const e = document.documentElement;"
        " return [Math.max(e.scrollWidth, document.body.scrollWidth) - window.innerWidth,"
        " document.title, document.querySelectorAll('.glimp-step').length,"
        " document.querySelectorAll('.glimp-bar i').length]; }"
    )
    seen.overflow, seen.title, seen.bars = max(0, root[0]), root[1], (root[2], root[3])
    # Text content, not what is painted: folded steps count as well.
    seen.text = page.locator("body").text_content() or ""


def problems(seen: Seen) -> list[str]:
    """What is wrong with a page."""
    problems = [f"requested {url}" for url in seen.requests]
    problems += [f"complained: {text}" for text in seen.complaints]
    if seen.overflow:
        problems.append(f"scrolls {seen.overflow} px sideways")
    return problems


def notebook(*fragments: str) -> str:
    """Fragments among text of somebody else's page, as in a notebook."""
    cells = "".join(
        f"<div class='cell'>{part}</div><p>Text of the notebook.</p>" for part in fragments
    )
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    look = "<style>:root { color-scheme: light dark } body { margin: 8px }</style>"
    return f"<!DOCTYPE html>{head}{look}<body>{cells}</body>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="for the pictures")
    parser.add_argument("traces", nargs="*", type=Path, help="saved traces (JSON)")
    parser.add_argument("--scale", type=float, default=1, help="device pixels a CSS pixel")
    parser.add_argument("--height", type=int, default=900, help="of the window, in CSS pixels")
    parser.add_argument("--title", default="GlimpRouter trace", help="heading of saved traces")
    options = parser.parse_args()
    console = Console(highlight=False)
    path = browser_path()
    if path is None:
        parser.error("no Chromium or Chrome found: install one (apt-get install chromium)")
    traces = {"made-up-200": (made_up(), "200 made-up steps, some of them nasty")}
    for file in options.traces:
        held = load(file)[0][0]
        traces[file.stem] = (Trace.model_validate(held.trace), options.title)
    options.folder.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with browser(path) as running, console.status("looking"):
        for name, (trace, title) in traces.items():
            document = options.folder / f"{name}.html"
            document.write_text(trace.to_html(title), encoding="utf-8")
            cells = notebook(trace._repr_html_(), trace._repr_html_())
            for scheme in SCHEMES:
                for width in WIDTHS:
                    for kind, shown in (("page", document), ("notebook", cells)):
                        picture = options.folder / f"{name}-{kind}-{scheme}-{width}.png"
                        seen = look(
                            running,
                            shown,
                            scheme,
                            width,
                            picture,
                            height=options.height,
                            scale=options.scale,
                        )
                        console.print(f"{picture}: {', '.join(problems(seen)) or 'right'}")
                        wrong += bool(problems(seen))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
