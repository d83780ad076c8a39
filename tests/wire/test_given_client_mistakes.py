"""Clients that cannot be taken, clients that fail, and what must not be shown of any."""

from __future__ import annotations

import io
import json
import logging
import pickle
import traceback
import zlib
from base64 import b64encode
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import openai
import pytest

from glimp_integrations import BackendError, ConfigError, GlimpError, io_loop
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.backends.http.openai import OpenAIBackend
from wire.fake_server import FakeServer
from wire.given_clients import HTTPX, made
from wire.helpers import CHAIN, chat
from wire.loopback import Handler, Loopback
from wire.test_error_bodies import Raw
from wire.test_forks import run

both = pytest.mark.parametrize("own_http", [False, True], ids=["lean", "own http"])
READY = {"server": "llama.cpp", "verify": "off", "chat_template": "x"}
SECRETS = ("sk-hush-4711", "tenant-hush", "query-hush", "pa55word")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ORG_ID", "PROJECT_ID", "BASE_URL"):
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


def failure(backend: OpenAIBackend, **fields: Any) -> GlimpError:
    """What a request for text ends with; nothing else is asked before."""

    async def ask() -> None:
        request = Request(chat(), **({"max_tokens": 5, "max_retries": 0, "timeout": 5.0} | fields))
        async with aclosing(backend.completion(request, Report())) as choices:
            async for _ in choices:
                pass

    with pytest.raises(GlimpError) as caught:
        io_loop.call(ask)
    return caught.value


def everything(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))


# -- what is not taken ---------------------------------------------------------------------------


def test_what_is_no_client_is_named() -> None:
    url = "http://127.0.0.1:9/v1"
    with pytest.raises(
        ConfigError, match=r"expected an openai.AsyncOpenAI .* give openai.AsyncOpenAI\("
    ) as e:
        OpenAIBackend("m", client="sk-hush-4711")  # type: ignore[arg-type]
    assert "client is a builtins.str;" in str(e.value) and "hush" not in str(e.value)
    with pytest.raises(ConfigError, match=r"openai.OpenAI, which waits .* openai.AsyncOpenAI\("):
        OpenAIBackend("m", client=openai.OpenAI(api_key="k", base_url=url))  # type: ignore[arg-type]
    azure = openai.AzureOpenAI(api_key="k", azure_endpoint=url, api_version="1")
    with pytest.raises(ConfigError, match=r"give openai.AsyncAzureOpenAI\(.* same arguments"):
        OpenAIBackend("m", client=azure)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"base_url": "http://h/v1"}, "and base_url too, which the client has itself: leave it"),
        ({"api_key": "k", "headers": {}}, "and api_key and headers too, .* leave them out"),
    ],
)
def test_what_a_client_has_itself_is_not_taken_beside_it(given: Any, named: str) -> None:
    client = made("http://127.0.0.1:9/v1", own_http=False)
    with pytest.raises(ConfigError, match=named):
        OpenAIBackend("m", client=client, **given)


@both
def test_a_closed_client(serve: Callable[..., FakeServer], own_http: bool) -> None:
    client = made(serve(CHAIN).url, own_http=own_http)
    backend = OpenAIBackend("fake-model", client=client, **READY)
    io_loop.call(client.close)
    if own_http:
        assert "the given client is closed: make another one" in str(failure(backend))
    with pytest.raises(ConfigError, match="client is closed: give one that is open"):
        OpenAIBackend("m", client=client)


@pytest.mark.parametrize("key", ["sk-hush-4711\n", "sk-hush-4711 …"])
def test_a_key_that_no_header_carries(key: str) -> None:
    with pytest.raises(ConfigError, match="api_key has a line break") as caught:
        OpenAIBackend("m", client=made("http://h/v1", own_http=False, api_key=key))
    assert "hush" not in everything(caught.value)


def test_a_header_that_cannot_be_sent() -> None:
    client = made("http://h/v1", own_http=False, default_headers={"X-T": "tenant-hush\r\nX: y"})
    with pytest.raises(ConfigError, match="headers\\['x-t'\\] has a line break") as caught:
        OpenAIBackend("m", client=client)
    assert "hush" not in everything(caught.value)


@both
def test_a_renewed_key_that_no_header_carries(
    serve: Callable[..., FakeServer], own_http: bool
) -> None:
    async def key() -> str:
        return "sk-hush-4711\nX-Other: y"

    client = made(serve(CHAIN).url, own_http=own_http, api_key=key)
    error = failure(OpenAIBackend("fake-model", client=client, **READY))
    assert "line break" in str(error) and "hush" not in everything(error)


