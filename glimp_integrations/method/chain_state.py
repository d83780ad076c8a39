"""What is known of one question's chain at any moment: its steps, its phase, and what may follow.

Nothing here changes a chain. Its phases begin and end in :mod:`glimp_integrations.method.phases`,
and tokens come into it in :mod:`glimp_integrations.method.chain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from glimp_integrations.method.answer_plan import AnswerPlan, Constraint
from glimp_integrations.method.boundaries import Scanner
from glimp_integrations.method.limits import Limits, LimitSettings
from glimp_integrations.method.policy import AnswerBy, Author, Place, StepStart
from glimp_integrations.method.proposals import ProposedCalls
from glimp_integrations.method.shared_text import SharedText
from glimp_integrations.method.steps import Phase, Proposal, Step, StopReason

__all__ = ["ChainSettings", "ChainState"]


class ChainSettings(LimitSettings, Protocol):
    """The settings that shape a chain; the routing settings have them all."""

    @property
    def step_delimiter(self) -> str: ...
    @property
    def stop(self) -> list[str] | None: ...
    @property
    def answer_by(self) -> AnswerBy: ...
    @property
    def untagged_answer(self) -> Literal["last_step", "whole"]: ...


@dataclass(slots=True)
class ChainState:
    """One question's chain of thought and answer, as it stands.

    Args:
        settings: The routing settings.
        plan: The shape of the answer.
        think_end_tags: What ends the thinking: those of both models, each of which may end it;
            empty for models that do not think in tags.
        think_start_tags: What opens the think block, which is open before the chain begins. One
            that a model writes where the block may be open is not shown.
        window: Tokens that fit after the prompt in the smaller of the two context windows;
            ``None``: unknown.
        forced: The one model that can still write; ``None``: both can.
        forced_reason: Why only that one, in words.
        after_tool: The conversation ends with the result of a tool.

    Attributes:
        stop_reason: Why the reasoning ended.
        answer_stop: Why the answer ended.
        phase: What is being written.
        parts: Incremented whenever an open stream must be closed: a phase, or a constraint,
            begins or ends, so what the model would write on is not wanted.
        separated: A tag or marker stands before the answer.
        closed_by_model: A model wrote a think end tag.
        tags_are_text: And the answer has begun after it: it may speak of think tags.
        text: What both models continue, with all steps.
        limits: What may still be written, in tokens.
        scanner: Finds where steps of this phase, and the phase itself, end.
        constraint: What the running answer has to follow.
        calls: Calls that were begun in a chain without tags.
    """

    settings: ChainSettings
    plan: AnswerPlan
    think_end_tags: tuple[str, ...] = ()
    think_start_tags: tuple[str, ...] = ()
    window: int | None = None
    forced: Author | None = None
    forced_reason: str = "the other model failed"
    after_tool: bool = False
    stop_reason: StopReason | None = field(init=False, default=None)
    answer_stop: StopReason | None = field(init=False, default=None)
    phase: Phase = field(init=False, default="chain")
    parts: int = field(init=False, default=0)
    separated: bool = field(init=False, default=False)
    closed_by_model: bool = field(init=False, default=False)
    tags_are_text: bool = field(init=False, default=False)
    text: SharedText = field(init=False, default_factory=SharedText)
    limits: Limits = field(init=False)
    scanner: Scanner = field(init=False)
    constraint: Constraint | None = field(init=False, default=None)
    calls: ProposedCalls = field(init=False, default_factory=ProposedCalls)

    # -- what was written --------------------------------------------------------------------

    @property
    def steps(self) -> list[Step]:
        """All steps, in order; the last one may be running."""
        return self.text.steps

    @property
    def running(self) -> Step | None:
        """The step that is being written."""
        steps = self.text.steps
        return steps[-1] if steps and steps[-1].end is None else None

    @property
    def proposals(self) -> list[Proposal]:
        """Calls that were proposed."""
        return self.calls.made

    @property
    def tokens(self) -> int:
        """Kept tokens of all steps."""
        return self.limits.total

    def context(self, think_end_tag: str = "") -> str:
        """The text a model continues: all that follows its (opened) generation prompt.

        Args:
            think_end_tag: The model's own; what the models share is the text around it.
        """
        return self.text.read(think_end_tag)

    # -- the step to be written next ---------------------------------------------------------

    @property
    def next_step(self) -> StepStart | None:
        """What is known of the step to be written next; ``None``: the reply is complete."""
        if self.phase == "done":
            return None
        index = len(self.steps)
        return StepStart(
            index=index,
            place=self.place,
            steps=self.steps,
            is_answer=self.phase == "answer",
            constrained=self.constrained,
            decides_call=self.decides_call(index),
            only=self.forced,
            only_reason=self.forced_reason,
            can_close=self.can_close,
        )

    @property
    def place(self) -> Place:
        """Where a step stands that begins now."""
        if self.phase == "answer":
            return "answer"
        if self.steps:
            return "later"
        return "after_tool" if self.after_tool else "first"

    def decides_call(self, step: int) -> bool:
        """Whether this step is written to decide on a call that the other model began."""
        return self.calls.decided_in(step)

    def only_proposes(self, author: Author) -> bool:
        """Whether a call that this author begins in the chain is for the other to decide on.

        A call belongs to the answer. With ``answer_by="router"`` it is the large model's, too. A
        call that the caller demanded needs no decision.
        """
        return (
            author == "small"
            and self.phase == "chain"
            and self.forced is None
            and self.settings.answer_by != "small"
            and self.plan.forced is None
        )

    # -- what may be written -----------------------------------------------------------------

    @property
    def in_steps(self) -> bool:
        """Whether this phase is written in steps, each of which ends at the delimiter."""
        if self.phase != "answer":
            return True
        return self.settings.answer_by == "router" and self.constraint is None

    @property
    def constrained(self) -> bool:
        """Whether what is written has to follow a schema or a call's syntax."""
        return self.constraint is not None

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """What the running step has to follow, from its prefix on to its end."""
        return None if self.constraint is None else self.constraint.schema

    @property
    def can_close(self) -> bool:
        """Whether the thinking may be ended here, and an answer follows."""
        return self.phase == "thinking" or (self.phase == "chain" and self.plan.forced is not None)

    @property
    def room(self) -> int:
        """Tokens the running phase may still take."""
        return self.limits.room

    @property
    def step_room(self) -> int:
        """Tokens the running step may still take."""
        running = self.running
        used = 0 if running is None else running.tokens
        room = self.limits.step_room(used) if self.in_steps else self.room
        # JSON and calls are written to their end, also where no grammar ends them.
        cap = None if running is None or self.constrained else running.cap
        return room if cap is None else min(room, cap - used)
