"""A client of the ``openai`` package that a user has set up: reading what it is set to.

Such a client knows its address, its key (which may be a function), headers, a query, and with Azure
what becomes of a path. All of that shows in the requests it makes. So it is asked to make each
request, on a transport that sends nothing, and the HTTP client of this project sends what came out.

What its own HTTP client is set to, ``http_client=``, cannot be read: proxies, certificates,
transports, hooks. Requests of such a client go through it (``users_transport``).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from pydantic import SecretStr

from glimp_integrations import forks
from glimp_integrations.backends.http.client import GivenClientError
from glimp_integrations.backends.http.headers import check_key, checked_headers
from glimp_integrations.errors import ConfigError
from glimp_integrations.redact import bare_url, secret_forms

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["UsersClient", "ask", "given_client"]

# These belong to the connection; the HTTP client of this project has its own.
_OF_THE_CONNECTION = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "transfer-encoding"}
)
# Headers that hold no secret. Any other may.
_OPEN = _OF_THE_CONNECTION | {"accept", "content-type", "user-agent"}
_OPEN_PREFIX = "x-stainless-"  # what the openai package says of itself: versions, the system
_OPEN_QUERY = "api-version"  # of Azure; its errors name it
# Keys that are renewed every hour: a server may repeat one of some hours ago.
_SECRETS = 256

_RECORDED: ContextVar[list[Any]] = ContextVar("glimp_recorded")


def given_client(client: object, **others: object) -> UsersClient | None:
    """What a user gave as a client, checked.

    Args:
        client: The argument ``client`` of a backend.
        others: Arguments that a client takes the place of, by their names.

    Returns:
        ``None`` if there is no client.

    Raises:
        ConfigError: It is not an ``AsyncOpenAI``, or is closed, or another argument is given, too,
            or its key or a header has something that no HTTP header can carry.
    """
    if client is None:
        return None
    kind = f"{type(client).__module__}.{type(client).__qualname__}"
    openai = sys.modules.get("openai")  # whoever has a client has imported it
    if openai is None or not isinstance(client, openai.AsyncOpenAI):
        is_sync = openai is not None and isinstance(client, openai.OpenAI)
        name = f"Async{type(client).__name__}" if is_sync else "AsyncOpenAI"
        why = ", which waits for each answer" if is_sync else ""
        raise ConfigError(
            f"client is a {kind}{why}; expected an openai.AsyncOpenAI or openai.AsyncAzureOpenAI: "
            f"give openai.{name}(...)" + (" with the same arguments" if is_sync else "")
        )
    given = sorted(name for name, value in others.items() if value is not None)
    if given:
        raise ConfigError(
            f"client is given, and {' and '.join(given)} too, which the client has itself: leave "
            f"{'it' if len(given) == 1 else 'them'} out, or set the client to it, for example "
            "with client.with_options(...)"
        )
    if client.is_closed():
        raise ConfigError("client is closed: give one that is open")
    return UsersClient(client)


class UsersClient:
    """An ``AsyncOpenAI`` that a user has set up.

    Attributes:
        client: The client.
        base_url: Its address.
        has_own_http: Whether it was given an HTTP client, or is of a kind or set to something that
            only it can do. Its requests go through it.
    """

    def __init__(self, client: AsyncOpenAI) -> None:
        self.client = client
        self.base_url = str(client.base_url).rstrip("/")
        self.has_own_http = _has_own_http(client)
        self._making: tuple[object, AsyncOpenAI] | None = None
        self._secrets: dict[str, None] = {}
        self._process: int | None = None
        check_key(SecretStr(client.api_key or ""))
        # Under one spelling: that of the package, and the user's, are one header.
        headers = {name.lower(): value for name, value in self._headers()}
        checked_headers({n: v for n, v in headers.items() if not _is_of_the_connection(n)})

    @property
    def http_module(self) -> Any:
        """``httpx`` or ``httpx2``, whichever this version of the openai package is made of."""
        return sys.modules[type(self.client.base_url).__module__.partition(".")[0]]

    @property
    def is_azure(self) -> bool:
        """Whether models are deployments, which stand in paths."""
        return isinstance(self.client, sys.modules["openai"].AsyncAzureOpenAI)

    @property
    def max_retries(self) -> int:
        """How many attempts it makes after the first."""
        return self.client.max_retries

    def timeout(self, kind: str) -> float | None:
        """Its limit in seconds for ``"connect"`` or ``"read"``; ``None`` for no limit."""
        limit: Any = self.client.timeout
        return limit if limit is None or isinstance(limit, int | float) else getattr(limit, kind)

    def check_usable(self) -> None:
        """Refuse a client whose connections are closed, or belong to another process.

        Raises:
            ConfigError: They are or do.
        """
        if self.client.is_closed():
            raise ConfigError("the given client is closed: make another one, and a backend with it")
        if self._process not in (None, os.getpid()):
            forks.keep(self.client)
            raise ConfigError(
                "the given client has connections of the process that this one was forked from: "
                "make the client and the backend in each process, or start processes by the "
                "'spawn' method"
            )
        self._process = os.getpid()

    def place(self, url: str) -> str:
        """The path below its address, which Azure puts a deployment in; else the whole address."""
        base = bare_url(self.base_url).rstrip("/") + "/"
        if url.startswith(base):
            return "/" + url.removeprefix(base)
        return urlsplit(url)._replace(netloc=urlsplit(self.base_url).netloc).geturl()

    def added(self, headers: Mapping[str, SecretStr]) -> dict[str, str]:
        """Headers of a call in the client's own spelling, so that they replace those it has."""
        own = {name.lower(): name for name, _ in self._headers()} | {
            "authorization": "Authorization"
        }
        return {
            own.get(name.lower(), name): value.get_secret_value() for name, value in headers.items()
        }

    async def written(
        self, url: str, body: bytes | None, headers: Mapping[str, SecretStr]
    ) -> tuple[str, dict[str, str], bytes | None]:
        """A request as this client makes it: address, headers, body.

        Raises:
            GivenClientError: It makes none.
            ConfigError: A header has something that no HTTP header can carry.
        """
        recorded: list[Any] = []
        token = _RECORDED.set(recorded)
        try:
            await ask(self, self._maker(), url, body, headers)
        except Exception as error:
            if not recorded:
                raise GivenClientError(f"{type(error).__name__}: {error}") from None
        finally:
            _RECORDED.reset(token)
        request = recorded[0]
        sent = {
            name: value
            for name, value in request.headers.items()
            if not _is_of_the_connection(name) or (name == "host" and self._sets_host())
        }
        self.note(sent, str(request.url))
        checked_headers({name: v for name, v in sent.items() if name != "host"})
        return _without_user_info(str(request.url)), sent, request.content or None

    def note(self, headers: Mapping[str, str], url: str) -> None:
        """Remember what a request was sent with, to find it in what the server sends back."""
        words = [v for name, v in headers.items() if not _is_open(name)]
        for word in secret_forms(None, _secret_url(url), words):
            self._secrets.pop(word, None)
            self._secrets[word] = None
        while len(self._secrets) > _SECRETS:
            del self._secrets[next(iter(self._secrets))]

    def secret_words(self) -> Iterator[str]:
        """All texts that may be secret in what a server sends back to this client."""
        values = [value for name, value in self._headers() if not _is_open(name)]
        query = {k: v for k, v in self.client.default_query.items() if k != _OPEN_QUERY}
        yield from secret_forms(
            self.client.api_key or None,
            f"{self.base_url}?{urlencode(query, doseq=True)}" if query else self.base_url,
            values,
        )
        yield from tuple(self._secrets)

    # -- inside --------------------------------------------------------------------------------

    def _headers(self) -> list[tuple[str, str]]:
        """Those that it sends with every request; a header that it is set to leave out is none."""
        found = self.client.default_headers.items()
        return [(name, value) for name, value in found if isinstance(value, str)]

    def _sets_host(self) -> bool:
        return any(name.lower() == "host" for name, _ in self._headers())

    def _maker(self) -> AsyncOpenAI:
        """A copy of the client that sends nothing, made anew when the user has changed it."""
        client = self.client
        state = (client.api_key, client.organization, client.project)
        if self._making is None or self._making[0] != state:
            http = self.http_module.AsyncClient(transport=_Recorder(), trust_env=False)
            self._making = state, client.copy(http_client=http)
        return self._making[1]


