"""JSON schemas as grammars: faults are named, objects closed, calls described."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schema_helpers import CITY, LISTED, NAMED, UNSUPPORTED, Schema, accepts, plan_for, tool

from glimp_integrations.errors import ConfigError
from glimp_integrations.output import json_schema
from glimp_integrations.output.spec import OutputSpec


def checked(schema: Schema) -> Schema:
    return json_schema.checked(schema, what="the answer's schema")


# -- schemas that no grammar can express -----------------------------------------------------

unsupported = pytest.mark.parametrize(("keyword", "schema"), UNSUPPORTED)


@unsupported
@pytest.mark.parametrize("deep", [False, True])
def test_a_keyword_that_cannot_be_expressed_is_named(
    keyword: str, schema: Schema, deep: bool
) -> None:
    if deep:
        schema = {"type": "object", "properties": {"x": {"anyOf": [schema, {"type": "null"}]}}}
    with pytest.raises(ConfigError) as caught:
        checked(schema)
    text = str(caught.value)
    assert text.startswith("the answer's schema cannot be expressed as a grammar: ")
    assert f'"{keyword}"' in text
    assert "check the value afterwards" in text


@unsupported
def test_the_tool_whose_arguments_cannot_be_expressed_is_named(
    keyword: str, schema: Schema
) -> None:
    odd = {"type": "object", "properties": {"x": schema}}
    spec = OutputSpec(tools=[tool("fine"), tool("odd", odd)], strict=True)
    with pytest.raises(
        ConfigError, match="the arguments of tool 'odd' cannot be expressed"
    ) as caught:
        plan_for(spec)
    assert f'"{keyword}"' in str(caught.value)


def test_a_schema_that_is_not_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="the answer's schema is not a JSON schema"):
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
def test_other_faults_of_a_schema_are_named(schema: Schema, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        checked(schema)


def test_an_unknown_format_is_an_annotation_and_dropped() -> None:
    schema = {
        "type": "object",
        "properties": {
            "when": {"type": "string", "format": "date"},
            "to": {"type": "string", "format": "iban"},
            "all": {"type": "array", "items": {"type": "string", "format": "bic"}},
        },
    }
    properties = checked(schema)["properties"]
    assert properties["when"] == {"type": "string", "format": "date"}
    assert properties["to"] == properties["all"]["items"] == {"type": "string"}
    assert schema["properties"]["to"]["format"] == "iban", "the caller's schema is left alone"


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
    inner: Any = checked(schema)
    for key in place:
        inner = inner[key]
    assert inner["additionalProperties"] is False
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


def test_white_space_in_json_is_limited() -> None:
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
    constraint = plan_for(OutputSpec([tool("now", None)], "any")).forced
    assert constraint is not None
    for one in (schema, constraint.schema):
        assert accepts(one, '{"name": "now", "arguments": {}}')
        assert not accepts(one, '{"name": "now", "arguments": 3}')


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
