"""Arguments in Qwen's XML stand without quotes: the tool's schema says what they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glimp_integrations import GlimpRouter
from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.output.tool_parser import ToolCallParser
from glimp_integrations.trace.events import ToolCallDelta

Schema = dict[str, Any]


def parser_for(parameters: Schema | None) -> ToolCallParser:
    return ToolCallParser(["write"], str, parameters={"write": parameters})


def written(**given: str) -> str:
    """A call as Qwen's templates write it."""
    body = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in given.items())
    return f"<tool_call>\n<function=write>\n{body}</function>\n</tool_call>"


def value(text: str, schema: Any, **root: Any) -> Any:
    """What an argument of this schema is read as, at once and by character."""
    parameters = {"type": "object", "properties": {"x": schema}, **root}
    values = []
    for pieces in ([written(x=text)], written(x=text)):
        parser = parser_for(parameters)
        for piece in pieces:
            parser.feed(piece)
        parser.end()
        assert (parser.content, parser.invalid) == ("", [])
        values.append(parser.calls[0].arguments["x"])
    assert repr(values[0]) == repr(values[1])
    return values[0]


STRING = {"type": "string"}
NULL = {"type": "null"}
INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1.50}',
        "2024",
        "true",
        "null",
        '"quoted"',
        "[1]",
        "",
        "1e5",
        " 7 ",
        "None",
        "a\n\nb\n",
    ],
)
@pytest.mark.parametrize(
    "schema",
    [
        STRING,
        {"type": ["string"]},
        {"enum": ["2024", "true"]},
        {"const": "2024"},
        {"$ref": "#/$defs/text"},
        {"allOf": [{"$ref": "#/$defs/text"}], "description": "?"},
        {"anyOf": [STRING, {"type": "string", "format": "date"}]},
        {"$ref": "#named"},
    ],
)
def test_a_string_stays_the_text_as_it_stands(text: str, schema: Schema) -> None:
    defs = {"text": STRING, "more": {"$anchor": "named", **STRING}}
    assert value(text, schema, **{"$defs": defs}) == text


@pytest.mark.parametrize(
    ("text", "schema", "expected"),
    [
        ("2024", INTEGER, 2024),
        ("-7", INTEGER, -7),
        ("2.5", {"type": "number"}, 2.5),
        ("3", {"type": "number"}, 3),
        ("true", {"type": "boolean"}, True),
        ("False", {"type": "boolean"}, False),
        ("null", NULL, None),
        ("None", {"anyOf": [INTEGER, NULL]}, None),
        ("[1, 2]", {"type": "array", "items": INTEGER}, [1, 2]),
        ('{"a": "b"}', {"type": "object"}, {"a": "b"}),
        ('{"a": "b"}', {"$ref": "#/$defs/thing"}, {"a": "b"}),
        ("3", {"enum": [1, 2, 3]}, 3),
        # What is not a value of its kind stays text, for the code that checks the arguments.
        ("two", INTEGER, "two"),
        ("NaN", {"type": "number"}, "NaN"),
        ("{'a': 1}", {"type": "object"}, "{'a': 1}"),
        # Several kinds: what it is exactly, else the text.
        ("null", {"anyOf": [STRING, NULL]}, None),
        ("None", {"anyOf": [STRING, NULL]}, "None"),
        ("nullify", {"anyOf": [STRING, NULL]}, "nullify"),
        ("2024", {"anyOf": [STRING, NULL]}, "2024"),
        ("2024", {"type": ["string", "integer"]}, 2024),
        ("2024.5", {"type": ["string", "integer"]}, "2024.5"),
        ("2024-01-02", {"type": ["string", "integer"]}, "2024-01-02"),
        ('{"a": 1}', {"type": ["string", "object"]}, {"a": 1}),
        ("[1]", {"type": ["string", "object"]}, "[1]"),
        ("{no", {"type": ["string", "object"]}, "{no"),
        ("red", {"enum": ["red", 3]}, "red"),
        ("3", {"enum": ["red", 3]}, 3),
        # Nothing is known: it is JSON where it can be.
        ("3", {}, 3),
        ("3 apples", {}, "3 apples"),
        ("NaN", {}, "NaN"),
        ("true", True, True),
        ("3", {"$ref": "#/$defs/nobody"}, 3),
        ("3", {"$ref": "#/properties/x"}, 3),
        ("[" * 5000, {}, "[" * 5000),
        ("[" * 500 + "]" * 500, {}, "[" * 500 + "]" * 500),
    ],
)
def test_other_kinds_are_read_by_the_schema(text: str, schema: Any, expected: Any) -> None:
    result = value(text, schema, **{"$defs": {"thing": {"type": "object"}}})
    assert (result, type(result)) == (expected, type(expected))


