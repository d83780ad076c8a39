"""Servers that send the request's secrets back: no error shows them, in whatever form."""

from __future__ import annotations

import json
import logging
import traceback
from base64 import b64encode
from collections.abc import Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends.base import HEADERS, Report, Request
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.errors import GlimpError
from glimp_integrations.telemetry import GlimpInstrumentor
from wire.fake_server import FakeServer, Fault
from wire.helpers import CHAIN, GREEDY, MESSAGES
from wire.test_error_bodies import Raw

PASSWORD = "pa/ss w@rd"
TOKEN = "query-token-4711"
HEADER = "zq-secret-0815"
WRITTEN = quote(PASSWORD, safe="")
BASIC = b64encode(f"jane:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, WRITTEN, BASIC, f"Basic {BASIC}", TOKEN, HEADER)


def refusal(status: int) -> Callable[[str], tuple[int, bytes]]:
    return lambda secret: (status, json.dumps({"error": {"message": secret}}).encode())


def in_stream(field: Callable[[str], Any]) -> Callable[[str], tuple[int, bytes]]:
    return lambda secret: (0, b"data: " + json.dumps(field(secret)).encode() + b"\n\n")


def in_shortened_text(secret: str) -> tuple[int, bytes]:
    # Messages show 600 characters: the cut goes through the secret.
    return 400, b"x" * 598 + secret.encode()


PLACES = {
    "400": refusal(400),
    "401": refusal(401),
    "404": refusal(404),
    "429": refusal(429),
    "500": refusal(500),
    "plain text": lambda secret: (500, f"bad header: '{secret}'".encode()),
    "shortened": in_shortened_text,
    "error in the stream": in_stream(lambda secret: {"error": {"message": secret}}),
    "finish reason": in_stream(lambda s: {"choices": [{"text": "", "finish_reason": s}]}),
    "no JSON": lambda secret: (0, b"data: {" + secret.encode() + b"\n\n"),
    "no JSON, shortened": lambda s: (0, b"data: {" + b"x" * 598 + s.encode() + b"\n\n"),
    "no JSON, a long way": lambda s: (0, b"data: {" + b"x" * 54 + s.encode() + b"\n\n"),
    "text for a number": in_stream(lambda s: {"choices": [{"text": "a", "index": s}]}),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_error_shows_what_a_server_repeats(place: str) -> None:
    for secret in SECRETS:
        status, data = PLACES[place](secret)
        with Raw(status, data) as server:
            host = server.root.partition("://")[2]
            backend = OpenAIBackend(
                "m",
                base_url=f"http://jane:{WRITTEN}@{host}/v1?token={TOKEN}",
                server="vllm",
                verify="off",
                chat_template="x",
            )
            error = failure(backend)
        shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
        for other in SECRETS:
            assert other not in shown, shown
        for begin in (other[:5] for other in SECRETS if not other.startswith("Basic")):
            assert begin not in shown, "the beginning of a shortened secret"


def test_no_log_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for status, data in ((400, b"no"), (0, b"data: {\n\n"), (307, b"")):
        with Raw(status, data) as server:
            host = server.root.partition("://")[2]
            url = f"http://jane:{WRITTEN}@{host}/v1?token={TOKEN}"
            failure(OpenAIBackend("m", base_url=url, server="vllm", chat_template="x"))
    for secret in SECRETS:
        assert secret not in caplog.text


@pytest.mark.parametrize("secret", [BASIC, PASSWORD, HEADER])
def test_no_trace_page_and_no_span_shows_what_a_server_repeats(
    serve: Callable[..., FakeServer], connect: Callable[..., OpenAIBackend], secret: str
) -> None:
    exporter = InMemorySpanExporter()
    spans = TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    fault = Fault("status", status=500, body=f"bad header: {secret}", chat_only=True)
    server = serve(CHAIN, faults=[fault])
    url = server.url.replace("http://", f"http://jane:{WRITTEN}@")
    gate = {"X-Gate": HEADER}
    small, large = connect(url, server.model, headers=gate), connect(serve(CHAIN))
    GlimpInstrumentor().instrument(tracer_provider=spans)
    try:
        with GlimpRouter(small, large, max_retries=0, on_backend_error="large", **GREEDY) as router:
            trace = router.run(MESSAGES).trace
    finally:
        GlimpInstrumentor().uninstrument()
    assert {request.headers["x-gate"] for request in server.requests} == {HEADER}
    assert "bad header: ***" in str(trace.errors)
    written = [trace.to_json(), trace.to_html(), trace.model_dump_json(), repr(trace)]
    written += [span.to_json() for span in exporter.get_finished_spans()]
    assert len(written) > 4
    for text in written:
        assert not any(word in text for word in (BASIC, PASSWORD, WRITTEN, HEADER))


def failure(backend: OpenAIBackend) -> GlimpError:
    async def ask() -> None:
        token = HEADERS.set({"X-Tenant": SecretStr(HEADER)})
        try:
            request = Request("p", max_tokens=5, logprobs=0, timeout=5.0, max_retries=0)
            async with aclosing(backend.completion(request, Report())) as choices:
                async for _ in choices:
                    pass
        finally:
            HEADERS.reset(token)

    try:
        with pytest.raises(GlimpError) as caught:
            io_loop.call(ask)
    finally:
        backend.close()
    return caught.value
