"""The running request of one model: opened, read, repeated after a failure, closed, counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from glimp_integrations.backends.base import Backend, Report, Request, Take
from glimp_integrations.backends.retries import pause
from glimp_integrations.errors import BackendError, GlimpError, ModelError
from glimp_integrations.method.policy import Author
from glimp_integrations.method.tokens import StreamEnd, Token
from glimp_integrations.runtime.arrivals import Arrivals
from glimp_integrations.runtime.counters import Counters
from glimp_integrations.runtime.failures import asked, ignored

__all__ = ["RequestStream", "Room", "Sampling", "Text"]

Text = Callable[[str], str]
"""From a model's think end tag to the kept text; called only when a request is opened."""

Room = Callable[[], int]
"""Tokens at most; called only when a request is opened."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How every request of a call samples, and how long it may wait.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus sampling.
        further: The fields of a request that not every model has, as far as they are set.
        timeout: Seconds without a token; ``None``: no limit.
        max_retries: Attempts after a failed one.
        sure: A policy may want to know how sure each token was.
        next_seed: Counts requests over both models, so that no two of them draw the same random
            numbers; returns ``None`` where no seed was set.
    """

    temperature: float
    top_p: float
    timeout: float | None
    max_retries: int
    next_seed: Callable[[], int | None]
    sure: bool = False
    further: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class RequestStream:
    """One model's running request, if there is one.

    Args:
        author: ``"small"`` or ``"large"``.
        backend: The model.
        prefix: Its rendered prompt with thinking opened.
        think_end_tag: Its own; empty for models that do not think in tags.
        sampling: See :class:`Sampling`.
        top_logprobs: k, where a request asks for log-probabilities.
        draft: Who proposes tokens for this model; see ``Request.draft``.
        counters: What all requests come to.

    Attributes:
        ended: How the last request ended; ``None`` while it runs, or when it was cancelled.
        report: What the backend reports of the last request.
        arrivals: What has arrived of it.
        single: It asks for one token only.
        taker: Takes what is read from here on, until it leaves a token; see ``Request.take``.
    """

    author: Author
    backend: Backend
    prefix: str
    think_end_tag: str
    sampling: Sampling
    top_logprobs: int
    draft: Backend | Literal["prompt_lookup"] | None = None
    counters: Counters = field(default_factory=Counters)
    ended: StreamEnd | None = None
    report: Report = field(default_factory=Report)
    arrivals: Arrivals = field(default_factory=lambda: Arrivals(1))
    single: bool = False
    taker: Take | None = None
    _tokens: AsyncGenerator[Token, None] | None = None
    _attempts: int = 0
    _logprobs: bool = False
    _distribution_only: bool = False
    _schema: Mapping[str, Any] | None = None
    _stop: tuple[str, ...] = ()
    _notes: dict[str, Any] = field(default_factory=dict)
    _left: tuple[Token | None] | None = None  # what the taker left, as it has arrived

    @property
    def is_open(self) -> bool:
        """Whether a request runs."""
        return self._tokens is not None

    def open(
        self,
        context: Text,
        room: int,
        *,
        logprobs: bool,
        distribution_only: bool = False,
        schema: Mapping[str, Any] | None = None,
        stop: tuple[str, ...] = (),
    ) -> None:
        """Send a request that continues the kept text.

        Args:
            context: See :data:`Text`.
            room: Tokens at most.
            logprobs: Every token has to carry log-probabilities.
            distribution_only: Only the distribution at the first place matters.
            schema: What the text has to follow.
            stop: Texts after which nothing is wanted.
        """
        self.report, self._left = Report(), None
        self.single, self.arrivals = room == 1, Arrivals(max(1, room))
        self._logprobs, self._distribution_only = logprobs, distribution_only
        self._schema, self._stop = schema, stop
        self.counters.requests += 1
        request = Request(
            prompt=self.prefix + context(self.think_end_tag),
            max_tokens=self.arrivals.limit,
            logprobs=self.top_logprobs if logprobs else 0,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            **self.sampling.further,
            seed=self.sampling.next_seed(),
            distribution_only=distribution_only,
            timeout=self.sampling.timeout,
            max_retries=self.sampling.max_retries,
            draft=None if schema is not None else self.draft,
            schema=schema,
            # A stop would hide the tokens after it, in which the next steps are glimpsed; and a
            # grammar ends its text itself.
            stop=() if logprobs or schema is not None else stop,
            sure=logprobs and self.sampling.sure,
            take=self._take if getattr(self.backend.generate, "hands_over", False) else None,
            notes=self._notes,
        )
        with asked(self.author, self.backend):
            self._tokens = cast(
                "AsyncGenerator[Token, None]", self.backend.generate(request, self.report)
            )

    async def next(self, context: Text, room: Room) -> Token | None:
        """The next token; ``None`` at the end, and then :attr:`ended` says why.

        A request that fails is sent again from the text kept so far, which is exact: nothing that
        was shown is lost or repeated.

        Raises:
            BackendError: The last attempt failed.
            UnsuitableEndpointError: The server lacks what was asked for.
        """
        while True:
            try:
                token = await self._arrived()
            except BackendError as error:
                received = self.arrivals.tokens
                await self.close()
                if error.context_full and context(self.think_end_tag):
                    self.ended = "context"
                    return None
                await self._wait_or_raise(error, received)
                self.open(
                    context,
                    1 if self.single and not received else room(),
                    logprobs=self._logprobs,
                    distribution_only=self._distribution_only,
                    schema=self._schema,
                    stop=self._stop,
                )
                continue
            except ModelError:
                await self.close()
                raise
            if token is None:
                await self._end()
                return None
            self._attempts = 0
            return token

    async def finish_single(self) -> None:
        """Read the end of a one-token request: it tells the usage, and an end of sequence.

        A server that goes on behind that token is read no further, because its end of sequence
        would stand behind text that nobody keeps.
        """
        ended = None
        # Where even this fails, the token is here; the next request meets the failure if it lasts.
        with suppress(ModelError):
            while (more := await self._arrived()) is not None:
                self.counters.discarded += more.count
            ended = None if self.arrivals.overrun else self.report.ended
        await self.close(read_to_end=ended not in (None, "length"))
        self.ended = None if ended == "length" else ended

    async def close(self, *, read_to_end: bool = False) -> None:
        """Cancel the request if it still runs, and count it.

        Args:
            read_to_end: The tokens that did not arrive one by one are somebody else's to count.
        """
        tokens, self._tokens = self._tokens, None
        if tokens is not None:
            try:
                with ignored(self.backend, "closing a stream"):
                    await tokens.aclose()
            finally:  # also where the call is cancelled meanwhile
                if not read_to_end:
                    # What the server has written ahead is thrown away.
                    total = self.report.completion_tokens
                    self.counters.discarded += self.arrivals.uncounted(total)
                self.counters.add(self.report, self.arrivals.tokens)

    async def prefill(self, context: Text) -> None:
        """Let the model read the text so far: a request for one token, which is thrown away.

        What the server keeps of it in its prefix cache is the point. A failure is ignored: the
        next request that matters meets it.
        """
        prompt = self.prefix + context(self.think_end_tag)
        self.counters.requests += 1
        report = Report()
        request = Request(
            prompt,
            1,
            seed=self.sampling.next_seed(),
            timeout=self.sampling.timeout,
            max_retries=0,
        )
        try:
            with suppress(GlimpError), asked(self.author, self.backend):
                tokens = cast("AsyncGenerator[Token, None]", self.backend.generate(request, report))
                arrivals = Arrivals(request.max_tokens)
                async with aclosing(tokens):
                    async for token in tokens:
                        if (taken := arrivals.take(token)) is None:
                            break
                        self.counters.discarded += taken.count
        finally:
            self.counters.add(report, 0)

    # -- inside ------------------------------------------------------------------------------

    async def _arrived(self) -> Token | None:
        """The next token as it arrives; ``None``: the stream is over, or beyond its limit."""
        assert self._tokens is not None
        with asked(self.author, self.backend):
            try:
                token = await anext(self._tokens)
            except StopAsyncIteration:
                return None if self.single else self.arrivals.rest()
            if self._left is not None:
                (token_left,), self._left = self._left, None
                return token_left
            return self.arrivals.take(token)

    def _take(self, token: Token) -> bool:
        """``Request.take``: a token is counted where it is read, and goes to the taker."""
        taker = self.taker
        if taker is None or self.single:
            return False
        taken = self.arrivals.take(token)
        if taken is not None and taker(taken):
            self._attempts = 0
            return True
        self._left = (taken,)
        return False

    async def _end(self) -> None:
        self.ended = "length" if self.arrivals.overrun else self.report.ended or "eos"
        await self.close(read_to_end=True)

    async def _wait_or_raise(self, error: BackendError, received: int) -> None:
        """Wait before another attempt, or raise if there is none."""
        self._attempts += 1
        spent = self.report.retried or self._attempts > self.sampling.max_retries
        # A grammar begins at the beginning: half of what it constrains cannot be continued.
        spent = spent or (self._schema is not None and received > 0)
        wait = pause(self._attempts, error.retry_after, longest=self.sampling.timeout)
        if not error.retryable or spent or wait is None:
            raise error
        await asyncio.sleep(wait)
