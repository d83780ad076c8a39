"""The requests of one model: opened, computed in turn, failed and closed.

Everything here runs on the thread of the model's device (``device_thread.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from glimp_integrations.backends.hf.caches import CacheEntry, Pool, set_recording
from glimp_integrations.backends.hf.decoder import Decoder
from glimp_integrations.backends.hf.device_thread import DeviceThread
from glimp_integrations.backends.hf.forward import ForwardPass
from glimp_integrations.backends.hf.request import Result, Stream
from glimp_integrations.backends.hf.sampling import Sampler
from glimp_integrations.errors import BackendError

__all__ = ["Runner"]

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
        self._decoder = Decoder(self.forward)
        self._parallel = parallel
        self._closed = False
        self._streams: list[Stream] = []
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
        self._decoder.leave_batch(stream)
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
        together = [s for s in waiting if self._decoder.may_be_batched(s)][: self._parallel]
        alone = next((s for s in waiting if s not in together), None)
        if alone is not None:
            # It moves to the end of the line, so that the next pass belongs to another one.
            self._streams.remove(alone)
            self._streams.append(alone)
            self._guarded([alone], lambda: self._decoder.advance(alone))
        if together:
            self._guarded(together, lambda: self._decoder.decode(together))

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
                self._decoder.forget(stream)
                if stream.short_of_memory:
                    stream.deliver(self._failure(error))
                stream.short_of_memory = True
        except Exception as error:
            for stream in streams:
                # Nobody knows what the cache holds after half a pass.
                self._decoder.forget(stream)
                stream.deliver(self._failure(error))

    def _failure(self, error: Exception) -> BackendError:
        if isinstance(error, BackendError):
            return error
        failure = BackendError(
            f"{self.name} failed: {type(error).__name__}: {error}", model=self.name
        )
        failure.__cause__ = error
        return failure
