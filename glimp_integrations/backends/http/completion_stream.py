"""One streamed completion: its events, checked, up to its end."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from glimp_integrations.backends.base import Report
from glimp_integrations.backends.http.client import HttpClient, Response
from glimp_integrations.backends.http.connections import Connections
from glimp_integrations.backends.http.errors import describe, speaks_of_context
from glimp_integrations.backends.http.event_stream import Decoder, EventStream, JsonLines
from glimp_integrations.backends.http.protocols.base import ChunkParser, Protocol, RequestContext
from glimp_integrations.backends.http.replies import checked, parse
from glimp_integrations.backends.http.sending import RequestLimits, as_json, sent
from glimp_integrations.backends.http.servers import ServerProfile
from glimp_integrations.backends.http.token_clock import TokenClock, shows_progress
from glimp_integrations.errors import BackendError
from glimp_integrations.redact import redacted

__all__ = ["CompletionStream"]

T = TypeVar("T")

_DRAFTED = 64
# Values of finish_reason that say that a repetition of the request may succeed.
_TEMPORARY = (None, "error", "insufficient_system_resource")


@dataclass(slots=True)
class CompletionStream:
    """One request for text, and what the server streams in reply.

    Args:
        client: Sends it.
        connections: Those of the server, made ahead while this one is used.
        protocol: How the server's routes are used.
        server: The server's kind.
        target: The URL.
        context: What is asked for.
        report: Where token counts and the reason of the end are written.
        names: Of the model: for errors, in traces, and its public URL.
        secrets: All texts that may be secret in what the server sends back.
    """

    client: HttpClient
    connections: Connections
    protocol: Protocol
    server: ServerProfile
    target: str
    context: RequestContext
    report: Report
    names: tuple[str, str, str | None]
    secrets: Callable[[], Sequence[str]]
    _finish: str | None = None
    _clock: TokenClock = field(init=False)

    def __post_init__(self) -> None:
        self._clock = TokenClock(self.context.request.timeout)

    async def choices(
        self, take: Callable[[Mapping[str, Any]], bool] | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The choices of the stream, up to its end, which is written into the report.

        A stream that has not ended where it says so, or that is left before, may have been the
        response to another request. Nothing that comes on its connection can be trusted.

        Args:
            take: Takes choices where they arrive: called with each before it is yielded. If it
                returns ``True``, the choice is not yielded.

        Raises:
            BackendError: The request failed, or the stream did.
            ReplyError: A chunk is of another shape than the protocol's.
        """
        client, report, clock = self.client, self.report, self._clock
        parser = self.protocol.parser(self.context)
        decoder: Decoder = JsonLines() if self.protocol.json_lines else EventStream()
        body = as_json(self.protocol.body(self.context))
        limits = RequestLimits(clock.seconds, self.context.request.max_retries)
        # Opening the stream is retried in ``sent``, as often as allowed. If that fails, the router
        # must not start again. Once the stream is open, only the router can retry it, because it
        # knows which text to keep.
        report.retried, complete = True, False
        try:
            async with sent(
                lambda: client.request("POST", self.target, seconds=limits.seconds, body=body),
                limits,
            ) as response:
                report.retried = False
                self.connections.make_ready()
                try:
                    arriving = _Arriving(decoder, lambda events: self._read(events, parser), take)
                    while not decoder.done and await clock.wait(arriving.more(response)):
                        for choice in arriving.left():
                            yield choice
                    arriving.end()
                    for choice in arriving.left():
                        yield choice
                    complete = True
                    if decoder.done:
                        await response.drain()
                finally:
                    if not self._has_ended():
                        response.distrust()
        finally:
            clock.close()
            if not complete:
                self.connections.make_ready()
        for choice in parser.rest():
            if take is None or not take(choice):
                yield choice
        self._note_end()

    def _read(self, events: Iterator[bytes], parser: ChunkParser) -> Iterator[dict[str, Any]]:
        """The choices of some events. Reading takes time; what the reader does meanwhile is its."""
        clock, report, most = self._clock, self.report, self.context.request.max_tokens
        # A flood of events that say nothing takes no time to wait for.
        begun = time.monotonic()
        for event in events:
            before = report.completion_tokens
            choices = parser.choices(self._chunk(event, parser.shape), report)
            _drop_impossible(report, before, most)
            for choice in choices:
                self._finish = choice.get("finish_reason") or self._finish
                if shows_progress(choice):
                    clock.reset()
                else:
                    clock.spend(time.monotonic() - begun)
                yield choice
                begun = time.monotonic()
            if (report.completion_tokens or 0) > (before or 0):
                clock.reset(at_most=most)
        clock.spend(time.monotonic() - begun)

    def _has_ended(self) -> bool:
        return self.server.ends.get(self._finish or "") is not None

    def _chunk(self, event: bytes, shape: type[T]) -> T:
        """The chunk that an event holds, if it is of this shape and not an error.

        Raises:
            BackendError: It is an error.
            ReplyError: It is of another shape.
        """
        chunk = parse(event)
        if not isinstance(chunk, dict) or not chunk.get("error"):
            return checked(chunk, shape)
        label, name, url = self.names
        text = describe(chunk)
        full = speaks_of_context(text)
        shown = redacted(text, self.secrets())
        raise BackendError(
            f"{label} sent an error in the stream: {shown}: look into the server's log",
            model=name,
            url=url,
            retryable=not full,
            context_full=full,
        )

    def _note_end(self) -> None:
        """Write into the report how the stream ended.

        Raises:
            BackendError: It ended without a reason, or with one that means a failure.
        """
        finish, report = self._finish, self.report
        label, name, url = self.names
        ended = self.server.ends.get(finish or "")
        if ended is None:
            how = (
                "before the end" if finish is None else f"with {redacted(finish, self.secrets())!r}"
            )
            raise BackendError(
                f"{label} ended its stream {how}: look into the server's log, and into that "
                "of a proxy in front of it",
                model=name,
                url=url,
                retryable=finish in _TEMPORARY,
            )
        # Servers report a full context window as "length", too. Fewer tokens than requested
        # tell the two apart.
        count = report.completion_tokens
        window_full = (
            ended == "length" and count is not None and count < self.context.request.max_tokens
        )
        report.ended = "context" if window_full else ended


