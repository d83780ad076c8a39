"""Hostile items of a Python function, options and names of tasks: the package's own errors."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from glimp_integrations import ConfigError
from glimp_integrations.bench import load_task
from glimp_integrations.bench.options import read_options


@pytest.mark.parametrize("field", ["id", "question", "answer"])
def test_half_a_surrogate_pair_is_named(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    module = ModuleType("made_up_items")
    row = {"id": "q1", "question": "What is 1 + 1?", "answer": "2"} | {field: "a \ud83d"}
    module.items = lambda: [row]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up_items", module)
    with pytest.raises(
        ConfigError, match=rf"the {field} of item .* half a surrogate pair"
    ) as error:
        load_task("made_up_items:items")
    assert str(error.value).encode()


def test_options_of_a_hundred_thousand_brackets() -> None:
    assert read_options("task 't'", "a=" + "[" * 100_000)["a"].startswith("[[")


def test_a_module_that_begins_with_a_dot() -> None:
    with pytest.raises(ConfigError, match="begins with a dot"):
        load_task(".module:function")
