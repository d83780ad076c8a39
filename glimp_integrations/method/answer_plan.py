"""What a chain has to know of the answer's shape: where it begins, and what constrains it.

:mod:`glimp_integrations.output` makes such plans from tools and JSON schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import regex

__all__ = ["FREE_TEXT", "AnswerPlan", "Constraint"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a constrained answer, or a constrained part of it, consists of.

    When a tool call or the requested JSON begins, the chain switches to the answer with a
    constraint: a prefix the model continues, a JSON schema for the request, and a suffix that is
    appended afterwards. A constrained text has to come from one request: a grammar's state cannot
    be resumed in the middle of a text.

    Attributes:
        prefix: Text before it, which the model continues.
        suffix: Text after it, appended once it is complete.
        schema: The JSON schema it follows; ``None``: the backend cannot constrain text.
        visible: Prefix and suffix belong to the reply (the tags of a call, by which it is
            recognised); otherwise only the model sees them.
        stop: Ends it where there is no schema to do so.
        last: Nothing follows it.
    """

    prefix: str = ""
    suffix: str = ""
    schema: Mapping[str, Any] | None = None
    visible: bool = True
    stop: str | None = None
    last: bool = True


class AnswerPlan(Protocol):
    """How the answer of one conversation is written."""

    @property
    def trigger(self) -> regex.Pattern[str] | None:
        """What begins a call, or the requested JSON, in text that is not constrained yet."""

    @property
    def proposal_trigger(self) -> regex.Pattern[str] | None:
        """As ``trigger``, in the small model's steps of a chain without tags."""

    @property
    def forced(self) -> Constraint | None:
        """What the answer has to be; ``None``: text, and calls where the model begins one."""

    @property
    def has_tools(self) -> bool:
        """Whether there are tools whose calls can be constrained."""

    @property
    def trigger_kind(self) -> Literal["tool_call", "json"]:
        """What a trigger begins."""

    @property
    def watches_answer(self) -> bool:
        """Whether an answer that is written freely has to stop where a call begins."""

    def constraint_after(self, trigger: str) -> Constraint:
        """How the answer goes on after ``trigger`` began a call or JSON."""


class _FreeText:
    """Nothing was asked for but text."""

    trigger = None
    proposal_trigger = None
    forced = None
    has_tools = False
    trigger_kind: Literal["tool_call", "json"] = "json"
    watches_answer = False

    def constraint_after(self, trigger: str) -> Constraint:
        return Constraint(prefix=trigger)


FREE_TEXT: AnswerPlan = _FreeText()
"""Nothing was asked for but text."""
