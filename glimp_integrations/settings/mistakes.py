"""What is wrong with settings, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from glimp_integrations.settings.fields import RoutingFields

__all__ = ["explained", "nested"]


def explained(error: ValidationError) -> str:
    """All that pydantic found, each with the setting's name and the value that was given."""
    return "; ".join(_explain(item) for item in error.errors(include_url=False))


def nested(value: Any) -> str:
    """What to do with an argument such as ``extra_body={"top_k": 20}``; empty for any other."""
    inner = value if isinstance(value, Mapping) else {}
    own = [str(name) for name in inner if name in RoutingFields.model_fields]
    if not own:
        return ""
    given = ", ".join(f"{name}=..." for name in own)
    return (
        f" (what is in it is a setting of its own here: give {given}; other fields go to the "
        "backend: OpenAIBackend(..., extra_body={...}))"
    )


def _explain(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"]) or "settings"
    if item["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{nested(item['input'])}; see RoutingSettings for the names"
    if "key" in name or item["type"] == "missing":
        return f"{name}: {item['msg']}"
    return f"{name}: {item['msg']} (got {item['input']!r})"
