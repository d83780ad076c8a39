"""``OpenAIBackend(client=...)``: what a user's own client is set to holds for every request."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import SecretStr

from glimp_integrations import BackendError, GlimpRouter, UnsuitableEndpointError, io_loop
from glimp_integrations.backends.base import CALL_LIMITS, HEADERS, Report, Request
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.http.users_transport import LeanClient, PassingClient
from wire.fake_server import FakeServer, Fault
from wire.given_clients import HTTPX, ClientCertificates, Gateway, made
from wire.helpers import ANSWER, CHAIN, GREEDY, REASONING, chat, collect, text_of
from wire.tls import SecureServer, certificate

both = pytest.mark.parametrize("own_http", [False, True], ids=["lean", "own http"])
WHOLE = REASONING + ANSWER


@pytest.fixture(autouse=True)
def _no_environment(no_proxies: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ORG_ID", "PROJECT_ID", "BASE_URL"):
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway(CHAIN) as server:
        yield server


@pytest.fixture
def through() -> Iterator[Callable[..., OpenAIBackend]]:
    """A backend of a client, closed after the test."""
    with ExitStack() as stack:

        def make(client: Any, model: str = "fake-model", **options: Any) -> OpenAIBackend:
            backend = OpenAIBackend(model, client=client, **options)
            stack.callback(backend.close)
            return backend

        yield make


Through = Callable[..., OpenAIBackend]


def asked(backend: OpenAIBackend) -> str:
    """A short way round everything that is asked at first use."""
    return text_of(collect(backend, chat())[0])


@both
def test_address_key_headers_and_query(gateway: Gateway, through: Through, own_http: bool) -> None:
    client = made(
        gateway.url,
        own_http=own_http,
        organization="org-4711",
        project="proj-4711",
        default_headers={"X-Tenant": "blue", "User-Agent": "mine/1.0"},
        default_query={"region": "north"},
    )
    backend = through(client)
    assert asked(backend) == WHOLE
    assert type(backend._client) is (PassingClient if own_http else LeanClient)
    assert {seen.path for seen in gateway.requests} >= {"/v1/completions", "/props"}
    for seen, target in zip(gateway.requests, gateway.targets, strict=True):
        assert target == f"{seen.path}?region=north"
        assert seen.headers["authorization"] == "Bearer sk-of-the-client"
        assert seen.headers["openai-organization"] == "org-4711"
        assert seen.headers["openai-project"] == "proj-4711"
        assert (seen.headers["x-tenant"], seen.headers["user-agent"]) == ("blue", "mine/1.0")


@both
def test_a_key_that_is_renewed(gateway: Gateway, through: Through, own_http: bool) -> None:
    numbers = itertools.count()

    async def key() -> str:
        await asyncio.sleep(0)
        return f"sk-{next(numbers)}"

    assert asked(through(made(gateway.url, own_http=own_http, api_key=key))) == WHOLE
    keys = [seen.headers["authorization"] for seen in gateway.requests]
    assert keys == [f"Bearer sk-{number}" for number in range(len(keys))] and len(keys) > 2


@both
def test_a_key_that_is_set_later(gateway: Gateway, through: Through, own_http: bool) -> None:
    client = made(gateway.url, own_http=own_http)
    backend = through(client)
    asked(backend)
    client.api_key = "sk-of-today"
    asked(backend)
    assert gateway.requests[-1].headers["authorization"] == "Bearer sk-of-today"


@both
def test_the_headers_of_a_call_go_before(
    gateway: Gateway, through: Through, own_http: bool
) -> None:
    client = made(gateway.url, own_http=own_http, default_headers={"X-Tenant": "blue"})
    backend = through(client, verify="off", server="llama.cpp", chat_template="x")
    token = HEADERS.set({"x-tenant": SecretStr("red"), "X-User": SecretStr("jane")})
    try:
        asked(backend)
    finally:
        HEADERS.reset(token)
    headers = gateway.seen("/v1/completions")[-1].headers
    assert (headers["x-tenant"], headers["x-user"]) == ("red", "jane")


@both
def test_crowds_do_not_mix(gateway: Gateway, through: Through, own_http: bool) -> None:
    async def key() -> str:
        await asyncio.sleep(0.005)
        return f"sk-{id(asyncio.current_task())}"

    client = made(gateway.url, own_http=own_http, api_key=key)
    backend = through(client, verify="off", server="llama.cpp", chat_template="x")

    async def one(number: int) -> str:
        request = Request(f"count to {number}", max_tokens=3)
        return text_of([token async for token in backend.generate(request, Report())])

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*map(one, range(100, 140)))

    texts = io_loop.call(all_of_them)
    assert texts == ["".join(f" {n + i}" for i in (1, 2, 3)) for n in range(100, 140)]
    assert len({seen.headers["authorization"] for seen in gateway.requests}) == 40


def test_both_models_of_a_router(serve: Callable[..., FakeServer], through: Through) -> None:
    small, large = serve(CHAIN), serve(CHAIN, model="large")
    with GlimpRouter(
        through(made(small.url, own_http=False)),
        through(made(large.url, own_http=True), "large"),
        **GREEDY,
    ) as router:
        result = router.run("What is it?")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert small.completions() and large.completions()


# -- Azure ---------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["lean", "own http"])
def azure(request: pytest.FixtureRequest, gateway: Gateway) -> Callable[..., Any]:
    def make(**options: Any) -> openai.AsyncAzureOpenAI:
        if request.param:
            options["http_client"] = HTTPX.AsyncClient()
        return openai.AsyncAzureOpenAI(
            azure_endpoint=gateway.root, api_version="2024-10-21", **options
        )

    return make


@pytest.mark.parametrize("in_client", [False, True])
def test_azure_has_the_deployment_in_its_paths(
    gateway: Gateway, azure: Callable[..., Any], through: Through, in_client: bool
) -> None:
    options = {"azure_deployment": "my-model"} if in_client else {}
    client = azure(api_key="azure-key-4711", **options)
    backend = through(client, "my-model", server="vllm", verify="off", chat_template="x")
    gateway.engine = "vllm"
    assert asked(backend) == WHOLE
    assert not [target for target in gateway.targets if "/models" in target]
    path = "/openai/deployments/my-model/completions?api-version=2024-10-21"
    assert gateway.targets[-1] == path
    assert gateway.requests[-1].headers["api-key"] == "azure-key-4711"


def test_azure_tokens_are_renewed(
    gateway: Gateway, azure: Callable[..., Any], through: Through
) -> None:
    numbers = itertools.count()

    async def token() -> str:
        return f"entra-{next(numbers)}"

    client = azure(azure_ad_token_provider=token, azure_deployment="my-model")
    backend = through(client, "my-model", server="vllm", verify="off", chat_template="x")
    gateway.engine = "vllm"
    asked(backend)
    asked(backend)
    keys = [seen.headers["authorization"] for seen in gateway.seen("/v1/completions")]
    assert len(set(keys)) == len(keys) == 2 and keys[0].startswith("Bearer entra-")


# -- what only the client's own HTTP client knows ------------------------------------------------


@pytest.mark.parametrize("way", ["proxy", "mounts"])
def test_a_proxy(gateway: Gateway, through: Through, way: str) -> None:
    address = f"http://jane:pa55word@127.0.0.1:{gateway.port}"
    if way == "proxy":
        http = HTTPX.AsyncClient(proxy=address)
    else:
        http = HTTPX.AsyncClient(mounts={"http://": HTTPX.AsyncHTTPTransport(proxy=address)})
    backend = through(made("http://models.invalid/v1", own_http=True, http_client=http))
    assert asked(backend) == WHOLE
    assert gateway.targets[-1] == "http://models.invalid/v1/completions"
    assert all("proxy-authorization" in seen.headers for seen in gateway.requests)


def test_a_proxy_of_the_environment_is_used_on_the_lean_path(
    gateway: Gateway, through: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{gateway.port}")
    assert asked(through(made("http://models.invalid/v1", own_http=False))) == WHOLE


def test_certificates(tmp_path: Path, through: Through) -> None:
    pem = certificate(tmp_path)
    SecureServer.certificate = ClientCertificates.certificate = pem
    trusted = ssl.create_default_context(cafile=str(pem))
    shown = ssl.create_default_context(cafile=str(pem))
    shown.load_cert_chain(pem)
    for kind, context, works in (
        (SecureServer, trusted, True),
        (SecureServer, ssl.create_default_context(), False),
        (ClientCertificates, trusted, False),
        (ClientCertificates, shown, True),
    ):
        with kind(CHAIN) as server:
            http = HTTPX.AsyncClient(verify=context)
            client = made(server.url, own_http=True, http_client=http)
            backend = through(client, verify="off", server="llama.cpp", chat_template="x")
            if works:
                assert asked(backend) == WHOLE
                continue
            with pytest.raises(
                BackendError, match=r"CERTIFICATE_VERIFY_FAILED|broke the connection"
            ):
                asked(backend)


def test_hooks_headers_and_ways_to_authenticate(gateway: Gateway, through: Through) -> None:
    seen: list[str] = []

    async def hook(request: Any) -> None:
        seen.append(str(request.url))
        request.headers["X-Hook"] = "was here"

    class Signed(HTTPX.Auth):  # type: ignore[misc]
        def auth_flow(self, request: Any) -> Iterator[Any]:
            request.headers["X-Signature"] = "signed"
            yield request

    http = HTTPX.AsyncClient(
        event_hooks={"request": [hook]}, auth=Signed(), headers={"X-Http": "set"}
    )
    assert asked(through(made(gateway.url, own_http=True, http_client=http))) == WHOLE
    assert len(seen) == len(gateway.requests)
    for request in gateway.requests:
        assert request.headers["x-hook"] == "was here"
        assert (request.headers["x-signature"], request.headers["x-http"]) == ("signed", "set")


def test_a_class_of_the_users_sends_its_requests_itself(gateway: Gateway, through: Through) -> None:
    class Mine(openai.AsyncOpenAI):
        @property
        def default_headers(self) -> Any:
            return {**super().default_headers, "X-Mine": "yes"}

    backend = through(Mine(base_url=gateway.url, api_key="sk-x"))
    assert asked(backend) == WHOLE and type(backend._client) is PassingClient
    assert gateway.requests[-1].headers["x-mine"] == "yes"


def test_connections_are_used_again(gateway: Gateway, through: Through, whole_bodies: None) -> None:
    backend = through(made(gateway.url, own_http=True))
    for _ in range(3):
        assert asked(backend) == WHOLE
    assert gateway.accepted == 1


# -- limits --------------------------------------------------------------------------------------


@both
def test_of_the_retries_the_fewer_hold(gateway: Gateway, through: Through, own_http: bool) -> None:
    gateway.faults.append(Fault("status", status=503))
    client = made(gateway.url, own_http=own_http, max_retries=1)
    backend = through(client, verify="off", server="llama.cpp", chat_template="x")
    for allowed, attempts in ((5, 2), (0, 1)):
        gateway.requests.clear()
        with pytest.raises(BackendError, match="HTTP 503"):
            collect(backend, chat(), max_retries=allowed)
        assert len(gateway.seen("/v1/completions")) == attempts


@both
@pytest.mark.parametrize("tokens", [0, 3])
def test_its_timeout_holds(gateway: Gateway, through: Through, own_http: bool, tokens: int) -> None:
    gateway.faults.append(Fault("hang", tokens=tokens))
    client = made(gateway.url, own_http=own_http, timeout=0.2, max_retries=0)
    backend = through(client, verify="off", server="llama.cpp", chat_template="x")
    begun = time.monotonic()
    with pytest.raises(BackendError, match="did not answer in time") as caught:
        collect(backend, chat(), timeout=40.0)
    assert caught.value.timed_out and time.monotonic() - begun < 20.0


@both
def test_the_timeout_of_a_call_holds(gateway: Gateway, through: Through, own_http: bool) -> None:
    gateway.faults.append(Fault("hang"))
    client = made(gateway.url, own_http=own_http)
    backend = through(client, verify="off", server="llama.cpp", chat_template="x")
    with pytest.raises(BackendError, match="did not answer in time"):
        collect(backend, chat(), timeout=0.2, max_retries=0)


@both
def test_a_key_that_never_comes(gateway: Gateway, through: Through, own_http: bool) -> None:
    async def key() -> str:
        await asyncio.sleep(60.0)
        return "sk-late"

    client = made(gateway.url, own_http=own_http, api_key=key)
    backend = through(client, verify="off", server="llama.cpp", chat_template="x")
    token = CALL_LIMITS.set((0.2, 0))
    try:
        with pytest.raises(BackendError, match="did not answer in time"):
            asked(backend)
    finally:
        CALL_LIMITS.reset(token)


@both
def test_leaving_a_stream_closes_its_connection(
    gateway: Gateway, through: Through, own_http: bool
) -> None:
    gateway.delay = 0.02
    backend = through(
        made(gateway.url, own_http=own_http), verify="off", server="llama.cpp", chat_template="x"
    )

    async def leave() -> None:
        tokens = backend.generate(Request(chat(), max_tokens=100), Report())
        async for _ in tokens:
            break
        await tokens.aclose()

    io_loop.call(leave)
    assert gateway.wait_for(lambda: gateway.aborted == 1)


@both
def test_a_cancelled_call_closes_its_connection(
    gateway: Gateway, through: Through, own_http: bool
) -> None:
    gateway.delay = 0.02
    backend = through(
        made(gateway.url, own_http=own_http), verify="off", server="llama.cpp", chat_template="x"
    )

    async def cancelled() -> None:
        async def read() -> None:
            async for _ in backend.generate(Request(chat(), max_tokens=100), Report()):
                begun.set()

        begun = asyncio.Event()
        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    io_loop.call(cancelled)
    assert gateway.wait_for(lambda: gateway.aborted == 1)


# -- life ----------------------------------------------------------------------------------------


@both
def test_closing_a_backend_closes_a_client_that_sends(gateway: Gateway, own_http: bool) -> None:
    client = made(gateway.url, own_http=own_http)
    with_client = OpenAIBackend("fake-model", client=client)
    asked(with_client)
    with_client.close()
    assert client.is_closed() is own_http


@both
def test_a_missing_route_is_told_as_ever(
    gateway: Gateway, through: Through, own_http: bool
) -> None:
    gateway.missing.add("/v1/completions")
    with pytest.raises(UnsuitableEndpointError, match="does not know POST /v1/completions"):
        asked(through(made(gateway.url, own_http=own_http)))


def test_the_openai_package_is_not_imported() -> None:
    code = (
        "import sys; from glimp_integrations.backends import OpenAIBackend;"
        "OpenAIBackend('m', base_url='http://127.0.0.1:9/v1');"
        "assert not {'openai', 'httpx', 'httpx2'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
