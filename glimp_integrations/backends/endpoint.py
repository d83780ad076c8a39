"""HTTP to one OpenAI-compatible server: the client, its routes, one streamed completion."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractContextManager, aclosing
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from glimp_integrations import bridge
from glimp_integrations.backends.base import PATIENCE, Backend, Report, Request
from glimp_integrations.backends.connections import Connections
from glimp_integrations.backends.explain import explained, public_url
from glimp_integrations.backends.flavours import GENERIC, Flavour, bound_body
from glimp_integrations.backends.wire import note_usage
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError

if TYPE_CHECKING:
    from openai import AsyncOpenAI, RequestOptions

__all__ = ["Endpoint"]

# Three attempts at this, with the pauses between them, stay under ten seconds.
CONNECT_SECONDS = 2.5


class Endpoint(Backend):
    """A server and the model asked for there; what is made of its answers is the subclass's.

    Args:
        model: Name of the model on the server, if known.
        base_url: Such as ``"http://gpu1:8000/v1"``.
        api_key: Sent as a bearer token.
        flavour: The server's kind, if known.
        extra_body: Fields added to every completion request.

    Raises:
        ConfigError: ``base_url`` is no URL.
    """

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
        self._model = model
        self._base_url = base_url.rstrip("/")
        self._key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        self._flavour = flavour
        self._extra_body = dict(extra_body or {})
        self._client: AsyncOpenAI | None = None
        self.connections = Connections(lambda: self.get("/v1/models", max_retries=0))
        self._streams = 0

    @property
    def flavour(self) -> Flavour:
        """The server's kind; generic until it was asked."""
        return self._flavour or GENERIC

    async def aclose(self) -> None:
        bridge.not_at_exit(self.aclose)
        await self.connections.aclose()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def completion(
        self, request: Request, report: Report, **fields: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Stream one completion; yields ``choices[0]`` of every chunk."""
        client = await self._connected()
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": True,
            "stream_options": dict(self.flavour.stream_options),
            **self.flavour.body,
            **self._extra_body,
            **(self.flavour.distribution_body if request.distribution_only else {}),
            **bound_body(self.flavour, request.schema),
            **fields,
        }
        if request.logprobs:
            body["logprobs"] = request.logprobs
        if request.seed is not None:
            body["seed"] = request.seed
        self._streams += 1
        try:
            with self._explained():
                async with aclosing(self._chunks(client, body, request, report)) as choices:
                    async for choice in choices:
                        yield choice
        finally:
            self._streams -= 1

    async def get(self, route: str, *, max_retries: int | None = None) -> Any:
        """GET a route beside ``/v1`` (``/props``, ``/slots``)."""
        client = await self._connected()
        with self._explained():
            return await client.get(
                self._root + route, cast_to=object, options=_patience(max_retries=max_retries)
            )

    async def post(self, route: str, body: Mapping[str, Any]) -> Any:
        """POST to a route beside ``/v1`` (``/tokenize``)."""
        client = await self._connected()
        with self._explained():
            return await client.post(
                self._root + route, cast_to=object, body=dict(body), options=_patience()
            )

    async def models(self) -> list[dict[str, Any]] | None:
        """What ``GET /v1/models`` lists; ``None`` where the route does not exist."""
        client = await self._connected()
        # A list of names is no reason to wait as long as for a long answer.
        patience = _patience(at_most=5.0)
        try:
            with self._explained():
                answer: Any = await client.get("/models", cast_to=object, options=patience)
        except UnsuitableEndpointError:
            return None
        return list(answer.get("data") or []) if isinstance(answer, dict) else None

    # -- inside ------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Hook for backends that start their own server."""

    @property
    def _root(self) -> str:
        return self._base_url.removesuffix("/v1")

    def _explained(self) -> AbstractContextManager[None]:
        secret = self._key.get_secret_value() if self._key is not None else None
        return explained(self.name, self.url or "", secret)

    async def _connected(self) -> AsyncOpenAI:
        await self._start()
        if self._client is None:
            self._client = self.connections.client(
                base_url=self._base_url,
                # The client insists on a key; servers without one ignore it.
                api_key=self._key.get_secret_value() if self._key is not None else "EMPTY",
            )  # timeouts and retries are set for every request
            bridge.at_exit(self.aclose)
        return self._client

    async def _chunks(
        self, client: AsyncOpenAI, body: dict[str, Any], request: Request, report: Report
    ) -> AsyncGenerator[dict[str, Any], None]:
        from openai import Timeout

        from glimp_integrations.backends.drained import DrainedStream

        report.retried = True  # by the client, as often as allowed
        # Options of the request: a client with options of its own would be made, and look at the
        # platform in a thread, for every one.
        stream: Any = await client.post(
            "/completions",
            cast_to=object,
            body=body,
            options={
                "timeout": Timeout(request.timeout, connect=CONNECT_SECONDS),
                "max_retries": request.max_retries,
            },
            stream=True,
            stream_cls=DrainedStream,
        )
        report.retried = False
        finish: str | None = None
        self.connections.make_ready(client)
        try:
            async with stream:
                async for chunk in stream:
                    note_usage(chunk, report)
                    for choice in chunk.get("choices") or ():
                        finish = choice.get("finish_reason") or finish
                        yield choice
        finally:
            # The client's stream and its generator hold each other: closed here, on this loop,
            # and not by a garbage collection that may come when the loop is gone.
            generator = getattr(stream, "_iterator", None)
            if isinstance(generator, AsyncGeneratorType):
                await generator.aclose()
            if finish is None:
                self.connections.make_ready(client)
        self._note_end(finish, request, report)

    def _note_end(self, finish: str | None, request: Request, report: Report) -> None:
        if finish == "stop":
            report.ended = "eos"
        elif finish == "length":
            told = report.completion_tokens
            report.ended = "length" if told is None or told >= request.max_tokens else "context"
        else:
            raise BackendError(
                f"{self.label} ended its stream "
                + ("before the end" if finish is None else f"with {finish!r}"),
                model=self.name,
                url=self.url,
                retryable=finish is None,
            )


def _patience(*, at_most: float = math.inf, max_retries: int | None = None) -> RequestOptions:
    """Options of a small request."""
    from openai import Timeout

    seconds, retries = PATIENCE.get()
    seconds = at_most if seconds is None else min(seconds, at_most)
    timeout = Timeout(None if seconds == math.inf else seconds, connect=CONNECT_SECONDS)
    return {"timeout": timeout, "max_retries": retries if max_retries is None else max_retries}


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False
