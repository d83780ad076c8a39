"""The requests of one model: in which order they are computed, in batches, with drafts.

Everything here runs on the thread of the model's device (``device_thread.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from glimp_integrations.backends.hf.batch import Batch
from glimp_integrations.backends.hf.caches import (
    CacheEntry,
    Pool,
    can_crop,
    crop,
    is_mergeable,
    set_recording,
)
from glimp_integrations.backends.hf.device_thread import DeviceThread
from glimp_integrations.backends.hf.forward import ForwardPass
from glimp_integrations.backends.hf.request import Result, SampledToken, Stream
from glimp_integrations.backends.hf.sampling import Sampler, pick
from glimp_integrations.errors import BackendError

__all__ = ["Runner"]

_log = logging.getLogger(__name__)

# Tokens of a prompt in one pass: this bounds memory, and how long other requests and a
# cancellation wait.
_CHUNK = 512
# Seconds a batch waits for a stream that was served a moment ago and has not asked again yet.
# Its reader needs a few hundred microseconds; without the wait the next pass would be half empty.
_GRACE = 0.005


class Runner:
    """Serves the streams of one model.

    Args:
        model: The transformers model, in evaluation mode.
        name: The model's name, for messages.
        thread: The thread of the model's device.
        parallel: The largest number of streams in one pass.
        cache_bytes: Memory for KV caches between requests, in bytes.

    Attributes:
        forward: The model's forward passes.
        pool: KV caches between requests.
    """

    def __init__(
        self, model: Any, *, name: str, thread: DeviceThread, parallel: int, cache_bytes: int
    ) -> None:
        self.model = model
        self.name = name
        self.thread = thread
        self.pool = Pool(cache_bytes, name)
        self.forward = ForwardPass(model, name)
        self._parallel = parallel
        self._closed = False
        self._streams: list[Stream] = []
        self._batch: Batch | None = None
        thread.join(self)

    # -- requests ----------------------------------------------------------------------------

    def open(self, stream: Stream) -> None:
        """Begin a request: look for a cache of its beginning, and prepare its sampler.

        Raises:
            BackendError: The model was closed.
        """
        if self._closed:
            raise BackendError(f"{self.name} was closed", model=self.name)
        with torch.inference_mode():
            stream.sampler = Sampler(self.model, stream.ids, stream.max_tokens, stream.options)
        entry = self.pool.take(stream.ids) if self.forward.cache_name is not None else None
        if entry is not None and (self.forward.resumes or len(stream.ids) - len(entry.ids) == 1):
            stream.cache, stream.read_count = entry.cache, len(entry.ids)
            stream.reused = stream.read_count
        if stream.make_drafter is not None:
            stream.drafter = stream.make_drafter(stream)
        self._streams.append(stream)

    def request_token(self, stream: Stream, receiver: Callable[[Result], None]) -> None:
        """Ask for the next token of a stream; the receiver is called with it, or with an error."""
        if stream not in self._streams:
            receiver(BackendError(f"{self.name} was closed", model=self.name))
        elif stream.ready:
            receiver(stream.ready.popleft())
        else:
            stream.receiver = receiver

    def close(self, stream: Stream) -> None:
        """End a request, whether its text is finished or not; its cache goes to the pool."""
        if stream not in self._streams:
            return
        self._streams.remove(stream)
        if self._batch is not None and stream in self._batch.rows:
            self._dissolve()
        if stream.cache is not None:
            set_recording(stream.cache, on=False)
            self.pool.give(CacheEntry(stream.ids[: stream.read_count], stream.cache))
            stream.cache = None
        if stream.drafter is not None:
            stream.drafter.close()

    def shut_down(self) -> None:
        """Drop all requests and caches."""
        self._closed = True
        for stream in list(self._streams):
            stream.deliver(BackendError(f"{self.name} was closed", model=self.name))
            self.close(stream)
        self.pool.clear()
        self.thread.leave(self)

    # -- work --------------------------------------------------------------------------------

    def due(self, now: float) -> float | None:
        """Seconds until the next pass should begin; see ``device_thread.Worker``."""
        waiting = [s for s in self._streams if s.receiver is not None]
        if not waiting:
            return None
        if len(waiting) < self._parallel:
            late = [_GRACE - (now - s.served_at) for s in self._streams if s.receiver is None]
            if late and (wait := max(late)) > 0:
                return wait
        return 0

    def tick(self) -> None:
        """Compute one pass for a stream that has to run alone, and one for a batch."""
        waiting = [s for s in self._streams if s.receiver is not None]
        together = [s for s in waiting if self._may_be_batched(s)][: self._parallel]
        alone = next((s for s in waiting if s not in together), None)
        if alone is not None:
            # It moves to the end of the line, so that the next pass belongs to another one.
            self._streams.remove(alone)
            self._streams.append(alone)
            self._guarded([alone], lambda: self._advance(alone))
        if together:
            self._guarded(together, lambda: self._decode(together))

    def _may_be_batched(self, stream: Stream) -> bool:
        """Whether a stream only needs one plain next token, on a cache that can be merged.

        A prompt that is still to be read has another number of new ids than the other rows, and
        so has a draft.
        """
        if self.forward.cache_name is None or stream.drafter is not None:
            return False
        if stream.unread != 1 or stream.read_count == 0:
            return False
        return stream.cache is None or is_mergeable(stream.cache)

    def _guarded(self, streams: list[Stream], work: Callable[[], None]) -> None:
        """Run a pass. When it fails, the streams in it get the error, and no others."""
        try:
            with torch.inference_mode():
                work()
        except torch.OutOfMemoryError as error:
            # Idle caches are dropped first, and the same texts are read once more from their
            # beginning. A stream that runs out of memory twice gets the error.
            self.pool.clear()
            for stream in streams:
                self._forget(stream)
                if stream.short_of_memory:
                    stream.deliver(self._failure(error))
                stream.short_of_memory = True
        except Exception as error:
            for stream in streams:
                # Nobody knows what the cache holds after half a pass.
                self._forget(stream)
                stream.deliver(self._failure(error))

    def _failure(self, error: Exception) -> BackendError:
        if isinstance(error, BackendError):
            return error
        failure = BackendError(
            f"{self.name} failed: {type(error).__name__}: {error}", model=self.name
        )
        failure.__cause__ = error
        return failure

    def _forget(self, stream: Stream) -> None:
        """Drop a stream's cache, and those of all streams in the same batch."""
        if self._batch is not None and stream in self._batch.rows:
            self._batch.forget()
            self._batch = None
        stream.forget()

    # -- one stream alone --------------------------------------------------------------------

    def _advance(self, stream: Stream) -> None:
        """One pass for one stream: a piece of its prompt, or its next tokens."""
        if self._batch is not None and stream in self._batch.rows:
            self._dissolve()
        has_cache = self.forward.cache_name is not None
        # Such a model cannot add several tokens to a cache, only one: it starts over.
        restart = not self.forward.resumes and stream.read_count > 0 and stream.unread > 1
        if has_cache and (stream.cache is None or restart):
            stream.cache, stream.read_count, stream.reused = self.forward.new_cache(), 0, 0
        if stream.unread > _CHUNK and has_cache and self.forward.resumes:
            begin = stream.read_count
            self.forward.read(stream, stream.ids[begin : begin + _CHUNK])
            return
        draft = self._draft(stream)
        unread = stream.ids[stream.read_count :]
        logits = self.forward.read(stream, [*unread, *draft], keep=len(draft) + 1)
        if draft:
            self._verify(stream, logits, draft)
        else:
            self._serve([stream], logits)

    def _draft(self, stream: Stream) -> list[int]:
        """Proposed tokens, where the model's cache lets rejected ones be taken back."""
        if stream.drafter is None:
            return []
        if stream.cache is not None:
            if stream.read_count == 0:
                return []  # whether a cache can be cropped is known once it holds something
            set_recording(stream.cache, on=True)
            if not can_crop(stream.cache):
                self._drop_drafter(stream, f"{self.name} cannot take tokens back")
                return []
        try:
            return stream.drafter.propose(stream.ids)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the text does not depend on drafts
            self._drop_drafter(stream, f"{type(error).__name__}: {error}")
            return []

    def _drop_drafter(self, stream: Stream, reason: str) -> None:
        if stream.drafter is not None:
            stream.drafter.close()
            stream.drafter = None
            if stream.cache is not None:
                set_recording(stream.cache, on=False)
            _log.warning("nothing more is drafted for %s in this text (%s)", self.name, reason)

    def _verify(self, stream: Stream, logits: torch.Tensor, draft: list[int]) -> None:
        """Keep the part of a draft that the model agrees with, and its own token after that.

        The model has read the last token of the text and the whole draft in one pass, so
        ``logits`` (shape ``(len(draft) + 1, vocabulary)``) says what it would have written at
        every place. It read the rejected tokens, too: they are cropped off its cache.
        """
        if not torch.isfinite(logits.max()):
            raise self._no_numbers()
        assert stream.sampler is not None
        tokens = stream.sampler.verify(logits, draft)
        # The last of the accepted tokens has been drawn but not read, as after a plain pass.
        before = len(stream.ids)
        rejected = len(draft) + 1 - len(tokens)
        stream.ids += tokens
        stream.read_count = before + len(tokens) - 1
        # Called with 0, too: it lets sliding layers forget what they recorded.
        if stream.cache is not None and not crop(stream.cache, rejected):
            stream.forget()
            self._drop_drafter(stream, f"{self.name} cannot take tokens back")
        stream.ready.extend(SampledToken(t, logits[row]) for row, t in enumerate(tokens))
        stream.deliver(stream.ready.popleft())

    # -- streams in a batch ------------------------------------------------------------------

    def _decode(self, streams: list[Stream]) -> None:
        """One token for every stream, in one pass."""
        if self._batch is None or self._batch.rows != streams:
            if len(streams) == 1:
                # One stream needs no batch, unless its cache is in one.
                if streams[0].cache is None:
                    self._dissolve()
                self._serve(streams, self.forward.read(streams[0], streams[0].ids[-1:]))
                return
            self._dissolve()
            self._batch = Batch.assemble(streams, self.forward)
        self._serve(streams, self._batch.step(self.forward))

    def _dissolve(self) -> None:
        if self._batch is not None:
            self._batch.dissolve(self.forward)
            self._batch = None

    # -- tokens ------------------------------------------------------------------------------

    def _serve(self, streams: list[Stream], logits: torch.Tensor) -> None:
        """Draw and hand over a token for every stream; logits of ``(streams, vocabulary)``."""
        logits = logits.float()
        samplers = [s.sampler for s in streams if s.sampler is not None]
        for stream, token, row in zip(streams, pick(logits, samplers), logits, strict=True):
            if token is None:
                self._forget(stream)
                stream.deliver(self._no_numbers())
            else:
                stream.ids.append(token)
                stream.deliver(SampledToken(token, row))

    def _no_numbers(self) -> BackendError:
        return BackendError(
            f"{self.name} computed logits that are not numbers (NaN or infinite): its weights are "
            f"damaged, or {str(self.model.dtype).removeprefix('torch.')} is too narrow for them "
            "(try dtype='float32' or 'bfloat16')",
            model=self.name,
        )
