"""What every protocol has to define. Protocols hold no state: one object serves all backends.

Whatever shape a server's stream has, a protocol turns it into the *choices* of text completions
(``text``, ``logprobs``, ``finish_reason``), so that one parser (``chunks``) and one set of probes
serve all of them.
"""

from __future__ import annotations

import math
import typing
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from glimp_integrations.backends.base import (
    Capabilities,
    Message,
    Rendered,
    Report,
    Request,
)
from glimp_integrations.backends.http.replies import Chunk, ListedModel
from glimp_integrations.backends.http.servers import ServerProfile
from glimp_integrations.errors import ConfigError, UnsuitableEndpointError

__all__ = [
    "ChunkParser",
    "Identity",
    "ModelEndpoint",
    "Protocol",
    "RequestContext",
    "choice_of",
    "not_served",
    "only_model",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Everything that a completion request is made of.

    Attributes:
        model: Name of the model on the server.
        request: What the router asks for.
        server: The server's kind.
        extra_body: Fields that the backend's owner adds to every request.
        stop: Strings the server should stop at; only a probe uses them.
        window: The context window the backend's owner set, in tokens; ``None`` if not set.
    """

    model: str | None
    request: Request
    server: ServerProfile
    extra_body: Mapping[str, Any]
    stop: Sequence[str] = ()
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server reports about the model.

    Attributes:
        model: Name of the model on the server.
        window: Its context window in tokens; ``None`` if the server does not report it.
        template: Source of its chat template; ``None`` if the server does not show it.
    """

    model: str
    window: int | None = None
    template: str | None = None


class ModelEndpoint(typing.Protocol):
    """One model at one address, as far as protocols, probes and stop strings need to know it.

    In practice this is an ``openai.OpenAIBackend``. They are typed with this description instead
    of the class, so that none of them imports the backend that is built from them.

    Attributes:
        name: Name of the model, for messages.
        url: Address without secrets, for messages.
        model: Name of the model on the server; ``None`` if it is not known yet.
        names_model: Whether the backend's owner named the model. Otherwise it is the only one that
            is served; until that is asked anew, other calls use the name of the last time.
        requested_window: The context window the backend's owner set, in tokens; ``None`` if not
            set.
        context_window: The context window in tokens, as far as known.
        thinks: Whether the model reasons before it answers, as far as known.
        shown_template: Source of the chat template, if the server showed it.
    """

    name: str
    url: str | None
    model: str | None
    names_model: bool
    requested_window: int | None
    context_window: int | None
    thinks: bool
    shown_template: str | None

    @property
    def server(self) -> ServerProfile:
        """The server's kind."""
        ...

    @property
    def protocol(self) -> Protocol:
        """How the server's routes are used."""
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

    def set_model(self, name: str) -> None:
        """Use the model name that the server reported."""
        ...

    async def get(
        self,
        route: str,
        shape: type[T],
        *,
        at_most: float = math.inf,
        max_retries: int | None = None,
    ) -> T:
        """GET a route next to ``/v1``, waiting ``at_most`` seconds; the reply is of that shape."""
        ...

    async def post(self, route: str, body: Mapping[str, Any], shape: type[T]) -> T:
        """POST to a route next to ``/v1``; the reply is of that shape."""
        ...

    async def models(self) -> list[ListedModel] | None:
        """The entries of ``GET /v1/models``; ``None`` where the route does not exist."""
        ...

    def completion(
        self,
        request: Request,
        report: Report,
        *,
        stop: Sequence[str] = (),
        take: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Stream one completion; yields its choices in the shape of text completions."""
        ...

    async def identify(self) -> str | None:
        """Find out what is served; returns the source of the chat template, if available."""
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
        """The text of some token ids."""
        ...


class ChunkParser(ABC):
    """Parses one stream: chunks in, choices out. Made anew for every request.

    Attributes:
        shape: What a chunk must be; one of ``replies``.
    """

    shape: type[Any] = Chunk

    @abstractmethod
    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        """The choices of a chunk; token counts in the chunk are written into ``report``.

        Args:
            chunk: Of the declared shape.
            report: Where to write.
        """

    def rest(self) -> list[dict[str, Any]]:
        """What was held back when the stream ended."""
        return []


class Protocol(ABC):
    """One kind of route.

    Attributes:
        route: The route that completions are posted to, for messages.
        remedy: What to do where the route does not exist, for messages.
        json_lines: Whether a stream is one JSON object a line, and not server-sent events.
        exact_text: Whether the route continues exact text; otherwise it continues a message.
    """

    route: str
    remedy: str
    json_lines = False
    exact_text = True

    @abstractmethod
    def path(self, root: str, context: RequestContext) -> str:
        """Where completions are posted to: a path below the base URL, or a full URL.

        Args:
            root: The base URL without ``/v1``.
            context: The request.
        """

    @abstractmethod
    def body(self, context: RequestContext) -> dict[str, Any]:
        """The body of a streamed completion."""

    @abstractmethod
    def parser(self, context: RequestContext) -> ChunkParser:
        """The parser for the stream that answers this request."""

    @abstractmethod
    async def identify(self, endpoint: ModelEndpoint, listed: list[ListedModel] | None) -> Identity:
        """Find out which model is served.

        Args:
            endpoint: The model that is asked about.
            listed: The entries of ``/v1/models``, if they were fetched already.

        Raises:
            ConfigError: No model is named, and the server does not serve exactly one.
            UnsuitableEndpointError: The model is not served there.
            BackendError: The server cannot be reached.
        """

    async def window(self, endpoint: ModelEndpoint) -> int | None:
        """The context window after the first use of the model: some servers set it only then."""
        return endpoint.context_window

    async def render(
        self,
        endpoint: ModelEndpoint,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
    ) -> Rendered | None:
        """Let the server render a conversation; ``None`` if it cannot."""
        return None

    async def ids(self, endpoint: ModelEndpoint, text: str, *, prompt: bool) -> list[int] | None:
        """The server's token ids of a text; ``None`` if it cannot tell.

        Args:
            endpoint: The model that is asked about.
            text: The text.
            prompt: Whether the text is a rendered prompt. Tokens that the server itself adds to
                prompts are then counted, too.
        """
        return None

    async def control_literals(
        self, endpoint: ModelEndpoint, literals: Sequence[str]
    ) -> set[str] | None:
        """Those literals that are read as control tokens; ``None`` if the server cannot tell."""
        return None


def choice_of(
    text: str, entries: list[dict[str, Any]] | None = None, finish: str | None = None
) -> dict[str, Any]:
    """A choice in the shape of text completions."""
    return {
        "text": text,
        "logprobs": {"content": entries} if entries else None,
        "finish_reason": finish,
    }


def only_model(names: Sequence[str], endpoint: ModelEndpoint) -> str:
    """The model of a server that serves exactly one.

    Raises:
        ConfigError: It serves several.
        UnsuitableEndpointError: It lists none.
    """
    if not names:
        raise UnsuitableEndpointError(
            probe="P0 identity",
            server=endpoint.url or "the server",
            detail="no model is named, and it lists none",
            remedy="Name one with model=..., or start the server with a model",
        )
    if len(names) > 1:
        raise ConfigError(f"{endpoint.url} serves {list(names)}: name one with model=...")
    return names[0]


def not_served(
    endpoint: ModelEndpoint, names: Sequence[str], remedy: str
) -> UnsuitableEndpointError:
    """The error for a model that is not among the served ones."""
    return UnsuitableEndpointError(
        probe="P0 identity",
        server=f"{endpoint.model} at {endpoint.url}",
        detail=f"the model is not served here; served: {list(names)}",
        remedy=remedy,
    )
