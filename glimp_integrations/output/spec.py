"""What a caller asks of a reply besides text: tools to call, a choice among them, a schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glimp_integrations.errors import ConfigError

__all__ = ["OutputSpec"]

# What every provider's API accepts (OpenAI: letters, digits, underscores and dashes, 64 at most).
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The form of a reply.

    The reasoning is free and routed in any case; what is asked for here binds the answer.

    Args:
        tools: In OpenAI's format, ``{"type": "function", "function": {"name", "description",
            "parameters"}}``.
        tool_choice: ``"auto"`` (call or answer), ``"none"``, ``"any"`` or ``"required"`` (some
            tool), a tool's name, or ``{"type": "function", "function": {"name": ...}}``.
        strict: Arguments follow their schema. ``None``: where the backend allows it, and as far as
            a grammar can keep the schema; ``True``: or an error; ``False``: calls are written
            freely, unless a choice forces them.
        parallel_tool_calls: Whether a reply may hold several calls.
        schema: JSON schema of the answer.

    Raises:
        ConfigError: Tools collide or are malformed, or the choice names none of them.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: Any = "auto"
    strict: bool | None = None
    parallel_tool_calls: bool = True
    schema: Mapping[str, Any] | None = None
    forced: str | None = field(init=False, default=None)
    """A tool's name, ``"any"``, or ``None``."""

    def __post_init__(self) -> None:
        names = [_name(index, tool) for index, tool in enumerate(self.tools)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"several tools are called {', '.join(map(repr, twice))}: a call could not tell "
                "them apart, so give each its own name"
            )
        choice = _choice(self.tool_choice)
        if choice == "none":
            object.__setattr__(self, "tools", ())
        elif choice == "any" and not names:
            raise ConfigError("tool_choice asks for a call, and there are no tools: pass tools")
        elif choice not in ("auto", "any") and choice not in names:
            raise ConfigError(
                f"tool_choice names {choice!r}, which is none of the tools: "
                f"{', '.join(names) or 'there are none'}"
            )
        object.__setattr__(self, "forced", None if choice in ("auto", "none") else choice)

    @property
    def names(self) -> list[str]:
        """Names of the tools."""
        return [tool["function"]["name"] for tool in self.tools]

    @property
    def chosen(self) -> list[Mapping[str, Any]]:
        """The tools that may be called."""
        named = self.forced not in (None, "any")
        return [t for t in self.tools if not named or t["function"]["name"] == self.forced]


def _name(index: int, tool: Mapping[str, Any]) -> str:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"tool {index} has the name {name!r}; expected "
            "{'type': 'function', 'function': {'name': ...}} with 1 to 64 letters, digits, '_', "
            "'-' or '.'"
        )
    return name


def _choice(given: Any) -> str:
    if given is None or given is False:
        return "auto" if given is None else "none"
    if given is True or given == "required":
        return "any"
    if isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        function = given.get("function")
        name = function.get("name") if isinstance(function, Mapping) else given.get("name")
        if isinstance(name, str):
            return name
        if given.get("type") in ("auto", "none", "any", "required"):
            return _choice(given["type"])
    raise ConfigError(
        f"tool_choice is {given!r}; expected 'auto', 'none', 'any', a tool's name or "
        "{'type': 'function', 'function': {'name': ...}}"
    )
