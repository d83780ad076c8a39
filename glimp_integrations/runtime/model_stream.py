"""One model in one call: glimpsed at, read, cancelled.

Nothing here knows about decisions. The strategies differ only in two habits, which are set here:
whether a glimpse is a request of its own, and whether the small model's stream runs on past the
end of a step.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from glimp_integrations.backends.base import Take
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError
from glimp_integrations.method.entropy import Estimator, begin_of, estimate, measurable
from glimp_integrations.method.format_tokens import MOST_SKIPPED
from glimp_integrations.method.policy import Glimpse, Glimpsed
from glimp_integrations.method.tokens import Ended, Token
from glimp_integrations.runtime.counters import Counters
from glimp_integrations.runtime.failures import asked, ignored
from glimp_integrations.runtime.request_stream import RequestStream, Room, Text

__all__ = ["ModelStream"]

_OVER = ("eos", "context")  # nothing more can come from this model here
_ONE_TOKEN = Glimpse()
_ROUNDING = 1e-3  # nats; what rounding makes of an entropy of 0


@dataclass(slots=True)
class ModelStream:
    """One model in one call.

    Args:
        request: Its requests.
        glimpse_alone: A glimpse is a request for one token (``two_request``), and not the first
            token of a stream that goes on (``fused``).
        stream_logprobs: Streams carry log-probabilities, because steps begin inside them.
        shares_device: The other model computes on the same device, and waits until this one has
            left it.
        skips: Whether a glimpse looks past such text for the token it measures.
    """

    request: RequestStream
    glimpse_alone: bool
    stream_logprobs: bool
    shares_device: bool = False
    skips: Callable[[str], bool] | None = None
    _glimpsed: deque[Token] = field(default_factory=deque)  # and not yet read
    _prefilling: asyncio.Task[None] | None = None

    @property
    def counters(self) -> Counters:
        """What this model's requests come to."""
        return self.request.counters

    async def glimpse(
        self, context: Text, room: int, estimator: Estimator, wanted: Glimpse = _ONE_TOKEN
    ) -> Glimpsed:
        """Look at the next tokens, or past formatting, without using up what was seen.

        Args:
            context: See :data:`Text`.
            room: Tokens at most, where a request is opened.
            estimator: How H is computed.
            wanted: How many tokens' H, and whether probabilities are wanted.

        Returns:
            H in nats of each; of none if the model ended its sequence without a token to look at.

        Raises:
            UnsuitableEndpointError: The token came without log-probabilities.
            ConfigError: Probabilities are wanted, and the model shows H only.
            BackendError: The model failed.
        """
        if self._glimpsed:
            # The last step's cap fell between tokens that were glimpsed together. A step begins
            # with tokens of its own.
            await self.cancel()
        passed = ""
        entropies: list[float] = []
        probabilities: tuple[float, ...] | None = None

        def text_so_far(think_end_tag: str) -> str:
            return context(think_end_tag) + passed

        def room_left() -> int:
            return room

        while True:
            request = self.request
            if not request.is_open:
                request.open(text_so_far, 1 if self.glimpse_alone else room, logprobs=True)
            token = await request.next(text_so_far, room_left)
            if token is None and request.ended in _OVER:
                return Glimpsed(tuple(entropies), probabilities)
            if token is None or not self._is_measurable(token):
                if entropies:
                    # What was asked for is seen; the rest would cost requests of its own.
                    self._glimpsed += [token] if token is not None else []
                    return Glimpsed(tuple(entropies), probabilities)
                return await self._distribution_only(text_so_far, token, estimator, wanted)
            passed += token.text
            room -= token.count
            # A character that has only begun is the step's, whatever it turns out to be.
            whole = bool(token.text) and not token.pending and room > 0
            skipped = not entropies and whole and self._skips(passed)
            if not skipped:
                entropies.append(await self._entropy(token, estimator))
                if wanted.probabilities and probabilities is None:
                    probabilities = await self._probabilities(token)
            if request.is_open and request.single:
                await request.finish_single()
            self._glimpsed.append(token)
            if len(entropies) >= wanted.tokens or (entropies and not whole):
                return Glimpsed(tuple(entropies), probabilities)

    async def read(
        self,
        context: Text,
        room: Room,
        schema: Mapping[str, Any] | None = None,
        stop: tuple[str, ...] = (),
        take: Take | None = None,
    ) -> Token | None:
        """The next token of this model's text; ``None`` at its end (then see :meth:`take_end`).

        Args:
            context: See :data:`Text`.
            room: See :data:`Room`.
            schema: What the text has to follow from where the request is opened.
            stop: Nothing is wanted after these texts of a request that is opened.
            take: Takes tokens as they are read, until it leaves one, which is returned. Not every
                token is offered to it.

        Raises:
            BackendError: The model failed.
            UnsuitableEndpointError: The server lacks what was asked for.
        """
        request = self.request
        if self._glimpsed:
            token = self._glimpsed.popleft()
            # Half a character, or a token of unknown text, cannot be continued as text. Within an
            # open stream the rest of it comes next; otherwise the same place is generated again
            # (greedy: the same token).
            if request.is_open or not (token.pending or not self._has_text(token)):
                return token
            self.counters.discarded += token.count
        if request.ended in _OVER:
            return None
        request.taker = take
        try:
            while True:
                if not request.is_open:
                    request.ended = None
                    request.open(
                        context, room(), logprobs=self.stream_logprobs, schema=schema, stop=stop
                    )
                next_token = await request.next(context, room)
                # A stop text may stand where it ends no step: then the model goes on after it.
                if next_token is not None or request.ended != "stop_string":
                    return next_token
        finally:
            request.taker = None

    def take_end(self) -> tuple[Ended, int]:
        """Why the last :meth:`read` returned ``None``, and how many tokens were not seen.

        A character of several tokens arrives as one piece; the server's own count tells at the
        end how many there were.
        """
        request = self.request
        ended, request.ended = request.ended or "eos", None
        assert ended != "stop_string", "read() goes on after it"
        return ended, request.arrivals.uncounted(request.report.completion_tokens)

    async def cancel(self, *, discarded: int = 0) -> None:
        """Stop writing: cancel a running request, drop what was glimpsed.

        Args:
            discarded: Tokens that were read and are dropped, too.
        """
        self.counters.discarded += discarded + sum(token.count for token in self._glimpsed)
        self._glimpsed.clear()
        self.request.ended = None
        if self.request.is_open:
            finished = self.request.report.ended is not None
            await self.request.close()
            if self.shares_device and not finished:
                # The other model must not start beside a cancelled pass.
                backend = self.request.backend
                with ignored(backend, "waiting until the device is free"):
                    await backend.wait_idle()

    def prefill(self, context: Text) -> None:
        """Let the model read the text so far, at the same time as whatever else happens.

        Nothing is sent while an earlier such request is still under way.
        """
        if self._prefilling is None or self._prefilling.done():
            text = context(self.request.think_end_tag)
            self._prefilling = asyncio.create_task(self.request.prefill(lambda _: text))

    async def aclose(self) -> None:
        """:meth:`cancel`, at the end of the call."""
        prefilling, self._prefilling = self._prefilling, None
        if prefilling is not None:
            prefilling.cancel()
            with suppress(asyncio.CancelledError):
                await prefilling
        await self.cancel()

    # -- inside ------------------------------------------------------------------------------

    def _has_text(self, token: Token) -> bool:
        return bool(token.text) or self.request.ended == "eos"

    def _skips(self, passed: str) -> bool:
        """Whether the glimpse goes on after what it has passed."""
        return self.skips is not None and len(self._glimpsed) < MOST_SKIPPED and self.skips(passed)

    def _is_measurable(self, token: Token) -> bool:
        """Whether H can be computed at a token."""
        k = self.request.top_logprobs
        return token.entropy_fn is not None or measurable(token.logprobs, k)

    async def _entropy(self, token: Token, estimator: Estimator) -> float:
        if token.entropy_fn is None:
            return estimate(token.logprobs or (), estimator)
        request = self.request
        with asked(request.author, request.backend):
            entropy = float(await token.entropy_fn(estimator, request.top_logprobs))
            if not math.isfinite(entropy) or entropy < -_ROUNDING:
                raise BackendError(
                    f"{request.backend.label} measured an entropy of {entropy} nats, which no "
                    "distribution has: look whether its weights or their type are broken",
                    model=request.backend.name,
                )
        return max(0.0, entropy)

    async def _probabilities(self, token: Token) -> tuple[float, ...]:
        request = self.request
        logprobs = token.logprobs
        if not logprobs and token.logprobs_fn is not None:
            with asked(request.author, request.backend):
                logprobs = await token.logprobs_fn(request.top_logprobs)
        if not logprobs:
            raise ConfigError(
                "the policy asks for probabilities (Glimpse(probabilities=True)), and "
                f"{request.backend.label} shows the entropy only: route by H, or let the backend's "
                "tokens have logprobs or logprobs_fn"
            )
        return tuple(map(math.exp, logprobs))

    async def _distribution_only(
        self, context: Text, token: Token | None, estimator: Estimator, wanted: Glimpse
    ) -> Glimpsed:
        """Ask again, for the distribution alone, and generate the token when it is wanted.

        The first token came without a distribution of its own: it is a character of several
        tokens, or the server sent several tokens in one piece, or it shows fewer after the first
        token of a stream (speculative decoding).
        """
        await self.cancel(discarded=token.count if token is not None else 0)
        request = self.request
        request.open(context, 1, logprobs=True, distribution_only=True)
        token = await request.next(context, lambda: 1)
        if token is None or not self._is_measurable(token):
            detail = f"returned {self._what_came(token)} for a token that was asked for alone"
            with asked(request.author, request.backend):
                raise UnsuitableEndpointError(
                    probe="P2 logprobs",
                    server=request.backend.label,
                    detail=detail,
                    remedy="Use it as the large model only, or serve it with log-probabilities of "
                    "this many tokens, before any sampling; `glimp check small` tells what it "
                    "sends",
                )
        entropy = await self._entropy(token, estimator)
        probabilities = await self._probabilities(token) if wanted.probabilities else None
        if request.is_open:
            await request.finish_single()
        request.ended = None
        self.counters.discarded += token.count
        return Glimpsed((entropy,), probabilities)

    def _what_came(self, token: Token | None) -> str:
        """What came instead of log-probabilities."""
        k = self.request.top_logprobs
        if token is None or not token.logprobs:
            return f"no top-k log-probabilities ({k} were asked for)"
        if len(token.logprobs) < k:
            return f"{len(token.logprobs)} of {k} requested log-probabilities"
        return f"figures that are no log-probabilities ({begin_of(token.logprobs)})"
