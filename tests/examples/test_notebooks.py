"""The notebooks of examples/ run as they stand, on the bundled models, and show what they say.

Their cells run in this process, with a running event loop, as a kernel runs them: a kernel of its
own imports both frameworks and loads both models again, which the longer proofs do.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from llama_index.core import Settings
from nbclient import NotebookClient
from traitlets.config import Config

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 240  # seconds for a cell; all of a notebook takes half a minute on two idle cores

Executed = Callable[[str], list[str]]


def read(framework: str) -> Any:
    return nbformat.read(EXAMPLES / framework / "quickstart.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def executed_by_a_kernel(framework: str) -> list[str]:
    """What the code cells of a notebook printed or showed, cell by cell."""
    notebook = read(framework)
    client = NotebookClient(
        notebook, timeout=LONGEST, resources={"metadata": {"path": str(EXAMPLES.parent)}}
    )
    client.execute()
    return ["".join(map(text_of, cell.outputs)) for cell in code_cells(notebook)]


def text_of(output: Any) -> str:
    """Standard output, or a result as text; warnings on standard error are not shown to readers."""
    if output.get("name") == "stderr":
        return ""
    return str(output.get("text") or output.get("data", {}).get("text/plain", ""))


class WithoutPrompt(DisplayHook):
    """Shows a cell's last value without the number that a terminal puts before it."""

    def write_output_prompt(self) -> None:
        pass


def executed_here(framework: str) -> list[str]:
    """The same in this process, whose models are loaded already."""
    shell = InteractiveShell(
        config=Config({"HistoryManager": {"enabled": False}}), displayhook_class=WithoutPrompt
    )

    async def shown_by(code: str) -> str:
        with capture_output(stderr=False) as captured:
            result = await shell.run_cell_async(code, transformed_cell=code)
        result.raise_error()
        return captured.stdout.removesuffix("\n")

    return [asyncio.run(shown_by(cell.source)) for cell in code_cells(read(framework))]


@pytest.fixture(autouse=True)
def as_from_the_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent)]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.chdir(EXAMPLES.parent)
    monkeypatch.setattr(Settings, "_llm", None)  # what a notebook sets is forgotten after the test


def shows_steps_of_both_models(shown: str) -> bool:
    return {line.split()[0] for line in shown.splitlines()} == {"small", "large"}


@pytest.mark.bundled
@pytest.mark.parametrize(
    "executed",
    [
        executed_here,
        pytest.param(
            executed_by_a_kernel,
            marks=[
                pytest.mark.slow,
                # Kernels' sockets and subprocesses are closed by garbage collection.
                pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
            ],
        ),
    ],
)
class TestQuickstarts:
    def test_langchain(self, executed: Executed) -> None:
        answer, steps, usage, chain, bill = executed("langchain")
        assert "34" in answer  # 7 * 12 - 50
        assert shows_steps_of_both_models(steps)
        assert "total_tokens" in usage
        assert "Paris" in chain
        assert bill == "Bill(total=8.7, change=11.3)"

    def test_llamaindex(self, executed: Executed) -> None:
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
