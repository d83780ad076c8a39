"""Takes tokens where they are read, between the first of a step and the one that ends it.

Handing a token from where it is read to the loop, and as an event to the caller, takes longer than
reading it. Only the end of a step needs the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from glimp_integrations.method.chain import Chain
from glimp_integrations.method.steps import StepUpdate
from glimp_integrations.method.tokens import Token
from glimp_integrations.runtime.recorder import Recorder

__all__ = ["Taker"]

_QUIET_SECONDS = 1.0


@dataclass(slots=True)
class Taker:
    """Takes the tokens of one step.

    A token that ends the step is handed on. Where nobody is shown text at once, one a second is,
    too: some event tells those who wait that the models are at work.

    Args:
        chain: What is written.
        recorder: Told when the first token is there.
        show: Shows text at once; ``None``: it is kept for :meth:`shown`.
    """

    chain: Chain
    recorder: Recorder
    show: Callable[[str], None] | None = None
    _left: StepUpdate | None = None  # what the token changed that was handed on
    _shown: list[str] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    def take(self, token: Token) -> bool:
        """Take a token, or hand it on."""
        self.recorder.first_token()
        update = self.chain.take(token)
        if update.step_over or (self.show is None and self._was_quiet()):
            self._left = update
            return False
        if self.show is None:
            self._shown.append(update.shown)
        else:
            self.show(update.shown)
        return True

    def update(self) -> StepUpdate | None:
        """What the token that is there changed; ``None``: it was not taken."""
        left, self._left = self._left, None
        return left

    def shown(self) -> str:
        """Text to show of the tokens that were taken since the last time."""
        shown, self._shown = "".join(self._shown), []
        self._since = time.monotonic()
        return shown

    def _was_quiet(self) -> bool:
        return time.monotonic() - self._since > _QUIET_SECONDS
