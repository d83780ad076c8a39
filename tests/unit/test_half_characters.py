"""Lone surrogates in what a caller passes: a ConfigError that says where; joined in what came."""

from __future__ import annotations

import pytest
from helpers import model, router

from glimp_integrations import ConfigError, GlimpRouter, OutputSpec, RoutingSettings
from glimp_integrations.conversation.messages import check_messages
from glimp_integrations.output.json_values import parse
from glimp_integrations.unicode_text import check_text, without_surrogates

BAD = "a \ud83d b"
TOOL = {"type": "function", "function": {"name": "f", "description": BAD, "parameters": {}}}


def call_of(arguments: str) -> dict[str, object]:
    return {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        (BAD, r"message 0, 'content': character 2 "),
        ([{"role": "user", "content": "x"}, {"role": "user", "content": BAD}], r"message 1, "),
        (
            [{"role": "user", "content": [{"type": "text", "text": BAD}]}],
            r"message 0, 'content'\[0\], 'text': character 2 ",
        ),
        (
            [{"role": "assistant", "content": "x", "tool_calls": [call_of(BAD)]}],
            r"message 0, 'tool_calls'\[0\], 'function', 'arguments'",
        ),
        ([{"role": "user", "content": "x", BAD: "y"}], r"message 0, a key"),
    ],
)
def test_in_a_message(messages, place):
    small = model()
    with pytest.raises(ConfigError, match=place + r".*U\+D83D.*surrogatepass") as caught:
        router(small).run(messages)
    str(caught.value).encode()
    assert small.requests == []


def test_an_escape_that_a_model_wrote_in_a_call_is_replaced():
    message = {"role": "assistant", "content": "", "tool_calls": [call_of('{"a": "\\ud83d é"}')]}
    (checked,) = check_messages([message])
    assert checked["tool_calls"][0]["function"]["arguments"] == '{"a": "\ufffd é"}'


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"tools": [TOOL]}, "tool 0, 'function', 'description'"),
        ({"schema": {"properties": {BAD: {}}}}, "the answer's schema, 'properties', a key"),
        ({"schema": {"enum": ["x", BAD]}}, r"the answer's schema, 'enum'\[1\]"),
    ],
)
def test_in_tools_and_schemas(options, place):
    with pytest.raises(ConfigError, match=place):
        OutputSpec(**options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop", BAD),
        ("stop", ["x", BAD]),
        ("step_delimiter", BAD),
        ("answer_marker", BAD),
        ("think_tags", (BAD, "</think>")),
    ],
)
def test_in_settings(name, value):
    with pytest.raises(ConfigError, match=rf"the setting {name}.*U\+D83D"):
        RoutingSettings(**{name: value})
    with pytest.raises(ConfigError, match=rf"the setting {name}"):
        router().run("?", **{name: value})


def test_where_tokens_are_counted():
    with pytest.raises(ConfigError, match="the text to count"):
        GlimpRouter(model(), model()).token_ids(BAD)


def test_what_refers_to_itself_is_looked_into_once():
    loop: list[object] = ["fine"]
    loop.append(loop)
    check_text("this", {"a": loop})
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    check_text("this", deep)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("é", "é"),
        ("\ud83d\ude00", "\N{GRINNING FACE}"),
        (BAD, "a \ufffd b"),
        ("\N{GRINNING FACE}\ude00", "\N{GRINNING FACE}\ufffd"),
    ],
)
def test_replaced(text, wanted):
    assert without_surrogates(text) == wanted


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'{"a": ["\ud83d x"]}', {"a": ["\ufffd x"]}),
        (r'{"\uDE00": 1, "b": NaN}', {"\ufffd": 1, "b": pytest.approx(float("nan"), nan_ok=True)}),
        (r'"\ud83d\ude00"', "\N{GRINNING FACE}"),
        (r'"\\ud83d"', r"\ud83d"),
    ],
)
def test_an_escape_in_json_that_a_model_writes(text, value):
    assert parse(text) == value
