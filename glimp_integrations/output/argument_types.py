"""Arguments that a model wrote as plain text, read by the tool's schema. Pure.

In XML a string stands without quotes, so that ``2024`` may be a text or a number: only the schema
tells. A text that is no value of the schema's kind stays as it is, and whoever runs the tool can
tell the model what was wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import regex

from glimp_integrations.output.json_values import parsed
from glimp_integrations.output.schema_references import target

__all__ = ["Kinds", "kinds_of", "may_be_other", "typed"]

Kinds = frozenset[str] | None
"""JSON types that a schema allows; ``None``: it does not say."""

_STRING: Kinds = frozenset({"string"})
_WORDS = {"True": True, "False": False, "None": None}  # how Jinja writes them, and so do models
_OPENERS = {"{": "object", "[": "array", '"': None}
_SCALAR = regex.compile(
    r"\s{0,64}+(?:true|false|null|-?\d{1,400}+(?:\.\d{1,400}+)?(?:[eE][+\-]?\d{1,4}+)?)\s{0,64}+"
)


def kinds_of(parameters: Mapping[str, Any] | None, name: str) -> Kinds:
    """What a tool's schema says of one argument.

    Args:
        parameters: The schema of all arguments.
        name: The argument.
    """
    if parameters is None:
        return None
    found = [
        schema["properties"][name]
        for schema in _parts(parameters, parameters, depth=8)
        if isinstance(schema.get("properties"), Mapping) and name in schema["properties"]
    ]
    if not found:
        more = parameters.get("additionalProperties")
        return _kinds(more, parameters, depth=16) if isinstance(more, Mapping) else None
    every = [_kinds(schema, parameters, depth=16) for schema in found]
    return None if None in every else frozenset().union(*filter(None, every))


def typed(text: str, kinds: Kinds) -> Any:
    """The value of an argument.

    A string stays the text as it stands. Where strings and something else are allowed, the text is
    something else if it is exactly that. Where strings are not allowed, or nothing is known, it is
    JSON if it is some.
    """
    if not may_be_other(text, kinds):
        return text
    word = text.strip()
    if kinds is not None and "string" not in kinds and word in _WORDS:
        value = _WORDS[word]
        return value if _kind(value) in kinds else text
    try:
        value = parsed(text, exact=True)
    except ValueError:
        return text
    return value if kinds is None or "string" not in kinds or _kind(value) in kinds else text


def may_be_other(text: str, kinds: Kinds) -> bool:
    """Whether an argument that begins like this may be something else than this text.

    Once it is not, it stays so whatever follows.
    """
    if kinds is not None and "string" not in kinds:
        return True
    if kinds == _STRING:
        return False
    first = text.lstrip()[:1]
    if first in _OPENERS and first:
        return kinds is None or _OPENERS[first] in kinds
    return _SCALAR.fullmatch(text, partial=True) is not None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "object")


def _parts(schema: Any, root: Mapping[str, Any], *, depth: int) -> list[Mapping[str, Any]]:
    """The schema and those that describe the same object with it."""
    if not isinstance(schema, Mapping) or depth == 0:
        return []
    inner = [target(schema, root)] if "$ref" in schema else []
    for key in ("allOf", "anyOf", "oneOf"):
        inner += schema[key] if isinstance(schema.get(key), list) else []
    return [schema, *(part for one in inner for part in _parts(one, root, depth=depth - 1))]


def _kinds(schema: Any, root: Mapping[str, Any], *, depth: int) -> Kinds:
    """``depth``: references may lead in circles."""
    if not isinstance(schema, Mapping) or depth == 0:
        return None
    said: list[Kinds] = []
    kind = schema.get("type")
    if isinstance(kind, str):
        said.append(_with_integers({kind}))
    elif isinstance(kind, list):
        said.append(_with_integers({one for one in kind if isinstance(one, str)}))
    if "const" in schema:
        said.append(_with_integers({_kind(schema["const"])}))
    if isinstance(schema.get("enum"), list):
        said.append(_with_integers({_kind(one) for one in schema["enum"]}))
    if "$ref" in schema:
        said.append(_kinds(target(schema, root), root, depth=depth - 1))
    for part in schema["allOf"] if isinstance(schema.get("allOf"), list) else ():
        said.append(_kinds(part, root, depth=depth - 1))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            each = [_kinds(part, root, depth=depth - 1) for part in schema[key]]
            said.append(None if None in each else frozenset().union(*filter(None, each)))
    known = [kinds for kinds in said if kinds is not None]
    both = frozenset.intersection(*known) if known else None
    if both and schema.get("nullable") is True:  # OpenAPI's word for it
        both |= {"null"}
    return both or None


def _with_integers(kinds: set[str]) -> frozenset[str]:
    return frozenset(kinds | {"integer"} if "number" in kinds else kinds)
