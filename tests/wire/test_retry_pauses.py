"""Servers that ask for a pause (``Retry-After``), over real HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from email.utils import formatdate
from typing import Any

import pytest

from glimp_integrations import GlimpRouter
from glimp_integrations.backends import retries
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.errors import BackendError
from wire.fake_server import GENERATION_PROMPT, FakeHandler, FakeServer
from wire.helpers import ANSWER, CHAIN, GREEDY, MESSAGES


class _Resting(FakeHandler):
    """Answers the first completions of a conversation with a refusal."""

    def serve(self, body: dict[str, Any]) -> None:
        with self.owner.lock:
            rests = self.path == "/v1/completions" and GENERATION_PROMPT in body["prompt"]
            refused = self.owner.refusals.pop(0) if rests and self.owner.refusals else None
            if refused is not None:
                self.owner.requests.append(self.seen(body))
                self.owner.times.append(time.monotonic())
            elif rests:
                self.owner.times.append(time.monotonic())
        if refused is None:
            return super().serve(body)
        status, headers = refused
        data = json.dumps({"error": {"message": "slow down"}}).encode()
        return self.send_bytes(status, data, "application/json", headers)


class RestingServer(FakeServer):
    """A fake that refuses with these statuses and headers, one each, before it serves."""

    def __init__(self, *refusals: tuple[int, dict[str, str]]) -> None:
        super().__init__(CHAIN)
        self.handler = _Resting
        self.refusals = list(refusals)
        self.times: list[float] = []


def run(server: RestingServer, **options: Any) -> Any:
    with server:
        backend = OpenAIBackend(server.model, base_url=server.url)
        try:
            return GlimpRouter(backend, backend, **{**GREEDY, **options}).run(MESSAGES)
        finally:
            backend.close()


@pytest.mark.parametrize("status", [429, 503, 408])
def test_a_server_gets_the_rest_it_asks_for(status: int) -> None:
    server = RestingServer((status, {"Retry-After": "0.4"}))
    assert run(server).answer == ANSWER
    assert 0.4 <= server.times[1] - server.times[0] < 3.0


def test_until_a_date() -> None:
    # Dates know no fractions: between one and two seconds from now.
    server = RestingServer((503, {"Retry-After": formatdate(time.time() + 2, usegmt=True)}))
    assert run(server).answer == ANSWER
    assert 0.5 <= server.times[1] - server.times[0] < 4.0


@pytest.mark.parametrize("header", ["-1", "nan", "whenever", ""])
def test_nonsense_is_as_if_nothing_was_said(header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.2)
    server = RestingServer((429, {"Retry-After": header}))
    assert run(server).answer == ANSWER
    assert 0.1 <= server.times[1] - server.times[0] < 3.0


def test_more_than_anyone_waits_is_told_at_once() -> None:
    server = RestingServer((429, {"Retry-After": "3600"}))
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"HTTP 429.*3600 s") as caught:
        run(server)
    assert time.monotonic() - started < 5.0
    assert caught.value.retry_after == 3600.0 and caught.value.status == 429
    assert "60 s" in str(caught.value)
    assert len(server.times) == 1


def test_after_the_last_attempt_the_wish_is_in_the_error() -> None:
    server = RestingServer((429, {"Retry-After": "1"}))
    with pytest.raises(BackendError, match="a pause of 1 s") as caught:
        run(server, max_retries=0)
    assert caught.value.retry_after == 1.0 and len(server.times) == 1


def test_the_wait_can_be_cancelled() -> None:
    server = RestingServer((429, {"Retry-After": "50"}))

    async def given_up() -> float:
        router = GlimpRouter(backend, backend, **GREEDY)
        task = asyncio.ensure_future(router.arun(MESSAGES))
        while not server.times:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - started

    with server:
        backend = OpenAIBackend(server.model, base_url=server.url)
        assert asyncio.run(given_up()) < 2.0
        assert len(server.times) == 1
        backend.close()


def test_small_requests_rest_too() -> None:
    """``GET`` and ``POST`` beside the completions: the server was asked who it serves."""

    class Models(FakeHandler):
        def serve(self, body: dict[str, Any]) -> None:
            if self.path == "/v1/models":
                self.owner.times.append(time.monotonic())
                if len(self.owner.times) == 1:
                    return self.send_bytes(503, b"{}", "application/json", {"Retry-After": "0.4"})
            return super().serve(body)

    server = RestingServer()
    server.handler = Models
    assert run(server).answer == ANSWER
    assert server.times[1] - server.times[0] >= 0.4
