"""What the tests of tools and JSON schemas share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from glimp_integrations.output import json_schema
from glimp_integrations.output.constraints import Plan, make_plan
from glimp_integrations.output.spec import OutputSpec

Schema = dict[str, Any]
CITY: Schema = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
NAMED: Schema = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
}
LISTED: Schema = {"type": "array", "items": {"type": "integer"}}
# Keywords that no grammar can express, each in a schema.
UNSUPPORTED: list[tuple[str, Schema]] = [
    ("not", {"type": "string", "not": {"const": "x"}}),
    ("if", {**CITY, "if": CITY, "then": CITY}),
    ("uniqueItems", {**LISTED, "uniqueItems": True}),
    ("dependentSchemas", {**CITY, "dependentSchemas": {"city": CITY}}),
    ("contains", {**LISTED, "contains": {"const": 1}}),
]
_BYTES = LLTokenizer("byte")


def tool(name: str = "get_weather", parameters: Any = CITY) -> Schema:
    function: Schema = {"name": name, "description": f"Does {name}."}
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


TWO = [tool("a"), tool("b", {"type": "object", "properties": {"n": {"type": "integer"}}})]


def accepts(schema: Mapping[str, Any] | None, text: str) -> bool:
    """Whether a model that is constrained to the schema could write exactly this."""
    assert schema is not None
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(json_schema.for_llguidance(schema)))
    matcher = LLMatcher(_BYTES, grammar, log_level=0)
    for byte in text.encode():
        if matcher.is_stopped() or not matcher.consume_token(byte):
            return False
    return bool(matcher.is_accepting())


def plan_for(
    spec: OutputSpec, template: str = "", *, supports_schema: bool = True, prompt: str = ""
) -> Plan:
    return make_plan(spec, (template, prompt), supports_schema=supports_schema, model="the model")
