"""Hooks of the documentation's build (mkdocs.yml): notebooks become pages, gaps become warnings.

``mkdocs build --strict`` turns every warning into a failure, so what is reported here stops
``make docs`` as a broken link does.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import public_names
import reference_tables

ROOT = Path(__file__).parents[1]
# The page in the site, and the notebook it shows.
NOTEBOOKS = {
    "getting-started/langchain-notebook.md": "examples/langchain/quickstart.ipynb",
    "getting-started/llamaindex-notebook.md": "examples/llamaindex/quickstart.ipynb",
}
_log = logging.getLogger("mkdocs.hooks.docs")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Look for public names without a docstring or a page, and for tables that are out of date."""
    shown = public_names.on_reference_pages()
    for name in public_names.undocumented():
        _log.warning("%s has no docstring", name)
    for name in public_names.public_names():
        if name not in shown:
            _log.warning("%s is on no page of docs/reference", name)
    for path in sorted(reference_tables.PAGES.rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        if reference_tables.filled(page) != page:
            _log.warning("%s differs from the code: run tools/reference_tables.py", path.name)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and the notebook itself to download."""
    for page, source in NOTEBOOKS.items():
        notebook = (ROOT / source).read_text(encoding="utf-8")
        download = str(Path(page).with_suffix(".ipynb"))
        files.append(File.generated(config, download, content=notebook))
        files.append(
            File.generated(config, page, content=as_markdown(json.loads(notebook), download))
        )
    return files


def as_markdown(notebook: dict[str, Any], download: str) -> str:
    """A notebook's cells as a page; outputs follow their cells as plain text."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        text = "".join(map(_text_of, cell["outputs"])).rstrip()
        if text:
            parts.append(f"``` {{ .text .output }}\n{text}\n```")
    link = f"[Download this page as a notebook]({Path(download).name})"
    return "\n\n".join([parts[0], link, *parts[1:]]) + "\n"


def _text_of(output: dict[str, Any]) -> str:
    """What an output shows as plain text."""
    text = output.get("text") or output.get("data", {}).get("text/plain") or ""
    return "".join(text)
