"""References inside a JSON schema: following them, and keeping them right when the schema moves.

A reference may name a place by its path, by an ``$anchor``, or relative to an ``$id`` (JSON Schema
2020-12 core, section 8.2). When a schema becomes part of another one, only paths can be corrected,
so the other kinds are turned into paths first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urljoin

__all__ = ["children", "moved", "plain", "target"]

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DATA = ("enum", "const", "default", "examples", "required")


def target(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """What the path in ``schema["$ref"]`` leads to; ``None``: it is not in this document."""
    place: Any = root
    ref = schema["$ref"]
    if not isinstance(ref, str) or not ref.startswith("#"):
        return None
    for token in ref[1:].split("/")[1:]:
        key = unquote(token).replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and key.isdigit() and int(key) < len(place):
            place = place[int(key)]
        elif isinstance(place, Mapping) and key in place:
            place = place[key]
        else:
            return None
    return place


def plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose references are paths from its root, if their targets are in the schema.

    References to other documents stay as they are.
    """
    copied: dict[str, Any] = copy.deepcopy(dict(schema))
    if not _has_names(copied):
        return copied
    places: dict[str, str] = {"": "#"}  # from an address or a name to a path
    for part, place, base in _walk(copied, "#", ""):
        if _own(part, "$id") is not None:
            places.setdefault(base, place)
        for key in ("$anchor", "$dynamicAnchor"):
            if (name := _own(part, key)) is not None:
                places.setdefault(f"{base}#{name}", place)
    # All places are collected before anything is changed: a walk needs the names that are removed.
    for part, _, base in list(_walk(copied, "#", "")):
        for key in ("$ref", "$dynamicRef"):
            ref = _own(part, key)
            path = None if ref is None else _path(ref, base, places)
            if ref is not None and ref.startswith("#/") and target({"$ref": path}, copied) is None:
                continue  # the author counted from the root, whatever ``$id`` lies between
            if path is not None:
                del part[key]
                part["$ref"] = path
    for part, _, _ in list(_walk(copied, "#", "")):
        for key in ("$id", "$anchor", "$dynamicAnchor"):
            if _own(part, key) is not None:
                del part[key]
    return copied


def moved(schema: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A copy whose references are right when it stands at ``place`` in another schema."""
    copied = plain(schema)
    for part, _, _ in list(_walk(copied, "#", "")):
        ref = _own(part, "$ref")
        if ref is not None and ref.startswith("#"):
            part["$ref"] = place + ref[1:]
    return copied


def children(schema: dict[str, Any], *, part: bool) -> Iterator[tuple[Any, str, bool]]:
    """The schemas directly inside of one.

    Args:
        schema: The outer schema.
        part: Whether the outer schema itself describes an object together with the one around it.

    Yields:
        The inner schema, its path in the outer one, and whether both describe the same object.
    """
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            yield from ((child, f"{key}/{_token(name)}", False) for name, child in value.items())
        elif key in ("allOf", "anyOf", "oneOf") and isinstance(value, list):
            inner = part or key == "allOf" or "properties" in schema
            yield from ((child, f"{key}/{i}", inner) for i, child in enumerate(value))
        elif key not in _DATA and isinstance(value, list):
            yield from ((child, f"{key}/{i}", False) for i, child in enumerate(value))
        elif key not in _DATA:
            yield value, key, False


def _walk(schema: Any, place: str, base: str) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Every schema, its path, and its base: the address from which its references start."""
    if not isinstance(schema, dict):
        return
    own = _own(schema, "$id")
    if own is not None:
        base = urljoin(base, own).partition("#")[0] if not own.startswith("#") else base
    yield schema, place, base
    for child, key, _ in children(schema, part=False):
        yield from _walk(child, f"{place}/{key}", base)


def _path(ref: str, base: str, places: Mapping[str, str]) -> str | None:
    """A reference as a path from the root; ``None``: it leads to another document."""
    address, _, fragment = ref.partition("#")
    address = urljoin(base, address) if address else base
    if not fragment or fragment.startswith("/"):
        start = places.get(address)
        return None if start is None else start + fragment
    return places.get(f"{address}#{unquote(fragment)}")


def _own(schema: Mapping[str, Any], key: str) -> str | None:
    """A keyword's text; ``None`` if it is missing, or is something else than a text."""
    value = schema.get(key)
    return value if isinstance(value, str) else None


def _has_names(schema: Mapping[str, Any]) -> bool:
    return any(
        _own(part, key) is not None
        for part, _, _ in _walk(schema, "#", "")
        for key in ("$id", "$anchor", "$dynamicAnchor")
    )


def _token(name: str) -> str:
    """A key as a part of a path (RFC 6901)."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="~$!&'()*+,;=:@")
