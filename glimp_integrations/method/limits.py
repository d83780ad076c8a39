"""How many tokens may still be written: budgets of the phases, caps of steps, context windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from glimp_integrations.method.steps import Phase

__all__ = ["LimitSettings", "Limits"]

# A think end tag and the blank line after it, generously.
_TAG_TOKENS = 8


class LimitSettings(Protocol):
    """The settings that limit a reply, in tokens."""

    @property
    def max_step_tokens(self) -> int: ...
    @property
    def max_thinking_tokens(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def max_completion_tokens(self) -> int | None: ...
    @property
    def answer_marker(self) -> str | None: ...


@dataclass(slots=True)
class Limits:
    """Counts the tokens of a reply against what it may take.

    Args:
        settings: The limits that the caller set.
        window: Tokens that fit after the prompt in the smaller of the two context windows;
            ``None``: unknown.

    Attributes:
        phase: What is being written.
        answer_follows: A constrained answer comes after the reasoning, so the reasoning is not
            the visible reply.
        total: Kept tokens of all phases.
    """

    settings: LimitSettings
    window: int | None
    phase: Phase = "chain"
    answer_follows: bool = False
    total: int = field(init=False, default=0)
    _in_phase: int = 0
    # How many tokens of all phases there may be at this one's end: the same for all of its tokens,
    # and looked at after each.
    _most: int = field(init=False, default=0)

    def enter(self, phase: Phase, *, answer_follows: bool) -> None:
        """A phase begins. A call that begins or ends inside the answer shares its budget.

        Args:
            phase: What is written now; the same as before where only the next argument changes.
            answer_follows: See the class.
        """
        if phase != self.phase:
            self._in_phase = 0
        self.phase, self.answer_follows = phase, answer_follows
        left = min(self._budget - self._in_phase, self._reply_left, self._window_left)
        self._most = self.total + left

    def count(self, tokens: int) -> None:
        """Count tokens that were kept; a negative number takes some back."""
        self._in_phase += tokens
        self.total += tokens

    @property
    def room(self) -> int:
        """Tokens that this phase may still take."""
        return max(0, self._most - self.total)

    @property
    def budget_is_spent(self) -> bool:
        """Whether a budget of the caller is used up, and not only the context window."""
        return self._in_phase >= self._budget or self._reply_left <= 0

    def step_room(self, used: int) -> int:
        """Tokens that the running step may still take.

        Args:
            used: Tokens that it has.
        """
        return min(self.room, self.settings.max_step_tokens - used)

    @property
    def _budget(self) -> int:
        settings = self.settings
        if self.phase == "thinking":
            return settings.max_thinking_tokens
        if self.phase == "chain" and settings.answer_marker is None and not self.answer_follows:
            # The whole reply is the chain, and max_tokens is what a caller limits a reply with.
            return min(settings.max_thinking_tokens, settings.max_tokens)
        return settings.max_thinking_tokens if self.phase == "chain" else settings.max_tokens

    @property
    def _reply_left(self) -> int:
        """What is left of the limit on reasoning and answer together."""
        limit = self.settings.max_completion_tokens
        if limit is None:
            return self._budget
        left = limit - self.total
        if self.phase == "thinking" or (self.phase == "chain" and self.answer_follows):
            # As much is kept for the answer as it may take at most, or a quarter.
            return left - min(self.settings.max_tokens, max(1, limit // 4))
        return left

    @property
    def _window_left(self) -> int:
        if self.window is None:
            return self._budget
        left = self.window - self.total - _TAG_TOKENS
        if self.phase == "answer":
            return left
        if self.phase == "chain" and not self.answer_follows:
            return left
        # Thinking must leave room for the answer, as far as that is sensible.
        return left - min(self.settings.max_tokens, self.window // 4)
