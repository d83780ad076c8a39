"""Arguments that a model wrote as plain text, read by the tool's schema. Pure.

In XML a string stands without quotes, so ``2024`` may be a text or a number: only the schema
decides. A text that is not a value of the schema's types stays a text, so that the code that runs
the tool can tell the model what was wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import regex

from glimp_integrations.output.json_values import parse
from glimp_integrations.output.schema_references import target

__all__ = ["Kinds", "kinds_of", "may_be_other", "typed"]

Kinds = frozenset[str] | None
"""JSON types that a schema allows; ``None``: it does not restrict them."""

_STRING: Kinds = frozenset({"string"})
# Python's words for JSON's, which Jinja templates write, and so models do.
_WORDS = {"True": True, "False": False, "None": None}
# First characters of JSON that may be more than a text, and the type that each begins.
_OPENERS = {"{": "object", "[": "array", '"': None}
_SCALAR = regex.compile(
    r"\s{0,64}+(?:true|false|null|-?\d{1,400}+(?:\.\d{1,400}+)?(?:[eE][+\-]?\d{1,4}+)?)\s{0,64}+"
)
# References may lead in circles, so they are followed to these depths only.
_PART_DEPTH = 8
_KIND_DEPTH = 16


def kinds_of(parameters: Mapping[str, Any] | None, name: str) -> Kinds:
    """The JSON types that a tool's schema allows for one argument.

    Args:
        parameters: The schema of all arguments; ``None``: it is not known.
        name: The argument.
    """
    if parameters is None:
        return None
    schemas = [
        schema["properties"][name]
        for schema in _parts(parameters, parameters, depth=_PART_DEPTH)
        if isinstance(schema.get("properties"), Mapping) and name in schema["properties"]
    ]
    if not schemas:
        others = parameters.get("additionalProperties")
        is_schema = isinstance(others, Mapping)
        return _kinds(others, parameters, depth=_KIND_DEPTH) if is_schema else None
    return _union([_kinds(schema, parameters, depth=_KIND_DEPTH) for schema in schemas])


def typed(text: str, kinds: Kinds) -> Any:
    """The value of an argument.

    Args:
        text: What the model wrote.
        kinds: The types that the schema allows.

    Returns:
        Where only strings are allowed, the text. Where strings and something else are allowed, the
        value of the other type if the text is exactly that, else the text. Where strings are not
        allowed, or nothing is known, the text's value as JSON if it is JSON, else the text.
    """
    if not may_be_other(text, kinds):
        return text
    word = text.strip()
    if kinds is not None and "string" not in kinds and word in _WORDS:
        value = _WORDS[word]
        return value if _kind(value) in kinds else text
    try:
        value = parse(text, exact=True)
    except ValueError:
        return text
    return value if kinds is None or "string" not in kinds or _kind(value) in kinds else text


def may_be_other(text: str, kinds: Kinds) -> bool:
    """Whether an argument that begins like this may be a value other than this text.

    Once the answer is ``False``, it stays ``False`` whatever follows.
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
    """The schema and all others that describe the same object together with it."""
    if not isinstance(schema, Mapping) or depth == 0:
        return []
    others = [target(schema, root)] if "$ref" in schema else []
    for key in ("allOf", "anyOf", "oneOf"):
        others += schema[key] if isinstance(schema.get(key), list) else []
    return [schema, *(part for other in others for part in _parts(other, root, depth=depth - 1))]


def _kinds(schema: Any, root: Mapping[str, Any], *, depth: int) -> Kinds:
    """The types that a schema allows: those that every one of its keywords allows."""
    if not isinstance(schema, Mapping) or depth == 0:
        return None
    restrictions: list[Kinds] = []
    kind = schema.get("type")
    if isinstance(kind, str):
        restrictions.append(_with_integers({kind}))
    elif isinstance(kind, list):
        restrictions.append(_with_integers({name for name in kind if isinstance(name, str)}))
    if "const" in schema:
        restrictions.append(_with_integers({_kind(schema["const"])}))
    if isinstance(schema.get("enum"), list):
        restrictions.append(_with_integers({_kind(value) for value in schema["enum"]}))
    if "$ref" in schema:
        restrictions.append(_kinds(target(schema, root), root, depth=depth - 1))
    for part in schema["allOf"] if isinstance(schema.get("allOf"), list) else ():
        restrictions.append(_kinds(part, root, depth=depth - 1))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            restrictions.append(
                _union([_kinds(part, root, depth=depth - 1) for part in schema[key]])
            )
    known = [kinds for kinds in restrictions if kinds is not None]
    allowed = frozenset.intersection(*known) if known else None
    if allowed and schema.get("nullable") is True:  # OpenAPI's word for "or null"
        allowed |= {"null"}
    return allowed or None


def _union(alternatives: list[Kinds]) -> Kinds:
    """The types that one of several schemas allows; ``None`` as soon as one allows any."""
    if None in alternatives:
        return None
    return frozenset().union(*filter(None, alternatives))


def _with_integers(kinds: set[str]) -> frozenset[str]:
    """JSON Schema's numbers include the integers."""
    return frozenset(kinds | {"integer"} if "number" in kinds else kinds)
