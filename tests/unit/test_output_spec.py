"""What a caller asks of a reply: choices are understood, mistakes named."""

from __future__ import annotations

from typing import Any

import pytest
from schema_helpers import tool

from glimp_integrations.errors import ConfigError
from glimp_integrations.output.spec import OutputSpec

# -- mistakes of a caller --------------------------------------------------------------------


def test_tools_of_one_name_are_refused_and_named() -> None:
    with pytest.raises(ConfigError, match="several tools are called 'a', 'b'"):
        OutputSpec(tools=[tool("b"), tool("a"), tool("c"), tool("a"), tool("b")])


@pytest.mark.parametrize("name", ["", "two words", "käse", "x" * 65, "a/b", None, 7])
def test_a_name_that_no_api_takes_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"tool 1 has the name .*letters, digits") as caught:
        OutputSpec(tools=[tool(), tool(name)])
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("entry", [{"name": "flat"}, {"type": "function"}, "get_weather", {}])
def test_a_tool_of_another_shape_is_refused_with_the_right_one(entry: Any) -> None:
    with pytest.raises(ConfigError, match=r"tool 0 .*'function': \{'name': \.\.\.\}"):
        OutputSpec(tools=[entry])


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "x" * 64])
def test_names_that_apis_take_are_taken(name: str) -> None:
    assert OutputSpec(tools=[tool(name)]).names == [name]


@pytest.mark.parametrize(
    "choice", ["nobody", {"type": "function", "function": {"name": "nobody"}}, {"name": "nobody"}]
)
def test_a_choice_that_names_no_tool_lists_the_tools(choice: Any) -> None:
    with pytest.raises(ConfigError, match="names 'nobody', which is none of the tools: a, b"):
        OutputSpec(tools=[tool("a"), tool("b")], tool_choice=choice)


def test_a_named_choice_without_tools_says_so() -> None:
    with pytest.raises(ConfigError, match="names 'a', which is none of the tools: there are none"):
        OutputSpec(tool_choice="a")


@pytest.mark.parametrize("choice", ["any", "required", True, {"type": "any"}])
def test_some_call_without_tools_is_refused(choice: Any) -> None:
    with pytest.raises(ConfigError, match=r"asks for a call.*pass tools"):
        OutputSpec(tool_choice=choice)


@pytest.mark.parametrize("choice", [3, ["a"], {}, {"type": "function"}, {"function": "a"}])
def test_a_choice_that_cannot_be_read_is_shown(choice: Any) -> None:
    with pytest.raises(ConfigError, match="expected 'auto', 'none', 'any'") as caught:
        OutputSpec(tools=[tool("a")], tool_choice=choice)
    assert f"tool_choice is {choice!r}" in str(caught.value)


# -- choices ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "forced"),
    [
        ("auto", None),
        (None, None),
        ({"type": "auto"}, None),
        ("any", "any"),
        ("required", "any"),
        (True, "any"),
        ({"type": "any"}, "any"),
        ({"type": "required"}, "any"),
        ("b", "b"),
        ({"type": "function", "function": {"name": "b"}}, "b"),
        ({"type": "function", "name": "b"}, "b"),
        ({"type": "tool", "name": "b"}, "b"),
    ],
)
def test_every_spelling_of_a_choice(choice: Any, forced: str | None) -> None:
    spec = OutputSpec(tools=[tool("a"), tool("b")], tool_choice=choice)
    assert spec.forced == forced
    assert spec.names == ["a", "b"], "the models see all tools"
    chosen = [t["function"]["name"] for t in spec.chosen]
    assert chosen == (["b"] if forced == "b" else ["a", "b"])


@pytest.mark.parametrize("choice", ["none", False, {"type": "none"}])
def test_the_choice_of_none_leaves_no_tools(choice: Any) -> None:
    spec = OutputSpec(tools=[tool("a")], tool_choice=choice)
    assert (spec.forced, spec.names, list(spec.tools), spec.chosen) == (None, [], [], [])


def test_a_tool_may_be_called_like_a_choice() -> None:
    assert OutputSpec(tools=[tool("function")], tool_choice="function").forced == "function"