class _Arriving:
    """The choices of a stream as its data arrives, offered to whoever takes them.

    Args:
        decoder: From data to events.
        read: From events to choices.
        take: See :meth:`CompletionStream.choices`.
    """

    def __init__(
        self,
        decoder: Decoder,
        read: Callable[[Iterator[bytes]], Iterator[dict[str, Any]]],
        take: Callable[[Mapping[str, Any]], bool] | None,
    ) -> None:
        self._decoder, self._read, self._take = decoder, read, take
        self._refused: dict[str, Any] | None = None
        self._choices: Iterator[dict[str, Any]] = iter(())

    async def more(self, response: Response) -> bool:
        """Wait until there may be choices that nobody takes; ``False``: the body is over."""
        if self._take is not None:
            return await response.feed(self._took_all)
        data = await response.next()
        self._choices = self._read(self._decoder.feed(data))
        return bool(data)

    def end(self) -> None:
        """The body is over: what was not complete may be after all."""
        self._choices = self._read(self._decoder.rest())

    def left(self) -> Iterator[dict[str, Any]]:
        """The choices that are here and that nobody took."""
        refused, self._refused = self._refused, None
        if refused is not None:
            yield refused
        for choice in self._choices:
            if self._take is None or not self._take(choice):
                yield choice

    def _took_all(self, data: bytes) -> bool:
        """Read data; whether all of it was taken, and more may come."""
        self._choices = self._read(self._decoder.feed(data))
        take = self._take
        for choice in self._choices:
            if take is None or not take(choice):
                self._refused = choice
                return False
        return not self._decoder.done


def _drop_impossible(report: Report, before: int | None, most: int) -> None:
    """Forget a total of tokens that is far above what was asked for.

    Counted as it is, it would use up a budget. With speculative decoding a total may be a few
    drafted tokens above.
    """
    total = report.completion_tokens
    if total is not None and total > most:
        report.completion_tokens = most if total <= most + _DRAFTED else before
