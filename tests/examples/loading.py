"""Examples as modules, for the tests that run them."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from benchmarks.example_programs import load_example, module_name
from glimp_integrations import Trace

Load = Callable[[str], ModuleType]


def loader(framework: str, monkeypatch: pytest.MonkeyPatch) -> Load:
    """From an example's name to its module, which is forgotten after the test."""

    def loaded(name: str) -> ModuleType:
        # Set beforehand, so that pytest removes the entry after the test.
        monkeypatch.setitem(sys.modules, module_name(framework, name), ModuleType(name))
        return load_example(framework, name)

    return loaded


def trace_in(metadata: dict[str, Any]) -> Trace:
    """The story of a reply, from the metadata that carries it."""
    return Trace.model_validate(metadata["glimprouter"])


def authors(trace: Trace) -> set[str]:
    """Who wrote any of it."""
    return {step.author for step in trace.steps if step.tokens}