async def ask(
    users: UsersClient,
    client: AsyncOpenAI,
    url: str,
    body: bytes | None,
    headers: Mapping[str, SecretStr],
) -> Any:
    """Have a client send one request, in the way its package has for routes it does not know.

    Args:
        users: What the user gave.
        client: It, or a copy.
        url: Without user info and query.
        body: JSON to POST; ``None`` for a GET.
        headers: Of the call.

    Returns:
        The response of httpx. Its body has not been read.

    Raises:
        Exception: Whatever the client raises.
    """
    import openai

    place = users.place(url)
    # Redirects: the conversation, and maybe the key, would go to whatever address a reply names.
    options: Any = {
        "headers": users.added({"Accept-Encoding": SecretStr("identity"), **headers}),
        "max_retries": 0,  # decided in ``sending``
        "follow_redirects": False,
    }
    kind, stream = users.http_module.Response, openai.AsyncStream[object]
    if body is None:
        return await client.get(
            place, cast_to=kind, options=options, stream=True, stream_cls=stream
        )
    return await client.post(
        place, cast_to=kind, body=json.loads(body), options=options, stream=True, stream_cls=stream
    )


class _Recorder:
    """A transport for httpx that notes each request, and sends none."""

    async def handle_async_request(self, request: Any) -> Any:
        _RECORDED.get().append(request)
        raise RuntimeError("noted, not sent")

    async def aclose(self) -> None:
        """There is nothing to close."""


def _has_own_http(client: AsyncOpenAI) -> bool:
    """Whether requests have to go through the client: it may be set to what cannot be read."""
    import openai

    if type(client) not in (openai.AsyncOpenAI, openai.AsyncAzureOpenAI):
        return True  # a class of the user's may do anything
    if getattr(client, "workload_identity", None) is not None:
        return True  # trades certificates for keys, by requests of its own
    # Nothing public tells whether a client made its HTTP client itself. Where this attribute goes,
    # all requests go through the client: still right, and slower.
    http = getattr(client, "_client", None)
    return type(http).__name__ != "AsyncHttpxClientWrapper"


def _is_of_the_connection(name: str) -> bool:
    return name.lower() in _OF_THE_CONNECTION


def _is_open(name: str) -> bool:
    return name.lower() in _OPEN or name.lower().startswith(_OPEN_PREFIX)


def _without_user_info(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _secret_url(url: str) -> str:
    """A URL without the field of its query that is no secret."""
    parts = urlsplit(url)
    fields = [f for f in parts.query.split("&") if f.partition("=")[0] != _OPEN_QUERY]
    return parts._replace(query="&".join(fields)).geturl()
