"""The contract between the router and whatever runs a model.

A backend continues *exact text*: no chat, no hidden prompt, no clean-up. To add one, subclass
:class:`Backend` and write three coroutines;
``docs/how-to/write-a-backend.md`` walks through an example.

All coroutines of a backend run on one event loop (``glimp_integrations.io_loop``), whoever calls
and from whichever thread, so ordinary asyncio locks and one HTTP client are enough.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import SecretStr

from glimp_integrations.method.tokens import Ended, EntropyFunction, StreamEnd, Token

__all__ = [
    "Backend",
    "Capabilities",
    "Ended",
    "EntropyFunction",
    "Message",
    "Rendered",
    "Report",
    "Request",
    "StreamEnd",
    "Token",
    "looks_like_control",
]

CALL_LIMITS: ContextVar[tuple[float | None, int]] = ContextVar("PATIENCE", default=(120.0, 2))
"""Seconds and repetitions the running call allows to requests made on its behalf."""

HEADERS: ContextVar[Mapping[str, SecretStr] | None] = ContextVar("HEADERS", default=None)
"""HTTP headers the running call adds to requests made on its behalf."""

Message = Mapping[str, Any]
"""``{"role": ..., "content": text}`` and whatever else the chat template reads."""


@dataclass(frozen=True, slots=True)
class Request:
    """Continue ``prompt``.

    Attributes:
        prompt: The exact text, control tokens of the chat template included.
        max_tokens: Tokens to generate at most.
        logprobs: How many top log-probabilities each token must carry; 0: none.
        temperature: 0 is greedy.
        top_p: Nucleus sampling.
        seed: Sampling seed or ``None``.
        distribution_only: Only the distribution at the first place matters, not the token; some
            servers show it for a token that is half a character only if asked this way.
        timeout: Seconds without a token before the request counts as failed; ``None``: no limit.
        max_retries: Attempts to connect again before anything was generated.
        draft: Who proposes tokens for the model to accept or refuse (speculative decoding): a
            backend, ``"prompt_lookup"``, or ``None``. Never changes greedy text.
        schema: JSON schema, checked by ``output.json_schema``, that the whole continuation has to
            follow, and nothing behind it; only for backends that ``bind``.
        stop: Nothing is wanted behind the token that completes one of these texts. A backend that
            can (``Capabilities.stops``) ends the stream there; others go on until they are stopped.
        notes: The same dictionary for all requests of one model in one call. The router does
            not look into it; a backend may keep there what it knows of the text so far.
    """

    prompt: str
    max_tokens: int
    logprobs: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    distribution_only: bool = False
    timeout: float | None = None
    max_retries: int = 2
    draft: Backend | Literal["prompt_lookup"] | None = None
    schema: Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(slots=True)
class Report:
    """What a request cost; filled by the backend while it streams.

    Attributes:
        prompt_tokens: Tokens of the prompt, cached ones included; ``None``: not told.
        cached_tokens: Those of them the model did not have to compute; ``None``: not told.
        completion_tokens: Generated tokens; ``None``: not told (cancelled early).
        ended: Why the stream ended; ``None`` while it runs or when it was cancelled.
        retried: The request failed as often as ``max_retries`` allows; do not repeat it.
    """

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    ended: StreamEnd | None = None
    retried: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do.

    Attributes:
        context_window: Tokens of prompt and completion together; ``None``: unknown.
        top_logprobs: How many log-probabilities it returns per token; 0: none, so the model can
            only be the large one.
        wanted_logprobs: How many its owner asked for. A threshold belongs to one k, so fewer is
            an error for the small model. ``None``: the smaller of 20 and ``top_logprobs``.
        streamed_logprobs: Whether every token of a stream carries them, not only its first;
            strategy ``fused`` needs that.
        in_process: Runs in this process: streams pause at every token without cost, and tokens
            measure H themselves.
        drafts: Understands ``Request.draft``.
        supports_schema: Understands ``Request.schema``: constrains a text to a JSON schema.
        stops: Understands ``Request.stop``: a stream ends by itself after one of these texts, with
            the whole of its last token.
        device: Name of what it computes on, if known. Two backends with one device never
            compute at the same time without slowing each other down.
        template: Source of the chat template, to find think tags in; ``None``: not shown.
        weights: Their type or quantisation, if known: ``"bfloat16"``, ``"q4_k_m"``. Calibrations
            are tagged with it.
        logprobs_refusal: What the server said when it refused log-probabilities, for the error.
    """

    context_window: int | None = None
    top_logprobs: int = 0
    wanted_logprobs: int | None = None
    streamed_logprobs: bool = False
    in_process: bool = False
    drafts: bool = False
    supports_schema: bool = False
    stops: bool = False
    device: str | None = None
    template: str | None = None
    weights: str | None = None
    logprobs_refusal: str | None = None

    def shares_device(self, other: Capabilities) -> bool:
        """Whether both are known to compute on one device."""
        return self.device is not None and self.device == other.device


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the model reads it, up to where its own turn begins.

    Attributes:
        text: The prompt, ending with the template's generation prompt.
        tokens: Its length in tokens, if the backend counted.
    """

    text: str
    tokens: int | None = None


# What chat models write their own control tokens like. Used where no tokenizer can be asked.
_CONTROL = re.compile(
    r"<\|[^<>|\n]{1,64}\|>|<｜[^<>｜\n]{1,64}｜>"
    r"|</?(?:s|bos|eos|unk|pad|think|thinking|seed:think|tool_call|tool_response|tools"
    r"|start_of_turn|end_of_turn)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK)\]"
)


def looks_like_control(literal: str) -> bool:
    """Whether common chat models write one of their control tokens like this."""
    return _CONTROL.fullmatch(literal) is not None


class Backend(ABC):
    """A model that continues text. See the module's docstring."""

    name: str
    url: str | None = None
    context_window: int | None = None
    """Tokens of prompt and completion together, as far as known without asking."""
    shows_tools: bool | None = None
    """Whether its chat template shows tools; ``None``: the template says, or nobody asked yet."""
    reasoning_name: str | None = None
    """What its chat template, or its server, calls the reasoning of earlier messages; empty: it
    reads none; ``None``: nobody asked yet."""
    sends_headers: bool = False
    """Whether requests go to a server that may read the headers of a call."""

    @abstractmethod
    async def capabilities(self) -> Capabilities:
        """What the backend can do; asked once, before the first request.

        Raises:
            BackendError: It cannot be reached.
            UnsuitableEndpointError: It cannot be used at all.
        """

    @abstractmethod
    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        """Render a conversation with the model's own chat template and generation prompt.

        Args:
            messages: The conversation; the arguments of ``tool_calls`` are JSON text, or what a
                model once wrote in its place. Earlier reasoning stands under
                ``reasoning_name``.
            tools: In OpenAI's format, for templates that read them.

        Raises:
            ConfigError: There is no template, or it refuses the conversation.
            BackendError: The server failed.
        """

    @abstractmethod
    def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        """Continue ``request.prompt``, token by token (an async generator).

        Closing the generator stops the generation. ``report.ended`` is set before it ends by
        itself.

        Raises:
            BackendError: The request failed; ``context_full`` is set where the prompt does not
                fit.
        """

    async def is_control(self, literal: str) -> bool:
        """Whether the tokenizer would read ``literal``, found in a message, as a control token.

        The default knows how common chat models write theirs.
        """
        return looks_like_control(literal)

    async def tokenize(self, text: str) -> list[int] | None:
        """The ids of a text, nothing added to it; ``None``: the backend cannot tell."""
        return None

    async def wait_idle(self) -> None:  # noqa: B027 - optional
        """Wait until work that was cancelled has left the device (on shared devices only)."""

    async def aclose(self) -> None:  # noqa: B027 - optional
        """Release what the backend holds."""

    def close(self) -> None:
        """Synchronous :meth:`aclose`."""
        from glimp_integrations import io_loop

        io_loop.call(self.aclose)

    @property
    def label(self) -> str:
        """Name and address, for messages."""
        return f"{self.name} at {self.url}" if self.url else self.name

    def __deepcopy__(self, _: Any) -> Self:
        # Frameworks copy their models; what a model runs on cannot be copied, only shared.
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"
