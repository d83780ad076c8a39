"""A request to ``/v1/chat/completions``: read, checked, and as the router takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from glimp_integrations.adapter import output_spec
from glimp_integrations.errors import ConfigError
from glimp_integrations.method.sampling import (
    FURTHER_SAMPLING,
    LEAST_REPETITION_PENALTY,
    MOST_REPETITION_PENALTY,
)
from glimp_integrations.openai_api.allowed import Allowed
from glimp_integrations.openai_api.errors import api_error, from_validation, invalid
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.unicode_text import shortened

__all__ = ["ChatRequest"]

_NOTHING: tuple[Any, ...] = (None, False, 0, [], {}, "")

# Parameters of OpenAI's API that say something about the reply that cannot be done here, with the
# values that ask for nothing.
_REFUSED: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        (
            "audio",
            "frequency_penalty",
            "function_call",
            "functions",
            "logit_bias",
            "logprobs",
            "store",
            "top_logprobs",
            "web_search_options",
        ),
        lambda value: value in _NOTHING,
    ),
    "n": lambda value: value in (None, 1),
    "modalities": lambda value: value in (None, ["text"]),
    "verbosity": lambda value: value in (None, "medium"),
    "reasoning_effort": lambda value: value is None,
}
_REMEDIES = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "n": "send as many requests",
    "reasoning_effort": "say how much may be thought with glimp.max_thinking_tokens, and by whom "
    "with glimp.threshold or glimp.large_share",
}
# They change nothing about the reply.
_IGNORED = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "user",
    }
)
# What the core reads of a message. Clients send replies back with all their other fields.
_MESSAGE_FIELDS = frozenset(
    {"content", "name", "reasoning_content", "refusal", "role", "tool_call_id", "tool_calls"}
)


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 100.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
# Models of this process take no greater number, and no vocabulary has so many tokens.
TopK = Annotated[int, BeforeValidator(_whole), Field(ge=-1, lt=2**31)]


class StreamOptions(BaseModel):
    """What a stream holds besides the reply."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """The body of a request; unknown parameters are kept, to be refused by name.

    ``top_k`` (-1 and 0: all tokens), ``min_p`` and ``repetition_penalty`` are vLLM's names for what
    OpenAI's API does not have, with vLLM's bounds (its documentation, "Sampling Parameters"); the
    penalty has those of the setting, as vLLM's only one is 0.
    """

    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    top_k: TopK | None = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(
        default=None, ge=LEAST_REPETITION_PENALTY, le=MOST_REPETITION_PENALTY
    )
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, BeforeValidator(_whole)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: Any = None
    glimp: dict[str, Any] | None = None

    @classmethod
    def read(cls, body: bytes, max_messages: int) -> ChatRequest:
        """The request in a body.

        Args:
            body: JSON.
            max_messages: Most messages.

        Raises:
            ApiError: The body is malformed, or asks for what cannot be done (400).
        """
        try:
            request = cls.model_validate_json(body)
        except ValidationError as error:
            raise from_validation(error) from None
        if len(request.messages) > max_messages:
            raise invalid(
                f"messages has {len(request.messages)} items; this server takes {max_messages} at "
                "most",
                "messages",
            )
        request._refuse_what_cannot_be_done()
        return request

    def _refuse_what_cannot_be_done(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if name in _IGNORED:
                continue
            if name not in _REFUSED:
                raise invalid(f"unknown parameter {name!r}", name, "unknown_parameter")
            if not _REFUSED[name](value):
                remedy = _REMEDIES.get(name, "leave it out")
                raise invalid(
                    f"{name} is not supported by this server (the value was {_short(value)}): "
                    f"{remedy}",
                    name,
                    "unsupported_parameter",
                )
        for index, tool in enumerate(self.tools or ()):
            if tool.get("type") != "function":
                raise invalid(
                    f"tools[{index}] has the type {_short(tool.get('type'))}; only 'function' is "
                    "supported",
                    f"tools[{index}].type",
                )

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_trace(self) -> bool:
        """Whether the reply holds the trace."""
        return self._flag("trace")

    @property
    def wants_steps(self) -> bool:
        """Whether a stream says of each piece which model wrote it."""
        return self._flag("steps")

    def _flag(self, name: str) -> bool:
        value = (self.glimp or {}).get(name)
        if value is not None and not isinstance(value, bool):
            param = f"glimp.{name}"
            raise invalid(f"{param} is {_short(value)}; expected true or false", param)
        return bool(value)

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages as the core reads them."""
        return [_message(message) for message in self.messages]

    def changes(self, allowed: Allowed) -> dict[str, Any]:
        """The routing settings that this request changes.

        Args:
            allowed: What requests may change.

        Raises:
            ApiError: A setting is not known, or not allowed, or out of bounds (400).
        """
        flags = {"trace", "steps"}
        given = {n: v for n, v in (self.glimp or {}).items() if n not in flags}
        changes = allowed.changes(given)
        for name in ("temperature", "top_p", "seed", "stop", *FURTHER_SAMPLING):
            if (value := getattr(self, name)) not in (None, []):
                changes[name] = value
        if self.top_k is not None and self.top_k < 1:
            changes["top_k"] = None  # all tokens, also where the server has another default
        # Both are OpenAI's names for one limit on reasoning and answer; the first is the older.
        limits = [
            (n, v) for n in ("max_tokens", "max_completion_tokens") if (v := getattr(self, n))
        ]
        for name, limit in limits:
            allowed.check_budget(name, "max_completion_tokens", limit)
        if limits:
            changes["max_completion_tokens"] = min(limit for _, limit in limits)
        return changes

    def output(self) -> OutputSpec:
        """The tools that may be called, and the schema of the answer.

        Raises:
            ApiError: They are malformed (400).
        """
        given: dict[str, Any] = {
            "tools": self.tools or None,
            "tool_choice": self.tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": self.response_format,
        }
        if any(_is_strict(tool) for tool in self.tools or ()):
            given["strict"] = True
        try:
            return output_spec(given)
        except ConfigError as error:
            raise api_error(error) from None


def _is_strict(tool: Mapping[str, Any]) -> bool:
    function = tool.get("function")
    return isinstance(function, Mapping) and function.get("strict") is True


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in message.items() if k in _MESSAGE_FIELDS and v is not None}
    # vLLM's newer name.
    if "reasoning_content" not in kept and isinstance(message.get("reasoning"), str):
        kept["reasoning_content"] = message["reasoning"]
    return kept


def _short(value: Any) -> str:
    return shortened(repr(value), 80)
