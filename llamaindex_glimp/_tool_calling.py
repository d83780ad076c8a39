"""Tool calls: how tools are passed to a chat, and how a reply's calls are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.utils import parse_partial_json

from glimp_integrations.errors import ConfigError
from llamaindex_glimp._extra_headers import hides_headers
from llamaindex_glimp._messages import INVALID

if TYPE_CHECKING:
    from llama_index.core.chat_engine.types import AgentChatResponse
    from llama_index.core.tools import BaseTool

__all__ = ["ToolCalling"]


class ToolCalling(FunctionCallingLLM):
    """An LLM that takes tools in OpenAI's format."""

    @hides_headers
    def predict_and_call(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        error_on_no_tool_call: bool = True,
        error_on_tool_error: bool = False,
        **kwargs: Any,
    ) -> AgentChatResponse:
        """Let the model call tools, run them, and answer with what they return.

        Args:
            tools: The tools.
            user_msg: The question.
            chat_history: The conversation before it.
            verbose: Whether to print the calls.
            allow_parallel_tool_calls: Whether the model may call several tools at once.
            error_on_no_tool_call: Whether a reply without a call is an error.
            error_on_tool_error: Whether a tool that fails raises its error.
            **kwargs: As for :meth:`chat`.

        Raises:
            ValueError: There is no call, and ``error_on_no_tool_call`` is set.
        """
        return super().predict_and_call(
            tools,
            user_msg,
            chat_history,
            verbose,
            allow_parallel_tool_calls,
            error_on_no_tool_call or None,  # type: ignore[arg-type]
            error_on_tool_error,
            **kwargs,
        )

    @hides_headers
    async def apredict_and_call(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        error_on_no_tool_call: bool = True,
        error_on_tool_error: bool = False,
        **kwargs: Any,
    ) -> AgentChatResponse:
        """Asynchronous :meth:`predict_and_call`."""
        return await super().apredict_and_call(
            tools,
            user_msg,
            chat_history,
            verbose,
            allow_parallel_tool_calls,
            error_on_no_tool_call or None,  # type: ignore[arg-type]
            error_on_tool_error,
            **kwargs,
        )

    @hides_headers
    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        messages = [*(chat_history or ()), *([user_msg] if user_msg is not None else ())]
        if tools:
            kwargs |= {
                "tools": [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools],
                "tool_choice": tool_choice or ("required" if tool_required else "auto"),
                "parallel_tool_calls": allow_parallel_tool_calls,
            }
        elif tool_required or tool_choice not in (None, "auto", "none"):
            demand = "tool_required" if tool_required else f"tool_choice {tool_choice!r}"
            raise ConfigError(f"{demand} asks for a call, and there are no tools: pass tools")
        return {"messages": messages, **kwargs}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool | None = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of a reply. While it is still written, their arguments may be incomplete.

        Args:
            response: The reply.
            error_on_no_tool_call: ``True``: a reply without a call is an error. ``False``, as
                agents pass it: an invalid call is in the list as well, under a name that no tool
                has, so that the agent answers it with an error message and the model tries again.
                ``None``: invalid calls are left out.
            **kwargs: Not used.

        Raises:
            ValueError: There is no call, and ``error_on_no_tool_call`` is set; or the token budget
                ended inside a call, so that the next attempt would end there too.
        """
        blocks = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
        invalid = response.message.additional_kwargs.get(INVALID, ())
        if not blocks and error_on_no_tool_call:
            raise ValueError(
                "Expected at least one tool call, but the reply holds none."
                + (_described(invalid) or f" It reads: {response.message.content!r}")
            )
        selections = [
            ToolSelection(
                tool_id=block.tool_call_id or "",
                tool_name=block.tool_name,
                tool_kwargs=_arguments(block.tool_kwargs),
            )
            for block in blocks
        ]
        if invalid and error_on_no_tool_call is False:
            if (response.raw or {}).get("finish_reason") == "length":
                raise ValueError(
                    "The reply was cut off inside a tool call: raise max_tokens, or serve the "
                    f"models with a larger context window.{_described(invalid)}"
                )
            selections += [
                ToolSelection(
                    tool_id=call["id"],
                    # Agents answer with "Tool {tool_name} not found".
                    tool_name=f"{call['name'] or 'call'} ({call['error']}; write the call again)",
                    tool_kwargs={},
                )
                for call in invalid
            ]
        return selections


def _described(calls: Sequence[Mapping[str, Any]]) -> str:
    """Invalid calls and what is wrong with them, for an error's message."""
    return "".join(
        f" It meant to call {call['name'] or 'something'} ({call['error']}): {call['text']}"
        for call in calls
    )


def _arguments(tool_kwargs: dict[str, Any] | str) -> dict[str, Any]:
    """A call's arguments; of a text, as far as it is written."""
    if not isinstance(tool_kwargs, str):
        return tool_kwargs
    with suppress(ValueError):
        if isinstance(arguments := parse_partial_json(tool_kwargs), dict):
            return arguments
    return {}
