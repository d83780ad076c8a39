"""A pen is one model's hold on the text: it opens, reads, retries and stops that model's streams.

Pens know nothing about decisions. The strategies differ only in two habits, set here:
whether a glimpse is a request of its own, and whether the small model's stream runs on past the
end of a step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from glimp_integrations.backends.base import Backend, Ended, Report, Request, StreamEnd, Token
from glimp_integrations.backends.retries import pause
from glimp_integrations.errors import BackendError, UnsuitableEndpointError
from glimp_integrations.method.entropy import Estimator, begin_of, estimate, measurable
from glimp_integrations.method.format_tokens import MOST_SKIPPED
from glimp_integrations.trace.trace import Author, ModelUsage

__all__ = ["ModelStream", "Sampling"]

Text = Callable[[str], str]
"""From a model's closing tag to the kept text; called only when a request is opened."""

_OVER = ("eos", "context")  # nothing more can come from this model here


@dataclass(frozen=True, slots=True)
class Sampling:
    """How every request of a call samples and how long it may wait."""

    temperature: float
    top_p: float
    timeout: float | None
    max_retries: int


@dataclass(slots=True)
class ModelStream:
    """One model in one call.

    Args:
        author: ``"small"`` or ``"large"``.
        backend: The model.
        prefix: Its rendered prompt with thinking opened.
        think_end_tag: Its closing tag; empty for models that do not think in tags.
        sampling: See :class:`Sampling`.
        top_logprobs: k for glimpses.
        glimpse_alone: A glimpse is a request for one token (``two_request``), not the first
            token of the stream that goes on (``fused``).
        stream_logprobs: Streams carry log-probabilities, because steps begin inside them.
        draft: Who proposes tokens for this model; see ``Request.draft``.
        shared: The other model computes on the same device, and waits until this one has left it.
        skips: Whether a glimpse looks behind such text for the token it measures.
        next_seed: Counts requests over both pens, so that no two requests draw the same numbers.
    """

    author: Author
    backend: Backend
    prefix: str
    think_end_tag: str
    sampling: Sampling
    top_logprobs: int
    glimpse_alone: bool
    stream_logprobs: bool
    next_seed: Callable[[], int | None]
    draft: Backend | Literal["prompt_lookup"] | None = None
    shared: bool = False
    skips: Callable[[str], bool] | None = None
    usage: ModelUsage = field(default_factory=ModelUsage)
    requests: int = 0
    discarded: int = 0
    prefilled: int | None = None
    cached: int | None = None
    _stream: AsyncGenerator[Token, None] | None = None
    _report: Report = field(default_factory=Report)
    _room: int = 0
    _read: int = 0
    _pushed: deque[Token] = field(default_factory=deque)  # glimpsed, not yet read
    _ended: StreamEnd | None = None
    _attempts: int = 0
    _logprobs: bool = False
    _look: bool = False
    _schema: Mapping[str, Any] | None = None
    _stop: tuple[str, ...] = ()
    _notes: dict[str, Any] = field(default_factory=dict)
    _reading: asyncio.Task[None] | None = None

    async def glimpse(self, context: Text, room: int, estimator: Estimator) -> float | None:
        """Look at the next token, or behind formatting, without using up what was seen.

        Returns:
            H in nats; ``None`` if the model ended its sequence without a token to look at.

        Raises:
            UnsuitableEndpointError: The token came without log-probabilities.
        """
        if self._pushed:
            await self.cancel()  # the step's cap fell between them: a step begins at its own tokens
        seen = ""

        def ahead(think_end_tag: str) -> str:
            return context(think_end_tag) + seen

        while True:
            if self._stream is None:
                await self._open(ahead, 1 if self.glimpse_alone else room, logprobs=True)
            token = await self._next(ahead, room)
            if token is None and self._ended in _OVER:
                return None
            if token is None or not self._shows(token):
                return await self._distribution_only(ahead, token, estimator)
            seen += token.text
            room -= token.count
            # A character that has only begun is the step's, whatever it turns out to be.
            passed = self._passes(seen) and bool(token.text) and not token.pending and room > 0
            entropy = None if passed else await self._entropy(token, estimator)
            if self._stream is not None and self._room == 1:
                await self._finish_single()
            self._pushed.append(token)
            if entropy is not None:
                return entropy

    def _passes(self, seen: str) -> bool:
        """Whether the glimpse goes on behind what it saw."""
        return self.skips is not None and len(self._pushed) < MOST_SKIPPED and self.skips(seen)

    def _shows(self, token: Token) -> bool:
        """Whether H can be had of a token."""
        return token.measure is not None or measurable(token.logprobs, self.top_logprobs)

    async def _entropy(self, token: Token, estimator: Estimator) -> float:
        if token.measure is None:
            return estimate(token.logprobs or (), estimator)
        try:
            return await token.measure(estimator, self.top_logprobs)
        except BackendError as error:
            error.role = self.author
            raise

    async def _distribution_only(
        self, context: Text, token: Token | None, estimator: Estimator
    ) -> float:
        """The first token came without a distribution of its own.

        It is a character of several tokens, the server sent several tokens at once, or it shows
        less behind the first token of a stream (speculation): ask for the distribution alone, and
        generate the token again when it is wanted.
        """
        await self.cancel(discarded=token.count if token is not None else 0)
        await self._open(context, 1, logprobs=True, distribution_only=True)
        token = await self._next(context, 1)
        if token is None or not self._shows(token):
            raise UnsuitableEndpointError(
                probe="P2 logprobs",
                server=self.backend.label,
                detail=f"returned {self._found(token)} for a token that was asked for alone",
                remedy="Use it as the large model only, or serve it with log-probabilities of this "
                "many tokens, before any sampling; `glimp check small` tells what it sends",
            )
        entropy = await self._entropy(token, estimator)
        if self._stream is not None:
            await self._finish_single()
        self._ended = None
        self.discarded += token.count
        return entropy

    def _found(self, token: Token | None) -> str:
        """What came instead of log-probabilities."""
        k = self.top_logprobs
        if token is None or not token.logprobs:
            return f"no top-k log-probabilities ({k} were asked for)"
        if len(token.logprobs) < k:
            return f"{len(token.logprobs)} of {k} requested log-probabilities"
        return f"figures that are no log-probabilities ({begin_of(token.logprobs)})"

    async def read(
        self,
        context: Text,
        room: int,
        schema: Mapping[str, Any] | None = None,
        stop: tuple[str, ...] = (),
    ) -> Token | None:
        """The next token of this model's text; ``None`` at its end (then see :meth:`take_end`).

        Args:
            context: See :data:`Text`.
            room: Tokens at most, where a request is opened.
            schema: What the text has to follow from where the request is opened.
            stop: Nothing is wanted behind these texts of a request that is opened.
        """
        self._schema, self._stop = schema, stop
        if self._pushed:
            token = self._pushed.popleft()
            # Half a character, or a token of unknown text, cannot be handed over as text: the
            # same place is generated again (greedy: the same token).
            if not token.pending and (token.text or self._ended == "eos"):
                return token
            if self._stream is not None:
                return token
            self.discarded += token.count
        if self._ended in _OVER:
            return None
        while True:
            if self._stream is None:
                self._ended = None
                await self._open(context, room, logprobs=self.stream_logprobs)
            found = await self._next(context, room)
            # The text may stand where it ends no step: then the model goes on behind it.
            if found is not None or self._ended != "stop_string":
                return found

    def take_end(self) -> tuple[Ended, int]:
        """Why the last :meth:`read` returned ``None``, and how many tokens no piece told of.

        A character of several tokens arrives as one piece; the server's own count tells at the
        end how many there were.
        """
        ended, self._ended = self._ended or "eos", None
        assert ended != "stop_string", "read() goes on behind it"
        return ended, max(0, (self._report.completion_tokens or 0) - self._read)

    async def cancel(self, *, discarded: int = 0) -> None:
        """Stop writing: cancel a running stream, drop what was glimpsed."""
        self.discarded += discarded + sum(token.count for token in self._pushed)
        self._pushed.clear()
        self._ended = None
        if self._stream is not None:
            over = self._report.ended is not None
            await self._close()
            if self.shared and not over:
                # The other model must not start beside a cancelled pass.
                await self.backend.wait_idle()

    def prefill(self, context: Text) -> None:
        """Let the model read the text so far, beside whatever else happens.

        A request for one token, which is thrown away: what the server keeps of it is the point.
        Nothing is asked while an earlier one is still under way, and its failure is no news: the
        next request that matters meets it.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(
                self._prefill(self.prefix + context(self.think_end_tag))
            )

    async def aclose(self) -> None:
        """:meth:`cancel`, at the end of the call."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
        await self.cancel()

    # -- inside ------------------------------------------------------------------------------

    async def _prefill(self, prompt: str) -> None:
        self.requests += 1
        report = Report()
        request = Request(
            prompt, 1, seed=self.next_seed(), timeout=self.sampling.timeout, max_retries=0
        )
        tokens = cast("AsyncGenerator[Token, None]", self.backend.generate(request, report))
        try:
            with suppress(BackendError, UnsuitableEndpointError):
                async with aclosing(tokens):
                    async for token in tokens:
                        self.discarded += token.count
        finally:
            self._account(report, 0)

    async def _next(self, context: Text, room: int) -> Token | None:
        while True:
            assert self._stream is not None
            try:
                token = await anext(self._stream)
            except StopAsyncIteration:
                await self._end_of_stream()
                return None
            except BackendError as error:
                alone, read = self._room == 1, self._read
                await self._close()
                if error.context_full and context(self.think_end_tag):
                    self._ended = "context"
                    return None
                self._attempts += 1
                tried = self._report.retried or self._attempts > self.sampling.max_retries
                # A grammar begins at the beginning: half of what it binds cannot be continued.
                tried = tried or (self._schema is not None and read > 0)
                wait = pause(self._attempts, error.retry_after)
                if not error.retryable or tried or wait is None:
                    error.role = self.author
                    raise
                await asyncio.sleep(wait)
                # Continuing from the kept text is exact: nothing shown is lost or repeated.
                single = 1 if alone and not read else room
                await self._open(
                    context, single, logprobs=self._logprobs, distribution_only=self._look
                )
                continue
            self._read += token.count
            self._attempts = 0
            return token

    async def _open(
        self, context: Text, room: int, *, logprobs: bool, distribution_only: bool = False
    ) -> None:
        self._report = Report()
        self._room, self._read = room, 0
        self._logprobs, self._look = logprobs, distribution_only
        self.requests += 1
        stop = () if logprobs or self._schema is not None else self._stop
        request = Request(
            prompt=self.prefix + context(self.think_end_tag),
            max_tokens=max(1, room),
            logprobs=self.top_logprobs if logprobs else 0,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            seed=self.next_seed(),
            distribution_only=distribution_only,
            timeout=self.sampling.timeout,
            max_retries=self.sampling.max_retries,
            draft=None if self._schema is not None else self.draft,
            schema=self._schema,
            stop=stop,
            notes=self._notes,
        )
        self._stream = cast(
            "AsyncGenerator[Token, None]", self.backend.generate(request, self._report)
        )

    async def _finish_single(self) -> None:
        """Read the end of a one-token request: it tells the usage, and an end of sequence."""
        assert self._stream is not None
        try:
            async for _ in self._stream:
                pass
        except BackendError:
            pass  # the token is here; the next request will meet the failure if it lasts
        await self._end_of_stream()
        if self._ended == "length":
            self._ended = None

    async def _end_of_stream(self) -> None:
        self._ended = self._report.ended or "eos"
        await self._close()

    async def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()
            self._account(self._report, self._read)

    def _account(self, report: Report, read: int) -> None:
        old = self.usage
        told = report.completion_tokens is not None and report.prompt_tokens is not None
        self.usage = ModelUsage(
            requests=old.requests + 1,
            input_tokens=old.input_tokens + (report.prompt_tokens or 0),
            cached_tokens=old.cached_tokens + (report.cached_tokens or 0),
            output_tokens=old.output_tokens + max(report.completion_tokens or 0, read),
            estimated=old.estimated or not told,
        )
        if report.prompt_tokens is not None and report.cached_tokens is not None:
            self.cached = (self.cached or 0) + report.cached_tokens
            self.prefilled = (self.prefilled or 0) + report.prompt_tokens - report.cached_tokens
