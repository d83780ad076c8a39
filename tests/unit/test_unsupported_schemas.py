"""Schemas that no grammar can express: loosened with a warning, or refused. References."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import schema_helpers
from schema_helpers import Schema

from glimp_integrations.errors import ConfigError
from glimp_integrations.output import json_schema
from glimp_integrations.output.constraints import Plan
from glimp_integrations.output.schema_references import plain
from glimp_integrations.output.spec import OutputSpec

HERMES = "{% if tools %}<tool_call>"


def accepts(schema: Any, value: Any) -> bool:
    return schema_helpers.accepts(schema, json.dumps(value))


def constrainable(schema: Schema) -> Schema:
    return json_schema.constrainable(schema, what="it")


def tool(parameters: Any, name: str = "odd") -> Schema:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def plan_for(spec: OutputSpec, *, supports_schema: bool = True) -> Plan:
    return schema_helpers.plan_for(spec, HERMES, supports_schema=supports_schema)


# -- references by name ----------------------------------------------------------------------

ADDRESS = "https://example.com/schemas/order"
NAMED: list[Schema] = [
    {
        "$id": ADDRESS,
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/n"}},
        "$defs": {"n": {"type": "integer"}},
    },
    {
        "$id": ADDRESS,
        "type": "object",
        "properties": {"x": {"$ref": "order#/$defs/n"}},
        "$defs": {"n": {"type": "integer"}},
    },
    {
        "$id": ADDRESS,
        "type": "object",
        "properties": {"x": {"$ref": f"{ADDRESS}#/$defs/n"}},
        "$defs": {"n": {"type": "integer"}},
    },
    {
        "$id": "urn:order",
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/n"}},
        "$defs": {"n": {"type": "integer"}},
    },
    {
        "type": "object",
        "properties": {"x": {"$ref": "#count"}},
        "$defs": {"n": {"$anchor": "count", "type": "integer"}},
    },
    {
        "$id": ADDRESS,
        "type": "object",
        "properties": {"x": {"$ref": "order#count"}},
        "$defs": {"n": {"$anchor": "count", "type": "integer"}},
    },
    {
        "type": "object",
        "properties": {"x": {"$ref": "count"}},
        "$defs": {"n": {"$id": "count", "type": "integer"}},
    },
    {
        "$id": ADDRESS,
        "type": "object",
        "properties": {"x": {"$ref": "/schemas/count#/$defs/m"}},
        "$defs": {"n": {"$id": "count", "$defs": {"m": {"type": "integer"}}}},
    },
    {
        "type": "object",
        "properties": {"x": {"$dynamicRef": "#count"}},
        "$defs": {"n": {"$dynamicAnchor": "count", "type": "integer"}},
    },
    {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/a~1b%25"}},
        "$defs": {"a/b%": {"$anchor": "z", "type": "integer"}},
    },
    # Not as the standard has it, but as generators write it.
    {
        "type": "object",
        "properties": {"x": {"$id": "here", "allOf": [{"$ref": "#/$defs/n"}]}},
        "$defs": {"n": {"type": "integer"}},
    },
]


@pytest.mark.parametrize("schema", NAMED, ids=range(len(NAMED)))
def test_references_by_name_are_resolved_before_the_schema_moves(schema: Schema) -> None:
    before = json.dumps(schema)
    loosened = constrainable(schema)
    assert accepts(loosened, {"x": 3}) and not accepts(loosened, {"x": "3"})
    other = tool({"type": "object", "properties": {}}, "other")
    specs = (
        OutputSpec([tool(schema), other]),
        OutputSpec([tool(schema), other], "any"),
        OutputSpec([tool(schema)], schema=schema),
        OutputSpec([tool(schema)], strict=True),
    )
    for spec in specs:
        for trigger in ("<tool_call>", '{"name": "odd"'):
            constrained = plan_for(spec).constraint_after(trigger).schema
            assert accepts(constrained, {"name": "odd", "arguments": {"x": 3}})
            assert not accepts(constrained, {"name": "odd", "arguments": {"x": "3"}})
    assert json.dumps(schema) == before, "the caller's is left alone"


def test_names_in_data_and_properties_called_like_them_stay() -> None:
    schema = {
        "type": "object",
        "properties": {"$id": {"type": "string"}, "$ref": {"const": {"$ref": "#/x"}}},
        "$defs": {"a": {"$anchor": "b"}},
    }
    copied = plain(schema)
    assert copied["properties"] == schema["properties"]
    assert json_schema.moved(schema, "#/$defs/t")["properties"] == schema["properties"]


# -- what no grammar can express ----------------------------------------------------------------

DECIMAL = {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}
LISTED = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
ODD: list[tuple[str, Schema, Any, Any]] = [
    ("uniqueItems", LISTED, [1, 1], ["a"]),
    ("not", {"type": "string", "not": {"const": "x"}}, "x", 3),
    ("pattern", {"anyOf": [{"type": "number"}, DECIMAL]}, "1.50", True),
    ("pattern", {"type": "string", "pattern": r"(a)\1"}, "aa", 3),
    (
        "contains",
        {"type": "array", "items": {"type": "integer"}, "contains": {"const": 1}},
        [2],
        ["a"],
    ),
    ("propertyNames", {"type": "object", "propertyNames": {"minLength": 3}}, {"abc": 1}, 3),
    (
        "patternProperties",
        {
            "type": "object",
            "patternProperties": {"^(?!a)": {"type": "integer"}},
            "properties": {"a": {"type": "integer"}},
        },
        {"a": 1, "b": 2},
        {"a": "x"},
    ),
    (
        "if",
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "if": {},
            "then": {"properties": {"b": {"type": "integer"}}},
        },
        {"a": 1, "b": 2},
        {"a": "x"},
    ),
    (
        "dependentRequired",
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "dependentRequired": {"a": ["a"]},
        },
        {"a": 1},
        {"b": 1},
    ),
    ("$ref", {"$ref": "https://example.com/elsewhere"}, {"a": 1}, None),
]
odd = pytest.mark.parametrize(
    ("keyword", "schema", "right", "wrong"), ODD, ids=[f"{n}-{o[0]}" for n, o in enumerate(ODD)]
)


@odd
def test_a_keyword_that_no_grammar_can_express_is_left_out_and_named_once(
    keyword: str, schema: Schema, right: Any, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    whole = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    what = f"the arguments of {keyword}"
    json_schema._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "glimp_integrations"):
        loosened = json_schema.constrainable(whole, what=what)
        assert json_schema.constrainable(whole, what=what) == loosened
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{what}: no grammar can express {keyword}")
    assert accepts(loosened, {"x": right})
    assert wrong is None or not accepts(loosened, {"x": wrong}), "the rest is kept"
    with pytest.raises(ConfigError):
        json_schema.checked(whole, what="it")


@odd
@pytest.mark.parametrize("choice", ["auto", "any", "odd"])
@pytest.mark.parametrize("strict", [None, False])
def test_such_a_tool_leaves_the_others_constrained(
    keyword: str, schema: Schema, right: Any, wrong: Any, choice: str, strict: bool | None
) -> None:
    whole = {"type": "object", "properties": {"x": schema}}
    other = tool({"type": "object", "properties": {"n": {"type": "integer"}}}, "other")
    spec = OutputSpec([tool(whole), other], choice, strict)
    plan = plan_for(spec)
    constrained = plan.constraint_after("<tool_call>").schema
    if strict is False and choice == "auto":
        assert constrained is None, "the call is written freely"
        return
    assert accepts(constrained, {"name": "odd", "arguments": {"x": right}})
    if choice != "odd":
        assert accepts(constrained, {"name": "other", "arguments": {"n": 1}})
        assert not accepts(constrained, {"name": "other", "arguments": {"n": "1"}})
    with pytest.raises(ConfigError, match="tool 'odd'"):
        plan_for(OutputSpec([tool(whole), other], choice, strict=True))


@odd
@pytest.mark.parametrize("supports_schema", [True, False])
def test_such_an_answer_is_asked_for_everywhere(
    keyword: str,
    schema: Schema,
    right: Any,
    wrong: Any,
    supports_schema: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = {"type": "object", "properties": {"x": schema}, "title": f"{supports_schema}"}
    forced = plan_for(OutputSpec(schema=whole), supports_schema=supports_schema).forced
    assert (forced.schema is not None) is supports_schema
    if supports_schema:
        assert accepts(forced.schema, {"x": right})
    else:
        assert caplog.records == [], "nothing is constrained, so nothing is missing"
    with pytest.raises(ConfigError):
        plan_for(OutputSpec(schema=whole, strict=True), supports_schema=supports_schema)


def test_arguments_of_which_nothing_is_left_are_still_an_object() -> None:
    constrained = plan_for(OutputSpec([tool({"not": {"required": ["y"]}})], "any")).forced.schema
    assert accepts(constrained, {"name": "odd", "arguments": {"x": 1}})
    assert not accepts(constrained, {"name": "odd", "arguments": 1})


INVALID: list[tuple[Any, str]] = [
    ({"type": "wat"}, "wat"),
    ({"type": object}, "not a JSON schema"),
    ("a string", "not a JSON schema"),
    ({"type": "object", "properties": {"a": 5}}, "must be an object or boolean"),
    ({"type": "object", "properties": {"x": {"$ref": "#/$defs/nobody"}}}, "nobody"),
    (
        {
            "type": "object",
            "properties": {"x": {"type": "integer", "minimum": 5, "maximum": 3}},
            "required": ["x"],
        },
        "'x' is unsatisfiable",
    ),
]


@pytest.mark.parametrize(("schema", "named"), INVALID)
@pytest.mark.parametrize("choice", ["auto", "any", "odd"])
def test_what_is_not_a_schema_is_refused_before_anything_is_written(
    schema: Any, named: str, choice: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        plan_for(OutputSpec([tool(schema), tool({"type": "object"}, "other")], choice))
    assert "the arguments of tool 'odd'" in str(caught.value)


@pytest.mark.parametrize("supports_schema", [True, False])
def test_pydantics_sets_and_decimals(supports_schema: bool) -> None:
    from decimal import Decimal

    from pydantic import BaseModel

    class Bill(BaseModel):
        total: Decimal
        tags: set[str]

    schema = Bill.model_json_schema()
    schema["properties"]["total"]["anyOf"][1] = DECIMAL  # as pydantic 2.12 and 2.13 have it
    forced = plan_for(OutputSpec(schema=schema), supports_schema=supports_schema).forced
    if supports_schema:
        assert accepts(forced.schema, {"total": "1.50", "tags": ["a", "a"]})
        assert not accepts(forced.schema, {"total": "1.50", "tags": [1]})
