"""Examples as modules, for the tests that run them."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from glimp_integrations import Trace

FOLDER = Path(__file__).parents[2] / "examples"
Load = Callable[[str], ModuleType]


def loader(framework: str, monkeypatch: pytest.MonkeyPatch) -> Load:
    """From an example's name to its module, which is forgotten after the test."""

    def loaded(name: str) -> ModuleType:
        path = FOLDER / framework / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"{framework}_example_{name}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Annotations are looked up by module name (tools, TypedDict, pydantic).
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return loaded


def trace_in(metadata: dict[str, Any]) -> Trace:
    """The story of a reply, from the metadata that carries it."""
    return Trace.model_validate(metadata["glimprouter"])


def authors(trace: Trace) -> set[str]:
    """Who wrote any of it."""
    return {step.author for step in trace.steps if step.tokens}
