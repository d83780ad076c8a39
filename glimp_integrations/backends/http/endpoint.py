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
from glimp_integrations.backends.http.errors import (
    describe,
    redacted,
    speaks_of_context,
    translated,
)
from glimp_integrations.backends.http.protocols import PROTOCOLS
from glimp_integrations.backends.http.protocols.base import Protocol, RequestContext
from glimp_integrations.backends.http.sending import RequestLimits, send
from glimp_integrations.backends.http.servers import GENERIC, ServerProfile
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError
from glimp_integrations.redact import public_url

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Endpoint"]

# Three attempts with this timeout, and the pauses between them, stay under ten seconds.
CONNECT_SECONDS = 2.5
# Values of finish_reason that say that a repetition of the request may succeed.
_TEMPORARY = (None, "error", "insufficient_system_resource")


class Endpoint(Backend):
    """A server and one model on it: sending requests. What replies mean is the subclass's part.

    Requests carry the headers of the call they are made for (``base.HEADERS``).

    Args:
        model: Name of the model on the server, if known.
        base_url: Such as ``"http://gpu1:8000/v1"``.
        api_key: Sent as a bearer token.
        profile: The server's kind, if known.
        extra_body: Fields added to every completion request.

    Raises:
        ConfigError: ``base_url`` is not a URL, or ``api_key`` has characters that a header cannot
            carry.
    """

    sends_headers = True

    def __init__(
        self,
        model: str | None,
        *,
        base_url: str,
        api_key: str | SecretStr | None,
        profile: ServerProfile | None,
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
        self._profile = profile
        self._extra_body = dict(extra_body or {})
        self._client: AsyncOpenAI | None = None
        self.connections = Connections(
            lambda: self.get("/v1/models", max_retries=0), headers=self._headers
        )
        self._open_streams = 0

    @property
    def server(self) -> ServerProfile:
        """The server's kind; generic until it was asked."""
        return self._profile or GENERIC

    @property
    def protocol(self) -> Protocol:
        """How the server's routes are used."""
        return PROTOCOLS[self.server.protocol]

    @property
    def root(self) -> str:
        """The base URL without ``/v1``."""
        return self._base_url.removesuffix("/v1")

    def set_model(self, name: str) -> None:
        """Use the model name that the server reported."""
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
        """Stream one completion; yields its choices in the shape of text completions.

        Args:
            request: What to generate.
            report: Where to write token counts and the reason of the end.
            stop: Strings the server should stop at; only a probe uses them.

        Raises:
            UnsuitableEndpointError: The route does not exist, or the model is not served.
            BackendError: The request failed.
        """
        client = await self._connected()
        context = self._context(request, stop)
        self._open_streams += 1
        try:
            with self._errors_translated():
                async with aclosing(self._choices(client, context, report)) as choices:
                    async for choice in choices:
                        yield choice
        finally:
            self._open_streams -= 1

    async def get(
        self, route: str, *, at_most: float = math.inf, max_retries: int | None = None
    ) -> Any:
        """GET a route next to ``/v1`` (``/props``, ``/slots``).

        Args:
            route: The path, beginning with a slash.
            at_most: The longest timeout in seconds, if the running call allows more.
            max_retries: How often to retry; ``None`` for as often as the running call allows.

        Raises:
            UnsuitableEndpointError: The route does not exist.
            BackendError: The request failed.
        """
        client = await self._connected()
        limits = _call_limits(at_most=at_most, max_retries=max_retries)
        with self._errors_translated(f"GET {route}"):
            return await send(client.get, self.root + route, limits)

    async def post(self, route: str, body: Mapping[str, Any]) -> Any:
        """POST to a route next to ``/v1`` (``/tokenize``).

        Raises:
            UnsuitableEndpointError: The route does not exist.
            BackendError: The request failed.
        """
        client = await self._connected()
        with self._errors_translated(f"POST {route}"):
            return await send(client.post, self.root + route, _call_limits(), body=dict(body))

    async def models(self) -> list[dict[str, Any]] | None:
        """The entries of ``GET /v1/models``; ``None`` where the route does not exist.

        Raises:
            BackendError: The request failed.
        """
        client = await self._connected()
        # A list of names is no reason to wait as long as for a long answer.
        limits = _call_limits(at_most=5.0)
        try:
            with self._errors_translated():
                reply: Any = await send(client.get, "/models", limits)
        except UnsuitableEndpointError:
            return None
        if isinstance(reply, dict):
            reply = reply.get("data")
        return [dict(item) for item in reply] if isinstance(reply, list) else None

    # -- inside --------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Hook for backends that start their own server."""

    def _context(self, request: Request, stop: Sequence[str]) -> RequestContext:
        return RequestContext(self.model, request, self.server, self._extra_body, stop)

    def _headers(self) -> dict[str, str]:
        headers = (HEADERS.get() or {}) if self.sends_headers else {}
        return {name: value.get_secret_value() for name, value in headers.items()}

    def _errors_translated(self, route: str | None = None) -> AbstractContextManager[None]:
        secret = self._key.get_secret_value() if self._key is not None else None
        protocol = self.protocol
        return translated(
            self.name,
            self.url or "",
            secret,
            route=route or protocol.route,
            remedy=protocol.remedy,
            key_variable=self.server.key,
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
        self, client: AsyncOpenAI, context: RequestContext, report: Report
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The choices of a stream, up to its end, which is written into the report."""
        body, parser = self.protocol.body(context), self.protocol.parser(context)
        finish: str | None = None
        async with aclosing(self._chunks(client, context, body, report)) as chunks:
            async for chunk in chunks:
                for choice in parser.choices(chunk, report):
                    finish = choice.get("finish_reason") or finish
                    yield choice
        for choice in parser.rest():
            yield choice
        self._note_end(finish, context.request, report)

    async def _chunks(
        self, client: AsyncOpenAI, context: RequestContext, body: dict[str, Any], report: Report
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a stream as the server sent them; closes the stream in any case."""
        from openai import Timeout

        from glimp_integrations.backends.http.response_streams import DrainedStream, JsonLines

        request, path = context.request, self.protocol.path(self.root, context)
        # Opening the stream is retried in ``send``, as often as allowed. If that fails, the router
        # must not start again. Once the stream is open, only the router can retry it, because it
        # knows which text to keep.
        report.retried = True
        limits = RequestLimits(
            Timeout(request.timeout, connect=CONNECT_SECONDS), request.max_retries
        )
        stream: Any = await send(
            client.post,
            path,
            limits,
            body=body,
            stream=True,
            stream_cls=JsonLines if self.protocol.json_lines else DrainedStream,
        )
        report.retried, complete = False, False
        self.connections.make_ready(client)
        try:
            async with stream:
                async for chunk in stream:
                    yield self._checked(chunk)
            complete = True
        finally:
            # The client's stream and its generator refer to each other, so only the garbage
            # collector would free them, maybe when the loop is already gone. Close the generator
            # here, on this loop.
            generator = getattr(stream, "_iterator", None)
            if isinstance(generator, AsyncGeneratorType):
                await generator.aclose()
            if not complete:
                self.connections.make_ready(client)

    def _checked(self, chunk: Any) -> dict[str, Any]:
        """A chunk, if it is a JSON object and not an error.

        Raises:
            BackendError: It is an error, or not a JSON object.
        """
        if isinstance(chunk, dict) and not chunk.get("error"):
            return chunk
        secret = self._key.get_secret_value() if self._key is not None else None
        text = describe(chunk)
        full = speaks_of_context(text)
        what = "an error" if isinstance(chunk, dict) else "something that is not a JSON object"
        raise BackendError(
            f"{self.label} sent {what} in the stream: {redacted(text, secret)}",
            model=self.name,
            url=self.url,
            retryable=not full,
            context_full=full,
        )

    def _note_end(self, finish: str | None, request: Request, report: Report) -> None:
        """Write into the report how the stream ended.

        Raises:
            BackendError: It ended without a reason, or with one that means a failure.
        """
        ended = self.server.ends.get(finish or "")
        if ended is None:
            raise BackendError(
                f"{self.label} ended its stream "
                + ("before the end" if finish is None else f"with {finish!r}"),
                model=self.name,
                url=self.url,
                retryable=finish in _TEMPORARY,
            )
        # Servers report a full context window as "length", too. Fewer tokens than requested
        # tell the two apart.
        count = report.completion_tokens
        window_full = ended == "length" and count is not None and count < request.max_tokens
        report.ended = "context" if window_full else ended


def _call_limits(*, at_most: float = math.inf, max_retries: int | None = None) -> RequestLimits:
    """The limits of the running call for a small request, which may be made stricter."""
    from openai import Timeout

    seconds, retries = CALL_LIMITS.get()
    seconds = at_most if seconds is None else min(seconds, at_most)
    timeout = Timeout(None if seconds == math.inf else seconds, connect=CONNECT_SECONDS)
    return RequestLimits(timeout, retries if max_retries is None else max_retries)


def _check_key(key: SecretStr | None) -> None:
    """Refuse an unusable key before a request is made: the HTTP library's error would show it."""
    text = key.get_secret_value() if key is not None else ""
    if not (text.isascii() and text.isprintable() and text == text.strip()):
        raise ConfigError(
            "api_key has a line break, a space at its beginning or end, or a character that is not "
            "ASCII, which no HTTP header can carry: pass the key alone (from a file, "
            "read().strip())"
        )


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, an incomplete IPv6 address
        return False
