"""The next tokens of texts: of one text, with or without a draft, or of several at once."""

from __future__ import annotations

import logging

import torch

from glimp_integrations.backends.hf.batch import Batch
from glimp_integrations.backends.hf.caches import can_crop, crop, is_mergeable, set_recording
from glimp_integrations.backends.hf.forward import ForwardPass
from glimp_integrations.backends.hf.request import SampledToken, Stream
from glimp_integrations.backends.hf.sampling import pick, sure_rows
from glimp_integrations.errors import BackendError

__all__ = ["Decoder"]

_log = logging.getLogger(__name__)

# Tokens of a prompt in one pass: this bounds memory, and how long other requests and a
# cancellation wait.
_CHUNK = 512


class Decoder:
    """Turns forward passes into tokens, and keeps the batch from one token to the next.

    Every method is one pass at most. Errors of the model are not caught here.

    Args:
        forward: The model's forward passes.
    """

    def __init__(self, forward: ForwardPass) -> None:
        self._forward = forward
        self._batch: Batch | None = None

    def may_be_batched(self, stream: Stream) -> bool:
        """Whether a stream only needs one plain next token, on a cache that can be merged.

        A prompt that is still to be read has another number of new ids than the other rows, and
        so has a draft.
        """
        if self._forward.cache_name is None or stream.drafter is not None:
            return False
        if stream.unread != 1 or stream.read_count == 0:
            return False
        return stream.cache is None or is_mergeable(stream.cache)

    def leave_batch(self, stream: Stream) -> None:
        """Give a stream its own cache back, if it is in the batch; the batch is dissolved."""
        if self._batch is not None and stream in self._batch.rows:
            self._dissolve()

    def forget(self, stream: Stream) -> None:
        """Drop a stream's cache, and those of all streams in the same batch."""
        if self._batch is not None and stream in self._batch.rows:
            self._batch.forget()
            self._batch = None
        stream.forget()

    # -- one stream alone --------------------------------------------------------------------

    def advance(self, stream: Stream) -> None:
        """One pass for one stream: a piece of its prompt, or its next tokens."""
        self.leave_batch(stream)
        has_cache = self._forward.cache_name is not None
        # Such a model cannot add several tokens to a cache, only one: it starts over.
        restart = not self._forward.resumes and stream.read_count > 0 and stream.unread > 1
        if has_cache and (stream.cache is None or restart):
            stream.cache, stream.read_count, stream.reused = self._forward.new_cache(), 0, 0
        if stream.unread > _CHUNK and has_cache and self._forward.resumes:
            begin = stream.read_count
            self._forward.read(stream, stream.ids[begin : begin + _CHUNK])
            return
        draft = self._draft(stream)
        unread = stream.ids[stream.read_count :]
        logits = self._forward.read(stream, [*unread, *draft], keep=len(draft) + 1)
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
                self._drop_drafter(stream, f"{self._forward.name} cannot take tokens back")
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
            _log.warning(
                "nothing more is drafted for %s in this text (%s)", self._forward.name, reason
            )

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
            self._drop_drafter(stream, f"{self._forward.name} cannot take tokens back")
        stream.ready.extend(SampledToken(t, logits[row]) for row, t in enumerate(tokens))
        stream.deliver(stream.ready.popleft())

    # -- streams in a batch ------------------------------------------------------------------

    def decode(self, streams: list[Stream]) -> None:
        """One token for every stream, in one pass."""
        if self._batch is None or self._batch.rows != streams:
            if len(streams) == 1:
                # One stream needs no batch, unless its cache is in one.
                if streams[0].cache is None:
                    self._dissolve()
                self._serve(streams, self._forward.read(streams[0], streams[0].ids[-1:]))
                return
            self._dissolve()
            self._batch = Batch.assemble(streams, self._forward)
        self._serve(streams, self._batch.step(self._forward))

    def _dissolve(self) -> None:
        if self._batch is not None:
            self._batch.dissolve(self._forward)
            self._batch = None

    # -- tokens ------------------------------------------------------------------------------

    def _serve(self, streams: list[Stream], logits: torch.Tensor) -> None:
        """Draw and hand over a token for every stream; logits of ``(streams, vocabulary)``."""
        logits = logits.float()
        samplers = [s.sampler for s in streams if s.sampler is not None]
        tokens = pick(logits, samplers)
        sure: list[bool] | list[None] = [None] * len(streams)
        if any(stream.measured for stream in streams):
            sure = sure_rows(logits)
        for stream, token, row, is_sure in zip(streams, tokens, logits, sure, strict=True):
            if token is None:
                self.forget(stream)
                stream.deliver(self._no_numbers())
            else:
                stream.ids.append(token)
                stream.deliver(SampledToken(token, row, is_sure if stream.measured else None))

    def _no_numbers(self) -> BackendError:
        name, dtype = self._forward.name, str(self._forward.model.dtype).removeprefix("torch.")
        return BackendError(
            f"{name} computed logits that are not numbers (NaN or infinite): its weights are "
            f"damaged, or {dtype} is too narrow for them (try dtype='float32' or 'bfloat16')",
            model=name,
        )
