"""A griffe extension: every docstring that mkdocstrings collects is rewritten as Markdown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from docstring_markdown import as_markdown

__all__ = ["MarkdownDocstrings"]


class MarkdownDocstrings(griffe.Extension):
    """Rewrites docstrings when their objects are collected."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each object, after its members."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
