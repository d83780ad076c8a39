"""What a caller asks of a reply besides text: tools to call, a choice among them, a JSON schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glimp_integrations.errors import ConfigError
from glimp_integrations.unicode_text import check_text

__all__ = ["OutputSpec"]

# What every provider's API accepts (OpenAI: letters, digits, underscores and dashes, 64 at most).
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The tools a reply may call, and the JSON schema its answer must follow.

    Only the answer is constrained. The reasoning before it is free text and is routed as usual.

    Args:
        tools: Tools in OpenAI's format, ``{"type": "function", "function": {"name", "description",
            "parameters"}}``.
        tool_choice: ``"auto"`` (the model calls or answers), ``"none"`` (no calls), ``"any"`` or
            ``"required"`` (it must call some tool), a tool's name, or ``{"type": "function",
            "function": {"name": ...}}``.
        strict: Whether a call's arguments must follow the tool's schema. ``None``: where the
            backend supports schemas, and as far as a grammar can express the schema; ``True``:
            always, and an error where that is impossible; ``False``: calls are written freely,
            unless ``tool_choice`` forces one.
        parallel_tool_calls: Whether a reply may hold several calls.
        schema: JSON schema of the answer.

    Attributes:
        forced: The name of the tool that must be called, ``"any"``, or ``None``.

    Raises:
        ConfigError: Two tools have the same name, a tool is malformed, ``tool_choice`` names none
            of the tools, or a text in them has half a character.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: Any = "auto"
    strict: bool | None = None
    parallel_tool_calls: bool = True
    schema: Mapping[str, Any] | None = None
    forced: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for index, tool in enumerate(self.tools):
            check_text(f"tool {index}", tool)
        check_text("the answer's schema", self.schema)
        names = [_name(index, tool) for index, tool in enumerate(self.tools)]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ConfigError(
                f"several tools are called {', '.join(map(repr, duplicates))}: a call could not "
                "tell them apart, so give each its own name"
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
        """The tools' names."""
        return [tool["function"]["name"] for tool in self.tools]

    @property
    def chosen(self) -> list[Mapping[str, Any]]:
        """The tools that may be called."""
        named = self.forced not in (None, "any")
        return [t for t in self.tools if not named or t["function"]["name"] == self.forced]


def _name(index: int, tool: Mapping[str, Any]) -> str:
    """A tool's name, checked; ``index`` is for the message."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"tool {index} has the name {name!r}; expected "
            "{'type': 'function', 'function': {'name': ...}} with 1 to 64 letters, digits, '_', "
            "'-' or '.'"
        )
    return name


def _choice(tool_choice: Any) -> str:
    """``"auto"``, ``"none"``, ``"any"`` or a tool's name, from all ways to write them."""
    if tool_choice is None or tool_choice is False:
        return "auto" if tool_choice is None else "none"
    if tool_choice is True or tool_choice == "required":
        return "any"
    if isinstance(tool_choice, str):
        return tool_choice
    if isinstance(tool_choice, Mapping):
        function = tool_choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else tool_choice.get("name")
        if isinstance(name, str):
            return name
        if tool_choice.get("type") in ("auto", "none", "any", "required"):
            return _choice(tool_choice["type"])
    raise ConfigError(
        f"tool_choice is {tool_choice!r}; expected 'auto', 'none', 'any', a tool's name or "
        "{'type': 'function', 'function': {'name': ...}}"
    )
