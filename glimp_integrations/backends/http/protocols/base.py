"""What every protocol has to say. Protocols hold no state: one object serves all backends.

A stream is read into the *choices* of text completions (``text``, ``logprobs``,
``finish_reason``), whatever a server's own shape is, so that one parser (``chunks``) and one set of
probes serve all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glimp_integrations.backends.base import Message, Rendered, Report, Request
from glimp_integrations.backends.http.servers import Flavour
from glimp_integrations.errors import ConfigError, UnsuitableEndpointError

if TYPE_CHECKING:
    from glimp_integrations.backends.http.endpoint import Endpoint
    from glimp_integrations.backends.http.openai import OpenAIBackend

__all__ = ["Ask", "Identity", "Protocol", "Reading", "choice_of", "the_only", "unserved"]


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
    def path(self, server: Endpoint, ask: Ask) -> str:
        """Where completions are posted to, below the base URL or in full."""

    @abstractmethod
    def body(self, ask: Ask) -> dict[str, Any]:
        """The body of a streamed completion."""

    @abstractmethod
    def reading(self, ask: Ask) -> Reading:
        """Reads the stream of such a request."""

    @abstractmethod
    async def identify(
        self, server: OpenAIBackend, listed: list[dict[str, Any]] | None
    ) -> Identity:
        """Ask who serves what.

        Args:
            server: The backend.
            listed: What ``/v1/models`` said, where it was asked already.

        Raises:
            ConfigError: No model is named, and there is not exactly one.
            UnsuitableEndpointError: The model is not served there.
            BackendError: The server cannot be reached.
        """

    async def window(self, server: OpenAIBackend) -> int | None:
        """The context window once the model has been used: some know it only then."""
        return server.context_window

    async def render(
        self,
        server: OpenAIBackend,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
    ) -> Rendered | None:
        """Let the server render a conversation; ``None``: it does not."""
        return None

    async def ids(self, server: OpenAIBackend, text: str, *, prompt: bool) -> list[int] | None:
        """The server's ids of a text; ``None``: it does not tell.

        Args:
            server: The backend.
            text: The text.
            prompt: It is a rendered prompt: count what the server itself would add.
        """
        return None

    async def is_control(self, server: OpenAIBackend, literal: str) -> bool | None:
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


def the_only(names: Sequence[str], server: OpenAIBackend) -> str:
    """The model of a server that serves one.

    Raises:
        ConfigError: It serves none, or several.
    """
    if len(names) != 1:
        raise ConfigError(
            f"{server.url} serves {list(names) or 'no listed models'}: name one with model=..."
        )
    return names[0]


def unserved(server: OpenAIBackend, names: Sequence[str], remedy: str) -> UnsuitableEndpointError:
    """The model is not among the served ones."""
    return UnsuitableEndpointError(
        probe="P0 identity",
        server=f"{server.model} at {server.url}",
        detail=f"the model is not served here; served: {list(names)}",
        remedy=remedy,
    )
