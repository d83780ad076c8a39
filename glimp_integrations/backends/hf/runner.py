"""One model at work: reads prompts, decodes in batches, verifies drafts. Runs on its device's
thread (``devices.py``).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from glimp_integrations.backends.hf.caches import (
    Kept,
    Pool,
    can_crop,
    crop,
    is_mergeable,
    merge,
    record,
    split,
)
from glimp_integrations.backends.hf.device_thread import DeviceThread
from glimp_integrations.backends.hf.request import Drawn, Result, Stream
from glimp_integrations.backends.hf.sampling import Draw, pick
from glimp_integrations.errors import BackendError

__all__ = ["Runner"]

_log = logging.getLogger(__name__)

# Tokens of a prompt in one pass: bounds memory, and how long others and a cancellation wait.
_CHUNK = 512
# Seconds a batch waits for a stream that was served a moment ago and has not asked again yet:
# its reader needs a few hundred microseconds, and without it the next pass would be half empty.
_GRACE = 0.005


@dataclass(slots=True, eq=False)
class _Batch:
    """Rows computed together, and their common cache. ``mask`` has shape ``(rows, tokens)``."""

    rows: list[Stream]
    cache: Any
    mask: torch.Tensor


class Runner:
    """Serves the streams of one model.

    Args:
        model: The transformers model, in evaluation mode.
        name: For messages.
        thread: Of the model's device.
        parallel: Streams computed in one pass at most.
        cache_bytes: Memory for KV caches between requests, in bytes.

    Attributes:
        computed: Tokens that went through the model so far.
        pool: Caches between requests.
    """

    def __init__(
        self, model: Any, *, name: str, thread: DeviceThread, parallel: int, cache_bytes: int
    ) -> None:
        self.model = model
        self.name = name
        self.thread = thread
        self.computed = 0
        self.pool = Pool(cache_bytes, name)
        self._parallel = parallel
        self._closed = False
        self._streams: list[Stream] = []
        self._batch: _Batch | None = None
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._accepts = set(inspect.signature(base.forward).parameters)
        # Versions of transformers differ in the name.
        self.cache_name = next(
            (n for n in ("cache", "past_key_values") if n in self._accepts), None
        )
        if self.cache_name is None:
            _log.warning("%s has no cache transformers could keep: every token reads all", name)
        self._continues = self._find_whether_it_continues()
        thread.join(self)

    # -- requests ----------------------------------------------------------------------------

    def open(self, stream: Stream) -> None:
        """Begin a request: find what was read before, prepare the drawing."""
        if self._closed:
            raise BackendError(f"{self.name} was closed", model=self.name)
        with torch.inference_mode():
            stream.draw = Draw(self.model, stream.ids, stream.max_tokens, stream.sampling)
        kept = self.pool.take(stream.ids) if self.cache_name is not None else None
        if kept is not None and (self._continues or len(stream.ids) - len(kept.ids) == 1):
            stream.cache, stream.fed = kept.cache, len(kept.ids)
            stream.reused = stream.fed
        if stream.make_drafter is not None:
            stream.drafter = stream.make_drafter(stream)
        self._streams.append(stream)

    def want(self, stream: Stream, deliver: Callable[[Result], None]) -> None:
        """Somebody waits for the next token of a stream."""
        if stream not in self._streams:
            deliver(BackendError(f"{self.name} was closed", model=self.name))
        elif stream.ready:
            deliver(stream.ready.popleft())
        else:
            stream.wanted = deliver

    def close(self, stream: Stream) -> None:
        """End a request, its text finished or not; what was read is kept."""
        if stream not in self._streams:
            return
        self._streams.remove(stream)
        if self._batch is not None and stream in self._batch.rows:
            self._dissolve()
        if stream.cache is not None:
            record(stream.cache, on=False)
            self.pool.give(Kept(stream.ids[: stream.fed], stream.cache))
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
        waiting = [s for s in self._streams if s.wanted is not None]
        if not waiting:
            return None
        if len(waiting) < self._parallel:
            late = [_GRACE - (now - s.served) for s in self._streams if s.wanted is None]
            if late and (wait := max(late)) > 0:
                return wait
        return 0

    def tick(self) -> None:
        waiting = [s for s in self._streams if s.wanted is not None]
        together = [s for s in waiting if self._may_be_batched(s)][: self._parallel]
        alone = next((s for s in waiting if s not in together), None)
        if alone is not None:
            # To the end of the line: the next pass is another one's.
            self._streams.remove(alone)
            self._streams.append(alone)
            self._guarded([alone], lambda: self._advance(alone))
        if together:
            self._guarded(together, lambda: self._decode(together))

    def _may_be_batched(self, stream: Stream) -> bool:
        if self.cache_name is None or stream.drafter is not None:
            return False
        if stream.unread != 1 or stream.fed == 0:
            return False
        return stream.cache is None or is_mergeable(stream.cache)

    def _guarded(self, streams: list[Stream], work: Callable[[], None]) -> None:
        """Run a pass; its failure is the failure of the streams in it, and of no others."""
        try:
            with torch.inference_mode():
                work()
        except torch.OutOfMemoryError as error:
            # Idle caches go first; then the same texts are read once more, from the beginning.
            self.pool.clear()
            for stream in streams:
                self._forget(stream)
                if stream.short_of_memory:
                    stream.deliver(self._failure(error))
                stream.short_of_memory = True
        except Exception as error:
            for stream in streams:
                # What the cache holds after half a pass is unknown.
                self._forget(stream)
                stream.deliver(self._failure(error))

    def _failure(self, error: Exception) -> BackendError:
        if isinstance(error, BackendError):
            return error
        told = BackendError(f"{self.name} failed: {type(error).__name__}: {error}", model=self.name)
        told.__cause__ = error
        return told

    def _forget(self, stream: Stream) -> None:
        if self._batch is not None and stream in self._batch.rows:
            for row in self._batch.rows:
                row.cache, row.fed = None, 0
            self._batch = None
        stream.cache, stream.fed = None, 0

    def _advance(self, stream: Stream) -> None:
        """One pass for one stream: a piece of its prompt, or its next tokens."""
        if self._batch is not None and stream in self._batch.rows:
            self._dissolve()
        anew = not self._continues and stream.fed > 0 and stream.unread > 1
        if self.cache_name is not None and (stream.cache is None or anew):
            stream.cache, stream.fed, stream.reused = self.new_cache(), 0, 0
        if stream.unread > _CHUNK and self.cache_name is not None and self._continues:
            self._feed(stream, stream.ids[stream.fed : stream.fed + _CHUNK])
            return
        draft = self._draft(stream)
        before = len(stream.ids)
        logits = self._feed(stream, [*stream.ids[stream.fed :], *draft], keep=len(draft) + 1)
        assert stream.draw is not None
        if not draft:
            self._serve([stream], logits)
            return
        tokens = self._accept(stream.draw, logits, draft)
        surplus = len(draft) + 1 - len(tokens)
        stream.ids += tokens
        stream.fed = before + len(tokens) - 1
        # Called without surplus, too: it lets sliding layers forget what they recorded.
        if stream.cache is not None and not crop(stream.cache, surplus):
            stream.cache, stream.fed = None, 0
            self._drop_drafter(stream, f"{self.name} cannot take tokens back")
        stream.ready.extend(Drawn(t, logits[row]) for row, t in enumerate(tokens))
        stream.deliver(stream.ready.popleft())

    def _draft(self, stream: Stream) -> list[int]:
        """Proposed tokens, where the model's cache lets refused ones be taken back."""
        if stream.drafter is None:
            return []
        if stream.cache is not None:
            if stream.fed == 0:
                return []  # whether a cache can be cropped is known once it holds something
            record(stream.cache, on=True)
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

    def _drop_drafter(self, stream: Stream, why: str) -> None:
        if stream.drafter is not None:
            stream.drafter.close()
            stream.drafter = None
            if stream.cache is not None:
                record(stream.cache, on=False)
            _log.warning("nothing more is drafted for %s in this text (%s)", self.name, why)

    def _accept(self, draw: Draw, logits: torch.Tensor, draft: list[int]) -> list[int]:
        """The draft as far as the model draws the same, and its own next token behind it."""
        if not torch.isfinite(logits.max()):
            raise self._no_numbers()
        ahead = torch.tensor([draft], device=logits.device)
        drawn = torch.cat(
            [
                draw.one(logits[row : row + 1], ahead[:, :row]).to(logits.device)
                for row in range(len(draft) + 1)
            ]
        )
        tokens = drawn.tolist()
        agreed = next((i for i, token in enumerate(draft) if tokens[i] != token), len(draft))
        for row in range(agreed + 1):
            draw.append(drawn[row : row + 1])
        return [int(token) for token in tokens[: agreed + 1]]

    def _decode(self, streams: list[Stream]) -> None:
        """One token for every stream, in one pass."""
        if len(streams) == 1 and (self._batch is None or self._batch.rows != streams):
            if streams[0].cache is None:
                self._dissolve()
            self._serve(streams, self._feed(streams[0], streams[0].ids[-1:]))
            return
        if self._batch is None or self._batch.rows != streams:
            self._dissolve()
            self._assemble(streams)
        batch = self._batch
        assert batch is not None
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones((len(streams), 1))], dim=-1)
        logits = self._forward(
            torch.tensor([[s.ids[-1]] for s in streams], device=self.model.device),
            torch.tensor([[s.fed] for s in streams], device=self.model.device),
            batch.cache,
            batch.mask,
        )[:, -1]
        for stream in streams:
            stream.fed += 1
        self._serve(streams, logits)

    def _serve(self, streams: list[Stream], logits: torch.Tensor) -> None:
        logits = logits.float()
        draws = [s.draw for s in streams if s.draw is not None]
        for stream, token, row in zip(streams, pick(logits, draws), logits, strict=True):
            if token is None:
                self._forget(stream)
                stream.deliver(self._no_numbers())
            else:
                stream.ids.append(token)
                stream.deliver(Drawn(token, row))

    def _no_numbers(self) -> BackendError:
        return BackendError(
            f"{self.name} computed logits that are not numbers (NaN or infinite): its weights are "
            f"damaged, or {str(self.model.dtype).removeprefix('torch.')} is too narrow for them "
            "(try dtype='float32' or 'bfloat16')",
            model=self.name,
        )

    def _find_whether_it_continues(self) -> bool:
        """Whether reading a text in two pieces comes to the same as reading it at once.

        Some recurrent models of transformers begin anew with every piece of several tokens and
        only carry their state over single ones. They are asked, not listed.
        """
        if self.cache_name is None:
            return False
        first = self.new_cache()
        if not any(getattr(first, "is_linear", [False])):
            return True
        # The shorter the second piece, the more of it hangs on what came before.
        cut, size = 8, 10
        places = torch.arange(size, device=self.model.device)[None]
        ids = (places + 3) % self.model.config.get_text_config().vocab_size
        with torch.inference_mode():
            at_once = self._forward(ids, places, self.new_cache(), None).float()
            self._forward(ids[:, :cut], places[:, :cut], first, None)
            in_two = self._forward(ids[:, cut:], places[:, cut:], first, None).float()
        self.computed = 0
        rounding = 4 * max(torch.finfo(self.model.dtype).eps, 1e-5)
        if (in_two - at_once).norm() <= rounding * at_once.norm():
            return True
        _log.warning(
            "%s carries its recurrent state over single tokens only: a text that grew by several "
            "is read again from its beginning",
            self.name,
        )
        return False

    # -- passes ------------------------------------------------------------------------------

    def new_cache(self) -> Any:
        """An empty cache for one conversation."""
        return DynamicCache(config=self.model.config)

    def _feed(self, stream: Stream, ids: Sequence[int], keep: int = 1) -> torch.Tensor:
        """Read ``ids``; logits of the last ``keep`` places, shape ``(keep, vocabulary)``."""
        begin = stream.fed
        if self.cache_name is None:
            ids, begin = [*stream.ids[:begin], *ids], 0
        device = self.model.device
        places = torch.arange(begin, begin + len(ids), device=device)[None]
        text = torch.tensor([list(ids)], device=device)
        logits = self._forward(text, places, stream.cache, None, keep)
        stream.fed = begin + len(ids)
        return logits[0].float()

    def _forward(
        self,
        ids: torch.Tensor,
        places: torch.Tensor,
        cache: Any,
        mask: torch.Tensor | None,
        keep: int = 1,
    ) -> torch.Tensor:
        """One pass through the model: logits of shape ``(rows, keep, vocabulary)``."""
        inputs = {
            "attention_mask": mask,
            "position_ids": places,
            "logits_to_keep": keep,
            "use_cache": cache is not None,
        }
        inputs = {name: value for name, value in inputs.items() if name in self._accepts}
        if self.cache_name is not None:
            inputs[self.cache_name] = cache
        self.computed += ids.numel()
        logits: torch.Tensor = self.model(input_ids=ids, **inputs).logits
        return logits[:, -keep:]

    def _assemble(self, streams: list[Stream]) -> None:
        lengths = [s.fed for s in streams]
        cache = merge([s.cache for s in streams], lengths, self.new_cache)
        mask = torch.zeros((len(streams), max(lengths)), dtype=torch.long, device=self.model.device)
        for row, length in zip(mask, lengths, strict=True):
            row[len(row) - length :] = 1
        for stream in streams:
            stream.cache = None
        self._batch = _Batch(list(streams), cache, mask)

    def _dissolve(self) -> None:
        if self._batch is None:
            return
        rows = self._batch.rows
        for row, cache in zip(
            rows, split(self._batch.cache, [s.fed for s in rows], self.new_cache), strict=True
        ):
            row.cache = cache
        self._batch = None
