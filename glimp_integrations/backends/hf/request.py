"""One request, as the model's thread sees it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from glimp_integrations.backends.hf.sampling import Draw, Sampling

__all__ = ["Drafter", "Drawn", "Result", "Stream"]


class Drafter(Protocol):
    """Proposes how a text goes on; see :mod:`glimp_integrations.backends.hf.speculative`."""

    def propose(self, ids: list[int]) -> list[int]:
        """Token ids that may follow ``ids``; the list may be empty."""

    def close(self) -> None:
        """The text is finished."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token and the logits it was drawn from, shape ``(vocabulary,)``, still on the device."""

    token: int
    logits: torch.Tensor


Result = Drawn | Exception


@dataclass(slots=True, eq=False)
class Stream:
    """Text that is being continued. Touched by the model's thread only, once it was opened.

    Args:
        ids: The prompt's token ids; generated ones are appended.
        max_tokens: Tokens to generate at most.
        sampling: How tokens are drawn.
        make_drafter: Makes who proposes tokens, if anybody does.

    Attributes:
        fed: How many of ``ids`` the model has read.
        reused: How many of them it had read before this request.
        cache: Keys and values of the read ones; ``None`` while they lie in a batch.
        wanted: Where the next token goes, while somebody waits for it.
        short_of_memory: It has met an out-of-memory error before.
        ready: Accepted tokens of a draft that nobody asked for yet.
    """

    ids: list[int]
    max_tokens: int
    sampling: Sampling
    make_drafter: Callable[[Stream], Drafter | None] | None = None
    fed: int = 0
    reused: int = 0
    cache: Any = None
    draw: Draw | None = None
    drafter: Drafter | None = None
    wanted: Callable[[Result], None] | None = None
    ready: deque[Drawn] = field(default_factory=deque)
    served: float = float("-inf")
    short_of_memory: bool = False

    @property
    def unread(self) -> int:
        """Ids the model has not read."""
        return len(self.ids) - self.fed

    def deliver(self, result: Result) -> None:
        """Hand over what was waited for."""
        wanted, self.wanted = self.wanted, None
        self.served = time.monotonic()
        if wanted is not None:
            wanted(result)
