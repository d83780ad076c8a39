"""What the models are told about schemas and tools in words."""

from __future__ import annotations

import json

import pytest
from schema_helpers import CITY, TWO, tool

from glimp_integrations.output import instructions, json_schema
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.output.tool_parser import ToolCallParser

# -- what the models are shown ---------------------------------------------------------------

USER = {"role": "user", "content": "Weather?"}
SYSTEM = {"role": "system", "content": "Be brief."}
CALLED = {
    "role": "assistant",
    "content": "I look.",
    "tool_calls": [
        {
            "id": "1",
            "type": "function",
            "function": {"name": "a", "arguments": '{"city": "Paris"}'},
        },
        {"id": "2", "type": "function", "function": {"name": "b", "arguments": "{}"}},
    ],
}


def test_the_schema_stands_after_the_system_message() -> None:
    first, second = instructions.show_schema([SYSTEM, USER], OutputSpec(schema=CITY))
    assert first["content"].startswith("Be brief.\n\n")
    assert json.dumps(CITY) in first["content"]
    assert second == USER
    assert SYSTEM["content"] == "Be brief.", "the caller's message is left alone"


def test_without_a_system_message_it_stands_in_front_of_the_first_question() -> None:
    other = {"role": "assistant", "content": "Hello."}
    first, second, third = instructions.show_schema([other, USER, USER], OutputSpec(schema=CITY))
    assert first == other
    assert json.dumps(CITY) in second["content"]
    assert second["content"].endswith("\n\nWeather?")
    assert third == USER


@pytest.mark.parametrize(
    "spec", [OutputSpec(), OutputSpec(schema=json_schema.ANY_OBJECT), OutputSpec([tool()])]
)
def test_without_a_schema_nothing_is_added(spec: OutputSpec) -> None:
    assert instructions.show_schema([SYSTEM, USER], spec) == [SYSTEM, USER]


def test_tools_are_written_out_with_how_to_call_them() -> None:
    (message,) = instructions.write_tools_out([USER], TWO)
    text = message["content"]
    for one in TWO:
        assert json.dumps(one["function"]) in text
    assert text.endswith("\n\nWeather?")
    assert '```json\n{"name": ' in text


def test_calls_and_results_are_written_out_as_the_models_would_write_them() -> None:
    results = [
        {"role": "tool", "tool_call_id": "1", "name": "a", "content": "sunny"},
        {"role": "tool", "tool_call_id": "2", "content": "3"},
        {"role": "tool", "content": "?"},
    ]
    messages = instructions.write_tools_out([USER, CALLED, *results], [])
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "user", "user"]
    assert messages[0] == USER, "without tools there is nothing to explain"
    reader = ToolCallParser(["a", "b"], str).read(messages[1]["content"])
    assert reader.content == "I look."
    assert [(c.name, c.arguments) for c in reader.calls] == [("a", {"city": "Paris"}), ("b", {})]
    assert [m["content"] for m in messages[2:]] == [
        "Result of a:\nsunny",
        "Result of 2:\n3",
        "Result of the tool:\n?",
    ]


def test_a_call_without_text_is_written_out_alone() -> None:
    (message,) = instructions.write_tools_out([{**CALLED, "content": ""}], [])
    assert message["content"].startswith("```json\n")


def test_tools_are_written_out_even_without_a_question() -> None:
    first, second = instructions.write_tools_out([CALLED], TWO)
    assert first["role"] == "user" and json.dumps(TWO[0]["function"]) in first["content"]
    assert second["role"] == "assistant"


@pytest.mark.parametrize(
    ("template", "knows"),
    [("{% if tools %}", True), ("{{ tools | tojson }}", True), ("{{ builtin_toolset }}", False)],
)
def test_whether_a_template_reads_tools(template: str, knows: bool) -> None:
    assert instructions.knows_tools(template) is knows
