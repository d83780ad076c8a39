"""While one call finds out what a server serves now, others go on with what was known."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from glimp_integrations import io_loop
from glimp_integrations.backends.base import Capabilities
from glimp_integrations.backends.http.openai import OpenAIBackend
from wire.loopback import Handler, Loopback


class _Models(Handler):
    def serve(self, body: dict[str, Any]) -> None:
        self.owner.asked.release()
        assert self.owner.may_answer.wait(20.0)
        self.send_json(200, {"data": [{"id": self.owner.serves, "owned_by": "vllm"}]})


class _Server(Loopback):
    handler = _Models

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.serves = "first"


def test_others_go_on_meanwhile() -> None:
    with _Server() as server:
        server.may_answer.set()
        backend = OpenAIBackend(base_url=f"{server.root}/v1", verify="off")
        known = io_loop.call(backend.capabilities)
        assert server.asked.acquire(timeout=20.0)
        assert backend.model == "first"

        async def meanwhile() -> None:
            server.may_answer.clear()
            server.serves = "second"
            backend.ask_again()
            asking = asyncio.create_task(backend.capabilities())
            assert await asyncio.to_thread(server.asked.acquire, timeout=20.0)
            assert await asyncio.wait_for(backend.capabilities(), 10.0) is known
            assert backend.model == "first"
            server.may_answer.set()
            assert await asking is not known

        io_loop.call(meanwhile)
        assert backend.model == "second"
        backend.close()


@pytest.mark.parametrize("again", [False, True])
def test_a_first_answer_is_waited_for(again: bool) -> None:
    with _Server() as server:
        backend = OpenAIBackend(base_url=f"{server.root}/v1", verify="off")
        if again:
            backend.ask_again()

        async def both() -> list[Any]:
            asking = asyncio.gather(backend.capabilities(), backend.capabilities())
            assert await asyncio.to_thread(server.asked.acquire, timeout=20.0)
            assert not asking.done()
            server.may_answer.set()
            return list(await asking)

        first, second = io_loop.call(both)
        assert first is second
        backend.close()


class _Odd(Handler):
    """Lists the model as a server of some kind, or lists nothing."""

    def serve(self, body: dict[str, Any]) -> None:
        owned_by = self.owner.owned_by
        self.send_json(200, {"data": [{"id": "m", "owned_by": owned_by}]} if owned_by else {})


class _OddServer(Loopback):
    handler = _Odd
    owned_by: str | None = None


@pytest.mark.parametrize(
    ("owners", "kinds"),
    [
        (("vllm", None, "vllm"), ["vllm", "vllm", "vllm"]),
        (("vllm", "somebody", "vllm"), ["vllm", "vllm", "vllm"]),
        (("vllm", None, None, "vllm"), ["vllm", "vllm", "generic", "vllm"]),
        (("vllm", "llamacpp"), ["vllm", "llama.cpp"]),
        ((None, "vllm"), ["generic", "vllm"]),
    ],
)
def test_one_odd_reply_does_not_make_another_server_of_it(
    owners: tuple[str | None, ...], kinds: list[str]
) -> None:
    with _OddServer() as server:
        backend = OpenAIBackend("m", base_url=f"{server.root}/v1", verify="off")
        found = []
        for server.owned_by in owners:
            io_loop.call(backend.capabilities)
            backend.ask_again()
            found.append(backend.server.name)
        assert found == kinds
        backend.close()


def test_one_odd_reply_takes_no_log_probabilities_away() -> None:
    backend = OpenAIBackend("m", base_url="http://127.0.0.1:9/v1", verify="off")
    shown = [20, 0, 20, 0, 0, 5]

    async def discover(self: OpenAIBackend) -> Capabilities:
        return Capabilities(top_logprobs=shown.pop(0))

    class Asked(OpenAIBackend):
        _discover = discover

    backend.__class__ = Asked
    found = []
    while shown:
        found.append(io_loop.call(backend.capabilities).top_logprobs)
        backend.ask_again()
    assert found == [20, 20, 20, 20, 0, 5]