# -- what fails ----------------------------------------------------------------------------------


@both
def test_a_function_for_the_key_that_fails(
    serve: Callable[..., FakeServer], own_http: bool
) -> None:
    async def key() -> str:
        raise LookupError("the vault is locked")

    client = made(serve(CHAIN).url, own_http=own_http, api_key=key)
    error = failure(OpenAIBackend("fake-model", client=client, **READY))
    assert isinstance(error, BackendError) and not error.retryable
    assert "cannot be asked through the given client (LookupError: the vault is locked)" in str(
        error
    )


def test_a_hook_that_fails(serve: Callable[..., FakeServer]) -> None:
    async def hook(_: Any) -> None:
        raise LookupError("no such tenant")

    http = HTTPX.AsyncClient(event_hooks={"request": [hook]})
    client = made(serve(CHAIN).url, own_http=True, http_client=http)
    error = failure(OpenAIBackend("fake-model", client=client, **READY))
    assert "given client (LookupError: no such tenant)" in str(error)


@both
def test_nobody_listens(own_http: bool) -> None:
    with Raw(200, b"") as gone:
        url = gone.root
    error = failure(OpenAIBackend("m", client=made(url, own_http=own_http), **READY))
    assert "cannot be reached" in str(error)


@both
@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "refused the API key"), (307, "redirects requests to"), (429, "overloaded")],
)
def test_statuses(own_http: bool, status: int, words: str) -> None:
    with Raw(status, b'{"error": "so it is"}', headers=(("Location", "http://h/v1"),)) as server:
        # As the openai package sets up its own.
        http = {"http_client": HTTPX.AsyncClient(follow_redirects=True)} if own_http else {}
        client = made(server.root, own_http=own_http, **http)
        backend = OpenAIBackend("m", client=client, **READY)
        error = failure(backend)
        backend.close()
    assert words in str(error) and isinstance(error, BackendError) and error.status == status


@both
def test_a_stream_that_breaks_off(own_http: bool) -> None:
    with Raw(0, b'data: {"choices": [{"text": "a"}]}\n\n', tail=b"", reset=True) as server:
        backend = OpenAIBackend("m", client=made(server.root, own_http=own_http), **READY)
        error = failure(backend)
        backend.close()
    assert isinstance(error, BackendError) and error.retryable
    assert "broke the connection" in str(error)


def test_what_is_not_read_gives_its_connection_back() -> None:
    with Raw(200, b"{}", headers=(("Content-Encoding", "br"),)) as server:
        http = HTTPX.AsyncClient(limits=HTTPX.Limits(max_connections=1))
        client = made(server.root, own_http=True, http_client=http)
        backend = OpenAIBackend("m", client=client, **READY)
        for _ in range(2):
            assert "encoded as 'br', which was not asked for" in str(failure(backend))
        backend.close()


class Endless(Loopback):
    """Refuses, and never stops to say why."""

    def __init__(self, coding: str) -> None:
        self.handler, self.coding, self.sent = _Endless, coding, 0


class _Endless(Handler):
    owner: Endless

    def serve(self, body: dict[str, Any]) -> None:
        self.send_response(500)
        self.send_header("Content-Encoding", self.owner.coding)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pack = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        while self.owner.sent < 500_000_000:
            block = b"why " * 1_000_000
            block = pack.compress(block) if self.owner.coding == "gzip" else block
            if block:
                self.send_piece(block)
            self.owner.sent += 4_000_000


@both
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_errors_without_end_are_not_read_to_it(own_http: bool, coding: str) -> None:
    with Endless(coding) as server:
        backend = OpenAIBackend("m", client=made(server.root, own_http=own_http), **READY)
        error = failure(backend, timeout=30.0)
        backend.close()
        assert "HTTP 500: why why" in str(error) and server.sent < 400_000_000


def test_a_client_of_another_event_loop() -> None:
    # Scripted: whether a connection of another loop fails is decided by which of them is quicker.
    class ScriptedTransport(HTTPX.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, _: Any) -> Any:
            raise RuntimeError("<asyncio.locks.Event [unset]> is bound to a different event loop")

    http = HTTPX.AsyncClient(transport=ScriptedTransport())
    client = made("http://h/v1", own_http=True, http_client=http)
    error = failure(OpenAIBackend("m", client=client, **READY))
    assert "belong to another event loop: give the backend a client of its own" in str(error)


# -- what is not shown ---------------------------------------------------------------------------


