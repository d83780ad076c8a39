"""JSON schemas as grammars: what can be expressed, and what a tool call has to look like.

Servers answer a schema they cannot express in different ways, one of them being silence
(llama.cpp's completions route then generates freely). So a schema is judged here, before
anything is generated, by llguidance (https://github.com/guidance-ai/llguidance), which is also
what binds models of this process.
"""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote

from glimp_integrations.errors import ConfigError
from glimp_integrations.output.schema_references import children, moved, plain

__all__ = ["ANY_OBJECT", "calls_schema", "checked", "closed", "constrainable", "for_llguidance"]

_log = logging.getLogger(__name__)

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
"""JSON mode: any object."""

_NAMES_MORE = ("then", "else", "dependentSchemas", "dependencies", "patternProperties")

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
    return _fitted(schema, what, loosen=False)[0]


def constrainable(schema: Mapping[str, Any], *, what: str, told: bool = True) -> dict[str, Any]:
    """A schema that a grammar can keep, with less in it than was asked for where it has to be.

    What is left out is logged once, by name: whoever takes the values has to check that part.

    Args:
        schema: JSON schema.
        what: Whose it is, for the messages.
        told: Whether to log what is left out.

    Raises:
        ConfigError: It is no JSON schema, or nothing can follow it.
    """
    found, left_out = _fitted(schema, what, loosen=True)
    if left_out and told:
        _say_once(
            f"{what}: no grammar can keep {', '.join(left_out)}, so that the model is bound to the "
            "rest of the schema only; check that part of the values afterwards"
        )
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


def _fitted(
    schema: Mapping[str, Any], what: str, *, loosen: bool
) -> tuple[dict[str, Any], list[str]]:
    """The schema as it can be bound, and what had to be left out for it."""
    if not isinstance(schema, Mapping):
        raise ConfigError(f"{what} is no JSON schema: expected an object, got {schema!r:.80}")
    source, left_out = plain(schema), list[str]()
    while (complaint := _complaint(found := closed(source), what)) is not None:
        unknown = re.fullmatch(r"Unknown format: (.*)", complaint)
        if unknown is not None and _drop(source, partial(_has_format, unknown[1]), "format"):
            continue  # an annotation, as JSON Schema has it (2020-12 validation, section 7.2.1)
        dropped = _loosened(source, complaint) if loosen else []
        if dropped:
            left_out += [name for name in dropped if name not in left_out]
        else:
            advice = "Leave it out of the schema and check the value afterwards"
            raise ConfigError(
                f"{what} cannot be bound by a grammar: {_readable(complaint)}. "
                f"{'Mend the schema' if loosen else advice}"
            )
    return found, left_out


def _loosened(schema: dict[str, Any], complaint: str) -> list[str]:
    """Leave out of the schema what is complained of; returns the names of what was found."""
    keys = re.fullmatch(r"Unimplemented keys: (\[.*\])", complaint)
    if keys is not None:
        return [key for key in json.loads(keys[1]) if _drop(schema, lambda _: True, key)]
    if complaint.startswith("regex parse error"):
        found = ["pattern"] if _drop(schema, _has_odd_pattern, "pattern") else []
        if _drop(schema, _has_odd_names, "patternProperties"):
            found.append("patternProperties")
        return found
    if complaint.startswith("Resource "):
        # Another document, which nobody fetches; or a dialect of JSON Schema that is not known.
        found = ["$ref"] if _drop(schema, _leads_out, "$ref") else []
        return found or (["$schema"] if _drop(schema, lambda _: True, "$schema") else [])
    return []


@lru_cache(maxsize=256)
def _judged(schema: str) -> str | None:
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(schema)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return "; ".join(messages) if failed else None


def _complaint(schema: Mapping[str, Any], what: str) -> str | None:
    try:
        return _judged(json.dumps(for_llguidance(schema)))
    except (TypeError, ValueError) as error:  # no JSON at all
        raise ConfigError(f"{what} is no JSON schema: {error}") from None


@lru_cache(maxsize=1024)
def _say_once(text: str) -> None:
    _log.warning("%s", text)


def _readable(complaint: str) -> str:
    keys = re.fullmatch(r"Unimplemented keys: \[(.*)\]", complaint)
    return f"keyword {keys[1]} is not supported" if keys else complaint


def _drop(schema: Any, wanted: Callable[[dict[str, Any]], bool], key: str) -> bool:
    """Remove a keyword wherever a schema is of the wanted kind; whether there was one."""
    if not isinstance(schema, dict):
        return False
    found = key in schema and wanted(schema)
    if found:
        del schema[key]
        if key in _NAMES_MORE and "properties" in schema:
            # It may have named properties that nothing else does.
            schema.setdefault("additionalProperties", True)
    for child, _, _ in [*children(schema, part=False)]:
        found = _drop(child, wanted, key) or found
    return found


def _has_format(name: str, schema: Mapping[str, Any]) -> bool:
    return bool(schema["format"] == name)


def _leads_out(schema: Mapping[str, Any]) -> bool:
    return not str(schema["$ref"]).startswith("#")


def _has_odd_pattern(schema: Mapping[str, Any]) -> bool:
    return _is_odd({"type": "string", "pattern": schema["pattern"]})


def _has_odd_names(schema: Mapping[str, Any]) -> bool:
    names = schema["patternProperties"]
    return isinstance(names, dict) and any(
        _is_odd({"type": "string", "pattern": name}) for name in names
    )


def _is_odd(schema: Mapping[str, Any]) -> bool:
    return _judged(json.dumps(schema)) is not None


def _close(schema: Any, place: str, *, part: bool, parts: set[str]) -> None:
    """Close what describes an object on its own; see :func:`_parts`."""
    if not isinstance(schema, dict):
        return
    opens = {
        "additionalProperties",
        "patternProperties",
        "unevaluatedProperties",
        "$ref",
        "allOf",
        "anyOf",
        "oneOf",
    }
    kind = schema.get("type")
    is_object = kind == "object" or (isinstance(kind, list) and "object" in kind)
    if (
        is_object
        and "properties" in schema
        and not part
        and unquote(place) not in parts
        and not opens & schema.keys()
    ):
        schema["additionalProperties"] = False
    for child, key, inner in children(schema, part=part):
        _close(child, f"{place}/{key}", part=inner, parts=parts)


def _parts(schema: Any, *, part: bool = False) -> set[str]:
    """Places that only a reference makes part of another object.

    Parts of a conjunction describe one object together: closing one would empty it.
    """
    found: set[str] = set()
    if isinstance(schema, dict):
        if "$ref" in schema and (part or "properties" in schema):
            found.add(unquote(str(schema["$ref"])))
        for child, _, inner in children(schema, part=part):
            found |= _parts(child, part=inner)
    return found
