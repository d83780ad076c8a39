"""What a server says when it fails: read from the bytes of its answer, whatever their shape."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import pytest

from glimp_integrations import io_loop
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.backends.http.errors import describe
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.errors import (
    BackendError,
    ConfigError,
    GlimpError,
    UnsuitableEndpointError,
)
from wire.loopback import Handler, Loopback

KEY = "sk-do-not-show-4711"
GOOD = b'data: {"choices":[{"text":"hi","finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
DEEP = b"[" * 100_000


@dataclass
class Raw(Loopback):
    """Answers every request with these bytes; a status of 0 streams them."""

    status: int
    data: bytes
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    tail: bytes = b"0\r\n\r\n"
    reset: bool = False

    def __post_init__(self) -> None:
        self.handler = _Handler


class _Handler(Handler):
    owner: Raw

    def serve(self, body: dict[str, Any]) -> None:
        raw = self.owner
        if raw.status:
            self.send_bytes(raw.status, raw.data, raw.kind, dict(raw.headers))
            return
        self.begin_stream()
        # Apart: a packet with the headers in it and garbage is no response at all.
        time.sleep(0.02)
        self.send_piece(raw.data)
        self.wfile.write(raw.tail)
        if raw.reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, linger)
        self.close_connection = True


Ask = Callable[..., OpenAIBackend]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """A backend whose server answers with these bytes."""
    with ExitStack() as stack:

        def make(status: int, data: bytes, **more: Any) -> OpenAIBackend:
            server = stack.enter_context(Raw(status, data, **more))
            options: dict[str, Any] = {"server": "vllm", "verify": "off", "chat_template": "x"}
            backend = OpenAIBackend("m", base_url=f"{server.root}/v1", api_key=KEY, **options)
            stack.callback(backend.close)
            return backend

        yield make


def texts(backend: OpenAIBackend) -> list[str]:
    """What one completion writes; nothing else is asked before."""
    request = Request("p", 4, max_retries=0)

    async def read() -> list[str]:
        async with aclosing(backend.completion(request, Report())) as choices:
            return [choice["text"] async for choice in choices]

    return io_loop.call(read)


def told(backend: OpenAIBackend, kind: type[GlimpError] = BackendError, **how: bool) -> Any:
    with pytest.raises(GlimpError) as caught:
        texts(backend, **how)
    assert type(caught.value) is kind, repr(caught.value)
    assert KEY not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return caught.value


FULL = "the prompt is longer than the maximum context length of 5"
BODIES = [
    {"error": FULL},
    {"error": FULL, "error_type": "validation"},
    {"error": {"message": FULL, "type": "x", "param": None, "code": 400}},
    {"error": {"message": {"detail": FULL}}},
    {"error": {"errors": [{"text": FULL}]}},
    {"error": None, "message": FULL},
    {"object": "error", "message": FULL},
    {"detail": FULL},
    {"detail": [{"loc": ["body"], "msg": FULL}]},
    {"error": {"message": "no", "code": "context_length_exceeded"}},
    {"error": {"message": "no", "type": "exceed_context_size_error", "n_prompt_tokens": 9}},
    {"error": {"message": "x" * 2000, "reason": FULL}},
    [FULL],
    FULL,
]


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("body", BODIES, ids=[str(number) for number in range(len(BODIES))])
def test_a_full_context_is_known_in_every_shape(ask: Ask, status: int, body: object) -> None:
    error = told(ask(status, json.dumps(body).encode()))
    assert (error.context_full, error.retryable, error.status) == (True, False, status)
    assert "no room for this conversation" in str(error)


@pytest.mark.parametrize("body", BODIES, ids=[str(number) for number in range(len(BODIES))])
def test_a_full_context_is_known_inside_a_stream(ask: Ask, body: Any) -> None:
    wrapped = body if isinstance(body, dict) and body.get("error") else {"error": body}
    error = told(ask(0, b"data: " + json.dumps(wrapped).encode() + b"\n\n"))
    assert (error.context_full, error.retryable) == (True, False)
    assert "error in the stream" in str(error)


@pytest.mark.parametrize(
    "data",
    [
        FULL.encode(),
        f"<html><body>{FULL}".encode(),
        FULL.encode() + b"\xff\xfe\x00",
        b"[1" + FULL.encode(),
        FULL.encode() + b" " * 1_000_000,
    ],
)
def test_a_full_context_is_known_in_text(ask: Ask, data: bytes) -> None:
    assert told(ask(400, data, kind="text/plain")).context_full
    assert told(ask(400, data)).context_full, "also where it is called JSON"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"{}",
        b'{"error":null}',
        DEEP,
        b'{"a":' * 9000,
        b'{"error":' + b"9" * 9999 + b"}",
        b"\xff\xfe\x00",
        b"\x00" * 100,
        b'{"error":"request took too long"}',
        b'{"error":NaN}',
    ],
    ids=range(11),
)
def test_whatever_else_is_sent_is_a_refusal(ask: Ask, data: bytes) -> None:
    error = told(ask(400, data))
    assert (error.context_full, error.retryable, error.status) == (False, False, 400)
    assert "refused the request (HTTP 400" in str(error)
    assert str(error).isprintable()


def test_the_body_is_shown_and_not_the_client_s_text(ask: Ask) -> None:
    error = told(ask(500, b'{"error":{"message":"boom","code":7,"param":null}}'))
    assert 'is overloaded or failed (HTTP 500: boom {"code": 7}): try again later' in str(error)
    assert error.retryable


def test_nothing_said_is_said(ask: Ask) -> None:
    assert "(HTTP 400: it does not say why)" in str(told(ask(400, b"")))


@pytest.mark.parametrize(
    ("data", "probe"),
    [
        (b'{"error":"model \'q\' not found, try pulling it first"}', "P0 identity"),
        (b'{"message":{"text":"no such model"}}', "P0 identity"),
        (b"404 page not found", "P1 rawness"),
        (b'{"detail":"Not Found"}', "P1 rawness"),
    ],
)
def test_a_missing_model_is_no_missing_route(ask: Ask, data: bytes, probe: str) -> None:
    assert told(ask(404, data), UnsuitableEndpointError).probe == probe


def test_neither_key_nor_control_characters_are_shown(ask: Ask) -> None:
    body = {"error": f"bad key {KEY} \x1b[31m\x07 \ud800 \u202e end"}
    for status, data in (
        (400, json.dumps(body).encode()),
        (0, b"data: " + json.dumps(body).encode() + b"\n\n"),
    ):
        text = str(told(ask(status, data)))
        assert "bad key ***" in text and "end" in text
        assert text.isprintable() and text.encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"data: {oops\n\n", "is not JSON"),
        (b"data: \xff\xfe\n\n", "is not UTF-8 at byte 0"),
        (b"data: " + DEEP + b"\n\n", "is nested too deeply"),
        (b"data: [1]\n\n", "the reply is [1]"),
        (b'data: "text"\n\n', "the reply is 'text'"),
        (b"data: 5\n\n", "the reply is 5"),
    ],
    ids=range(6),
)
def test_a_stream_of_something_else_is_told(ask: Ask, data: bytes, says: str) -> None:
    error = told(ask(0, data))
    assert says in str(error)
    assert (error.retryable, error.context_full) == (True, False)


def test_a_body_that_cannot_be_unpacked_is_a_broken_connection(ask: Ask) -> None:
    packed = (("Content-Encoding", "gzip"),)
    error = told(ask(200, b"no gzip", kind="text/event-stream", headers=packed))
    assert "broke the connection" in str(error)
    assert error.retryable
    assert "(HTTP 400: it does not say why)" in str(told(ask(400, b"no gzip", headers=packed)))


@pytest.mark.parametrize("tail", [b"", b"zz\r\n"])
@pytest.mark.parametrize("reset", [False, True])
def test_what_fails_behind_the_end_takes_no_answer_along(
    ask: Ask, tail: bytes, reset: bool
) -> None:
    assert texts(ask(0, GOOD + DONE, tail=tail, reset=reset)) == ["hi"]


def test_a_connection_that_breaks_before_the_end_is_told(ask: Ask) -> None:
    error = told(ask(0, b'data: {"choices":[{"text":"hi"}]}\n\n', tail=b""))
    assert "broke the connection" in str(error) and error.retryable


@pytest.mark.parametrize("key", ["sk-ä", "sk-a\nb", "sk-a\n", " sk-a", "sk-\x00", "“sk-a”"])
def test_a_key_no_header_carries_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigError, match="api_key has") as caught:
        OpenAIBackend("m", base_url="http://127.0.0.1:9/v1", api_key=key)
    assert "sk-" not in str(caught.value)


def test_words_of_parsed_errors() -> None:
    assert describe("text") == "text"
    assert describe(None) == describe({}) == describe({"error": {}}) == ""
    assert describe({"message": "a", "code": None}) == "a"
    assert describe({"message": "a", "code": 0}) == 'a {"code": 0}'
    assert describe({"error": {"message": "a", "x": "ü"}, "y": 1}) == 'a {"x": "ü"} {"y": 1}'
