"""All kinds of faults, as data: a name, what is done, and where it may happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from . import bodies, connections, streams
from .server import Break

__all__ = ["KINDS", "Kind"]

_STATUSES = (
    *(400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 418, 422, 425, 429),
    *(500, 501, 502, 503, 504, 529, 599),
)
_SLOW = ("stall", "slow", "drip", "flood", "ignores", "retry after", "gzip bomb", "late")
_PASSING = (
    *("cut stream", "stream ends early", "closed before", "reset", "chunks", "event", "stall"),
    *(f"status {status}" for status in (408, 429, 500, 502, 503, 504)),
)
Where = Literal["stream", "small", "any"]


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: Its name.
        answer: What the server does.
        where: The routes it is for.
        harmless: Whether a client must not even notice it.
        once: Whether it is only ever fired once.
        share: How many cases of a round are drawn for it.
    """

    name: str
    answer: Break
    where: Where = "any"
    harmless: bool = False
    once: bool = False
    share: int = 1

    @property
    def passes(self) -> bool:
        """Whether it is a failure of the moment, after which a request is made again."""
        return self.name.startswith(_PASSING)

    @property
    def takes_time(self) -> bool:
        """Whether only a clock of the client's ends it."""
        return self.name.startswith(_SLOW)


def _all() -> list[Kind]:
    kinds = [
        Kind("html as json", bodies.whole(200, bodies.HTML)),
        Kind("html", bodies.whole(200, bodies.HTML, kind="text/html")),
        Kind("nothing as json", bodies.whole(200, b"")),
        Kind("blank as json", bodies.whole(200, b" \n")),
        Kind("null", bodies.whole(200, b"null")),
        Kind("half of a character", bodies.whole(200, b'{"a": "\xc3', length=False)),
        Kind("no utf-8", bodies.whole(200, b'{"a": "\xff\xfe"}')),
        Kind("json in utf-16", bodies.whole(200, '{"a": 1}'.encode("utf-16"))),
        Kind("very deep json", bodies.whole(200, b"[" * 100_000)),
        Kind("other object", bodies.whole(200, b'{"ok": true}')),
        Kind("error with 200", bodies.whole(200, b'{"error": {"message": "no gpu", "code": 500}}')),
        Kind("error text with 200", bodies.whole(200, b'{"error": "no gpu"}')),
        Kind("wrong value", bodies.wrong_value, "small", share=12),
        Kind("wrong value in chunk", streams.wrong_value, "stream", share=16),
        Kind("cut body", bodies.cut, "small", share=3),
        Kind("cut stream", streams.cut, "stream", share=3),
        Kind("reset in stream", streams.reset, "stream", share=3),
        Kind("stream ends early", streams.ends_early, "stream", share=3),
        Kind("stall in stream", streams.stall, "stream"),
        Kind("stall", connections.stall),
        Kind("stall after head", connections.stall_after_head),
        Kind("slow head", connections.drip_head),
        Kind("closed before reply", connections.closed),
        Kind("reset before reply", connections.reset),
        Kind("reset after head", connections.reset_after_head),
        Kind("drip: body", bodies.drip, "small"),
        Kind("drip: error body", bodies.drip_error),
        Kind("drip: comments", streams.drip(b": keep-alive\n\n"), "stream"),
        Kind("drip: blank lines", streams.drip(b"\n"), "stream"),
        Kind("drip: one endless line", streams.drip(b"x"), "stream"),
        Kind("drip: empty events", streams.drip_empty_events, "stream"),
        Kind("drip: empty objects", streams.drip(b"data: {}\n\n"), "stream"),
        Kind("drip: named events", streams.drip(b"event: ping\ndata: 1\n\n"), "stream"),
        Kind("flood: comments", streams.flood(b": x\n\n"), "stream"),
        Kind("flood: one line", streams.flood(b"x"), "stream"),
        Kind("flood: body", bodies.flood, "small"),
        Kind("ignores max_tokens", streams.ignores_max_tokens, "stream"),
        Kind("event: not json", streams.insert(b"data: oops\n\n"), "stream"),
        Kind("event: html", streams.insert(b"data: <html>\n\n"), "stream"),
        Kind("event: half of a character", streams.insert(b'data: {"a": "\xc3"}\n\n'), "stream"),
        Kind(
            "event: error", streams.insert(b'data: {"error": {"message": "no gpu"}}\n\n'), "stream"
        ),
        Kind("event: error text", streams.insert(b'data: {"error": "no gpu"}\n\n'), "stream"),
        Kind("event: named error", streams.insert(b"event: error\ndata: no gpu\n\n"), "stream"),
        Kind("event: list", streams.insert(b"data: [1]\n\n"), "stream"),
        Kind("event: very deep", streams.insert(b"data: " + b"[" * 100_000 + b"\n\n"), "stream"),
        Kind("positive log-probabilities", streams.positive_logprobs, "stream"),
        Kind("high counts", streams.counts(10**6), "stream"),
        Kind("negative counts", streams.counts(-5), "stream"),
        Kind("text as counts", streams.counts("12"), "stream"),
        Kind("fractions as counts", streams.counts(2.5), "stream"),
        Kind("NaN as counts", streams.counts(float("nan")), "stream"),
        Kind("infinite counts", streams.counts(float("inf")), "stream"),
        Kind("gzip bomb", bodies.bomb),
        Kind("gzip bomb as error", bodies.bomb_error),
        Kind("broken gzip", bodies.broken_gzip),
        Kind("key in error", bodies.quotes_key),
        Kind("controls in error", bodies.whole(400, bodies.CONTROLS)),
        Kind("controls in error event", streams.insert(bodies.CONTROLS_EVENT), "stream"),
        Kind("big error", bodies.whole(500, b"x" * 3_000_000)),
        Kind("unauthorised with challenge", bodies.whole(401, b"", {"WWW-Authenticate": "Basic"})),
        Kind("no content", connections.raw(b"HTTP/1.1 204 No Content\r\n\r\n")),
        Kind("early refusal", connections.early_refusal),
        # A client may have sent its next request before it saw the end of the connection.
        Kind("closes afterwards", connections.closes_afterwards),
    ]
    kinds += [Kind(f"status {status}", bodies.status(status)) for status in _STATUSES]
    kinds += [
        Kind(f"status {status}", bodies.status(status)) for status in (*range(500, 505), 529, 599)
    ]
    kinds += [
        Kind(f"page {status}", bodies.whole(status, bodies.HTML, kind="text/html"))
        for status in (404, 405, 501, 502, 503)
    ]
    kinds += [
        Kind(f"redirect {status}", bodies.redirect(status)) for status in (301, 302, 303, 307, 308)
    ]
    kinds += [
        Kind(f"retry after {after[:24]}", bodies.status(429, {"Retry-After": after}))
        for after in (
            "20",
            "100",
            "99999999999",
            "-5",
            "NaN",
            "1e308",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Fri, 99 Foo 99999 99:99:99 GMT",
            "9" * 5000,
        )
    ]
    kinds += [
        Kind(f"http: {name}", connections.raw(data)) for name, data in connections.BROKEN.items()
    ]
    kinds += [
        Kind(f"unasked: {name}", connections.unasked(data))
        for name, data in connections.UNASKED.items()
    ]
    kinds += [
        Kind(f"chunks: {name}", streams.broken_chunk(data), "stream")
        for name, data in streams.BROKEN_CHUNKS.items()
    ]
    return kinds + _harmless()


def _harmless() -> list[Kind]:
    """What the standards allow, or no client need notice."""
    styles: dict[str, Callable[[bytes], bytes]] = streams.STYLES
    kinds = [
        Kind(f"style: {name}", streams.styled(style), "stream", harmless=True)
        for name, style in styles.items()
    ]
    kinds += [
        Kind(f"beside: {name}", streams.insert(data, at_first=True), "stream", harmless=True)
        for name, data in streams.BESIDE.items()
    ]
    return [
        *kinds,
        Kind("style: byte order mark", streams.byte_order_mark, "stream", harmless=True),
        Kind("style: three bytes at a time", streams.in_pieces, "stream", harmless=True),
        Kind("no [DONE]", streams.no_done, "stream", harmless=True),
        Kind("body ends with the connection", bodies.until_close, harmless=True),
        Kind("gzip", bodies.gzipped, harmless=True),
        Kind("late", connections.late, harmless=True, once=True),
        Kind("interim replies", connections.interim, harmless=True),
        Kind("trailers", streams.trailers, "stream", harmless=True),
        Kind("no content type", bodies.no_type, "small", harmless=True),
    ]


KINDS: dict[str, Kind] = {kind.name: kind for kind in _all()}