@both
@pytest.mark.parametrize("place", ["400", "401", "500", "stream"])
def test_what_a_server_repeats_is_not_shown(
    own_http: bool, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="glimp_integrations")
    basic = b64encode(b"jane:pa55word").decode()
    said = json.dumps({"error": {"message": " ".join((*SECRETS, basic))}})
    data = said.encode() if place != "stream" else f"data: {said}\n\n".encode()
    with Raw(0 if place == "stream" else int(place), data) as server:
        for api_key, user in (("sk-hush-4711", ""), ("none", "jane:pa55word@")):
            client = made(
                server.root.replace("://", f"://{user}") + "/v1",
                own_http=own_http,
                api_key=api_key,
                default_headers={"X-Tenant": "tenant-hush"},
                default_query={"token": "query-hush"},
            )
            backend = OpenAIBackend("m", client=client, **READY)
            shown = everything(failure(backend)) + repr(backend) + repr(vars(backend)) + caplog.text
            backend.close()
            mine = ("pa55word", basic) if user else ("sk-hush-4711",)
            for secret in (*mine, "tenant-hush", "query-hush"):
                assert secret not in shown, shown


@both
def test_a_renewed_key_that_a_server_repeats(own_http: bool) -> None:
    async def key() -> str:
        return "sk-renewed-0815"

    for status in (0, 400):
        with Raw(status, b'data: {"error": "sk-renewed-0815"}\n\n') as server:
            client = made(server.root, own_http=own_http, api_key=key)
            backend = OpenAIBackend("m", client=client, **READY)
            shown = everything(failure(backend)) + repr(vars(backend))
            backend.close()
        assert "0815" not in shown and "***" in shown


@pytest.mark.parametrize("status", [407, 500])
def test_what_a_proxy_repeats(status: int) -> None:
    basic = b64encode(b"jane:pa55word").decode()
    said = f"not with Basic {basic}" + (" (pa55word)" if status == 407 else "")
    with Raw(status, json.dumps({"error": said}).encode()) as proxy:
        address = proxy.root.replace("://", "://jane:pa55word@")
        http = HTTPX.AsyncClient(proxy=address)
        client = made("http://models.invalid/v1", own_http=True, http_client=http)
        backend = OpenAIBackend("m", client=client, **READY)
        shown = everything(failure(backend))
        backend.close()
    assert f"HTTP {status}" in shown and basic not in shown and "pa55word" not in shown


# -- pickles and forks ---------------------------------------------------------------------------


@both
def test_a_backend_with_a_client_cannot_be_pickled(own_http: bool) -> None:
    backend = OpenAIBackend("m", client=made("http://h/v1", own_http=own_http))
    stored = io.BytesIO()
    with pytest.raises(ConfigError, match="cannot be pickled: it holds connections") as caught:
        pickle.Pickler(stored).dump(backend)
    assert "sk-of-the-client" not in everything(caught.value)
    assert b"sk-of-the-client" not in stored.getvalue()


FORK = """
import openai
from glimp_integrations import ConfigError, GlimpRouter
from glimp_integrations.backends.http.openai import OpenAIBackend

def of(place, http):
    model, _, url = place.removeprefix("openai:").partition("@")
    return OpenAIBackend(model, client=openai.AsyncOpenAI(base_url=url, api_key="k", **http))

def routed(http):
    return GlimpRouter(of(SMALL, http()), of(LARGE, http()), temperature=0.0, route="always",
                       strategy="two_request")
"""


def test_a_forked_process_has_its_own_connections(serve: Callable[..., FakeServer]) -> None:
    script = f"""{FORK}
shared = routed(dict)
print(shared.run("?").answer, end="|", flush=True)

def work():
    print(shared.run("?").answer, end="|", flush=True)

ended(forked(work))
print(shared.run("?").answer, end="|", flush=True)
"""
    run(script, serve(CHAIN), serve(CHAIN, model="large"))


def test_a_client_that_sends_belongs_to_one_process(serve: Callable[..., FakeServer]) -> None:
    script = f"""{FORK}
http = lambda: {{"http_client": openai.DefaultAsyncHttpxClient()}}
shared, unused = routed(http), routed(http)
print(shared.run("?").answer, end="|", flush=True)

def work():
    try:
        shared.run("?")
    except ConfigError as error:
        assert "connections of the process that this one was forked from" in str(error)
        print(unused.run("?").answer, end="|", flush=True)

ended(forked(work))
print(shared.run("?").answer, end="|", flush=True)
"""
    run(script, serve(CHAIN), serve(CHAIN, model="large"))
