"""The contract between the router and whatever runs a model.

A backend continues *exact text*: it adds no hidden prompt and does not clean up the output. To add
one, subclass :class:`Backend` and implement three methods;
``docs/how-to/write-a-backend.md`` walks through an example.

All coroutines of a backend run on one event loop (``glimp_integrations.io_loop``), whichever
thread a call comes from, so ordinary asyncio locks and one HTTP client are enough.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

from pydantic import SecretStr

from glimp_integrations.method.tokens import (
    Ended,
    EntropyFunction,
    LogprobsFunction,
    StreamEnd,
    Token,
)

__all__ = [
    "Backend",
    "Capabilities",
    "Ended",
    "EntropyFunction",
    "LogprobsFunction",
    "Message",
    "Rendered",
    "Report",
    "Request",
    "StreamEnd",
    "Take",
    "Token",
    "hands_over",
    "looks_like_control",
]

CALL_LIMITS: ContextVar[tuple[float | None, int]] = ContextVar("CALL_LIMITS", default=(120.0, 2))
"""Timeout in seconds and number of retries that the running call allows each of its requests."""

HEADERS: ContextVar[Mapping[str, SecretStr] | None] = ContextVar("HEADERS", default=None)
"""HTTP headers that the running call adds to its requests."""

G = TypeVar("G", bound=Callable[..., Any])

Take = Callable[[Token], bool]
"""From a token to whether it was dealt with."""

Message = Mapping[str, Any]
"""``{"role": ..., "content": text}`` and any other fields that the chat template reads."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to continue a text; the argument of :meth:`Backend.generate`.

    Attributes:
        prompt: The exact text to continue, including the control tokens of the chat template.
        max_tokens: The most tokens to generate.
        logprobs: How many top log-probabilities each token must carry; 0 for none.
        temperature: Sampling temperature; 0 means greedy decoding.
        top_p: Nucleus sampling: sample from the likeliest tokens that together have this
            probability.
        top_k: Sample from so many of the likeliest tokens; ``None``: as if it were not there. This
            and the next three are only set for backends that name them in
            ``Capabilities.sampling``.
        min_p: Sample from tokens at least so likely, relative to the likeliest; likewise.
        presence_penalty: Taken off the logits of tokens that were written already; likewise.
        repetition_penalty: Divides positive and multiplies negative logits of tokens that are in
            the text already; likewise.
        seed: Sampling seed; ``None`` for none.
        distribution_only: Only the distribution of the next token matters; the token itself is
            not used. Some servers need to be asked differently to show the distribution where the
            token is only a part of a character.
        timeout: Seconds without a token after which the request counts as failed; ``None`` for no
            limit.
        max_retries: How often a failed request may be sent again, as long as nothing was
            generated.
        draft: What proposes tokens for the model to accept or reject (speculative decoding): a
            backend, ``"prompt_lookup"``, or ``None``. It never changes greedy text.
        schema: A JSON schema, checked by ``output.json_schema``, that the whole continuation must
            follow. It is only set for backends with ``Capabilities.supports_schema``.
        stop: Texts after which the continuation is not needed any more. A backend with
            ``Capabilities.supports_stop`` ends the stream after the token that completes one of
            them. Other backends ignore this field; the router closes their streams.
        sure: Somebody wants to know how sure each token was (``Token.sure``), where it comes
            without log-probabilities. Backends that cannot tell ignore this field.
        take: Takes a token where it is read, which saves handing it on: called with each token in
            turn, before it is yielded. If it returns ``True``, the token is dealt with and must
            not be yielded. Only set for a ``generate`` that is marked by :func:`hands_over`.
        notes: One dictionary for all requests that one call makes to one model. The router never
            reads it. A backend may keep in it what it knows about the text so far.
    """

    prompt: str
    max_tokens: int
    logprobs: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    distribution_only: bool = False
    timeout: float | None = None
    max_retries: int = 2
    draft: Backend | Literal["prompt_lookup"] | None = None
    schema: Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    sure: bool = False
    take: Take | None = field(default=None, compare=False, repr=False)
    notes: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def penalises(self) -> bool:
        """Whether tokens of the text so far are made less or more likely."""
        return self.presence_penalty not in (None, 0) or self.repetition_penalty not in (None, 1)


@dataclass(slots=True)
class Report:
    """What a request cost and how it ended; the backend fills it in while it streams.

    Attributes:
        prompt_tokens: Tokens of the prompt, including cached ones; ``None`` if unknown.
        cached_tokens: How many of them the model did not have to compute; ``None`` if unknown.
        completion_tokens: Tokens generated so far; ``None`` if unknown, as when a server only
            reports it at the end and the stream was closed before.
        ended: Why the stream ended; ``None`` while it runs and after it was closed early.
        retried: Whether the request has already failed as often as ``max_retries`` allows, so
            that the router must not repeat it.
    """

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    ended: StreamEnd | None = None
    retried: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do. The defaults describe one that only generates text.

    Attributes:
        context_window: The most tokens that prompt and completion can have together; ``None`` if
            unknown.
        top_logprobs: How many log-probabilities it returns per token. With 0 it can only serve as
            the large model.
        requested_logprobs: How many its owner asked for; ``None`` for the smaller of 20 and
            ``top_logprobs``. A threshold belongs to one number of log-probabilities, so if the
            small model returns fewer than requested, that is an error.
        streamed_logprobs: Whether every token of a stream carries log-probabilities, not only its
            first. Strategy ``fused`` needs that; without it, the router measures the entropy with
            requests of their own.
        in_process: Whether the model runs in this process. Its streams can pause at every token
            at no cost, and its tokens carry ``measure`` instead of log-probabilities.
        drafts: Whether it supports ``Request.draft``.
        supports_schema: Whether it supports ``Request.schema``: constrains a text to a JSON schema.
        supports_stop: Whether it supports ``Request.stop``: ends a stream after one of these
            texts, with the whole text of its last token.
        sampling: Which of ``top_k``, ``min_p``, ``presence_penalty`` and ``repetition_penalty`` of
            a request it follows. The router refuses a setting that a model lacks.
        raw_under_penalties: Whether log-probabilities are those of the model itself where a request
            has penalties. If not, the router measures the entropy with requests of their own.
        device: Name of the device it computes on, if known. Two backends on one device slow each
            other down when they compute at the same time, so the router avoids that.
        template: Source of the chat template, to find think tags in; ``None`` if it is not shown.
        weights: Type or quantisation of the weights, if known: ``"bfloat16"``, ``"q4_k_m"``.
            Calibrations are tagged with it.
        logprobs_refusal: The server's reason for not returning log-probabilities, if it gave one;
            shown in the error.
    """

    context_window: int | None = None
    top_logprobs: int = 0
    requested_logprobs: int | None = None
    streamed_logprobs: bool = False
    in_process: bool = False
    drafts: bool = False
    supports_schema: bool = False
    supports_stop: bool = False
    sampling: frozenset[str] = frozenset()
    raw_under_penalties: bool = False
    device: str | None = None
    template: str | None = None
    weights: str | None = None
    logprobs_refusal: str | None = None

    def shares_device(self, other: Capabilities) -> bool:
        """Whether both backends are known to compute on the same device."""
        return self.device is not None and self.device == other.device


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as one text, up to the point where the model's reply begins.

    Attributes:
        text: The prompt, ending with the template's generation prompt.
        tokens: Its length in tokens; ``None`` if the backend did not count them.
    """

    text: str
    tokens: int | None = None


# How common chat models write their control tokens; for backends without a tokenizer.
_CONTROL = re.compile(
    r"<\|[^<>|\n]{1,64}\|>|<｜[^<>｜\n]{1,64}｜>"
    r"|</?(?:s|bos|eos|unk|pad|think|thinking|seed:think|tool_call|tool_response|tools"
    r"|start_of_turn|end_of_turn)>"
    r"|<(?:PAD|UNK|CLS|SEP|BOS|EOS|EOD)>|<[A-Z]+_TOKEN>|<mask>|<(?:start|end)_of_image>|<image_soft_token>"
    r"|</?seed:[a-z_:]{1,40}>|<\|[a-z_]{1,40}>|<[a-z_]{1,40}\|>|<\|\"\|>"
    r"|<(?:SPECIAL_|reserved_|extra_id_|unused)\d{1,5}>|</?role>|<(?:sop|eop)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK"
    r"|PREFIX|MIDDLE|SUFFIX|IMG|ARGS|CALL_ID|gMASK|sMASK|MASK)\]"
    r"|\[\|[^\[\]|\n]{1,64}\|\]|\]~!b\[|\]~b\]|\[e~\["
)


def looks_like_control(literal: str) -> bool:
    """Whether common chat models write one of their control tokens like this."""
    return _CONTROL.fullmatch(literal) is not None


def hands_over(generate: G) -> G:
    """Mark a :meth:`Backend.generate` that asks ``request.take`` before it yields a token.

    A method that overrides it, or wraps it, is not marked: whoever looks at a model's tokens, or
    changes them, gets all of them.
    """
    generate.hands_over = True  # type: ignore[attr-defined]
    return generate


class Backend(ABC):
    """A model that continues text.

    A backend must set ``name`` and implement :meth:`capabilities`, :meth:`render` and
    :meth:`generate`. Everything else has a default. All coroutines run on one event loop,
    whichever thread a call comes from; several requests may run at the same time.

    Attributes:
        name: Name of the model, shown in traces and messages.
        url: Address of its server without secrets; ``None`` for a model of this process.
        context_window: The most tokens that prompt and completion can have together, as far as
            known before :meth:`capabilities` was called.
        shows_tools: Whether the chat template shows tools to the model. ``None`` if that is not
            known yet; the router then finds out and sets it.
        reasoning_name: The field of a message in which the chat template reads earlier reasoning,
            such as ``"reasoning_content"``. Empty if it reads none. ``None`` if that is not known
            yet; the router then finds out and sets it.
        sends_headers: Whether requests go to a server that may read the HTTP headers of a call.
    """

    name: str
    url: str | None = None
    context_window: int | None = None
    shows_tools: bool | None = None
    reasoning_name: str | None = None
    sends_headers: bool = False

    @abstractmethod
    async def capabilities(self) -> Capabilities:
        """What the backend can do. The router asks before its first request.

        Raises:
            BackendError: The model or its server cannot be reached.
            UnsuitableEndpointError: The server cannot be used at all.
        """

    @abstractmethod
    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        """Render a conversation with the model's own chat template and generation prompt.

        Args:
            messages: The conversation. The arguments of ``tool_calls`` are JSON text, or whatever
                invalid text a model once wrote as arguments. Earlier reasoning is in the field
                ``reasoning_name``.
            tools: Tools in OpenAI's format, for templates that read them.

        Raises:
            ConfigError: The template refuses the conversation.
            UnsuitableEndpointError: There is no template.
            BackendError: The server failed.
        """

    @abstractmethod
    def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        """Continue ``request.prompt``, token by token (an async generator).

        The router closes the generator when it needs no more tokens, and that must stop the
        generation. When the generator ends by itself, ``report.ended`` must be set before.

        Args:
            request: What to generate.
            report: Where to write token counts and the reason of the end.

        Raises:
            BackendError: The request failed. Its ``context_full`` is set if the prompt does not
                fit the context window.
        """

    async def is_control(self, literal: str) -> bool:
        """Whether the tokenizer would read a literal inside a message as a control token.

        The default looks among :meth:`own_control_tokens`; where there are none, it recognises the
        control tokens of common chat models.

        Args:
            literal: A text such as ``<|im_end|>`` or ``[INST]``.
        """
        own = await self.own_control_tokens()
        return looks_like_control(literal) if own is None else literal in own

    async def control_literals(self, literals: set[str]) -> set[str]:
        """Those of some literals that :meth:`is_control` holds for, however many they are."""
        return {literal for literal in literals if await self.is_control(literal)}

    async def own_control_tokens(self) -> set[str] | None:
        """All control tokens of the tokenizer, if it is in this process; otherwise ``None``."""
        return None

    async def tokenize(self, text: str) -> list[int] | None:
        """The token ids of a text with nothing added to it; ``None`` if the backend cannot tell."""
        return None

    async def wait_idle(self) -> None:  # noqa: B027 - optional
        """Wait until cancelled work has left the device; matters on shared devices only."""

    def ask_again(self) -> None:  # noqa: B027 - optional
        """Forget what was found out about the server.

        The router calls this after a call in which a model failed, or lacked something: the server
        may have been starting, or may be another one by now.
        """

    async def aclose(self) -> None:  # noqa: B027 - optional
        """Release what the backend holds, such as connections or memory."""

    def close(self) -> None:
        """Synchronous version of :meth:`aclose`."""
        from glimp_integrations import io_loop

        io_loop.call(self.aclose)

    @property
    def label(self) -> str:
        """Name and address, for messages."""
        return f"{self.name} at {self.url}" if self.url else self.name

    def __copy__(self) -> Self:
        # Frameworks copy their models. Weights and connections cannot be copied, only shared.
        return self

    def __deepcopy__(self, _: Any) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"
