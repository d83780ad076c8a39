"""Faults of whole replies: bodies, statuses, redirects, compression."""

from __future__ import annotations

import asyncio
import gzip
import zlib

from .replies import Refused
from .server import Break, Exchange, Fault, as_bytes, event_bytes, head_bytes
from .wrong_values import wrong

__all__ = ["CONTROLS", "CONTROLS_EVENT", "ERROR_EVENT", "HTML"]

HTML = "<!DOCTYPE html><html><title>Größe</title><body>Sign in first</body></html>".encode()
CONTROLS = b'{"error": {"message": "\\u001b]0;owned\\u0007\\u001b[2J\\u0000 \\u202e no"}}'
CONTROLS_EVENT = b"data: " + CONTROLS + b"\n\n"
ERROR_EVENT = b'data: {"error": {"message": "no gpu"}}\n\n'
_BOMB_BYTES = 64 * 2**20
_bomb: list[bytes] = []


def whole(
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    kind: str = "application/json",
    length: bool = True,
) -> Break:
    """A reply with this body; without ``length`` it ends with the connection."""

    async def answer(exchange: Exchange, fault: Fault) -> None:
        if length:
            return await exchange.send(status, body, headers, kind)
        fields = {"Content-Type": kind, "Connection": "close", **(headers or {})}
        await exchange.write(head_bytes(status, fields) + body)
        return await exchange.close()

    return answer


def status(number: int, headers: dict[str, str] | None = None) -> Break:
    """An error as these servers write it."""
    return whole(number, as_bytes({"error": {"message": "out of order", "code": number}}), headers)


def redirect(number: int) -> Break:
    """A redirect to another host; the fault's note is its address."""

    async def answer(exchange: Exchange, fault: Fault) -> None:
        place = {"Location": f"{fault.note}/elsewhere"}
        await exchange.send(number, b"moved", place, "text/plain")

    return answer


def _healthy(exchange: Exchange) -> tuple[bytes, str]:
    """The healthy reply as one body, and its type."""
    if exchange.is_stream:
        body = b"".join(map(event_bytes, exchange.events())) + b"data: [DONE]\n\n"
        return body, "text/event-stream"
    return as_bytes(exchange.reply()), "application/json"


async def wrong_value(exchange: Exchange, fault: Fault) -> None:
    """A small route's reply with one wrong value."""
    try:
        made = wrong(exchange.reply(), fault.place, fault.value, streamed=False)
    except Refused as refusal:
        fault.note = "(refused)"
        return await exchange.refuse(refusal)
    fault.note = f"{exchange.path}: {made.name}"
    return await exchange.send(200, made.data)


async def cut(exchange: Exchange, fault: Fault) -> None:
    """A body that ends anywhere, with or without a length that tells."""
    try:
        body = as_bytes(exchange.reply())
    except Refused as refusal:
        return await exchange.refuse(refusal)
    fields = {"Content-Type": "application/json"}
    if fault.value < 0.5:
        fields["Content-Length"] = str(len(body))
    else:
        fields["Connection"] = "close"
    await exchange.write(head_bytes(200, fields) + body[: int(fault.place * len(body))])
    return await exchange.close()


async def drip(exchange: Exchange, fault: Fault) -> None:
    """A body that comes byte by byte, for ever."""
    await _drip(exchange, 200)


async def drip_error(exchange: Exchange, fault: Fault) -> None:
    """The same with an error's status."""
    await _drip(exchange, 500 if fault.value < 0.5 else 400)


async def _drip(exchange: Exchange, number: int) -> None:
    await exchange.write(head_bytes(number, {"Content-Type": "application/json"}) + b'{"a": "')
    while True:
        await exchange.write(b"x")
        await asyncio.sleep(0.05)


async def flood(exchange: Exchange, fault: Fault) -> None:
    """A body without an end, as fast as it is taken."""
    await exchange.write(head_bytes(200, {"Content-Type": "application/json"}) + b'{"a": "')
    while True:
        await exchange.write(b"x" * 65536)
        await asyncio.sleep(0.001)


def _made_bomb() -> bytes:
    if not _bomb:
        _bomb.append(gzip.compress(b" " * _BOMB_BYTES, 9))
    return _bomb[0]


async def bomb(exchange: Exchange, fault: Fault) -> None:
    """A few bytes that unpack to many."""
    await exchange.send(200, _made_bomb(), {"Content-Encoding": "gzip"})


async def bomb_error(exchange: Exchange, fault: Fault) -> None:
    """The same with an error's status."""
    await exchange.send(503, _made_bomb(), {"Content-Encoding": "gzip"})


async def broken_gzip(exchange: Exchange, fault: Fault) -> None:
    """Bytes that are not what their encoding says."""
    await exchange.send(200, b"this is not gzip", {"Content-Encoding": "gzip"})


async def gzipped(exchange: Exchange, fault: Fault) -> None:
    """The healthy reply, compressed as clients allow."""
    accepted = exchange.headers.get("accept-encoding", "")
    try:
        body, kind = _healthy(exchange)
    except Refused as refusal:
        return await exchange.refuse(refusal)
    if "gzip" in accepted and fault.value < 0.5:
        return await exchange.send(200, gzip.compress(body), {"Content-Encoding": "gzip"}, kind)
    if "deflate" in accepted:
        return await exchange.send(200, zlib.compress(body), {"Content-Encoding": "deflate"}, kind)
    return await exchange.send(200, body, kind=kind)


async def until_close(exchange: Exchange, fault: Fault) -> None:
    """The healthy reply without a length: the connection's end is its end."""
    try:
        body, kind = _healthy(exchange)
    except Refused as refusal:
        return await exchange.refuse(refusal)
    await exchange.write(head_bytes(200, {"Content-Type": kind, "Connection": "close"}) + body)
    return await exchange.close()


async def no_type(exchange: Exchange, fault: Fault) -> None:
    """The healthy reply without a content type."""
    try:
        body, _ = _healthy(exchange)
    except Refused as refusal:
        return await exchange.refuse(refusal)
    return await exchange.write(head_bytes(200, {"Content-Length": str(len(body))}) + body)


async def quotes_key(exchange: Exchange, fault: Fault) -> None:
    """An error that repeats what was sent to authenticate."""
    key = exchange.headers.get("authorization", "")
    text = f"you sent {key}, that is {key.removeprefix('Bearer ')!r}, to {exchange.path}"
    number = (400, 401, 403, 404, 500, 503)[int(fault.value * 6)]
    await exchange.send(number, as_bytes({"error": {"message": text}}))
