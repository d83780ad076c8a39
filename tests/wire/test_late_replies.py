"""A server that is a reply behind on a connection: nobody gets the answer to another's question."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from glimp_integrations import io_loop
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.backends.http import pool
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.http.replies import TokenIds, TokenStrings
from glimp_integrations.errors import BackendError, ModelError
from wire.loopback import Handler, Loopback


class _Behind(Handler):
    """Every connection begins with ``{}``; then comes, one request late, what was asked for."""

    before: dict[str, Any] | None = None

    def setup(self) -> None:
        super().setup()
        self.owner.accepted += 1
        # The first connection is the broken one.
        self.is_behind = self.owner.accepted == 1

    def serve(self, body: dict[str, Any]) -> None:
        asked, self.before = (self.before if self.is_behind else body), body
        if asked is None:
            self.send_json(200, {})
        elif self.path == "/tokenize":
            self.send_json(200, {"tokens": [asked["number"]]})
        else:
            choice = {"index": 0, "text": asked["prompt"], "finish_reason": "stop"}
            self.begin_stream()
            self.send_piece(b"data: %s\n\n" % str({"choices": [choice]}).replace("'", '"').encode())
            self.send_piece(b"data: [DONE]\n\n")
            self.send_piece(b"")


class _Server(Loopback):
    handler = _Behind

    def __init__(self) -> None:
        self.accepted = 0


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as server:
        yield server


@pytest.fixture
def backend(server: _Server) -> Iterator[OpenAIBackend]:
    backend = OpenAIBackend("m", base_url=f"{server.root}/v1", server="vllm", verify="off")
    yield backend
    backend.close()


def ids(backend: OpenAIBackend, number: int) -> list[int]:
    return io_loop.call(lambda: backend.post("/tokenize", {"number": number}, TokenIds))["tokens"]


def written(backend: OpenAIBackend, prompt: str) -> str:
    async def read() -> str:
        request = Request(prompt, 10)
        return "".join([t["text"] async for t in backend.completion(request, Report())])

    return io_loop.call(read)


def test_after_a_reply_of_another_shape(server: _Server, backend: OpenAIBackend) -> None:
    with pytest.raises(BackendError):
        ids(backend, 1)

    assert ids(backend, 2) == [2]
    assert server.accepted == 2


def test_after_a_reply_that_fits_everything(server: _Server, backend: OpenAIBackend) -> None:
    assert io_loop.call(lambda: backend.post("/tokenize", {"number": 1}, TokenStrings)) == {}

    assert ids(backend, 2) == [2]


def test_after_a_stream_without_an_end(server: _Server, backend: OpenAIBackend) -> None:
    with pytest.raises(BackendError):
        written(backend, "first")

    assert written(backend, "second") == "second"


def test_a_sound_connection_is_used_again(server: _Server, backend: OpenAIBackend) -> None:
    with pytest.raises(BackendError):
        ids(backend, 1)
    for number in range(2, 7):
        assert ids(backend, number) == [number]
        assert written(backend, "x") == "x"

    assert server.accepted == 2


@pytest.mark.parametrize(("status", "closed"), [(404, 0), (400, 3), (422, 3)])
def test_a_refusal_that_may_be_unasked_closes_its_connection(
    server: _Server, backend: OpenAIBackend, status: int, closed: int
) -> None:
    with pytest.raises(BackendError):
        ids(backend, 1)
    before, refused = server.accepted, _Behind.serve

    def refuse(handler: _Behind, body: dict[str, Any]) -> None:
        handler.send_json(status, {"error": "no"})

    try:
        _Behind.serve = refuse  # type: ignore[method-assign]
        for number in range(3):
            with pytest.raises(ModelError):
                ids(backend, number)
    finally:
        _Behind.serve = refused  # type: ignore[method-assign]
    assert server.accepted - before == max(1, closed)


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\n", None])
def test_what_was_not_read_yet_is_noticed(said: bytes | None) -> None:
    """Also the connection's end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = SimpleNamespace(get_extra_info=lambda _: ours)
        assert not pool._has_data(transport)
        if said is None:
            theirs.close()
        else:
            theirs.send(said)
        assert pool._has_data(transport)
