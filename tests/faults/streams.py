"""Faults in the middle of a stream, and streams in every style that the standard allows.

Source: WHATWG HTML, 9.2 "Server-sent events" (parsing an event stream).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from .replies import Refused
from .server import Break, Exchange, Fault, as_bytes, event_bytes, head_bytes
from .wrong_values import wrong

__all__ = ["BESIDE", "BROKEN_CHUNKS", "STYLES"]

_MOST = 8  # faults happen at one of the first chunks

BROKEN_CHUNKS: dict[str, bytes] = {
    "size not a number": b"zz\r\nabc\r\n",
    "negative size": b"-5\r\nabc\r\n",
    "huge size": b"ffffffffffffffffffff\r\nabc\r\n",
    "no line end": b"3\r\nabcdef\r\n",
    "too short": b"40\r\nabc",
    "endless size": b"0" * 100_000,
}

STYLES: dict[str, Callable[[bytes], bytes]] = {
    "cr": lambda data: b"data: " + data + b"\r\r",
    "crlf": lambda data: b"data: " + data + b"\r\n\r\n",
    "no space": lambda data: b"data:" + data + b"\n\n",
    "id": lambda data: b"id: 5\ndata: " + data + b"\n\n",
    "retry": lambda data: b"retry: 1000\ndata: " + data + b"\n\n",
    "named": lambda data: b"event: completion\ndata: " + data + b"\n\n",
    "comment before": lambda data: b": hello\n\ndata: " + data + b"\n\n",
    "comment inside": lambda data: b"data: " + data + b"\n: hello\n\n",
    "unknown field": lambda data: b"x: y\ndata: " + data + b"\nz\n\n",
    "lines": lambda data: b"data: " + data.replace(b'{"', b'{\ndata: "', 1) + b"\n\n",
    "blank lines": lambda data: b"data: " + data + b"\n\n\n\n\n",
    "empty data": lambda data: b"data\n\ndata: " + data + b"\n\n",
}
"""An event's data in the ways that it may be sent."""

BESIDE: dict[str, bytes] = {
    "id alone": b"id: 5\n\n",
    "id and comment": b"id: 5\n\n: keep-alive\n\n",
    "retry alone": b"retry: 1000\n\n",
    "comment": b": keep-alive\n\n",
    "named event without data": b"event: ping\n\n",
    "unknown field": b"foo: bar\n\n",
    "big comment": b": " + b"x" * 1_000_000 + b"\n\n",
}
"""What says nothing and may stand between two events."""

Change = Callable[[int, dict[str, Any]], AsyncIterator[bytes]]


_DONE = b"data: [DONE]\n\n"


async def _streamed(exchange: Exchange, change: Change, *, done: bytes = _DONE) -> None:
    """The healthy stream with every event changed: a number and an event in, bytes out."""
    try:
        events = list(_first(exchange.events()))
    except Refused as refusal:
        return await exchange.refuse(refusal)

    async def pieces() -> AsyncIterator[bytes]:
        for number, event in enumerate(events):
            async for piece in change(number, event):
                yield piece
            await asyncio.sleep(0)

    return await exchange.stream(pieces(), done=done)


