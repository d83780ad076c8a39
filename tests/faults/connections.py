"""Faults of connections and of HTTP itself."""

from __future__ import annotations

import asyncio

from .server import Break, Exchange, Fault, head_bytes

__all__ = ["BROKEN", "UNASKED"]

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

BROKEN: dict[str, bytes] = {
    "no status line": b'{"data": []}\r\n\r\n',
    "other protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "binary": bytes(range(256)) + b"\r\n\r\n",
    "status not a number": b"HTTP/1.1 abc OK\r\n\r\n",
    "status 999": b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "status 99": b"HTTP/1.1 99 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "huge header": _OK + b"X-Long: " + b"x" * 300_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "many headers": _OK + b"X-A: 1\r\n" * 20_000 + b"Content-Length: 2\r\n\r\n{}",
    "header without colon": _OK + b"nonsense\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths": _OK + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\n{}",
    "negative length": _OK + b"Content-Length: -3\r\n\r\n{}",
    "length of words": _OK + b"Content-Length: two\r\n\r\n{}",
    "length and chunks": _OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "unknown coding": _OK + b"Transfer-Encoding: rot13\r\n\r\n{}",
    "unknown encoding": _OK + b"Content-Encoding: rot13\r\nContent-Length: 2\r\n\r\n{}",
    "unknown charset": _OK.replace(b"json", b"json; charset=no-such")
    + b"Content-Length: 2\r\n\r\n{}",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "continue for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 2000,
    "reply of http 2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64",
    "tls alert": b"\x15\x03\x01\x00\x02\x02\x46",
}
"""Bytes in place of a reply; the connection is closed after them."""


_EVENT = b'data: {"choices": [{"text": "WRONG wrong", "finish_reason": null}]}\n\n'
UNASKED: dict[str, bytes] = {
    "timeout": b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "object": _OK + b"Content-Length: 2\r\n\r\n{}",
    "stream": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    + b"Content-Length: %d\r\n\r\n%s" % (len(_EVENT), _EVENT),
    "line end": b"\r\n",
    "bytes": b"\x00\x01\x02",
}
"""What servers send after a reply, when they should wait for the next request."""


def raw(data: bytes) -> Break:
    """These bytes, and the end of the connection."""

    async def answer(exchange: Exchange, fault: Fault) -> None:
        await exchange.write(data)
        await exchange.close()

    return answer


async def stall(exchange: Exchange, fault: Fault) -> None:
    """No reply."""
    await exchange.hang()


async def stall_after_head(exchange: Exchange, fault: Fault) -> None:
    """A head and no body."""
    await exchange.begin("text/event-stream" if exchange.is_stream else "application/json")
    await exchange.hang()


async def drip_head(exchange: Exchange, fault: Fault) -> None:
    """A head that never ends."""
    await exchange.write(_OK)
    while True:
        await exchange.write(b"X-A: 1\r\n")
        await asyncio.sleep(0.05)


async def closed(exchange: Exchange, fault: Fault) -> None:
    """The connection's end in place of a reply."""
    await exchange.close()


async def reset(exchange: Exchange, fault: Fault) -> None:
    """A TCP reset in place of a reply."""
    await exchange.reset()


async def reset_after_head(exchange: Exchange, fault: Fault) -> None:
    """A TCP reset in place of a body."""
    await exchange.begin()
    await asyncio.sleep(0.01)
    await exchange.reset()


async def late(exchange: Exchange, fault: Fault) -> None:
    """A healthy reply after a part of the time that clients wait."""
    await asyncio.sleep(0.05 + 0.25 * fault.place)
    await exchange.answer()


async def interim(exchange: Exchange, fault: Fault) -> None:
    """Interim replies before the healthy one."""
    await exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if fault.value < 0.5:
        await exchange.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    await exchange.answer()


async def closes_afterwards(exchange: Exchange, fault: Fault) -> None:
    """A healthy reply, and then the connection's end, without a word."""
    await exchange.answer()
    await exchange.close()


def unasked(data: bytes) -> Break:
    """A healthy reply, and another one that nobody asked for."""

    async def answer(exchange: Exchange, fault: Fault) -> None:
        await exchange.answer()
        if fault.value < 0.5:
            await asyncio.sleep(0.005)
        await exchange.write(data)

    return answer


async def early_refusal(exchange: Exchange, fault: Fault) -> None:
    """A refusal, and the connection's end in the same moment."""
    await exchange.write(head_bytes(413, {"Content-Length": "0", "Connection": "close"}))
    await exchange.reset()
