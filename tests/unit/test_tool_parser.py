"""Tool calls are ids in text of any model family, however the text is cut into pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glimp_integrations.output.tool_call_ids import new_ids
from glimp_integrations.output.tool_formats import TAG_CLOSERS, TAGS
from glimp_integrations.output.tool_parser import ToolCallParser
from glimp_integrations.trace.events import ToolCallDelta
from glimp_integrations.trace.records import ToolCall

NAMES = ["get_weather", "other"]
Arguments = dict[str, Any]
Calls = list[tuple[str, Arguments]]
Output = list[str | ToolCallDelta]


def number(index: int) -> str:
    return f"id{index}"


def split(text: str, names: Iterable[str] = NAMES) -> ToolCallParser:
    return ToolCallParser(names, number).read(text)


def fed(pieces: Iterable[str], most: int | None = None) -> tuple[ToolCallParser, Output]:
    """A parser that was given the pieces, and everything it returned."""
    parser, output = ToolCallParser(NAMES, number, most), []
    for piece in pieces:
        output += parser.feed(piece)
    return parser, output + parser.end()


def calls(parser: ToolCallParser) -> Calls:
    return [(call.name, call.arguments) for call in parser.calls]


def broken(parser: ToolCallParser) -> list[tuple[str | None, str]]:
    return [(call.name, call.text) for call in parser.invalid]


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# -- how the families write ------------------------------------------------------------------


def hermes(called: Calls, tag: str = "tool_call") -> str:
    return "\n".join(
        f'<{tag}>\n{{"name": "{name}", "arguments": {dump(given)}}}\n</{tag}>'
        for name, given in called
    )


def function_call(called: Calls) -> str:
    return hermes(called, "function_call")


def xml(called: Calls) -> str:
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(
            f"<parameter={key}>\n{v if isinstance(v, str) else dump(v)}\n</parameter>\n"
            for key, v in given.items()
        )
        + "</function>\n</tool_call>"
        for name, given in called
    )


def llama(called: Calls, first: str = "") -> str:
    return "; ".join(f'{{{first}"name": "{name}", "parameters": {dump(g)}}}' for name, g in called)


def llama_typed(called: Calls) -> str:
    return llama(called, '"type": "function", ')


def llama_tagged(called: Calls) -> str:
    return f"<|python_tag|>{llama(called)}"


def mistral_old(called: Calls) -> str:
    inside = ", ".join(f'{{"name": "{name}", "arguments": {dump(g)}}}' for name, g in called)
    return f"[TOOL_CALLS] [{inside}]"


def mistral_with_ids(called: Calls) -> str:
    inside = ", ".join(
        f'{{"name": "{name}", "arguments": {dump(g)}, "id": "abcdefgh{n}"}}'
        for n, (name, g) in enumerate(called)
    )
    return f"[TOOL_CALLS][{inside}]"


def mistral_new(called: Calls) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{dump(given)}" for name, given in called)


def mistral_new_with_ids(called: Calls) -> str:
    return "".join(f"[TOOL_CALLS]{name}[CALL_ID]x1[ARGS]{dump(given)}" for name, given in called)


def deepseek_old(called: Calls) -> str:
    inside = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dump(given)}\n```"
        "<｜tool▁call▁end｜>"
        for name, given in called
    )
    return f"<｜tool▁calls▁begin｜>{inside}<｜tool▁calls▁end｜>"


def deepseek_new(called: Calls) -> str:
    inside = "".join(
        f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dump(given)}<｜tool▁call▁end｜>"
        for name, given in called
    )
    return f"<｜tool▁calls▁begin｜>{inside}<｜tool▁calls▁end｜>"


def fenced(called: Calls) -> str:
    return "\n\n".join(
        f'```json\n{{"name": "{name}", "arguments": {dump(given)}}}\n```' for name, given in called
    )


def fenced_list(called: Calls) -> str:
    whole = [{"name": name, "arguments": given} for name, given in called]
    return f"```\n{json.dumps(whole, indent=2, ensure_ascii=False)}\n```"


def bare(called: Calls) -> str:
    return "\n".join(f'{{"name": "{name}", "arguments": {dump(g)}}}' for name, g in called)


def bare_with_ids(called: Calls) -> str:
    return "\n".join(
        f'{{"name": "{name}", "arguments": {dump(g)}, "id": "{n}"}}'
        for n, (name, g) in enumerate(called)
    )


FAMILIES: list[Callable[[Calls], str]] = [
    hermes,
    function_call,
    xml,
    llama,
    llama_typed,
    llama_tagged,
    mistral_old,
    mistral_with_ids,
    mistral_new,
    mistral_new_with_ids,
    deepseek_old,
    deepseek_new,
    fenced,
    fenced_list,
    bare,
    bare_with_ids,
]
TAGGED = [hermes, xml, llama_tagged, mistral_old, mistral_new, deepseek_old, deepseek_new]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
ONE: Calls = [("get_weather", {"city": "Paris"})]
TWO: Calls = [*ONE, ("other", {})]
NESTED: Calls = [("get_weather", {"city": "Pa}r{is", "near": {"a": [1, {"b": "\\"}], "c": '"}]'}})]


@every_family
def test_a_call_is_not_text(family: Callable[[Calls], str]) -> None:
    parser = split(family(ONE))
    assert (parser.content, calls(parser), parser.invalid) == ("", ONE, [])


@every_family
def test_several_calls_in_a_row(family: Callable[[Calls], str]) -> None:
    parser = split(family(TWO))
    assert (parser.content, calls(parser), parser.invalid) == ("", TWO, [])
    assert [call.id for call in parser.calls] == ["id0", "id1"]


@every_family
def test_text_before_and_after_calls_stays(family: Callable[[Calls], str]) -> None:
    parser = split(f"I will look.\n\n{family(TWO)}\n\nThat is all.")
    assert calls(parser) == TWO
    assert parser.content.split() == ["I", "will", "look.", "That", "is", "all."]


@every_family
def test_brackets_and_quotes_inside_of_strings_end_nothing(
    family: Callable[[Calls], str],
) -> None:
    assert calls(split(family(NESTED))) == NESTED


@every_family
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_of_any_size_say_the_same(family: Callable[[Calls], str], size: int) -> None:
    text = f"I will look.\n\n{family([*NESTED, *TWO])}\n\nThat is all."
    parser, _ = fed(text[at : at + size] for at in range(0, len(text), size))
    assert calls(parser) == [*NESTED, *TWO]
    assert parser.content.split() == ["I", "will", "look.", "That", "is", "all."]
    assert parser.invalid == []


@every_family
def test_of_too_many_calls_the_first_ones_count(family: Callable[[Calls], str]) -> None:
    text = f"I will look.\n\n{family([*TWO, *NESTED])}\n\nThat is all."
    for pieces in ([text], text):
        for most in (1, 2):
            parser, output = fed(pieces, most)
            assert (parser.content, calls(parser)) == ("I will look.", TWO[:most])
            add_up(parser, output)


def test_a_broken_call_counts_as_one() -> None:
    parser, output = fed("<tool_call>no</tool_call>" + hermes(ONE), most=1)
    assert (parser.content, parser.calls, broken(parser)) == ("", [], [(None, "no")])
    add_up(parser, output)


def test_white_space_between_text_and_call_belongs_to_neither() -> None:
    assert split(f"Look:\n\n{hermes(ONE)}\n").content == "Look:"
    assert split(f"{hermes(ONE)}\n\nSo.\n").content == "So."
    assert split(f"One.\n\n{hermes(ONE)}\n\nTwo.").content == "One.\n\nTwo."


@pytest.mark.parametrize("text", ["", "  ", "a\n\nb", "a  \n", "\n a", "<tool_c", "a <b> [c] {d}"])
def test_text_without_calls_is_left_as_it_is(text: str) -> None:
    parser, output = fed(text)
    assert (parser.content, "".join(map(str, output))) == (text, text)


def test_text_is_returned_as_soon_as_it_cannot_be_a_call() -> None:
    parser = ToolCallParser(NAMES, number)
    assert parser.feed("I will") == ["I will"]
    assert parser.feed(" look <tool") == [" look"]
    assert parser.feed("box>") == [" <toolbox>"]


def test_arguments_are_returned_as_they_arrive() -> None:
    parser = ToolCallParser(NAMES, number)
    assert parser.feed('<tool_call>{"name": "other", "arguments":') == []
    assert parser.feed(' {"a"') == [
        ToolCallDelta(0, "id0", "other", ""),
        ToolCallDelta(0, None, None, '{"a"'),
    ]
    assert parser.feed(": 1}") == [ToolCallDelta(0, None, None, ": 1}")]
    assert parser.feed("}</tool_call>") == parser.end() == []


def test_without_tools_everything_is_text() -> None:
    text = hermes(ONE)
    parser = split(text, names=[])
    assert (parser.content, parser.calls, parser.invalid) == (text, [], [])


# -- JSON that is not a call, calls that are not JSON ---------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "nobody", "arguments": {}}',
        '```json\n{"name": "nobody", "arguments": {}}\n```',
        '{"city": "Paris", "name": "other"}',
        '```python\nx = {"name": "other"}\n```',
        'It is {"name": "other", "arguments": {}} then.',
        '{"name": "others", "arguments": {}}',
    ],
)
def test_other_json_without_a_tag_is_text(text: str) -> None:
    parser, _ = fed(text)
    assert (parser.content, parser.calls, parser.invalid) == (text, [], [])


@pytest.mark.parametrize("family", TAGGED, ids=lambda f: f.__name__)
def test_after_a_tag_an_unknown_name_is_a_call(family: Callable[[Calls], str]) -> None:
    # Whoever runs the tools can tell the model so; as text it would be lost.
    parser = split(family([("nobody", {"a": 1})]))
    assert (parser.content, calls(parser)) == ("", [("nobody", {"a": 1})])


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        (', "arguments": "{\\"city\\": \\"Paris\\"}"', {"city": "Paris"}),
        (', "arguments": null', {}),
        (', "arguments": ""', {}),
        (', "parameters": {"city": "Paris"}', {"city": "Paris"}),
        ("", {}),
        (', "arguments": {}, "id": "abc"', {}),
        (', "arguments": {"city": "a\nb"}', {"city": "a\nb"}),
    ],
    ids=["text", "null", "empty text", "parameters", "missing", "id", "raw newline"],
)
@pytest.mark.parametrize("around", ["<tool_call>{}</tool_call>", "```json\n{}\n```", "{}"])
def test_arguments_may_be_written_in_many_ways(
    around: str, written: str, arguments: Arguments
) -> None:
    text = around.replace("{}", f'{{"name": "other"{written}}}')
    for pieces in ([text], text):
        parser, output = fed(pieces)
        assert (parser.content, calls(parser)) == ("", [("other", arguments)])
        add_up(parser, output)


@pytest.mark.parametrize(
    "text",
    [
        '{"arguments": {"city": "Paris"}, "name": "get_weather"}',
        '{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}',
        '{"function": "get_weather", "arguments": {"city": "Paris"}}',
        '{"id": "1", "name": "get_weather", "arguments": {"city": "Paris"}}',
        '{ "name" : "get_weather" , "arguments" : {"city": "Paris"} }',
        'get_weather{"city": "Paris"}',
    ],
)
def test_after_a_tag_keys_may_come_in_any_order(text: str) -> None:
    for pieces in ([f"<tool_call>{text}</tool_call>"], f"<tool_call>{text}</tool_call>"):
        parser, _ = fed(pieces)
        assert (parser.content, calls(parser)) == ("", ONE)


def test_xml_arguments_are_json_where_they_are_some() -> None:
    given = {"city": "Paris", "days": 3, "near": ["a"], "code": "x = 1\n\ny = 2", "when": ""}
    assert calls(split(xml([("other", given)]))) == [("other", given)]


@pytest.mark.parametrize(
    ("text", "name", "kept"),
    [
        ('<tool_call>{"name": "other", "arguments": {city: 1}}</tool_call>', "other", "{city: 1}"),
        ('<tool_call>{"name": "other", "arguments": [1]}</tool_call>', "other", "[1]"),
        ('<tool_call>{"name": "other", "arguments": 5}</tool_call>', "other", "5"),
        ('<tool_call>{"name": "other", "arguments": "no"}</tool_call>', "other", "no"),
        ("<tool_call>sorry</tool_call>", None, "sorry"),
        ("<tool_call>12</tool_call>", None, "12"),
        ('<tool_call>{"city": 1}</tool_call>', None, '{"city": 1}'),
        ('[TOOL_CALLS]other[ARGS]{"a": }', "other", '{"a": }'),
    ],
)
def test_what_is_meant_as_a_call_and_is_none_is_invalid(
    text: str, name: str | None, kept: str
) -> None:
    for pieces in ([f"{text} So."], f"{text} So."):
        parser, output = fed(pieces)
        assert (parser.content, parser.calls) == ("So.", [])
        assert broken(parser) == [(name, kept)]
        add_up(parser, output)
        assert " not " in parser.invalid[0].error


@pytest.mark.parametrize(
    ("text", "name", "kept"),
    [
        ('<tool_call>{"name": "other", "arguments": {"a": "b', "other", '{"a": "b'),
        ('<tool_call>{"name": "other", "arguments": "{', "other", '"{'),
        ('{"name": "other", "arguments": {"a": ', "other", '{"a": '),
        ('<tool_call>{"name": "oth', None, '{"name": "oth'),
        ("<tool_call><function=other><parameter=a>1", None, "<function=other><parameter=a>1"),
    ],
)
def test_a_truncated_call_is_invalid(text: str, name: str | None, kept: str) -> None:
    for pieces in ([text], text):
        parser, output = fed(pieces)
        assert (parser.content, parser.calls, broken(parser)) == ("", [], [(name, kept)])
        add_up(parser, output)


def test_arguments_that_were_left_out_are_empty() -> None:
    parser, output = fed('{"name": "other", "arguments": }')
    assert calls(parser) == [("other", {})]
    add_up(parser, output)


def test_truncated_json_without_a_tag_is_text_until_it_has_arguments() -> None:
    text = '{"name": "other", "argum'
    assert split(text).content == text


def test_a_call_that_only_lacks_its_closing_is_one() -> None:
    assert calls(split('<tool_call>{"name": "other", "arguments": {"a": 1}')) == [
        ("other", {"a": 1})
    ]


def test_good_and_bad_calls_are_numbered_together() -> None:
    parser = split("<tool_call>no</tool_call>" + hermes(ONE) + "<tool_call>no</tool_call>")
    assert [call.id for call in parser.calls] == ["id1"]
    assert [call.id for call in parser.invalid] == ["id0", "id2"]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "other", "arguments": {"a": "x</tool_call>y"}}</tool_call>',
        '<tool_call>{"arguments": {"a": "x</tool_call>y"}, "name": "other"}</tool_call>',
        "<tool_call><function=other><parameter=a>x</tool_call>y</parameter></function></tool_call>",
    ],
    ids=["hermes", "arguments first", "xml"],
)
def test_a_closing_tag_inside_of_an_argument_ends_nothing(text: str) -> None:
    for pieces in ([text], text):
        parser, _ = fed(pieces)
        assert (parser.content, calls(parser)) == ("", [("other", {"a": "x</tool_call>y"})])


@pytest.mark.parametrize("family", [hermes, fenced], ids=lambda f: f.__name__)
def test_a_code_block_after_a_call_keeps_its_fence(family: Callable[[Calls], str]) -> None:
    block = "```python\nprint(1)\n```"
    for text in (f"{family(ONE)}\n\n{block}", f"{family(ONE)}\n\n{block}\n\nSo."):
        for pieces in ([text], text):
            parser, _ = fed(pieces)
            assert calls(parser) == ONE
            assert parser.content.startswith(block)


# -- ids -------------------------------------------------------------------------------------


def test_ids_are_nine_letters_and_digits_and_differ() -> None:
    new_id = new_ids()
    ids = [new_id(index) for index in (*range(12), 123)]
    assert all(re.fullmatch(r"[A-Za-z0-9]{9}", one) for one in ids)
    assert len(set(ids)) == len(ids)
    assert new_id(3) == ids[3], "the same call has the same id however often it is read"
    assert new_ids()(0) != ids[0]


# -- properties ------------------------------------------------------------------------------

KEYS = st.text("abc_", min_size=1, max_size=5)
TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        "}",
        '"',
        "\\",
        "{",
        "]",
        "```",
        "\n```\n",
        "[TOOL_CALLS]",
        "<tool_call>",
        '"}',
        "\\u2060",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(TEXTS, VALUES, max_size=3)
PLAIN_ARGUMENTS = st.dictionaries(
    KEYS,
    st.integers() | st.lists(st.integers(), max_size=3) | st.text("ab<{}\" \n'", max_size=8),
    max_size=3,
).map(lambda given: {k: v for k, v in given.items() if not isinstance(v, str) or not _json(v)})
PARAGRAPHS = st.sampled_from(
    [
        "I look.",
        "One line.\nAnother.",
        "a < b <tool",
        "[1, 2]",
        '{"name": "nobody"}',
        "<b>x</b>",
        "It is `{}`.",
        "[TOOL",
        "see ``` there",
    ]
)


def _json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@st.composite
def some_calls(draw: st.DrawFn) -> tuple[str, Calls]:
    """Calls as one family writes them."""
    family = draw(st.sampled_from(FAMILIES))
    arguments = PLAIN_ARGUMENTS if family is xml else ARGUMENTS
    called = draw(st.lists(st.tuples(st.sampled_from(NAMES), arguments), min_size=1, max_size=3))
    return family(called), called


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def pieces_of(data: st.DataObject, text: str) -> list[str]:
    return data.draw(cut(text)) if data.draw(st.booleans()) else list(text)


def add_up(parser: ToolCallParser, output: Output) -> None:
    """What was streamed is the result."""
    assert "".join(item for item in output if isinstance(item, str)) == parser.content
    first: dict[int, ToolCallDelta] = {}
    arguments: dict[int, str] = {}
    for item in output:
        if isinstance(item, str):
            continue
        if item.index in first:
            assert (item.id, item.name) == (None, None)
        else:
            assert item.index == len(first), "calls begin in order"
            first[item.index] = item
        arguments[item.index] = arguments.get(item.index, "") + item.arguments
    results = sorted([*parser.calls, *parser.invalid], key=lambda call: int(call.id[2:]))
    assert [(d.id, d.name) for d in first.values()] == [(c.id, c.name) for c in results]
    for index, call in enumerate(results):
        if isinstance(call, ToolCall):
            assert json.loads(arguments[index], strict=False) == call.arguments
        else:
            assert arguments[index] == call.text


@given(some_calls(), st.sampled_from(["", "I look.\n\n", "a < b\n"]), st.data())
def test_what_a_family_writes_is_read_back_from_any_pieces(
    written: tuple[str, Calls], before: str, data: st.DataObject
) -> None:
    text, called = written
    parser, output = fed(pieces_of(data, before + text))
    assert (parser.content, calls(parser), parser.invalid) == (before.rstrip(), called, [])
    add_up(parser, output)


@given(st.lists(PARAGRAPHS | some_calls().map(lambda pair: pair[0]), max_size=5), st.data())
def test_any_pieces_of_a_reply_give_the_same_result(parts: list[str], data: st.DataObject) -> None:
    text = "\n\n".join(parts)
    text = text[: data.draw(st.integers(len(text) // 2, len(text)))]
    whole, whole_output = fed([text])
    parser, output = fed(pieces_of(data, text))
    assert parser.content == whole.content
    assert (parser.calls, parser.invalid) == (whole.calls, whole.invalid)
    add_up(whole, whole_output)
    add_up(parser, output)


FRAGMENTS = st.sampled_from(
    [
        *TAGS,
        *TAG_CLOSERS,
        "```json\n",
        "```",
        "\n",
        "[ARGS]",
        "<｜tool▁sep｜>",
        "get_weather",
        '{"name": "get_weather", "arguments": ',
        '{"name": "other"',
        "}",
        "]",
        '"',
        "\\",
        ",",
        "null",
        '{"a": 1}',
        '"id": "x"',
        "<function=other>",
        "<parameter=a>",
        "</parameter>",
        "</function>",
    ]
)


@given(
    st.lists(FRAGMENTS | st.text(max_size=6), max_size=12),
    st.lists(st.integers(0, 100), max_size=8),
)
# Three replies whose pieces and whole text once gave different content: what looked like the
# beginning of a call took the call that followed it along.
@example(['{"name": "other"', "<tool_call>", "<tool_call>"], [])
@example(['{"name": "other"', '<tool_call>{"name": "other", "arguments": {}}</tool_call>'], [])
@example(['{"name": "other"', '\n{"name": "other", "arguments": {}}'], [])
def test_nothing_that_a_model_may_write_raises(parts: list[str], places: list[int]) -> None:
    text = "".join(parts)
    whole, whole_output = fed([text])
    add_up(whole, whole_output)
    cuts = sorted({0, len(text), *(min(place, len(text)) for place in places)})
    for pieces in (parts, text, [text[a:b] for a, b in pairwise(cuts)]):
        parser, output = fed(pieces)
        add_up(parser, output)
        assert (parser.content, parser.calls, parser.invalid) == (
            whole.content,
            whole.calls,
            whole.invalid,
        )


@pytest.mark.parametrize(
    "beginning", ['{"name": "other"', '[{"name": "other"', '{"name": "other"x']
)
def test_a_beginning_that_is_no_call_takes_no_call_along(beginning: str) -> None:
    for text in (beginning + hermes(ONE), f"{beginning}\n{bare(ONE)}"):
        for pieces in ([text], text):
            parser, output = fed(pieces)
            assert (parser.content, calls(parser)) == (beginning, ONE)
            add_up(parser, output)


def test_json_after_a_closed_call_is_text() -> None:
    parser = split('<tool_call>{"name": "other", "arguments": {}}</tool_call>\n\n{"x": 1}')
    assert (parser.content, len(parser.calls), parser.invalid) == ('{"x": 1}', 1, [])


def test_data_that_has_a_name_is_not_a_call() -> None:
    text = '{"name": "other", "age": 3}'
    assert (split(text).content, split(text).calls) == (text, [])
    assert [c.name for c in split('{"name": "other"}').calls] == ["other"]


@pytest.mark.parametrize("tags", [("", ""), ("<tool_call>\n", "\n</tool_call>")])
def test_double_braces_that_a_template_taught_are_read(tags: tuple[str, str]) -> None:
    parser = split('{{"name": "other", "arguments": {"a": 1}}}'.join(tags))
    assert [(c.name, c.arguments) for c in parser.calls] == [("other", {"a": 1})]
    assert (parser.content, parser.invalid) == ("", [])