def _first(events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Probes may go on for ever, if they are let."""
    for number, event in enumerate(events):
        if number > 1000:
            return
        yield event


def _hit(exchange: Exchange, fault: Fault) -> int:
    """The number of the event at which a fault happens."""
    count = sum(1 for _ in _first(exchange.events()))
    return int(fault.place * min(count, _MOST))


def insert(data: bytes, *, at_first: bool = False) -> Break:
    """Bytes between two events."""

    async def answer(exchange: Exchange, fault: Fault) -> None:
        try:
            hit = 0 if at_first and fault.value < 0.5 else _hit(exchange, fault)
        except Refused as refusal:
            return await exchange.refuse(refusal)

        async def change(number: int, event: dict[str, Any]) -> AsyncIterator[bytes]:
            if number == hit:
                yield data
            yield event_bytes(event)

        return await _streamed(exchange, change)

    return answer


def styled(style: Callable[[bytes], bytes]) -> Break:
    """The healthy stream in another style."""

    async def answer(exchange: Exchange, fault: Fault) -> None:
        async def change(number: int, event: dict[str, Any]) -> AsyncIterator[bytes]:
            yield style(as_bytes(event))

        await _streamed(exchange, change, done=style(b"[DONE]"))

    return answer


async def byte_order_mark(exchange: Exchange, fault: Fault) -> None:
    """A byte order mark in front, which the standard tells clients to ignore."""

    async def change(number: int, event: dict[str, Any]) -> AsyncIterator[bytes]:
        yield b"" if number else b"\xef\xbb\xbf"
        yield event_bytes(event)

    await _streamed(exchange, change)


async def in_pieces(exchange: Exchange, fault: Fault) -> None:
    """Three bytes at a time, so that letters and line ends are torn."""

    async def change(number: int, event: dict[str, Any]) -> AsyncIterator[bytes]:
        data = event_bytes(event)
        for begin in range(0, len(data), 3):
            yield data[begin : begin + 3]

    await _streamed(exchange, change)


async def no_done(exchange: Exchange, fault: Fault) -> None:
    """The stream without its last line."""

    async def change(number: int, event: dict[str, Any]) -> AsyncIterator[bytes]:
        yield event_bytes(event)

    await _streamed(exchange, change, done=b"")


async def trailers(exchange: Exchange, fault: Fault) -> None:
    """Chunks with extensions, and fields after the last one."""
    try:
        events = list(_first(exchange.events()))
    except Refused as refusal:
        return await exchange.refuse(refusal)
    await exchange.begin()
    for event in events:
        data = event_bytes(event)
        await exchange.write(b"%X;a=b\r\n%s\r\n" % (len(data), data))
    return await exchange.write(b"0\r\nX-Took: 1\r\n\r\n")


async def wrong_value(exchange: Exchange, fault: Fault) -> None:
    """One chunk with one wrong value."""
    try:
        hit = _hit(exchange, fault)
    except Refused as refusal:
        return await exchange.refuse(refusal)

    async def change(number: int, event: dict[str, Any]) -> AsyncIterator[bytes]:
        if number != hit:
            yield event_bytes(event)
            return
        made = wrong(event, (fault.place * 1e4) % 1, fault.value, streamed=True)
        fault.note = made.name
        yield b"data: " + made.data + b"\n\n"
        if made.beside:
            yield event_bytes(event)

    return await _streamed(exchange, change)


async def positive_logprobs(exchange: Exchange, fault: Fault) -> None:
    """Log-probabilities that cannot be any, from one chunk on."""
    high = (5.0, 750.0, 1e308)[int(fault.value * 3)]

    def raised(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: raised(value) for name, value in part.items()}
        if isinstance(part, list):
            return [raised(value) for value in part]
        return high if isinstance(part, float) else part

    async def change(number: int, event: dict[str, Any]) -> AsyncIterator[bytes]:
        yield event_bytes(raised(event))

    await _streamed(exchange, change)


def counts(value: Any) -> Break:
    """Token counts that cannot be, in every chunk."""

    def replaced(part: Any) -> Any:
        if isinstance(part, dict):
            return {
                name: value if name.endswith(("_tokens", "_n", "_predicted")) else replaced(child)
                for name, child in part.items()
            }
        return [replaced(child) for child in part] if isinstance(part, list) else part

    async def answer(exchange: Exchange, fault: Fault) -> None:
        async def change(number: int, event: dict[str, Any]) -> AsyncIterator[bytes]:
            yield b"data: " + json.dumps(replaced(event)).encode() + b"\n\n"

        await _streamed(exchange, change)

    return answer


async def _body(exchange: Exchange) -> bytes:
    return b"".join(map(event_bytes, _first(exchange.events()))) + b"data: [DONE]\n\n"


async def cut(exchange: Exchange, fault: Fault) -> None:
    """A stream that ends at any byte, as a broken chunked body or with the connection."""
    try:
        body = await _body(exchange)
    except Refused as refusal:
        return await exchange.refuse(refusal)
    end = int(fault.place * len(body))
    fields = {"Content-Type": "text/event-stream", "Connection": "close"}
    if fault.value < 0.5:
        fields = {"Content-Type": "text/event-stream", "Content-Length": str(len(body))}
    await exchange.write(head_bytes(200, fields) + body[:end])
    return await exchange.close()


async def reset(exchange: Exchange, fault: Fault) -> None:
    """A TCP reset at any byte."""
    try:
        body = await _body(exchange)
    except Refused as refusal:
        return await exchange.refuse(refusal)
    await exchange.begin()
    await exchange.chunk(body[: int(fault.place * len(body))])
    await asyncio.sleep(0.02)
    return await exchange.reset()


async def ends_early(exchange: Exchange, fault: Fault) -> None:
    """A stream that ends in good order, only too early."""
    await _broken_off(exchange, fault, exchange.end)


async def stall(exchange: Exchange, fault: Fault) -> None:
    """Silence after some events."""
    await _broken_off(exchange, fault, exchange.hang)


def drip(data: bytes) -> Break:
    """These bytes for ever, after some events."""

    async def answer(exchange: Exchange, fault: Fault) -> None:
        async def end() -> None:
            while True:
                await exchange.chunk(data)
                await asyncio.sleep(0.05)

        await _broken_off(exchange, fault, end)

    return answer


def flood(data: bytes) -> Break:
    """The same as fast as it is taken."""

    async def answer(exchange: Exchange, fault: Fault) -> None:
        async def end() -> None:
            while True:
                await exchange.chunk(data * (65536 // len(data)))
                await asyncio.sleep(0.002)

        await _broken_off(exchange, fault, end)

    return answer


async def drip_empty_events(exchange: Exchange, fault: Fault) -> None:
    """Events without text for ever."""
    choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": None}
    event = {"choices": [choice]}
    if exchange.path == "/completion":
        event = {"content": "", "tokens": [], "stop": False}  # type: ignore[dict-item]
    await drip(event_bytes(event))(exchange, fault)


def broken_chunk(data: bytes) -> Break:
    """A chunked body that goes wrong after some events."""

    async def answer(exchange: Exchange, fault: Fault) -> None:
        async def end() -> None:
            await exchange.write(data)
            await exchange.close()

        await _broken_off(exchange, fault, end)

    return answer


async def _broken_off(exchange: Exchange, fault: Fault, end: Callable[[], Any]) -> None:
    try:
        hit = _hit(exchange, fault)
        events = list(_first(exchange.events()))
    except Refused as refusal:
        return await exchange.refuse(refusal)
    await exchange.begin()
    for event in events[:hit]:
        await exchange.chunk(event_bytes(event))
    await end()
    return None


async def ignores_max_tokens(exchange: Exchange, fault: Fault) -> None:
    """A server that goes on after the tokens it was asked for."""
    try:
        events = exchange.events(endless=True)
    except Refused as refusal:
        return await exchange.refuse(refusal)

    async def pieces() -> AsyncIterator[bytes]:
        for number, event in enumerate(events):
            yield event_bytes(event)
            await asyncio.sleep(0 if number < 50 else 0.005)

    return await exchange.stream(pieces())