def test_properties_that_are_described_elsewhere() -> None:
    base = {"type": "object", "properties": {"x": STRING}}
    for parameters in (
        {"$ref": "#/$defs/base", "$defs": {"base": base}},
        {"allOf": [base, {"type": "object"}]},
        {"anyOf": [base, {"type": "object", "properties": {"y": INTEGER}}]},
        {"type": "object", "additionalProperties": STRING},
    ):
        parser = parser_for(parameters).read(written(x="2024"))
        assert parser.calls[0].arguments == {"x": "2024"}


TEXTS = [
    "a</function>b",
    "<parameter=y>no</parameter>!",
    "</parameter>",
    "x\n</parameter>\ny",
    "</tool_call>",
    "<tool_call>\n<function=other>",
    "</function>\n</tool_call>\nSo.",
    "<",
    "</par",
]


@pytest.mark.parametrize("text", TEXTS)
def test_tags_inside_of_an_argument_are_text(text: str) -> None:
    assert value(text, STRING) == text
    assert value(text, {}) == text


def test_a_call_may_lack_some_of_its_ends() -> None:
    head = "<tool_call>\n<function=write>\n<parameter=x>\n"
    other = written(y="2")
    for text, calls in (
        (f"{head}1\n</parameter>\n</tool_call>", [{"x": "1"}]),
        (f"{head}1\n</function>\n</tool_call>", [{"x": "1"}]),
        (f"{head}1\n</function>\n</tool_call>\n{other}", [{"x": "1"}, {"y": "2"}]),
        (f"{head}1\n</parameter>\n</function>\n{other}", [{"x": "1"}, {"y": "2"}]),
    ):
        for pieces in ([text], text):
            parser = parser_for({"type": "object", "additionalProperties": STRING})
            for piece in pieces:
                parser.feed(piece)
            parser.end()
            assert [c.arguments for c in parser.calls] == calls
            assert (parser.content, parser.invalid) == ("", [])


def test_what_stands_in_place_of_parameters_is_not_lost() -> None:
    around = "<tool_call><function=write>{}</function></tool_call>"
    parser = parser_for(None).read(around.replace("{}", '{"x": "1"}'))
    assert [c.arguments for c in parser.calls] == [{"x": "1"}]
    parser = parser_for(None).read(around.replace("{}", "all of it"))
    assert [(c.name, c.text) for c in parser.invalid] == [("write", "all of it")]
    assert [c.arguments for c in parser_for(None).read(around.replace("{}", "\n")).calls] == [{}]


def test_a_truncated_argument_is_returned_as_far_as_it_came() -> None:
    text = written(y="1", x="a\nb").partition("b")[0]
    parser = parser_for({"type": "object", "properties": {"x": STRING}}).read(text)
    assert [(c.name, c.text) for c in parser.invalid] == [("write", '{"y": 1, "x": "a\\n')]


# -- in pieces -------------------------------------------------------------------------------


def deltas(pieces: Any, parameters: Schema | None) -> tuple[list[str], ToolCallParser]:
    parser = parser_for(parameters)
    parts = [item for piece in pieces for item in parser.feed(piece)] + parser.end()
    return [item.arguments for item in parts if isinstance(item, ToolCallDelta)], parser


