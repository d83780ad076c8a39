"""JSON schemas as grammars: what a grammar can express, and the schema of a tool call.

Servers react in different ways to a schema that they cannot express. llama.cpp's completions route
says nothing and generates freely. So every schema is checked here, before anything is generated, by
llguidance (https://github.com/guidance-ai/llguidance), the grammar engine that also constrains
models of this process.
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
"""The schema of JSON mode: any object."""

# Keywords whose schemas may name properties that ``properties`` does not list.
_NAMES_MORE = ("then", "else", "dependentSchemas", "dependencies", "patternProperties")

# llguidance's options. White space is allowed as models were taught to write it, and limited: with
# any white space allowed, a weak model may write it for ever; with none allowed, it goes on with
# the digits of a last number where it would have broken the line. ``oneOf`` is read as ``anyOf``,
# because a grammar cannot say that exactly one alternative holds.
_STYLE = {
    "whitespace_flexible": True,
    "whitespace_pattern": r"(?:\n {0,16}| )?",
    "coerce_one_of": True,
}


def checked(schema: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """A schema that the grammar engines can express completely, with its objects closed.

    Args:
        schema: JSON schema.
        what: What the schema describes, for the message.

    Raises:
        ConfigError: No grammar can express one of its keywords; the message names it.
    """
    return _fitted(schema, what, loosen=False)[0]


def constrainable(schema: Mapping[str, Any], *, what: str, warn: bool = True) -> dict[str, Any]:
    """A schema that a grammar can express, without the keywords that it cannot.

    The names of the keywords that are left out are logged, once per message: the
    code that uses the values has to check that part itself.

    Args:
        schema: JSON schema.
        what: What the schema describes, for the messages.
        warn: Whether to log what is left out.

    Raises:
        ConfigError: It is not a JSON schema, or no value can follow it.
    """
    fitted, left_out = _fitted(schema, what, loosen=True)
    if left_out and warn:
        _warn_once(
            f"{what}: no grammar can express {', '.join(left_out)}, so the answer is constrained "
            "to the rest of the schema only; check that part of the values afterwards"
        )
    return fitted


def for_llguidance(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with llguidance's options for white space; other engines ignore the key."""
    return {**schema, "x-guidance": _STYLE}


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with ``additionalProperties: false`` in objects that do not say otherwise.

    With an object left open, a model may invent properties. Callers who list properties mean these.
    """
    copied: dict[str, Any] = copy.deepcopy(dict(schema))
    _close(copied, "#", part=False, parts=_parts(copied))
    return copied


def calls_schema(
    tools: Sequence[Mapping[str, Any]], keys: tuple[str, str], also: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The schema of one tool call: an object with the tool's name, then its arguments.

    Args:
        tools: Tools in OpenAI's format, with checked schemas.
        keys: The model family's keys for the name and the arguments.
        also: The schema of an answer that may be given instead of a call.
    """
    definitions: dict[str, Any] = {}
    choices: list[dict[str, Any]] = []
    for tool in tools:
        function = tool["function"]
        name = function["name"]
        parameters = function.get("parameters") or {"type": "object"}
        definitions[name] = moved(parameters, f"#/$defs/{name}")
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
        definitions["$answer"] = moved(also, "#/$defs/$answer")
        choices.append({"$ref": "#/$defs/$answer"})
    body = choices[0] if len(choices) == 1 else {"anyOf": choices}
    return checked({**body, "$defs": definitions}, what="a call to one of the tools")


def _fitted(
    schema: Mapping[str, Any], what: str, *, loosen: bool
) -> tuple[dict[str, Any], list[str]]:
    """The schema as a grammar can express it, and the keywords that had to be left out for that.

    The engine names one obstacle at a time, so one is removed at a time and the rest checked again.
    """
    if not isinstance(schema, Mapping):
        raise ConfigError(f"{what} is not a JSON schema: expected an object, got {schema!r:.80}")
    source, left_out = plain(schema), list[str]()
    while (complaint := _complaint(fitted := closed(source), what)) is not None:
        unknown = re.fullmatch(r"Unknown format: (.*)", complaint)
        if unknown is not None and _drop(source, partial(_has_format, unknown[1]), "format"):
            continue  # an annotation, as JSON Schema has it (2020-12 validation, section 7.2.1)
        dropped = _loosened(source, complaint) if loosen else []
        if dropped:
            left_out += [name for name in dropped if name not in left_out]
        else:
            advice = "Leave it out of the schema and check the value afterwards"
            raise ConfigError(
                f"{what} cannot be expressed as a grammar: {_readable(complaint)}. "
                f"{'Correct the schema' if loosen else advice}"
            )
    return fitted, left_out


