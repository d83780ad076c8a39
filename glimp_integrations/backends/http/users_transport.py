"""The two ways in which the requests of a user's client are sent.

By this project's own HTTP client, as the user's client makes them. Or through the user's client,
for what its HTTP client alone is set to: proxies, certificates, mounts, transports, hooks and ways
of authentication hold then, because ``httpx`` sends the requests. What comes back is read here: in
pieces, unpacked up to a limit, and only as much of an error as is shown.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from pydantic import SecretStr

from glimp_integrations.backends.http.client import (
    ERROR_BYTES,
    GivenClientError,
    HttpClient,
    Response,
    StatusError,
    UnreachableError,
)
from glimp_integrations.backends.http.connections import Connections
from glimp_integrations.backends.http.users_client import UsersClient, ask

__all__ = ["LeanClient", "PassingClient", "opened"]

_OURS: ContextVar[bool] = ContextVar("glimp_through_given_client", default=False)
# A server or proxy may repeat what it was sent. What httpx adds on its own, such as the password of
# a proxy, is not known here.
_CREDENTIALS = re.compile(rb"(?i)\b(basic|bearer|digest|negotiate)\s+[^\s'\",]+")
_PROXY_REFUSES = 407
# Of a packed body, which may become a thousand times as long.
_PACKED_ERROR_BYTES = 4096


def opened(
    users: UsersClient,
    headers: Callable[[], Mapping[str, SecretStr]],
    connections: Connections,
) -> HttpClient:
    """What sends the requests of a user's client.

    Args:
        users: The user's client.
        headers: Returns the headers to add to a request that is about to be sent.
        connections: Told about connections and round trips.
    """
    if users.has_own_http:
        return PassingClient(users, headers=headers)
    return LeanClient(users, headers=headers, connections=connections)


class LeanClient(HttpClient):
    """Sends what a user's client makes of each request.

    Args:
        users: The user's client.
        headers: As for :class:`HttpClient`.
        connections: As for :class:`HttpClient`.
    """

    def __init__(
        self,
        users: UsersClient,
        *,
        headers: Callable[[], Mapping[str, SecretStr]],
        connections: Connections,
    ) -> None:
        super().__init__(
            users.base_url,
            api_key=None,
            headers=headers,
            connections=connections,
            connect_seconds=users.timeout("connect"),
            read_seconds=users.timeout("read"),
        )
        self._users = users

    async def _written(
        self, method: str, url: str, body: bytes | None
    ) -> tuple[str, dict[str, str], bytes | None]:
        return await self._users.written(url, body, self._headers())


class PassingClient(HttpClient):
    """Sends requests through a user's client.

    Args:
        users: The user's client. It is closed with this one.
        headers: As for :class:`HttpClient`.
    """

    def __init__(
        self, users: UsersClient, *, headers: Callable[[], Mapping[str, SecretStr]]
    ) -> None:
        self._users = users
        self._headers = headers
        _limit_errors(users)

    async def aclose(self) -> None:
        await self._users.client.close()

    @asynccontextmanager
    async def request(
        self, method: str, url: str, *, seconds: float, body: bytes | None = None
    ) -> AsyncGenerator[Response]:
        users = self._users
        users.check_usable()
        token = _OURS.set(True)
        try:
            with _translated(users):
                async with asyncio.timeout(None if seconds == math.inf else seconds):
                    raw = await ask(users, users.client, url, body, self._headers())
        finally:
            _OURS.reset(token)
        try:
            users.note(raw.request.headers, str(raw.request.url))
            async with aclosing(raw.aiter_raw()) as pieces:
                yield _PassedResponse(raw, pieces)
        finally:
            await raw.aclose()  # no effect on a connection whose response was read to the end


class _PassedResponse(Response):
    """A response of httpx, or httpx2.

    Args:
        raw: It. Its body has not been read.
        pieces: Its body. Whoever stops reading in the middle may go on, so it is kept open.
    """

    def __init__(self, raw: Any, pieces: AsyncIterator[bytes]) -> None:
        super().__init__(raw.headers)
        self._body = pieces
        self._failure: Exception | None = None

    async def _packet(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        try:
            with _translated():
                async for data in self._body:
                    if data:
                        return data
        except Exception as error:
            self._failure = error  # the body that broke off must not seem to end
            raise
        return b""


@contextmanager
def _translated(users: UsersClient | None = None) -> Iterator[None]:
    """Turn errors of the client into those that this project's own HTTP client raises.

    Args:
        users: Told what the request was sent with, before its error is shown.

    Raises:
        StatusError: The status is not one of success.
        TimeoutError: Something took too long.
        OSError: The connection failed.
        GivenClientError: The client failed in another way.
    """
    try:
        yield
    except Exception as error:
        raise _translation(error, users) from None


def _translation(error: Exception, users: UsersClient | None) -> Exception:
    import openai

    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else None
    cause = error if cause is None else cause
    # By name: this version of the package may take clients of both httpx and httpx2.
    kinds = {kind.__name__ for kind in type(cause).__mro__}
    if (response := getattr(cause, "response", None)) is not None:
        if users is not None:
            users.note(response.request.headers, str(response.request.url))
        return StatusError(response.status_code, response.headers, _body(response))
    if kinds & {"TimeoutError", "TimeoutException"}:
        return TimeoutError()
    text = f"{type(cause).__name__}: {cause}"
    if kinds & {"ConnectError", "ProxyError"}:
        return UnreachableError(text)
    if "LocalProtocolError" in kinds:  # its text quotes the header as Python writes bytes
        return GivenClientError("it refuses a header: is there a line break in one?")
    if kinds & {"TransportError", "OSError"}:
        return ConnectionError(text)
    if "RuntimeError" in kinds and "loop" in str(cause):
        text += "; its connections belong to another event loop: give the backend a client of "
        text += "its own, with an http_client of its own"
    return GivenClientError(text)


def _body(response: Any) -> bytes:
    """The beginning of an error's body, without credentials."""
    body = b""
    with suppress(Exception):  # it was not read
        body = response.content[: ERROR_BYTES + 1]
    if response.status_code == _PROXY_REFUSES:
        return b""  # it is about a password that nothing here knows
    return _CREDENTIALS.sub(rb"\1 ***", body)


def _limit_errors(users: UsersClient) -> None:
    """Have no more read of the body of an error than is shown.

    The openai package reads all of it. Its HTTP client has no public name there; if it cannot be
    found, errors are read as the package reads them.
    """
    hooks = getattr(getattr(users.client, "_client", None), "event_hooks", {}).get("response")
    if hooks is not None and _limited not in hooks:
        hooks.append(_limited)


async def _limited(response: Any) -> None:
    """Cut the body of an error, where it is one of this project's requests."""
    if not _OURS.get() or 200 <= response.status_code < 300:
        return
    for kind in type(response.stream).__mro__:
        if kind.__name__ == "AsyncByteStream":
            packed = "Content-Encoding" in response.headers
            most = _PACKED_ERROR_BYTES if packed else ERROR_BYTES
            response.stream = type("Limited", (_Limited, kind), {})(response.stream, most)
            return


class _Limited:
    """The beginning of a body, as httpx wants it."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._most = stream, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._most
        async for data in self._stream:
            yield data[:left]
            left -= len(data)
            if left <= 0:
                return

    async def aclose(self) -> None:
        """Close the body, and its connection if there is more of it."""
        await self._stream.aclose()