@pytest.mark.parametrize("schema", [STRING, {}, {"anyOf": [STRING, NULL]}], ids=str)
def test_a_long_text_is_returned_as_it_is_written(schema: Schema) -> None:
    lines = [f'Line {n}: "quoted" \\ \u00e9 \u2060\n' for n in range(200)]
    parser = parser_for({"type": "object", "properties": {"x": schema}})
    outputs = [parser.feed("<tool_call>\n<function=write>\n<parameter=x>\n")]
    outputs += [parser.feed(line) for line in lines]
    assert all(outputs[1:]), "something with every piece"
    outputs.append(parser.feed("end\n</parameter>\n</function>\n</tool_call>"))
    arguments = [i.arguments for output in outputs for i in output if isinstance(i, ToolCallDelta)]
    expected = {"x": "".join(lines) + "end"}
    assert json.loads("".join(arguments)) == expected
    assert parser.calls[0].arguments == expected


PARTS = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<function=write>",
        "</function>",
        "<parameter=x>",
        "\n",
        " ",
        "<parameter=n>",
        "<parameter=u>",
        "</parameter>",
        "12",
        "null",
        "{",
        '"',
        "}",
        "\\",
        "word",
        "<parameter=",
        "<",
        "</",
        "\u00e9",
        "\U0001f600",
    ]
)
PARAMETERS = {
    "type": "object",
    "properties": {"x": STRING, "n": INTEGER, "u": {"type": ["string", "object"]}},
}


@given(st.lists(PARTS, max_size=25), st.booleans(), st.booleans())
@example(["<parameter=", "</tool_call>", "<tool_call>"], True, False)
def test_any_pieces_of_xml_give_the_same_calls(parts: list[str], begun: bool, known: bool) -> None:
    parts = ["<tool_call><function=write>", *parts] if begun else parts
    parameters = PARAMETERS if known else None
    expected, whole = deltas(["".join(parts)], parameters)
    for pieces in (parts, "".join(parts)):
        arguments, parser = deltas(pieces, parameters)
        assert "".join(arguments) == "".join(expected)
        assert (parser.content, parser.calls, parser.invalid) == (
            whole.content,
            whole.calls,
            whole.invalid,
        )


@given(
    st.dictionaries(st.sampled_from(["x", "u"]), st.text(), min_size=1),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_texts_are_read_back_from_any_pieces(given_texts: dict[str, str], sizes: list[int]) -> None:
    parameters = {"type": "object", "properties": {"x": STRING, "u": STRING}}
    text, at, pieces = written(**given_texts), 0, []
    while at < len(text):
        pieces.append(text[at : at + sizes[len(pieces) % len(sizes)]])
        at += len(pieces[-1])
    arguments, parser = deltas(pieces, parameters)
    assert [c.arguments for c in parser.calls] == [given_texts]
    assert json.loads("".join(arguments)) == given_texts


def test_the_whole_way_from_a_tool_to_its_call() -> None:
    parameters = {"type": "object", "properties": {"x": STRING, "n": INTEGER}}
    tool = {"type": "function", "function": {"name": "write", "parameters": parameters}}
    text = written(x='{"a": 1.50}', n="2024")
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
    models = [
        ScriptedBackend(
            ["</think>", "\n\n", *pieces, ""],
            generation_prompt="<a>\n<think>\n",
            template="<function=",
        )
        for _ in "SL"
    ]
    with GlimpRouter(*models, threshold=-1) as router:
        (call,) = router.run("?", OutputSpec(tools=[tool])).tool_calls
        parts = [
            e for e in router.stream("?", OutputSpec(tools=[tool])) if isinstance(e, ToolCallDelta)
        ]
    assert call.arguments == {"x": '{"a": 1.50}', "n": 2024}
    assert len(parts) > 4
    assert json.loads("".join(e.arguments for e in parts)) == call.arguments
