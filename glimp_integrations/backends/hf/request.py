"""One request, as the model's thread sees it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from glimp_integrations.backends.hf.sampling import Sampler, SamplingOptions

__all__ = ["Drafter", "Result", "SampledToken", "Stream"]


class Drafter(Protocol):
    """Proposes how a text goes on; see :mod:`glimp_integrations.backends.hf.speculative`."""

    def propose(self, ids: list[int]) -> list[int]:
        """Token ids that may follow ``ids``; the list may be empty."""

    def close(self) -> None:
        """Release what the drafter holds, because the text is finished."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A token and the logits it was drawn from, shape ``(vocabulary,)``, still on the device.

    ``sure``: whether the likeliest token had a probability above 0.95; ``None``: nobody asked.
    """

    token: int
    logits: torch.Tensor
    sure: bool | None = None


Result = SampledToken | Exception


@dataclass(slots=True, eq=False)
class Stream:
    """A text that is being continued. Once it is opened, only the model's thread touches it.

    Args:
        ids: The prompt's token ids; generated ones are appended.
        max_tokens: The largest number of tokens to generate.
        options: How tokens are drawn.
        make_drafter: Makes the drafter of this text; ``None``: the model decodes without drafts.
        measured: Whether somebody wants to know how sure its tokens are.

    Attributes:
        read_count: How many of ``ids`` the model has read.
        reused: How many of them it had read before this request.
        cache: Keys and values of the ids read so far; ``None`` while they are part of a batch.
        receiver: Is called with the next token, while somebody waits for it.
        short_of_memory: Whether it has met an out-of-memory error before.
        ready: Accepted tokens of a draft that nobody has asked for yet.
        served_at: When the last token was handed over, on the monotonic clock in seconds.
    """

    ids: list[int]
    max_tokens: int
    options: SamplingOptions
    make_drafter: Callable[[Stream], Drafter | None] | None = None
    measured: bool = False
    read_count: int = 0
    reused: int = 0
    cache: Any = None
    sampler: Sampler | None = None
    drafter: Drafter | None = None
    receiver: Callable[[Result], None] | None = None
    ready: deque[SampledToken] = field(default_factory=deque)
    served_at: float = float("-inf")
    short_of_memory: bool = False

    @property
    def unread(self) -> int:
        """How many ids the model has not read yet."""
        return len(self.ids) - self.read_count

    def deliver(self, result: Result) -> None:
        """Hand the result to the receiver that waits for it, if there is one."""
        receiver, self.receiver = self.receiver, None
        self.served_at = time.monotonic()
        if receiver is not None:
            receiver(result)

    def forget(self) -> None:
        """Drop the cache: the text is read again from its beginning."""
        self.cache, self.read_count = None, 0
