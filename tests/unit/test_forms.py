"""What a caller asks of a reply: mistakes are named, schemas are judged, families recognised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from glimp_integrations.errors import ConfigError
from glimp_integrations.output import constraints, json_schema
from glimp_integrations.output.constraints import FREE, Constraint, Plan, make_plan
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.output.tool_formats import DIALECTS, PLAIN, TAGS, tool_format_of
from glimp_integrations.output.tool_parser import ToolCallParser

Schema = dict[str, Any]
CITY: Schema = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
BYTES = LLTokenizer("byte")


def tool(name: str = "get_weather", parameters: Schema | None = CITY) -> Schema:
    function: Schema = {"name": name, "description": f"Does {name}."}
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


def accepts(schema: Mapping[str, Any] | None, text: str) -> bool:
    """Whether a model bound to the schema could write exactly this."""
    assert schema is not None
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(json_schema.for_llguidance(schema)))
    matcher = LLMatcher(BYTES, grammar, log_level=0)
    for byte in text.encode():
        if matcher.is_stopped() or not matcher.consume_token(byte):
            return False
    return bool(matcher.is_accepting())


def checked(schema: Schema) -> Schema:
    return json_schema.checked(schema, what="the answer's schema")


def planned(
    form: OutputSpec, template: str = "", *, supports_schema: bool = True, prompt: str = ""
) -> Plan:
    return make_plan(form, (template, prompt), supports_schema=supports_schema, model="the model")


# -- mistakes of a caller --------------------------------------------------------------------


def test_tools_of_one_name_are_refused_and_named() -> None:
    with pytest.raises(ConfigError, match="several tools are called 'a', 'b'"):
        OutputSpec(tools=[tool("b"), tool("a"), tool("c"), tool("a"), tool("b")])


@pytest.mark.parametrize("name", ["", "two words", "käse", "x" * 65, "a/b", None, 7])
def test_a_name_that_no_api_takes_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"tool 1 has the name .*letters, digits") as caught:
        OutputSpec(tools=[tool(), tool(name)])
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("given", [{"name": "flat"}, {"type": "function"}, "get_weather", {}])
def test_a_tool_of_another_shape_is_refused_with_the_right_one(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"tool 0 .*'function': \{'name': \.\.\.\}"):
        OutputSpec(tools=[given])


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "x" * 64])
def test_names_that_apis_take_are_taken(name: str) -> None:
    assert OutputSpec(tools=[tool(name)]).names == [name]


@pytest.mark.parametrize(
    "choice", ["nobody", {"type": "function", "function": {"name": "nobody"}}, {"name": "nobody"}]
)
def test_a_choice_that_is_no_tool_lists_the_tools(choice: Any) -> None:
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
    form = OutputSpec(tools=[tool("a"), tool("b")], tool_choice=choice)
    assert form.forced == forced
    assert form.names == ["a", "b"], "the models see all tools"
    chosen = [t["function"]["name"] for t in form.chosen]
    assert chosen == (["b"] if forced == "b" else ["a", "b"])


@pytest.mark.parametrize("choice", ["none", False, {"type": "none"}])
def test_the_choice_of_none_leaves_no_tools(choice: Any) -> None:
    form = OutputSpec(tools=[tool("a")], tool_choice=choice)
    assert (form.forced, form.names, list(form.tools), form.chosen) == (None, [], [], [])


def test_a_tool_may_be_called_like_a_choice() -> None:
    assert OutputSpec(tools=[tool("function")], tool_choice="function").forced == "function"


# -- schemas that no grammar can keep --------------------------------------------------------

LISTED: Schema = {"type": "array", "items": {"type": "integer"}}
UNSUPPORTED: list[tuple[str, Schema]] = [
    ("not", {"type": "string", "not": {"const": "x"}}),
    ("if", {**CITY, "if": CITY, "then": CITY}),
    ("uniqueItems", {**LISTED, "uniqueItems": True}),
    ("dependentSchemas", {**CITY, "dependentSchemas": {"city": CITY}}),
    ("contains", {**LISTED, "contains": {"const": 1}}),
]
unsupported = pytest.mark.parametrize(("keyword", "schema"), UNSUPPORTED)


@unsupported
@pytest.mark.parametrize("deep", [False, True])
def test_a_keyword_that_cannot_be_kept_is_named(keyword: str, schema: Schema, deep: bool) -> None:
    if deep:
        schema = {"type": "object", "properties": {"x": {"anyOf": [schema, {"type": "null"}]}}}
    with pytest.raises(ConfigError) as caught:
        checked(schema)
    text = str(caught.value)
    assert text.startswith("the answer's schema cannot be bound by a grammar: ")
    assert f'"{keyword}"' in text
    assert "check the value afterwards" in text


@unsupported
def test_the_tool_whose_arguments_cannot_be_bound_is_named(keyword: str, schema: Schema) -> None:
    odd = {"type": "object", "properties": {"x": schema}}
    form = OutputSpec(tools=[tool("fine"), tool("odd", odd)], strict=True)
    with pytest.raises(ConfigError, match="the arguments of tool 'odd' cannot be bound") as caught:
        planned(form)
    assert f'"{keyword}"' in str(caught.value)


def test_a_schema_that_is_no_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="the answer's schema is no JSON schema"):
        checked({"type": object})


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"$ref": "#/$defs/nobody"}, "nobody"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "look-around"),
        ({"type": "wat"}, "wat"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
    ],
)
def test_other_faults_of_a_schema_are_told(schema: Schema, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        checked(schema)


def test_an_unknown_format_is_an_annotation_and_dropped() -> None:
    given = {
        "type": "object",
        "properties": {
            "when": {"type": "string", "format": "date"},
            "to": {"type": "string", "format": "iban"},
            "all": {"type": "array", "items": {"type": "string", "format": "bic"}},
        },
    }
    found = checked(given)["properties"]
    assert found["when"] == {"type": "string", "format": "date"}
    assert found["to"] == found["all"]["items"] == {"type": "string"}
    assert given["properties"]["to"]["format"] == "iban", "the caller's schema is left alone"


def test_a_property_may_be_called_like_a_keyword() -> None:
    inner = {"type": "object", "properties": {"format": {"const": "iban"}, "not": {"const": 1}}}
    schema = {"type": "object", "properties": {"if": inner}, "required": ["if"]}
    assert accepts(checked(schema), '{"if": {"format": "iban", "not": 1}}')


# -- closed objects --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (CITY, ()),
        ({"type": "array", "items": CITY}, ("items",)),
        ({"anyOf": [{"type": "null"}, CITY]}, ("anyOf", 1)),
        ({"$ref": "#/$defs/c", "$defs": {"c": CITY}}, ("$defs", "c")),
        ({"type": "object", "properties": {"x": CITY}}, ("properties", "x")),
        ({"type": "object", "properties": {"default": CITY}}, ("properties", "default")),
        ({"type": "object", "properties": {"allOf": CITY}}, ("properties", "allOf")),
        ({**CITY, "type": ["object", "null"]}, ()),
    ],
    ids=["top", "items", "anyOf", "$defs", "property", "default", "allOf", "or null"],
)
def test_objects_are_closed_wherever_they_stand(schema: Schema, place: tuple[Any, ...]) -> None:
    found: Any = checked(schema)
    for key in place:
        found = found[key]
    assert found["additionalProperties"] is False
    assert "additionalProperties" not in CITY, "the caller's schema is left alone"


@pytest.mark.parametrize(
    "schema",
    [
        {**CITY, "additionalProperties": True},
        {**CITY, "additionalProperties": {"type": "integer"}},
        {**CITY, "patternProperties": {"^x": {"type": "integer"}}},
        {"type": "object"},
        {"enum": [{"type": "object", "properties": {}}]},
        {"type": "object", "properties": {}, "additionalProperties": True, "examples": [CITY]},
    ],
)
def test_objects_that_say_otherwise_and_mere_data_stay_as_they_are(schema: Schema) -> None:
    assert checked(schema) == schema


NAMED: Schema = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}
BOTH = ('{"name": "x", "city": "y"}', '{"city": "y", "name": "x"}')


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [NAMED, CITY]},
        {"allOf": [{"$ref": "#/$defs/named"}, CITY], "$defs": {"named": NAMED}},
        {**CITY, "allOf": [NAMED]},
        {**CITY, "$ref": "#/$defs/named", "$defs": {"named": NAMED}},
        {**NAMED, "anyOf": [CITY, {"type": "object", "properties": {"zip": {"type": "string"}}}]},
        {**NAMED, "oneOf": [{"properties": {"city": {"type": "string"}}, "required": ["city"]}]},
    ],
    ids=["allOf", "allOf $ref", "beside allOf", "beside $ref", "beside anyOf", "beside oneOf"],
)
def test_parts_that_describe_one_object_together_are_not_closed(schema: Schema) -> None:
    assert any(accepts(schema, text) for text in BOTH), "the schema as it was given"
    assert any(accepts(checked(schema), text) for text in BOTH)


def test_one_of_several_is_any_of_them() -> None:
    schema = checked({"oneOf": [CITY, NAMED, {"type": "integer", "minimum": 3}]})
    assert accepts(schema, '{"city": "x"}')
    assert accepts(schema, '{"name": "x"}')
    assert accepts(schema, "4")
    assert not accepts(schema, "true")


def test_white_space_in_json_is_bounded() -> None:
    schema = checked({**NAMED, "properties": {"name": LISTED}})
    assert accepts(schema, '{"name": [1, 2]}')
    assert accepts(schema, '{\n  "name": [1,\n    2]\n}'), "a number may end with its line"
    assert not accepts(schema, '{"name":  [1, 2]}')
    assert not accepts(schema, '{\n\n"name": [1, 2]}')
    assert not accepts(schema, "{\n" + " " * 17 + '"name": [1, 2]}')


# -- the schema of a call --------------------------------------------------------------------


def test_a_call_is_a_name_and_the_arguments_of_its_tool() -> None:
    tools = [tool(), tool("count", {"type": "object", "properties": {"n": {"type": "integer"}}})]
    schema = json_schema.calls_schema(tools, ("name", "arguments"), None)
    assert accepts(schema, '{"name": "get_weather", "arguments": {"city": "x"}}')
    assert accepts(schema, '{"name": "count", "arguments": {"n": 3}}')
    for other in (
        '{"name": "count", "arguments": {"city": "x"}}',
        '{"name": "nobody", "arguments": {}}',
        '{"arguments": {"city": "x"}, "name": "get_weather"}',
        '{"name": "get_weather"}',
    ):
        assert not accepts(schema, other)


def test_the_family_says_what_name_and_arguments_are_called() -> None:
    schema = json_schema.calls_schema([tool()], ("name", "parameters"), None)
    assert accepts(schema, '{"name": "get_weather", "parameters": {"city": "x"}}')
    assert not accepts(schema, '{"name": "get_weather", "arguments": {"city": "x"}}')


def test_a_tool_without_parameters_takes_an_object() -> None:
    schema = json_schema.calls_schema([tool("now", None)], ("name", "arguments"), None)
    bound = planned(OutputSpec([tool("now", None)], "any")).forced
    assert bound is not None
    for found in (schema, bound.schema):
        assert accepts(found, '{"name": "now", "arguments": {}}')
        assert not accepts(found, '{"name": "now", "arguments": 3}')


TREE: Schema = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}, "again": {"$ref": "#"}},
    "required": ["root"],
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["kids"],
        }
    },
}


def test_references_of_a_tools_schema_move_with_it() -> None:
    same_name = {**TREE, "$defs": {"node": {"type": "integer"}}}
    schema = json_schema.calls_schema(
        [tool("grow", TREE), tool("count", same_name)], ("name", "arguments"), also=TREE
    )
    grown = '{"root": {"kids": [{"kids": []}]}}'
    assert accepts(schema, f'{{"name": "grow", "arguments": {grown}}}')
    assert accepts(schema, '{"name": "count", "arguments": {"root": 3}}')
    assert accepts(
        schema, f'{{"name": "grow", "arguments": {{"root": {{"kids": []}}, "again": {grown}}}}}'
    )
    assert accepts(schema, grown), "the answer instead of a call"
    assert not accepts(schema, '{"name": "grow", "arguments": {"root": 3}}')
    assert TREE["properties"]["root"] == {"$ref": "#/$defs/node"}, "the caller's is left alone"


# -- families --------------------------------------------------------------------------------

# What gives a family away in its own chat template.
TEMPLATES = {
    "hermes": '{%- if tools %}<tools>...</tools> within <tool_call></tool_call>\\n{"name": ',
    "xml": "{%- if tools %}<tool_call>\\n<function=example_function_name>\\n<parameter=x>",
    "mistral": '{{- "[AVAILABLE_TOOLS] [" }}{{ "[TOOL_CALLS] [" }}{{ tools }}',
    "mistral-args": '{{- "[AVAILABLE_TOOLS]" }}{{ "[TOOL_CALLS]" + name + "[ARGS]" }}{{ tools }}',
    "deepseek": "{{ '<｜tool▁calls▁begin｜>' + name + '<｜tool▁sep｜>' }}{{ tools }}",
    "llama": '{{- "Environment: ipython\\n" }}{{ tools }}',
    "plain": "{% for m in messages %}<start_of_turn>{{ m.content }}{% endfor %}",
}


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_template_gives_its_family_away(family: str) -> None:
    assert tool_format_of(TEMPLATES[family]).name == family
    assert tool_format_of(None, TEMPLATES[family]).name == family, "so does a rendered prompt"


def test_the_newer_form_counts_where_a_template_mentions_both() -> None:
    assert tool_format_of(TEMPLATES["hermes"] + TEMPLATES["xml"]).name == "xml"
    assert tool_format_of(TEMPLATES["mistral"] + TEMPLATES["mistral-args"]).name == "mistral-args"


def test_nothing_known_is_plain() -> None:
    assert tool_format_of() is tool_format_of(None, "") is PLAIN


@pytest.mark.parametrize("family", ["hermes", "llama", "mistral", "plain"])
def test_what_somebody_says_about_calls_does_not_change_a_models_family(family: str) -> None:
    said = "What do [ARGS] and <function=x> mean? And <|python_tag|>?"
    form = OutputSpec(tools=[tool()], tool_choice="any")
    assert planned(form, TEMPLATES[family], prompt=said).tool_format.name == family


@pytest.mark.parametrize("tool_format", [*DIALECTS, PLAIN], ids=lambda d: d.name)
def test_what_a_family_is_bound_to_write_is_read_as_a_call(tool_format: Any) -> None:
    template = TEMPLATES[tool_format.name]
    for choice in ("any", "get_weather"):
        bound = planned(OutputSpec(tools=[tool(), tool("b")], tool_choice=choice), template).forced
        assert bound is not None
        assert bound.visible and bound.last
        call = {tool_format.keys[0]: "get_weather", tool_format.keys[1]: {"city": "Paris"}}
        bodies = [json.dumps(call), '{"city": "Paris"}']
        (body,) = [text for text in bodies if accepts(bound.schema, text)]
        reader = ToolCallParser(["get_weather", "b"], str).read(
            f"{bound.prefix}{body}{bound.suffix}"
        )
        assert [(c.name, c.arguments) for c in reader.calls] == [("get_weather", {"city": "Paris"})]
        assert (reader.content, reader.invalid) == ("", [])


# -- plans -----------------------------------------------------------------------------------

TWO = [tool("a"), tool("b", {"type": "object", "properties": {"n": {"type": "integer"}}})]
CALL_A, CALL_B = '{"name": "a", "arguments": {"city": "x"}}', '{"name": "b", "arguments": {}}'


def test_nothing_asked_for_is_no_plan() -> None:
    assert planned(OutputSpec()) is FREE
    assert planned(OutputSpec(tools=TWO, tool_choice="none")) is FREE


def test_behind_the_familys_own_tag_any_tool_may_be_called() -> None:
    bound = planned(OutputSpec(tools=TWO), TEMPLATES["hermes"]).constraint_after("<tool_call>")
    assert (bound.prefix, bound.suffix) == ("<tool_call>\n", "\n</tool_call>")
    assert accepts(bound.schema, CALL_A) and accepts(bound.schema, CALL_B)
    assert bound.visible and not bound.last


@pytest.mark.parametrize(
    "text", ['{"name": "b"', '\n  { "name":"b"', '{"type": "function", "name": "b"']
)
def test_behind_a_tools_name_it_is_that_tool(text: str) -> None:
    bound = planned(OutputSpec(tools=TWO), TEMPLATES["hermes"]).constraint_after(text)
    assert (bound.prefix, bound.suffix) == ("", "")
    assert accepts(bound.schema, CALL_B) and not accepts(bound.schema, CALL_A)


def test_a_bare_call_has_the_familys_keys_and_a_fenced_one_the_plain_ones() -> None:
    llama = planned(OutputSpec(tools=TWO), TEMPLATES["llama"])
    assert accepts(llama.constraint_after('{"name": "b"').schema, '{"name": "b", "parameters": {}}')
    fenced = llama.constraint_after('```json\n{"name": "b"')
    assert (fenced.prefix, fenced.suffix) == ("```json\n", "\n```")
    assert accepts(fenced.schema, CALL_B) and not accepts(fenced.schema, CALL_A)


@pytest.mark.parametrize("tag", TAGS)
def test_behind_another_familys_tag_the_call_is_written_freely(tag: str) -> None:
    assert planned(OutputSpec(tools=TWO), TEMPLATES["llama"]).constraint_after(tag) == Constraint(
        prefix=tag
    )


def test_what_is_not_bound_goes_on_freely_from_its_beginning() -> None:
    for form, supports_schema in (
        (OutputSpec(tools=TWO, strict=False), True),
        (OutputSpec(tools=TWO), False),
    ):
        found = planned(form, TEMPLATES["hermes"], supports_schema=supports_schema)
        assert found.constraint_after("<tool_call>") == Constraint(prefix="<tool_call>")
        assert found.constraint_after('{"name": "b"') == Constraint(prefix='{"name": "b"')
        assert not found.watches_answer


@pytest.mark.parametrize("text", ["<tool_call>", '{"name": "b"', '```json\n{"name": "a"'])
def test_without_parallel_calls_nothing_follows_one(text: str) -> None:
    form = OutputSpec(tools=TWO, parallel_tool_calls=False)
    assert planned(form, TEMPLATES["hermes"]).constraint_after(text).last
    assert not planned(OutputSpec(tools=TWO), TEMPLATES["hermes"]).constraint_after(text).last


@pytest.mark.parametrize("text", ["<tool_call>", '{"name": "b"', "{", "```json\n"])
def test_a_demand_holds_whatever_was_begun(text: str) -> None:
    for form in (
        OutputSpec(tools=TWO, tool_choice="a"),
        OutputSpec(schema=CITY),
        OutputSpec(tools=TWO, schema=CITY),
    ):
        found = planned(form, TEMPLATES["hermes"])
        assert found.constraint_after(text) is found.forced


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("{", True),
        ("So:\n{", True),
        ("So:\n```json\n", True),
        ("``` JSON\n", True),
        ("So {", False),
        ("```python\n", False),
        ("[1]", False),
    ],
)
def test_where_json_begins_that_was_asked_for(text: str, begins: bool) -> None:
    trigger = planned(OutputSpec(schema=CITY)).trigger
    assert trigger is not None
    assert (trigger.search(text) is not None) is begins


def test_an_answer_with_a_schema_stands_in_a_fence_that_only_the_model_sees() -> None:
    bound = planned(OutputSpec(schema=CITY)).forced
    assert bound is not None
    assert (bound.prefix, bound.visible, bound.stop) == ("```json\n", False, None)
    assert accepts(bound.schema, '{"city": "x"}') and not accepts(bound.schema, '{"town": "x"}')


def test_without_a_grammar_the_fence_ends_the_answer() -> None:
    assert planned(OutputSpec(schema=CITY), supports_schema=False).forced == Constraint(
        "```json\n", visible=False, stop="\n```"
    )


def test_an_answer_with_a_schema_may_be_a_call_instead() -> None:
    bound = planned(OutputSpec(tools=TWO, schema=NAMED), TEMPLATES["hermes"]).forced
    assert bound is not None
    assert accepts(bound.schema, CALL_A) and accepts(bound.schema, '{"name": "x"}')


def test_a_tool_that_cannot_be_bound_can_be_called_all_the_same() -> None:
    odd = tool("odd", {"type": "object", "properties": {"x": UNSUPPORTED[0][1]}})
    one, other = tool(), '{"name": "get_weather", "arguments": {"city": "x"}}'
    for form in (
        OutputSpec(tools=[one, odd]),
        OutputSpec(tools=[one, odd], tool_choice="any"),
        OutputSpec(tools=[one, odd], tool_choice="any", strict=False),
        OutputSpec(tools=[one, odd], schema=NAMED),
    ):
        found = planned(form, TEMPLATES["hermes"])
        bound = found.constraint_after("<tool_call>")
        assert accepts(bound.schema, '{"name": "odd", "arguments": {"x": "y"}}')
        assert accepts(bound.schema, other), "the others can be called"
        assert not accepts(bound.schema, other.replace("city", "town")), "and stay bound"


def test_a_strict_form_needs_a_backend_that_binds() -> None:
    for form in (OutputSpec(tools=TWO, strict=True), OutputSpec(schema=CITY, strict=True)):
        with pytest.raises(ConfigError, match=r"strict=True .*the model.*server.*leave strict"):
            planned(form, supports_schema=False)
        assert planned(form) is not FREE


def test_only_the_demanded_tool_has_to_be_bindable() -> None:
    odd = tool("odd", {"type": "object", "properties": {"x": UNSUPPORTED[0][1]}})
    form = OutputSpec(tools=[*TWO, odd], tool_choice="a")
    bound = planned(form, TEMPLATES["hermes"]).forced
    assert bound is not None
    assert accepts(bound.schema, CALL_A) and not accepts(bound.schema, CALL_B)
    with pytest.raises(ConfigError, match="'odd'"):
        planned(OutputSpec(tools=[*TWO, odd], tool_choice="odd", strict=True))


@pytest.mark.parametrize("supports_schema", [True, False])
@pytest.mark.parametrize(
    ("family", "lead"),
    [
        ("mistral-args", "[TOOL_CALLS]a[ARGS]"),
        ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>"),
    ],
)
def test_a_demanded_tools_name_may_stand_in_front_of_its_arguments(
    family: str, lead: str, supports_schema: bool
) -> None:
    bound = planned(
        OutputSpec(tools=TWO, tool_choice="a"), TEMPLATES[family], supports_schema=supports_schema
    ).forced
    assert bound is not None
    assert (bound.prefix, bound.suffix) == (lead, "")
    if supports_schema:
        assert accepts(bound.schema, '{"city": "x"}') and not accepts(bound.schema, CALL_A)
    else:
        assert bound.schema is None


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


def test_the_schema_stands_behind_the_system_message() -> None:
    first, second = constraints.show_schema([SYSTEM, USER], OutputSpec(schema=CITY))
    assert first["content"].startswith("Be brief.\n\n")
    assert json.dumps(CITY) in first["content"]
    assert second == USER
    assert SYSTEM["content"] == "Be brief.", "the caller's message is left alone"


def test_without_a_system_message_it_stands_in_front_of_the_first_question() -> None:
    other = {"role": "assistant", "content": "Hello."}
    first, second, third = constraints.show_schema([other, USER, USER], OutputSpec(schema=CITY))
    assert first == other
    assert json.dumps(CITY) in second["content"]
    assert second["content"].endswith("\n\nWeather?")
    assert third == USER


@pytest.mark.parametrize(
    "form", [OutputSpec(), OutputSpec(schema=json_schema.ANY_OBJECT), OutputSpec([tool()])]
)
def test_where_there_is_no_schema_to_tell_nothing_is_told(form: OutputSpec) -> None:
    assert constraints.show_schema([SYSTEM, USER], form) == [SYSTEM, USER]


def test_tools_written_out_are_told_with_how_to_call_them() -> None:
    (message,) = constraints.write_tools_out([USER], TWO)
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
    found = constraints.write_tools_out([USER, CALLED, *results], [])
    assert [m["role"] for m in found] == ["user", "assistant", "user", "user", "user"]
    assert found[0] == USER, "without tools there is nothing to explain"
    reader = ToolCallParser(["a", "b"], str).read(found[1]["content"])
    assert reader.content == "I look."
    assert [(c.name, c.arguments) for c in reader.calls] == [("a", {"city": "Paris"}), ("b", {})]
    assert [m["content"] for m in found[2:]] == [
        "Result of a:\nsunny",
        "Result of 2:\n3",
        "Result of the tool:\n?",
    ]


def test_a_call_without_text_is_written_out_alone() -> None:
    (message,) = constraints.write_tools_out([{**CALLED, "content": ""}], [])
    assert message["content"].startswith("```json\n")


def test_tools_are_told_even_where_nobody_asked_anything() -> None:
    first, second = constraints.write_tools_out([CALLED], TWO)
    assert first["role"] == "user" and json.dumps(TWO[0]["function"]) in first["content"]
    assert second["role"] == "assistant"


@pytest.mark.parametrize(
    ("template", "knows"),
    [("{% if tools %}", True), ("{{ tools | tojson }}", True), ("{{ builtin_toolset }}", False)],
)
def test_whether_a_template_reads_tools(template: str, knows: bool) -> None:
    assert constraints.knows_tools(template) is knows


# -- properties ------------------------------------------------------------------------------

LEAVES = st.sampled_from(
    [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": "null"}]
)
OBJECTS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"anyOf": parts})
        | inner.map(lambda part: {"type": "array", "items": part})
        | st.dictionaries(st.sampled_from(["a", "b", "type"]), inner, max_size=3).map(
            lambda parts: {"type": "object", "properties": parts, "required": [*parts]}
        )
    ),
    max_leaves=6,
)


def example(schema: Schema) -> Any:
    """A value that follows the schema."""
    if "anyOf" in schema:
        return example(schema["anyOf"][-1])
    kind = schema["type"]
    if kind == "object":
        return {key: example(part) for key, part in schema["properties"].items()}
    if kind == "array":
        return [example(schema["items"])] * 2
    return {"string": "x{}", "integer": -7, "boolean": True, "null": None}[kind]


@given(OBJECTS)
def test_what_follows_a_schema_may_be_written(schema: Schema) -> None:
    assert accepts(checked(schema), json.dumps(example(schema)))
    call = json.dumps({"name": "a", "arguments": example(schema)})
    made = json_schema.calls_schema(
        [tool("a", schema), tool("b")], ("name", "arguments"), also=CITY
    )
    assert accepts(made, call)


@given(OBJECTS)
def test_checking_twice_changes_nothing(schema: Schema) -> None:
    once = checked(schema)
    assert checked(once) == once
