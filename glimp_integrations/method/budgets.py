"""What one call may take: tokens of the large model, money, time.

A budget is not a wall that a reply runs into. What is left becomes scarce in this order:

1. A part of the budget is kept for the answer. When the rest is spent, the large model writes no
   more of the chain of thought, and the small one writes on.
2. When even the small model's steps would eat into the answer's part (money and time only), the
   thinking is closed, and the answer is written.
3. When nothing is left for the large model, the small one writes on, in the middle of the answer
   if need be.
4. When nothing is left at all, the reply ends where it is.

JSON and tool calls are written to their end, whatever that takes: half of one is of no use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glimp_integrations.method.policy import Author, Spent

__all__ = ["NO_BUDGETS", "Budgets"]

THINKING = 0.75
"""The chain of thought gets this part of a budget, and the answer the rest."""

_LARGE_THINKING = 0.5  # of money and time: the small model needs some to think on
_LARGE_ANSWER = 0.9  # of money: the small model needs some to end what the large one began
_SHORT_ANSWER = 128  # tokens; the large model begins no answer that it could not end
_LEAST = 1e-9
_ENDLESS = 1e9  # tokens; where a price is next to nothing


@dataclass(frozen=True, slots=True)
class Budgets:
    """The budgets of a call.

    Args:
        max_large_tokens: Tokens that the large model may generate; ``None``: no limit.
        max_cost: In the currency of the prices; ``None``: no limit.
        deadline: Seconds from the beginning of the call; ``None``: no limit.
        prices: What a generated token costs, by model.
        answer_tokens: Most tokens of an answer.
    """

    max_large_tokens: int | None = None
    max_cost: float | None = None
    deadline: float | None = None
    prices: tuple[float, float] = (0.0, 0.0)
    answer_tokens: int = 2048

    def over(self, spent: Spent) -> Literal["max_cost", "deadline"] | None:
        """The budget that ends the reply now; ``None``: there is something left."""
        if self.max_cost is not None and (spent.cost or 0.0) >= self.max_cost:
            return "max_cost"
        if self.deadline is not None and spent.seconds >= self.deadline:
            return "deadline"
        return None

    def closing(self, spent: Spent) -> Literal["max_cost", "deadline"] | None:
        """The budget that closes the thinking now; ``None``: there is something left for it."""
        if self.max_cost is not None and (spent.cost or 0.0) >= THINKING * self.max_cost:
            return "max_cost"
        if self.deadline is not None and spent.seconds >= THINKING * self.deadline:
            return "deadline"
        return None

    def spent_for_large(self, spent: Spent, *, is_answer: bool) -> str | None:
        """Why the large model writes no more of the thinking, or of the answer, in words."""
        if not is_answer and (reason := self.spent_for_large(spent, is_answer=True)) is not None:
            return reason  # what it could not end it does not begin
        part = 1.0 if is_answer else THINKING
        limit = self.max_large_tokens
        if limit is not None and spent.large_tokens >= max(1, int(part * limit)):
            return f"max_large_tokens={limit}: {spent.large_tokens} are spent"
        part = _LARGE_ANSWER if is_answer else _LARGE_THINKING
        cost = spent.cost or 0.0
        if self.max_cost is not None:
            needed = self._short_answer * self.prices[1] if is_answer else 0.0
            if part * self.max_cost - cost <= needed:
                return self._scarce("max_cost", f"{cost:.3g} is spent", is_answer=is_answer)
        if self.deadline is not None:
            part = 1.0 if is_answer else _LARGE_THINKING
            token = spent.token_seconds.get("large", 0.0)
            needed = self._short_answer * token if is_answer else 0.0
            if part * self.deadline - spent.seconds <= needed:
                passed = f"{spent.seconds:.2g} s have passed"
                return self._scarce("deadline", passed, is_answer=is_answer)
        return None

    def wall(self, *, can_close: bool, constrained: bool) -> float | None:
        """Seconds from the beginning of the call at which a model is not waited for any longer.

        Args:
            can_close: The thinking may be closed here: what is waited for is not the answer.
            constrained: What is written has to follow a schema, and is written to its end.
        """
        if self.deadline is None or constrained:
            return None
        return THINKING * self.deadline if can_close else self.deadline

    def named(self, budget: Literal["max_cost", "deadline"]) -> str:
        """A budget and its value, in words."""
        if budget == "deadline":
            return f"deadline={self.deadline:g} s"
        return f"max_cost={self.max_cost:g}"

    def _scarce(
        self, budget: Literal["max_cost", "deadline"], taken: str, *, is_answer: bool
    ) -> str:
        kept = "what is left is too little for an answer of the large model"
        return f"{self.named(budget)}: {taken}, {kept if is_answer else 'the rest is kept'}"

    def room(self, author: Author, spent: Spent, *, is_answer: bool) -> int | None:
        """Tokens that a step may take, at least 1; ``None``: no budget limits it."""
        rooms: list[float] = []
        part = 1.0 if is_answer else THINKING
        if author == "large" and self.max_large_tokens is not None:
            rooms.append(part * self.max_large_tokens - spent.large_tokens)
        if author == "large":
            part = _LARGE_ANSWER if is_answer else _LARGE_THINKING
        price = self.prices[author == "large"]
        if self.max_cost is not None and price > 0:
            rooms.append((part * self.max_cost - (spent.cost or 0.0)) / price)
        token = spent.token_seconds.get(author, 0.0)
        if self.deadline is not None and token > 0:
            # An answer is not cut before its time: it may be faster than what came before.
            left = part * self.deadline - spent.seconds
            rooms += [] if is_answer else [left / max(token, _LEAST)]
        return int(max(1.0, min(*rooms, _ENDLESS))) if rooms else None

    @property
    def _short_answer(self) -> int:
        return min(_SHORT_ANSWER, self.answer_tokens)


NO_BUDGETS = Budgets()
