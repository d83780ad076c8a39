"""References inside a JSON schema: followed, moved, and without the names that they may go by.

A reference may name a place by its path, by an ``$anchor``, or relative to an ``$id`` (JSON Schema
2020-12 core, section 8.2). A schema that becomes a part of another one keeps only paths right.
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
    """What ``schema["$ref"]``, a path, leads to; ``None``: nothing in this document."""
    found: Any = root
    ref = schema["$ref"]
    if not isinstance(ref, str) or not ref.startswith("#"):
        return None
    for token in ref[1:].split("/")[1:]:
        key = unquote(token).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, Mapping) and key in found:
            found = found[key]
        else:
            return None
    return found


def plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose references are paths from its root, where their targets are in it.

    References to other documents stay as they are.
    """
    found: dict[str, Any] = copy.deepcopy(dict(schema))
    if not _is_named(found):
        return found
    places: dict[str, str] = {"": "#"}
    for part, place, base in _walk(found, "#", ""):
        if _own(part, "$id") is not None:
            places.setdefault(base, place)
        for key in ("$anchor", "$dynamicAnchor"):
            if (name := _own(part, key)) is not None:
                places.setdefault(f"{base}#{name}", place)
    # All places first, then the changes: a walk needs the names that these take away.
    for part, _, base in list(_walk(found, "#", "")):
        for key in ("$ref", "$dynamicRef"):
            ref = _own(part, key)
            path = None if ref is None else _path(ref, base, places)
            if ref is not None and ref.startswith("#/") and target({"$ref": path}, found) is None:
                continue  # written by someone who means the root, whatever names lie between
            if path is not None:
                del part[key]
                part["$ref"] = path
    for part, _, _ in list(_walk(found, "#", "")):
        for key in ("$id", "$anchor", "$dynamicAnchor"):
            if _own(part, key) is not None:
                del part[key]
    return found


def moved(schema: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A copy with its references as they have to be when it lies at ``place``."""
    found = plain(schema)
    for part, _, _ in list(_walk(found, "#", "")):
        ref = _own(part, "$ref")
        if ref is not None and ref.startswith("#"):
            part["$ref"] = place + ref[1:]
    return found


def children(schema: dict[str, Any], *, part: bool) -> Iterator[tuple[Any, str, bool]]:
    """The schemas inside of one: schema, place in it, whether it is part of this one."""
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
    """Every schema with its place and its base: the address that its references start from."""
    if not isinstance(schema, dict):
        return
    own = _own(schema, "$id")
    if own is not None:
        base = urljoin(base, own).partition("#")[0] if not own.startswith("#") else base
    yield schema, place, base
    for child, key, _ in children(schema, part=False):
        yield from _walk(child, f"{place}/{key}", base)


def _path(ref: str, base: str, places: Mapping[str, str]) -> str | None:
    address, _, fragment = ref.partition("#")
    address = urljoin(base, address) if address else base
    if not fragment or fragment.startswith("/"):
        start = places.get(address)
        return None if start is None else start + fragment
    return places.get(f"{address}#{unquote(fragment)}")


def _own(schema: Mapping[str, Any], key: str) -> str | None:
    value = schema.get(key)
    return value if isinstance(value, str) else None


def _is_named(schema: Mapping[str, Any]) -> bool:
    return any(
        _own(part, key) is not None
        for part, _, _ in _walk(schema, "#", "")
        for key in ("$id", "$anchor", "$dynamicAnchor")
    )


def _token(name: str) -> str:
    """A key as a part of a path (RFC 6901)."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="~$!&'()*+,;=:@")
