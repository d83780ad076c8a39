"""JSON schemas as grammars: what can be expressed, and what a tool call has to look like.

Servers answer a schema they cannot express in different ways, one of them being silence
(llama.cpp's completions route then generates freely). So a schema is judged here, before
anything is generated, by llguidance (https://github.com/guidance-ai/llguidance), which is also
what binds models of this process.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glimp_integrations.errors import ConfigError

__all__ = ["ANY_OBJECT", "calls_schema", "checked", "closed", "for_llguidance"]

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
"""JSON mode: any object."""

# White space as models were taught to write it, and bounded: a weak model that is allowed any may
# write it for ever, and one that is allowed none goes on with the digits of a last number, where
# it would have broken the line. Of several alternatives any may be taken.
_STYLE = {
    "whitespace_flexible": True,
    "whitespace_pattern": r"(?:\n {0,16}| )?",
    "coerce_one_of": True,
}


def checked(schema: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """A schema that the grammar engines understand, objects closed.

    Args:
        schema: JSON schema.
        what: Whose it is, for the message.

    Raises:
        ConfigError: It has a keyword that no grammar can keep; the message names it.
    """
    found = closed(schema)
    while (complaint := _complaint(found, what)) is not None:
        unknown = re.fullmatch(r"Unknown format: (.*)", complaint)
        if unknown is None or not _drop(found, "format", unknown[1]):
            raise ConfigError(
                f"{what} cannot be bound by a grammar: {_readable(complaint)}. Leave it out of "
                "the schema and check the value afterwards"
            )
        # An annotation, as JSON Schema has it (2020-12 validation, section 7.2.1).
    return found


def for_llguidance(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with llguidance's options for how JSON is written; others ignore the key."""
    return {**schema, "x-guidance": _STYLE}


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with every object closed that does not say otherwise.

    A model bound by an open object may invent properties; callers who list them mean these.
    """
    found: dict[str, Any] = copy.deepcopy(dict(schema))
    _close(found, "#", part=False, parts=_parts(found))
    return found


def calls_schema(
    tools: Sequence[Mapping[str, Any]], keys: tuple[str, str], also: Mapping[str, Any] | None
) -> dict[str, Any]:
    """JSON of one tool call: the name, then the arguments.

    Args:
        tools: In OpenAI's format, checked.
        keys: What the model's family calls name and arguments.
        also: A schema that may be followed instead of calling a tool.
    """
    shared: dict[str, Any] = {}
    choices: list[dict[str, Any]] = []
    for tool in tools:
        function = tool["function"]
        name = function["name"]
        shared[name] = moved(function.get("parameters") or {"type": "object"}, f"#/$defs/{name}")
        choices.append(
            {
                "type": "object",
                "properties": {
                    keys[0]: {"const": name},
                    keys[1]: {"$ref": f"#/$defs/{name}"},
                },
                "required": list(keys),
                "additionalProperties": False,
            }
        )
    if also is not None:
        # No tool's name has a dollar sign, so nothing is overwritten.
        shared["$answer"] = moved(also, "#/$defs/$answer")
        choices.append({"$ref": "#/$defs/$answer"})
    body = choices[0] if len(choices) == 1 else {"anyOf": choices}
    return checked({**body, "$defs": shared}, what="a call to one of the tools")


def moved(schema: Any, place: str) -> Any:
    """The schema with its references as they have to be when it lies at ``place``."""
    if isinstance(schema, Mapping):
        return {
            key: place + value[1:]
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else moved(value, place)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [moved(item, place) for item in schema]
    return schema


def _complaint(schema: Mapping[str, Any], what: str) -> str | None:
    from llguidance import LLMatcher

    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(for_llguidance(schema)))
    except (TypeError, ValueError) as error:  # no JSON at all
        raise ConfigError(f"{what} is no JSON schema: {error}") from None
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return "; ".join(messages) if failed else None


def _readable(complaint: str) -> str:
    keys = re.fullmatch(r"Unimplemented keys: \[(.*)\]", complaint)
    return f"keyword {keys[1]} is not supported" if keys else complaint


def _drop(schema: Any, keyword: str, value: str) -> bool:
    """Remove a keyword with this value wherever it stands."""
    found = False
    if isinstance(schema, dict):
        if schema.get(keyword) == value:
            del schema[keyword]
            found = True
        for item in schema.values():
            found = _drop(item, keyword, value) or found
    elif isinstance(schema, list):
        for item in schema:
            found = _drop(item, keyword, value) or found
    return found


_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DATA = ("enum", "const", "default", "examples", "required")


def _close(schema: Any, place: str, *, part: bool, parts: set[str]) -> None:
    """Close what describes an object on its own; see :func:`_parts`."""
    if not isinstance(schema, dict):
        return
    opens = {"additionalProperties", "patternProperties", "unevaluatedProperties", "$ref",
             "allOf", "anyOf", "oneOf"}  # fmt: skip
    kind = schema.get("type")
    is_object = kind == "object" or (isinstance(kind, list) and "object" in kind)
    if (
        is_object
        and "properties" in schema
        and not part
        and place not in parts
        and not opens & schema.keys()
    ):
        schema["additionalProperties"] = False
    for child, key, inner in _children(schema, part=part):
        _close(child, f"{place}/{key}", part=inner, parts=parts)


def _parts(schema: Any, *, part: bool = False) -> set[str]:
    """Places that only a reference makes part of another object.

    Parts of a conjunction describe one object together: closing one would empty it.
    """
    found: set[str] = set()
    if isinstance(schema, dict):
        if "$ref" in schema and (part or "properties" in schema):
            found.add(str(schema["$ref"]))
        for child, _, inner in _children(schema, part=part):
            found |= _parts(child, part=inner)
    return found


def _children(schema: dict[str, Any], *, part: bool) -> Iterator[tuple[Any, str, bool]]:
    """The schemas inside of one: schema, place in it, whether it is part of this one."""
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            yield from ((child, f"{key}/{name}", False) for name, child in value.items())
        elif key in ("allOf", "anyOf", "oneOf") and isinstance(value, list):
            inner = part or key == "allOf" or "properties" in schema
            yield from ((child, f"{key}/{i}", inner) for i, child in enumerate(value))
        elif key not in _DATA and isinstance(value, list):
            yield from ((child, f"{key}/{i}", False) for i, child in enumerate(value))
        elif key not in _DATA:
            yield value, key, False
