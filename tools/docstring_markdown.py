"""Docstrings as the documentation's site needs them: reStructuredText's marks become Markdown.

The frameworks' classes carry ``.. code-block::`` and ``:class:`` roles, as LangChain and Python's
own tools read them. mkdocstrings reads Markdown.
"""

from __future__ import annotations

import re
from textwrap import dedent, indent

__all__ = ["as_markdown"]

_ROLE = re.compile(r":(?:class|meth|func|mod|attr|exc|data):`~?([^`]+)`")
_BLOCK = re.compile(
    r"^(?P<margin>[ ]*)\.\. code-block:: (?P<language>\w+)\n\n"
    r"(?P<code>(?:(?P=margin)[ ]+.*\n|[ ]*\n)+)",
    re.MULTILINE,
)
_DOCTEST = re.compile(r"(?:^[ ]*>>> .*\n?)+", re.MULTILINE)


def as_markdown(text: str) -> str:
    """A docstring with Markdown's marks in place of reStructuredText's."""
    text = _ROLE.sub(r"``\1``", text)
    text = _BLOCK.sub(_fenced_block, text + "\n")
    return _DOCTEST.sub(_fenced_doctest, text).rstrip("\n")


def _fenced_block(match: re.Match[str]) -> str:
    code = dedent(match["code"]).rstrip()
    return indent(f"```{match['language']}\n{code}\n```\n\n", match["margin"])


def _fenced_doctest(match: re.Match[str]) -> str:
    margin = match[0][: len(match[0]) - len(match[0].lstrip(" "))]
    lines = [line.strip().removeprefix(">>> ") for line in match[0].splitlines()]
    code = "\n".join(re.sub(r"\s+# doctest:.*", "", line) for line in lines)
    return indent(f"```python\n{code}\n```\n", margin)
