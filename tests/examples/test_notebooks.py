"""The notebooks of examples/ run as they stand, on the bundled models, and show what they say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 240  # seconds for a cell; all of a notebook takes half a minute on two idle cores


def executed(framework: str) -> list[str]:
    """What the code cells of a notebook printed or showed, cell by cell."""
    notebook = nbformat.read(EXAMPLES / framework / "quickstart.ipynb", as_version=4)
    client = NotebookClient(
        notebook, timeout=LONGEST, resources={"metadata": {"path": str(EXAMPLES.parent)}}
    )
    client.execute()
    return [
        "".join(map(text_of, cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"
    ]


def text_of(output: Any) -> str:
    """Standard output, or a result as text; warnings on standard error are not shown to readers."""
    if output.get("name") == "stderr":
        return ""
    return str(output.get("text") or output.get("data", {}).get("text/plain", ""))


@pytest.fixture(autouse=True)
def packages_of_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent)]))


def shows_steps_of_both_models(shown: str) -> bool:
    return {line.split()[0] for line in shown.splitlines()} == {"small", "large"}


# Kernels' sockets and subprocesses are closed by garbage collection.
@pytest.mark.bundled
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
class TestQuickstarts:
    def test_langchain(self) -> None:
        answer, steps, usage, chain, bill = executed("langchain")
        assert "34" in answer  # 7 * 12 - 50
        assert shows_steps_of_both_models(steps)
        assert "total_tokens" in usage
        assert "Paris" in chain
        assert bill == "Bill(total=8.7, change=11.3)"

    def test_llamaindex(self) -> None:
        answer, blocks, steps, usage, completion, bill = executed("llamaindex")
        assert "34" in answer
        assert "ThinkingBlock" in blocks and "TextBlock" in blocks
        assert shows_steps_of_both_models(steps)
        assert "total_tokens" in usage
        assert "Paris" in completion
        assert bill == "Bill(total=8.7, change=11.3)"


@pytest.mark.parametrize("framework", ["langchain", "llamaindex"])
def test_committed_outputs_are_few(framework: str) -> None:
    path = EXAMPLES / framework / "quickstart.ipynb"
    assert path.stat().st_size < 15_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(cell.outputs for cell in notebook.cells if cell.cell_type == "code")
