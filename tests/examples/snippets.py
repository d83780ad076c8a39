"""Python blocks of README and docs, as they stand there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^[ ]*```python\n(.*?)^[ ]*```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """A block of a page.

    Attributes:
        name: Page and number, from 1: ``README.md 3``.
    """

    name: str
    code: str


def snippets() -> dict[str, Snippet]:
    """All blocks, by name."""
    found: dict[str, Snippet] = {}
    for page in PAGES:
        blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
        for number, code in enumerate(blocks, 1):
            name = f"{page.name} {number}"
            margin = len(code) - len(code.lstrip(" "))
            lines = (line[margin:] for line in code.splitlines(keepends=True))
            found[name] = Snippet(name, "".join(lines))
    return found