def _loosened(schema: dict[str, Any], complaint: str) -> list[str]:
    """Remove from the schema what the engine's complaint names; returns the removed keywords."""
    keys = re.fullmatch(r"Unimplemented keys: (\[.*\])", complaint)
    if keys is not None:
        return [key for key in json.loads(keys[1]) if _drop(schema, lambda _: True, key)]
    if complaint.startswith("regex parse error"):
        dropped = ["pattern"] if _drop(schema, _has_invalid_pattern, "pattern") else []
        if _drop(schema, _has_invalid_names, "patternProperties"):
            dropped.append("patternProperties")
        return dropped
    if complaint.startswith("Resource "):
        # A reference to another document, which is not fetched; or an unknown version of JSON
        # Schema.
        dropped = ["$ref"] if _drop(schema, _leads_out, "$ref") else []
        return dropped or (["$schema"] if _drop(schema, lambda _: True, "$schema") else [])
    return []


@lru_cache(maxsize=256)
def _errors_in(schema: str) -> str | None:
    """What keeps llguidance from making a grammar of a schema's JSON; ``None``: nothing."""
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(schema)
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return "; ".join(messages) if failed else None


def _complaint(schema: Mapping[str, Any], what: str) -> str | None:
    try:
        return _errors_in(json.dumps(for_llguidance(schema)))
    except (TypeError, ValueError) as error:  # it cannot be written as JSON
        raise ConfigError(f"{what} is not a JSON schema: {error}") from None


@lru_cache(maxsize=1024)
def _warn_once(text: str) -> None:
    _log.warning("%s", text)


def _readable(complaint: str) -> str:
    keys = re.fullmatch(r"Unimplemented keys: \[(.*)\]", complaint)
    return f"keyword {keys[1]} is not supported" if keys else complaint


def _drop(schema: Any, matches: Callable[[dict[str, Any]], bool], key: str) -> bool:
    """Remove a keyword from the schema and those inside of it, where they match.

    Returns:
        Whether it was removed anywhere.
    """
    if not isinstance(schema, dict):
        return False
    dropped = key in schema and matches(schema)
    if dropped:
        del schema[key]
        if key in _NAMES_MORE and "properties" in schema:
            # The keyword may have named properties that nothing else names: they stay allowed.
            schema.setdefault("additionalProperties", True)
    for child, _, _ in [*children(schema, part=False)]:
        dropped = _drop(child, matches, key) or dropped
    return dropped


def _has_format(name: str, schema: Mapping[str, Any]) -> bool:
    return bool(schema["format"] == name)


def _leads_out(schema: Mapping[str, Any]) -> bool:
    return not str(schema["$ref"]).startswith("#")


def _has_invalid_pattern(schema: Mapping[str, Any]) -> bool:
    return _is_invalid({"type": "string", "pattern": schema["pattern"]})


def _has_invalid_names(schema: Mapping[str, Any]) -> bool:
    names = schema["patternProperties"]
    return isinstance(names, dict) and any(
        _is_invalid({"type": "string", "pattern": name}) for name in names
    )


def _is_invalid(schema: Mapping[str, Any]) -> bool:
    return _errors_in(json.dumps(schema)) is not None


def _close(schema: Any, place: str, *, part: bool, parts: set[str]) -> None:
    """Close the schemas that describe an object on their own.

    Args:
        schema: A schema; it is changed.
        place: Its path from the root.
        part: Whether it describes an object together with the schema around it.
        parts: Paths of schemas that references make parts; see :func:`_parts`.
    """
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
    """Paths of the schemas that a reference makes part of another object's description.

    The parts of a conjunction (``allOf``) describe one object together. If one of them were closed,
    it would forbid the properties of the others.
    """
    places: set[str] = set()
    if isinstance(schema, dict):
        if "$ref" in schema and (part or "properties" in schema):
            places.add(unquote(str(schema["$ref"])))
        for child, _, inner in children(schema, part=part):
            places |= _parts(child, part=inner)
    return places
