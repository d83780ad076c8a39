"""Proxies from the environment: they are used, and nothing shows their passwords."""

from __future__ import annotations

import json
import logging
import traceback
from base64 import b64encode
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import pytest

from glimp_integrations import ConfigError, GlimpError, GlimpRouter, io_loop
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.redact import proxy_secrets
from glimp_integrations.weights.catalog import SMALL
from glimp_integrations.weights.hub import SourceError, fetch
from wire.loopback import Handler, Loopback

pytestmark = pytest.mark.usefixtures("no_proxies")

PASSWORD = "pa/ss w@rd!"
WRITTEN = quote(PASSWORD, safe="")
BASIC = b64encode(f"jane:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, WRITTEN, BASIC, "pa/ss", "w@rd")


class Proxy(Loopback):
    """Refuses every request, and repeats what it was sent."""

    def __init__(self, status: int = 407) -> None:
        self.status = status
        self.seen: list[str] = []
        self.handler = _Handler


class _Handler(Handler):
    owner: Proxy

    def serve(self, body: dict[str, Any]) -> None:
        given = self.headers.get("Proxy-Authorization", "")
        self.owner.seen.append(f"{self.command} {self.path} {given}")
        text = f"not with '{given}' nor http://jane:{WRITTEN}@proxy ({PASSWORD})"
        self.send_bytes(self.owner.status, json.dumps({"error": text}).encode(), "text/json")

    def do_CONNECT(self) -> None:
        self.serve({})
        self.close_connection = True


@pytest.fixture(params=[407, 500])
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(request.param) as proxy:
        address = f"http://jane:{WRITTEN}@127.0.0.1:{proxy.port}"
        monkeypatch.setenv("HTTP_PROXY", address)
        monkeypatch.setenv("HTTPS_PROXY", address)
        yield proxy


def backend(scheme: str) -> OpenAIBackend:
    url = f"{scheme}://models.invalid/v1"
    return OpenAIBackend("m", base_url=url, server="vllm", verify="off", chat_template="x")


def failure(model: OpenAIBackend) -> GlimpError:
    async def ask() -> None:
        request = Request("p", max_tokens=5, logprobs=0, timeout=5.0, max_retries=0)
        async with aclosing(model.completion(request, Report())) as choices:
            async for _ in choices:
                pass

    try:
        with pytest.raises(GlimpError) as caught:
            io_loop.call(ask)
    finally:
        model.close()
    return caught.value


def everything(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_gets_its_password_and_nothing_shows_it(
    proxy: Proxy, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    model = backend(scheme)
    shown = everything(failure(model)) + repr(model) + repr(vars(model)) + caplog.text
    assert proxy.seen and all(f"Basic {BASIC}" in seen for seen in proxy.seen)
    assert proxy.seen[0].startswith("CONNECT" if scheme == "https" else "POST")
    assert not [secret for secret in SECRETS if secret in shown], shown
    assert ("not with '***'" if scheme == "http" else f"HTTP {proxy.status}") in shown


def test_it_is_in_no_trace(proxy: Proxy) -> None:
    from glimp_integrations.backends.scripted import ScriptedBackend

    large = ScriptedBackend(["<think>", "Hm.\n\n", "</think>", "4", ""])
    with GlimpRouter(backend("http"), large, max_retries=0, on_backend_error="large") as router:
        trace = router.run("?").trace
    assert proxy.seen and "not with '***'" in str(trace.errors)
    for text in (trace.to_json(), trace.to_html(), str(trace), repr(trace)):
        assert not [secret for secret in SECRETS if secret in text], text


def test_nor_in_what_no_proxy_at_all_leads_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy() as gone:
        address = f"http://jane:{WRITTEN}@127.0.0.1:{gone.port}"
    monkeypatch.setenv("HTTPS_PROXY", address)
    shown = everything(failure(backend("https")))
    assert not [secret for secret in SECRETS if secret in shown], shown


@pytest.mark.parametrize(
    "address",
    [
        "http://jane:pa/sswxyz@proxy:3128",
        "http://jane:pa#sswxyz@proxy:3128",
        "http://jane:[sswxyz@proxy:3128",
        "http://jane:\u2100sswxyz@proxy:3128",
        "http://jane:sswxyz@proxy:sswxyz",
        "jane:sswxyz@proxy:3128",
        "sswxyz@proxy",
        "http://jane:sswxyz@:3128",
    ],
)
def test_what_is_no_proxy_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    error = failure(backend("https"))
    assert isinstance(error, ConfigError)
    assert "HTTPS_PROXY" in str(error) and "percent-encoded" in str(error)
    assert "sswxyz" not in everything(error) and "jane" not in everything(error)


def test_another_kind_of_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5h://jane:sswxyz@proxy:1080")
    error = failure(backend("https"))
    assert "a proxy of kind 'socks5h' for https addresses" in str(error)
    assert "sswxyz" not in everything(error)


def test_proxies_without_passwords_hide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_secrets() == ()
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "localhost,.example")
    assert proxy_secrets() == ()


def test_a_download_through_a_proxy_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    hf = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HTTPS_PROXY", f"http://jane:{WRITTEN}@proxy.invalid:3128")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(f"no way through http://jane:{WRITTEN}@proxy.invalid:3128 ({BASIC})")

    monkeypatch.setattr(hf, "get_hf_file_metadata", refuse)
    with pytest.raises(SourceError) as caught:
        fetch(SMALL, tmp_path / "w.part", None)  # type: ignore[arg-type]
    assert "no way through" in str(caught.value)
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
