"""HTTP to one server: the client, its routes, one streamed completion."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from glimp_integrations import forks, io_loop
from glimp_integrations.backends.base import CALL_LIMITS, HEADERS, Backend, Report, Request
from glimp_integrations.backends.http.client import HttpClient
from glimp_integrations.backends.http.completion_stream import CompletionStream
from glimp_integrations.backends.http.connections import Connections
from glimp_integrations.backends.http.errors import (
    translated,
)
from glimp_integrations.backends.http.headers import check_credentials, check_key, checked_headers
from glimp_integrations.backends.http.protocols import PROTOCOLS
from glimp_integrations.backends.http.protocols.base import Protocol, RequestContext
from glimp_integrations.backends.http.replies import (
    Anything,
    ListedModel,
    ModelList,
    read,
)
from glimp_integrations.backends.http.sending import RequestLimits, as_json, sent
from glimp_integrations.backends.http.servers import GENERIC, ServerProfile
from glimp_integrations.backends.http.users_client import UsersClient
from glimp_integrations.backends.http.users_transport import opened
from glimp_integrations.errors import ConfigError, UnsuitableEndpointError
from glimp_integrations.redact import (
    bare_url,
    has_user_info,
    proxy_secrets,
    public_url,
    secret_forms,
)

__all__ = ["Endpoint"]

T = TypeVar("T")


class Endpoint(Backend):
    """A server and one model on it: sending requests. What replies mean is the subclass's part.

    Requests carry the headers of the call they are made for (``base.HEADERS``).

    Args:
        model: Name of the model on the server, if known.
        base_url: Such as ``"http://gpu1:8000/v1"``.
        api_key: Sent as a bearer token.
        profile: The server's kind, if known.
        extra_body: Fields added to every completion request.
        headers: Sent with every request; those of a call replace them.
        users_client: A client of the user's, which has the address, key and headers.

    Raises:
        ConfigError: ``base_url`` is not a URL, or it has a user name and there is an ``api_key``
            too, or ``api_key`` or ``headers`` have something that a header cannot carry.
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
        headers: Mapping[str, str | SecretStr] | None = None,
        users_client: UsersClient | None = None,
    ) -> None:
        if not _is_url(base_url):
            raise ConfigError(
                f"base_url is {public_url(base_url)!r}; expected http(s)://host:port/v1"
            )
        check_credentials(base_url, api_key)
        self.name = model or "the served model"
        self.url = public_url(base_url)
        self.model = model
        self.names_model = model is not None
        # Without user name, password and query, which the client sends in their places.
        self._base_url = bare_url(base_url).rstrip("/")
        self._credentials = SecretStr(base_url)
        self._key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        check_key(self._key)
        authorized = self._key is not None or has_user_info(base_url)
        self._own_headers = checked_headers(headers or {}, authorized=authorized)
        self._profile = profile
        self._extra_body = dict(extra_body or {})
        self._users_client = users_client
        self._client: HttpClient | None = None
        self.connections = Connections(lambda: self.get("/v1/models", Anything, max_retries=0))
        self._open_streams = 0
        forks.in_child(self)

    def __getstate__(self) -> Any:
        if self._users_client is not None:
            raise ConfigError(
                f"{self.label} is a backend object with a client, which cannot be pickled: it "
                "holds connections and keys: make the client and the backend in each process"
            )
        raise ConfigError(
            f"{self.label} is a backend object, which cannot be pickled: it holds connections and "
            "keys. Name the model by a model string, such as 'openai:MODEL@http://HOST:PORT/v1'; "
            "whoever loads it takes keys and passwords from the environment"
        )

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

    def forget_parent(self) -> None:
        """Called in a forked process: make new connections there, and leave the parent's alone."""
        forks.keep(self._client)
        self._client, self._open_streams = None, 0
        self.connections.forget_parent()

    async def aclose(self) -> None:
        io_loop.not_at_exit(self.aclose)
        await self.connections.aclose()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def completion(
        self,
        request: Request,
        report: Report,
        *,
        stop: Sequence[str] = (),
        take: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Stream one completion; yields its choices in the shape of text completions.

        Args:
            request: What to generate.
            report: Where to write token counts and the reason of the end.
            stop: Strings the server should stop at; only a probe uses them.
            take: That of :meth:`CompletionStream.choices`.

        Raises:
            UnsuitableEndpointError: The route does not exist, or the model is not served.
            BackendError: The request failed.
        """
        async with self._completed(request, report, stop, take) as choices:
            async for choice in choices:
                yield choice

    @asynccontextmanager
    async def _completed(
        self,
        request: Request,
        report: Report,
        stop: Sequence[str] = (),
        take: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> AsyncGenerator[AsyncGenerator[dict[str, Any], None], None]:
        """The choices of :meth:`completion`; the stream is closed at the end of the block."""
        request = replace(request, max_retries=self._retries(request.max_retries))
        context = self._context(request, stop)
        client = await self._connected()
        self._open_streams += 1
        try:
            with self._errors_translated():
                stream = self._stream(client, context, report)
                async with aclosing(stream.choices(take)) as choices:
                    yield choices
        finally:
            self._open_streams -= 1

    async def get(
        self,
        route: str,
        shape: type[T],
        *,
        at_most: float = math.inf,
        max_retries: int | None = None,
    ) -> T:
        """GET a route next to ``/v1`` (``/props``, ``/slots``).

        Args:
            route: The path, beginning with a slash.
            shape: What the reply must be; one of ``replies``.
            at_most: The longest timeout in seconds, if the running call allows more.
            max_retries: How often to retry; ``None`` for as often as the running call allows.

        Raises:
            UnsuitableEndpointError: The route does not exist.
            BackendError: The request failed, or the reply is of another shape.
        """
        limits = _call_limits(at_most=at_most, max_retries=max_retries)
        return await self._ask("GET", route, shape, limits)

    async def post(self, route: str, body: Mapping[str, Any], shape: type[T]) -> T:
        """POST to a route next to ``/v1`` (``/tokenize``).

        Raises:
            UnsuitableEndpointError: The route does not exist.
            BackendError: The request failed, or the reply is of another shape.
        """
        return await self._ask("POST", route, shape, _call_limits(), body)

    async def models(self) -> list[ListedModel] | None:
        """The entries of ``GET /v1/models``; ``None`` where there are none of what is served.

        Raises:
            BackendError: The request failed.
        """
        if self._users_client is not None and self._users_client.is_azure:
            return None  # lists what could be deployed, not the deployments that are asked for
        # A list of names is no reason to wait as long as for a long answer.
        prefix = self._base_url.removeprefix(self.root)  # "/v1", unless the base URL has none
        try:
            return await self.get(f"{prefix}/models", ModelList, at_most=5.0)
        except UnsuitableEndpointError:
            return None

    # -- inside --------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Hook for backends that start their own server."""

    def _context(self, request: Request, stop: Sequence[str]) -> RequestContext:
        return RequestContext(self.model, request, self.server, self._extra_body, stop)

    def _retries(self, of_the_call: int) -> int:
        """How often to retry, for a call that allows so many retries."""
        users = self._users_client
        return of_the_call if users is None else min(of_the_call, users.max_retries)

    def _headers(self) -> Mapping[str, SecretStr]:
        of_the_call = (HEADERS.get() or {}) if self.sends_headers else {}
        if not self._own_headers:
            return of_the_call
        # Names are compared without case: the HTTP library would send both.
        replaced = {name.lower() for name in of_the_call}
        own = {n: value for n, value in self._own_headers.items() if n.lower() not in replaced}
        return {**own, **of_the_call}

    def _secret_words(self) -> tuple[str, ...]:
        """All texts that may be secret in what the server sends back."""
        own = secret_forms(
            None if self._key is None else self._key.get_secret_value(),
            self._credentials.get_secret_value(),
            [value.get_secret_value() for value in self._headers().values()],
        )
        users = self._users_client
        return (*own, *proxy_secrets(), *(users.secret_words() if users is not None else ()))

    def _errors_translated(self, route: str | None = None) -> AbstractContextManager[None]:
        protocol = self.protocol
        return translated(
            self.name,
            self.url or "",
            self._secret_words,
            route=route or protocol.route,
            remedy=protocol.remedy,
            key_variable=self.server.key,
        )

    async def _connected(self) -> HttpClient:
        await self._start()
        if self._client is None:
            if self._users_client is not None:
                self._client = opened(self._users_client, self._headers, self.connections)
            else:
                self._client = HttpClient(
                    self._credentials.get_secret_value(),
                    api_key=self._key,
                    headers=self._headers,
                    connections=self.connections,
                )
            io_loop.at_exit(self.aclose)
        return self._client

    def _stream(
        self, client: HttpClient, context: RequestContext, report: Report
    ) -> CompletionStream:
        # The server's kind may turn out to be another while this stream runs.
        server = context.server
        protocol = PROTOCOLS[server.protocol]
        path = protocol.path(self.root, context)
        return CompletionStream(
            client=client,
            connections=self.connections,
            protocol=protocol,
            server=server,
            target=path if "://" in path else self._base_url + path,
            context=context,
            report=report,
            names=(self.label, self.name, self.url),
            secrets=self._secret_words,
        )

    async def _ask(
        self,
        method: str,
        route: str,
        shape: type[T],
        limits: RequestLimits,
        body: Mapping[str, Any] | None = None,
    ) -> T:
        """A small request, and its checked reply."""
        client = await self._connected()
        limits = limits._replace(max_retries=self._retries(limits.max_retries))
        url = self.root + route  # a server of this process has its address from here on
        with self._errors_translated(f"{method} {urlsplit(url).path}"):
            data = None if body is None else as_json(body)
            started = time.monotonic()
            async with sent(
                lambda: client.request(method, url, seconds=limits.seconds, body=data), limits
            ) as response:
                # One clock for both parts of a reply.
                left = limits.seconds - (time.monotonic() - started)
                reply = read(await response.read(max(left, 1.0)), shape)
                if not reply:  # it fits any question, and may be no answer to this one
                    response.distrust()
                return reply


def _call_limits(*, at_most: float = math.inf, max_retries: int | None = None) -> RequestLimits:
    """The limits of the running call for a small request, which may be made stricter."""
    seconds, retries = CALL_LIMITS.get()
    seconds = at_most if seconds is None else min(seconds, at_most)
    return RequestLimits(seconds, retries if max_retries is None else max_retries)


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, an incomplete IPv6 address
        return False
