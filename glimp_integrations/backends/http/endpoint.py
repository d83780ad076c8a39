"""HTTP to one server: the client, its routes, one streamed completion."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from glimp_integrations import io_loop
from glimp_integrations.backends.base import CALL_LIMITS, HEADERS, Backend, Report, Request
from glimp_integrations.backends.http.connections import Connections
from glimp_integrations.backends.http.errors import cleaned, explained, in_words, speaks_of_context
from glimp_integrations.backends.http.protocols import PROTOCOLS
from glimp_integrations.backends.http.protocols.base import Ask, Protocol
from glimp_integrations.backends.http.sending import RequestLimits, sent
from glimp_integrations.backends.http.servers import GENERIC, Flavour
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError
from glimp_integrations.redact import public_url

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Endpoint"]

# Three attempts at this, with the pauses between them, stay under ten seconds.
CONNECT_SECONDS = 2.5
# Ends that a repetition may spare.
_PASSING = (None, "error", "insufficient_system_resource")


class Endpoint(Backend):
    """A server and the model asked for there; what is made of its answers is the subclass's.

    Requests carry the headers of the call they are made for (``base.HEADERS``).

    Args:
        model: Name of the model on the server, if known.
        base_url: Such as ``"http://gpu1:8000/v1"``.
        api_key: Sent as a bearer token.
        flavour: The server's kind, if known.
        extra_body: Fields added to every completion request.

    Raises:
        ConfigError: ``base_url`` is no URL, or ``api_key`` holds what a header cannot carry.
    """

    sends_headers = True

    def __init__(
        self,
        model: str | None,
        *,
        base_url: str,
        api_key: str | SecretStr | None,
        flavour: Flavour | None,
        extra_body: Mapping[str, Any] | None,
    ) -> None:
        if not _is_url(base_url):
            raise ConfigError(
                f"base_url is {public_url(base_url)!r}; expected http(s)://host:port/v1"
            )
        self.name = model or "the served model"
        self.url = public_url(base_url)
        self.model = model
        self._base_url = base_url.rstrip("/")
        self._key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        _check_key(self._key)
        self._flavour = flavour
        self._extra_body = dict(extra_body or {})
        self._client: AsyncOpenAI | None = None
        self.connections = Connections(
            lambda: self.get("/v1/models", max_retries=0), headers=self._headers
        )
        self._streams = 0

    @property
    def flavour(self) -> Flavour:
        """The server's kind; generic until it was asked."""
        return self._flavour or GENERIC

    @property
    def protocol(self) -> Protocol:
        """How its routes are spoken."""
        return PROTOCOLS[self.flavour.protocol]

    @property
    def root(self) -> str:
        """The base URL without ``/v1``."""
        return self._base_url.removesuffix("/v1")

    def call_it(self, name: str) -> None:
        """The server told the model's name."""
        self.model = self.name = name

    async def aclose(self) -> None:
        io_loop.not_at_exit(self.aclose)
        await self.connections.aclose()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def completion(
        self, request: Request, report: Report, *, stop: Sequence[str] = ()
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Stream one completion; yields its choices in the shape of text completions."""
        client = await self._connected()
        ask = self._ask(request, stop)
        self._streams += 1
        try:
            with self._explained():
                async with aclosing(self._choices(client, ask, report)) as choices:
                    async for choice in choices:
                        yield choice
        finally:
            self._streams -= 1

    async def get(
        self, route: str, *, at_most: float = math.inf, max_retries: int | None = None
    ) -> Any:
        """GET a route beside ``/v1`` (``/props``, ``/slots``), waiting ``at_most`` seconds."""
        client = await self._connected()
        patience = _patience(at_most=at_most, max_retries=max_retries)
        with self._explained(f"GET {route}"):
            return await sent(client.get, self.root + route, patience)

    async def post(self, route: str, body: Mapping[str, Any]) -> Any:
        """POST to a route beside ``/v1`` (``/tokenize``)."""
        client = await self._connected()
        with self._explained(f"POST {route}"):
            return await sent(client.post, self.root + route, _patience(), body=dict(body))

    async def models(self) -> list[dict[str, Any]] | None:
        """What ``GET /v1/models`` lists; ``None`` where the route does not exist."""
        client = await self._connected()
        # A list of names is no reason to wait as long as for a long answer.
        patience = _patience(at_most=5.0)
        try:
            with self._explained():
                answer: Any = await sent(client.get, "/models", patience)
        except UnsuitableEndpointError:
            return None
        if isinstance(answer, dict):
            answer = answer.get("data")
        return [dict(item) for item in answer] if isinstance(answer, list) else None

    # -- inside ------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Hook for backends that start their own server."""

    def _ask(self, request: Request, stop: Sequence[str]) -> Ask:
        return Ask(self.model, request, self.flavour, self._extra_body, stop)

    def _headers(self) -> dict[str, str]:
        given = (HEADERS.get() or {}) if self.sends_headers else {}
        return {name: value.get_secret_value() for name, value in given.items()}

    def _explained(self, route: str | None = None) -> AbstractContextManager[None]:
        secret = self._key.get_secret_value() if self._key is not None else None
        protocol = self.protocol
        return explained(
            self.name,
            self.url or "",
            secret,
            route=route or protocol.route,
            remedy=protocol.remedy,
            key_variable=self.flavour.key,
        )

    async def _connected(self) -> AsyncOpenAI:
        await self._start()
        if self._client is None:
            self._client = self.connections.client(
                base_url=self._base_url,
                # The client insists on a key; servers without one ignore it.
                api_key=self._key.get_secret_value() if self._key is not None else "EMPTY",
            )  # timeouts and retries are set for every request
            io_loop.at_exit(self.aclose)
        return self._client

    async def _choices(
        self, client: AsyncOpenAI, ask: Ask, report: Report
    ) -> AsyncGenerator[dict[str, Any], None]:
        protocol, request = self.protocol, ask.request
        body, reading = protocol.body(ask), protocol.reading(ask)
        finish: str | None = None
        async with aclosing(self._chunks(client, ask, body, report)) as chunks:
            async for chunk in chunks:
                for choice in reading.choices(chunk, report):
                    finish = choice.get("finish_reason") or finish
                    yield choice
        for choice in reading.rest():
            yield choice
        self._note_end(finish, request, report)

    async def _chunks(
        self, client: AsyncOpenAI, ask: Ask, body: dict[str, Any], report: Report
    ) -> AsyncGenerator[dict[str, Any], None]:
        from openai import Timeout

        from glimp_integrations.backends.http.response_streams import DrainedStream, JsonLines

        request, path = ask.request, self.protocol.path(self.root, ask)
        report.retried = True  # here, as often as allowed
        patience = RequestLimits(
            Timeout(request.timeout, connect=CONNECT_SECONDS), request.max_retries
        )
        stream: Any = await sent(
            client.post,
            path,
            patience,
            body=body,
            stream=True,
            stream_cls=JsonLines if self.protocol.lines else DrainedStream,
        )
        report.retried, whole = False, False
        self.connections.make_ready(client)
        try:
            async with stream:
                async for chunk in stream:
                    yield self._checked(chunk)
            whole = True
        finally:
            # The client's stream and its generator hold each other: closed here, on this loop,
            # and not by a garbage collection that may come when the loop is gone.
            generator = getattr(stream, "_iterator", None)
            if isinstance(generator, AsyncGeneratorType):
                await generator.aclose()
            if not whole:
                self.connections.make_ready(client)

    def _checked(self, chunk: Any) -> dict[str, Any]:
        """A piece of an answer, unless it is something else: an error, or none of the protocol."""
        if isinstance(chunk, dict) and not chunk.get("error"):
            return chunk
        secret = self._key.get_secret_value() if self._key is not None else None
        told = in_words(chunk)
        full = speaks_of_context(told)
        what = "an error in the stream" if isinstance(chunk, dict) else "what is no JSON object"
        raise BackendError(
            f"{self.label} sent {what}: {cleaned(told, secret)}",
            model=self.name,
            url=self.url,
            retryable=not full,
            context_full=full,
        )

    def _note_end(self, finish: str | None, request: Request, report: Report) -> None:
        ended = self.flavour.ends.get(finish or "")
        if ended is None:
            raise BackendError(
                f"{self.label} ended its stream "
                + ("before the end" if finish is None else f"with {finish!r}"),
                model=self.name,
                url=self.url,
                retryable=finish in _PASSING,
            )
        told = report.completion_tokens
        cut = ended == "length" and told is not None and told < request.max_tokens
        report.ended = "context" if cut else ended


def _patience(*, at_most: float = math.inf, max_retries: int | None = None) -> RequestLimits:
    """Patience with a small request."""
    from openai import Timeout

    seconds, retries = CALL_LIMITS.get()
    seconds = at_most if seconds is None else min(seconds, at_most)
    timeout = Timeout(None if seconds == math.inf else seconds, connect=CONNECT_SECONDS)
    return RequestLimits(timeout, retries if max_retries is None else max_retries)


def _check_key(key: SecretStr | None) -> None:
    """Refused before a request is made: the HTTP library's error would show the key."""
    text = key.get_secret_value() if key is not None else ""
    if not (text.isascii() and text.isprintable() and text == text.strip()):
        raise ConfigError(
            "api_key holds a line end, a blank at one end, or a character that is not ASCII, which "
            "no HTTP header can carry: pass the key alone (of a file, read().strip())"
        )


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False
