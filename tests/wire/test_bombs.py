"""Bodies of a few kB that unpack to gigabytes, and endless ones: little memory, and an error."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from glimp_integrations import io_loop
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.backends.http import client, replies
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.http.replies import Anything
from glimp_integrations.errors import BackendError
from wire.loopback import Handler, Loopback

MB = 1_000_000
FIRST = b'data: {"choices":[{"text":"h"}]}\n\n'
LAST = b'data: {"choices":[{"text":"i","finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


@dataclass
class Packed(Loopback):
    """Sends these pieces as a body of this encoding."""

    pieces: Callable[[], Iterable[bytes]]
    coding: str

    def __post_init__(self) -> None:
        self.handler = _Handler


class _Handler(Handler):
    owner: Packed

    def serve(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if body else "application/json")
        self.send_header("Content-Encoding", self.owner.coding)
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(OSError):  # the client has had enough
            for piece in self.owner.pieces():
                self.wfile.write(piece)


def packed(coding: str, block: bytes, blocks: int, *, head: bytes = b"") -> Iterator[bytes]:
    """The same block many times, packed: up to a thousand times smaller."""
    packer = zlib.compressobj(9, zlib.DEFLATED, WINDOWS[coding])
    yield packer.compress(head)
    for _ in range(blocks):
        yield packer.compress(block)
    yield packer.flush()


Ask = Callable[..., OpenAIBackend]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """A backend whose server answers with such a body."""
    with ExitStack() as stack:

        def make(pieces: Callable[[], Iterable[bytes]], coding: str = "gzip") -> OpenAIBackend:
            server = stack.enter_context(Packed(pieces, coding))
            options: dict[str, Any] = {"server": "vllm", "verify": "off", "chat_template": "x"}
            backend = OpenAIBackend("m", base_url=f"{server.root}/v1", **options)
            stack.callback(backend.close)
            return backend

        yield make


def streamed(backend: OpenAIBackend, timeout: float = 60.0) -> list[str]:
    request = Request("p", 4, max_retries=0, timeout=timeout)

    async def read() -> list[str]:
        async with aclosing(backend.completion(request, Report())) as choices:
            return [choice["text"] async for choice in choices]

    return io_loop.call(read)


def replied(backend: OpenAIBackend) -> Any:
    return io_loop.call(lambda: backend.get("/props", Anything, at_most=60.0, max_retries=0))


@pytest.fixture
def memory() -> Iterator[Callable[[], float]]:
    """Tells the most memory, in MB, that was allocated at a time since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1] / MB
    tracemalloc.stop()


@pytest.mark.parametrize("coding", list(WINDOWS))
@pytest.mark.parametrize(
    ("read", "words", "most"),
    [
        (replied, "a body of more than 67,108,864 bytes", 110.0),
        (streamed, "one event of the stream is longer than 33,554,432 bytes", 60.0),
    ],
    ids=["reply", "stream"],
)
def test_a_bomb_takes_as_much_memory_as_the_longest_reply(
    ask: Ask,
    memory: Callable[[], float],
    coding: str,
    read: Callable[[OpenAIBackend], Any],
    words: str,
    most: float,
) -> None:
    backend = ask(lambda: packed(coding, b" " * MB, 400), coding)

    with pytest.raises(BackendError) as caught:
        read(backend)

    assert words in str(caught.value)
    assert memory() < most


@pytest.mark.parametrize("coding", ["br", "zstd"])
@pytest.mark.parametrize("read", [replied, streamed])
def test_other_encodings_are_not_unpacked(
    ask: Ask, coding: str, read: Callable[[OpenAIBackend], Any]
) -> None:
    with pytest.raises(BackendError, match=f"encoded as '{coding}', which was not asked for"):
        read(ask(lambda: [b"\0" * MB], coding))


@pytest.mark.parametrize("block", [b": hi\n", b"data: {}\n\n"], ids=repr)
def test_a_flood_without_a_token_ends_in_time(ask: Ask, block: bytes) -> None:
    # Packed before, so that there is nothing to wait for.
    body = gzip.compress(block * 100_000) * 40
    backend = ask(lambda: [body])

    with pytest.raises(BackendError, match="did not answer in time"):
        streamed(backend, timeout=1.0)


def test_what_follows_the_end_of_a_packed_body_is_not_kept(
    ask: Ask, memory: Callable[[], float]
) -> None:
    endless = itertools.chain([gzip.compress(b"{}")], itertools.repeat(b"x" * MB))

    with pytest.raises(BackendError, match="broke the connection"):
        replied(ask(lambda: endless))

    assert memory() < 20.0


def test_a_body_of_several_packed_members_is_read_to_its_end(ask: Ask) -> None:
    members = b"".join(map(gzip.compress, (FIRST, b"", LAST, DONE)))
    for cut in (1, 5, len(members) // 2, len(members)):
        assert streamed(ask(lambda cut=cut: [members[:cut], members[cut:]])) == ["h", "i"]


@pytest.mark.parametrize("read", [replied, streamed])
def test_a_reply_of_too_many_parts_is_not_parsed(
    ask: Ask, read: Callable[[OpenAIBackend], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "_MOST_PARTS", 1000)
    head = b"data: " if read is streamed else b""
    lists = head + b'{"choices":[' + b"[]," * 500 + b"[]]}\n\n"

    with pytest.raises(BackendError, match="it has more than 1,000 parts"):
        read(ask(lambda: [gzip.compress(lists)]))


def test_the_longest_reply_that_is_read_is_not_parsed_into_gigabytes() -> None:
    lists = b"[" + b"[]," * (client.MAX_BODY_BYTES // 3 - 1) + b"0]"
    assert len(lists) <= client.MAX_BODY_BYTES

    with pytest.raises(replies.ReplyError, match="it has more than 4,000,000 parts"):
        replies.parse(lists)


def test_the_tokens_of_a_million_are_read() -> None:
    tokens = json.dumps([{"id": 7, "piece": "a, b"}] * 100_000).encode()
    # Three parts and the comma in the text: a tenth of what is allowed.
    assert sum(map(tokens.count, (b",", b"[", b"{"))) <= replies._MOST_PARTS / 10
    assert len(replies.parse(tokens)) == 100_000
