"""``bind_tools``: tools of any kind that LangChain takes, in OpenAI's format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

__all__ = ["ToolLike", "bind_tools", "openai_tools"]

ToolLike = Mapping[str, Any] | type | Callable[..., Any] | BaseTool
"""Whatever LangChain takes for a tool."""


def bind_tools(
    model: BaseChatModel, tools: Sequence[ToolLike], **options: Any
) -> Runnable[LanguageModelInput, AIMessage]:
    """The model with tools among its arguments.

    Args:
        model: The chat model.
        tools: The tools, of any kind.
        **options: Further arguments of every call; those that are ``None`` are left out.
    """
    arguments = {name: value for name, value in options.items() if value is not None}
    return model.bind(tools=openai_tools(tools), **arguments)


def openai_tools(tools: Sequence[ToolLike]) -> list[dict[str, Any]]:
    """Tools in OpenAI's format, from any that LangChain takes, Anthropic's and Bedrock's too."""
    return [_openai_tool(tool) for tool in tools]


def _openai_tool(tool: ToolLike) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        return convert_to_openai_tool(tool)
    entry = dict(tool)
    if entry.get("type") == "function" and "function" not in entry:
        # The format of OpenAI's Responses API. With its type, LangChain would take it for one of
        # OpenAI's built-in tools and leave it as it is.
        del entry["type"]
    return convert_to_openai_tool(entry)
