"""What every protocol has to say. Protocols hold no state: one object serves all backends.

A stream is read into the *choices* of text completions (``text``, ``logprobs``,
``finish_reason``), whatever a server's own shape is, so that one parser (``chunks``) and one set of
probes serve all of them.
"""

from __future__ import annotations

import math
import typing
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glimp_integrations.backends.base import (
    Capabilities,
    Message,
    Rendered,
    Report,
    Request,
)
from glimp_integrations.backends.http.servers import Flavour
from glimp_integrations.errors import ConfigError, UnsuitableEndpointError

__all__ = [
    "Ask",
    "Identity",
    "ModelEndpoint",
    "Protocol",
    "Reading",
    "choice_of",
    "the_only",
    "unserved",
]


@dataclass(frozen=True, slots=True)
class Ask:
    """All that a request is made of.

    Attributes:
        model: Its name on the server.
        request: What the router wants.
        flavour: The server's kind.
        extra: The owner's own fields.
        stop: Strings the server shall stop at; used by a probe only.
        window: The context window its owner asked for, in tokens; ``None``: none in particular.
    """

    model: str | None
    request: Request
    flavour: Flavour
    extra: Mapping[str, Any]
    stop: Sequence[str] = ()
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server says of the model.

    Attributes:
        model: Its name there.
        window: Tokens of its context; ``None``: not told.
        template: Source of its chat template; ``None``: not shown.
    """

    model: str
    window: int | None = None
    template: str | None = None


class ModelEndpoint(typing.Protocol):
    """One model at one address, as far as protocols, probes and stop strings need to know it.

    ``openai.OpenAIBackend`` is what stands behind it. They use this description of it and not the
    class, so that none of them depends on the backend that is built from them.

    Attributes:
        name: Name of the model, for messages.
        url: Address without secrets, for messages.
        model: Name of the model on the server; ``None``: not known yet.
        wanted_window: The context window its owner asked for, in tokens; ``None``: none.
        context_window: The context window in tokens, as far as known.
        thinks: Whether the model thinks before it answers, as far as known.
        shown_template: Source of the chat template that the server showed, if it did.
    """

    name: str
    url: str | None
    model: str | None
    wanted_window: int | None
    context_window: int | None
    thinks: bool
    shown_template: str | None

    @property
    def flavour(self) -> Flavour:
        """The server's kind."""
        ...

    @property
    def protocol(self) -> Protocol:
        """How the server's routes are spoken."""
        ...

    @property
    def root(self) -> str:
        """The base URL without ``/v1``."""
        ...

    @property
    def label(self) -> str:
        """Name and address, for messages."""
        ...

    @property
    def top_logprobs(self) -> int:
        """How many log-probabilities every token should carry."""
        ...

    def call_it(self, name: str) -> None:
        """Set the model's name to the one the server told."""
        ...

    async def get(
        self, route: str, *, at_most: float = math.inf, max_retries: int | None = None
    ) -> Any:
        """GET a route beside ``/v1``, waiting ``at_most`` seconds."""
        ...

    async def post(self, route: str, body: Mapping[str, Any]) -> Any:
        """POST to a route beside ``/v1``."""
        ...

    async def models(self) -> list[dict[str, Any]] | None:
        """The entries of ``GET /v1/models``; ``None`` where the route does not exist."""
        ...

    def completion(
        self, request: Request, report: Report, *, stop: Sequence[str] = ()
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Stream one completion; yields its choices in the shape of text completions."""
        ...

    async def identify(self) -> str | None:
        """Ask who serves what; returns the source of the chat template, if it can be had."""
        ...

    async def capabilities(self) -> Capabilities:
        """What the backend can do."""
        ...

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        """Render a conversation with the model's own chat template."""
        ...

    async def text_of(self, ids: Sequence[int]) -> str:
        """The text of some tokens."""
        ...


class Reading(ABC):
    """One stream on its way: chunks in, choices out."""

    @abstractmethod
    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        """The choices of a chunk; what it tells about its cost goes into the report."""

    def rest(self) -> list[dict[str, Any]]:
        """What was held back when the stream ended."""
        return []


class Protocol(ABC):
    """One kind of route.

    Attributes:
        route: What is asked, for messages.
        remedy: What to do where the route does not exist.
        lines: Streams are one JSON object a line, instead of server-sent events.
        exact_text: The route continues exact text; else it continues a message.
    """

    route: str
    remedy: str
    lines = False
    exact_text = True

    @abstractmethod
    def path(self, root: str, ask: Ask) -> str:
        """Where completions are posted to: a path below the base URL, or a full URL.

        Args:
            root: The base URL without ``/v1``.
            ask: The request.
        """

    @abstractmethod
    def body(self, ask: Ask) -> dict[str, Any]:
        """The body of a streamed completion."""

    @abstractmethod
    def reading(self, ask: Ask) -> Reading:
        """Reads the stream of such a request."""

    @abstractmethod
    async def identify(
        self, endpoint: ModelEndpoint, listed: list[dict[str, Any]] | None
    ) -> Identity:
        """Ask who serves what.

        Args:
            endpoint: The model that is asked about.
            listed: What ``/v1/models`` said, where it was asked already.

        Raises:
            ConfigError: No model is named, and there is not exactly one.
            UnsuitableEndpointError: The model is not served there.
            BackendError: The server cannot be reached.
        """

    async def window(self, endpoint: ModelEndpoint) -> int | None:
        """The context window once the model has been used: some know it only then."""
        return endpoint.context_window

    async def render(
        self,
        endpoint: ModelEndpoint,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
    ) -> Rendered | None:
        """Let the server render a conversation; ``None``: it does not."""
        return None

    async def ids(self, endpoint: ModelEndpoint, text: str, *, prompt: bool) -> list[int] | None:
        """The server's ids of a text; ``None``: it does not tell.

        Args:
            endpoint: The model that is asked about.
            text: The text.
            prompt: It is a rendered prompt: count what the server itself would add.
        """
        return None

    async def is_control(self, endpoint: ModelEndpoint, literal: str) -> bool | None:
        """Whether a literal is read as a control token; ``None``: the server does not tell."""
        return None


def choice_of(
    text: str, entries: list[dict[str, Any]] | None = None, finish: str | None = None
) -> dict[str, Any]:
    """A choice as text completions have it."""
    return {
        "text": text,
        "logprobs": {"content": entries} if entries else None,
        "finish_reason": finish,
    }


def the_only(names: Sequence[str], endpoint: ModelEndpoint) -> str:
    """The model of a server that serves one.

    Raises:
        ConfigError: It serves none, or several.
    """
    if len(names) != 1:
        raise ConfigError(
            f"{endpoint.url} serves {list(names) or 'no listed models'}: name one with model=..."
        )
    return names[0]


def unserved(endpoint: ModelEndpoint, names: Sequence[str], remedy: str) -> UnsuitableEndpointError:
    """The model is not among the served ones."""
    return UnsuitableEndpointError(
        probe="P0 identity",
        server=f"{endpoint.model} at {endpoint.url}",
        detail=f"the model is not served here; served: {list(names)}",
        remedy=remedy,
    )
