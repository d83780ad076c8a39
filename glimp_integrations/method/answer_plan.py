"""What a chain has to know of the answer's shape: where it begins, and what constrains it.

:mod:`glimp_integrations.output` makes such plans from tools and JSON schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import regex

__all__ = ["AnswerPlan", "Constraint"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer, or a part of it, must look like.

    When a tool call or the requested JSON begins, the chain switches to the answer with a
    constraint: a prefix that the model continues, a JSON schema for the request, and a suffix that
    is appended afterwards. For a tool call of the Hermes family these are the line ``<tool_call>``,
    the schema of ``{"name": ..., "arguments": ...}`` and the line ``</tool_call>``: the tags are
    given, and the grammar covers only the JSON between them.

    A constrained answer must come from one request: a grammar's state cannot be resumed in the
    middle of a text.

    Attributes:
        prefix: Text that is put in front of what the model writes. The model continues it.
        suffix: Text that is appended when what the model wrote is complete.
        schema: JSON schema that the request carries; ``None``: the backend does not support
            schemas, and the model writes freely from the prefix on.
        visible: Whether prefix and suffix belong to the reply, as the tags of a call do: they are
            how the parser finds it. Otherwise only the model sees them.
        stop: Text that ends the constrained part where no grammar can end it.
        last: Whether the reply ends with it; otherwise more text, or another call, may follow.
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
