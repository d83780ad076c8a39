"""Python blocks of README and docs, as they stand there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_BLOCK = re.compile(r"^[ ]*```python\n(.*?)^[ ]*```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """A block of a page.

    Attributes:
        name: Page below docs and number, from 1: ``how-to/tools.md 2``, or ``README.md 1``.
    """

    name: str
    code: str


def snippets() -> dict[str, Snippet]:
    """All blocks, by name."""
    by_name: dict[str, Snippet] = {}
    for page in PAGES:
        title = page.relative_to(DOCS) if page.is_relative_to(DOCS) else page.name
        blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
        for number, code in enumerate(blocks, 1):
            name = f"{title} {number}"
            margin = len(code) - len(code.lstrip(" "))
            lines = (line[margin:] for line in code.splitlines(keepends=True))
            by_name[name] = Snippet(name, "".join(lines))
    return by_name
