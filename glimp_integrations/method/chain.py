"""One question's chain of thought and answer, as a pure state machine.

Tokens go in; what the next step is, and the text to show, come out. There is no I/O, no clock and
no randomness here, so a recorded conversation replays to the same steps, and every strategy of
the runtime shares this file. Who writes a step is not decided here but in
:mod:`glimp_integrations.method.rule`.

::

    thinking ──think end tag, end of sequence, budget, repetition──> answer ──> done
    chain (models without tags) ──end of sequence, budget, repetition, stop──> done
                                ──answer marker, a call begins──> answer ──> done
                                ──any of these, where the answer is constrained──> answer ──> done
    chain ──the small model begins a call, and the large one answers──> chain, the large
            model's step: it calls, or says something else
    answer ──a call begins──> answer, constrained to the call ──> answer ──> done
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, Protocol

from glimp_integrations.method.answer_plan import AnswerPlan, Constraint
from glimp_integrations.method.boundaries import Cut, Scanner, Terminator
from glimp_integrations.method.limits import Limits, LimitSettings
from glimp_integrations.method.policy import AnswerBy, Author, Place, StepStart
from glimp_integrations.method.repetition import COMPARED, repeats
from glimp_integrations.method.shared_text import SharedText
from glimp_integrations.method.steps import (
    Phase,
    Proposal,
    Step,
    StepEnd,
    StepUpdate,
    StopReason,
)
from glimp_integrations.method.tokens import Ended, Token

__all__ = ["Chain", "ChainSettings"]

# A step that ended like this says nothing about what its author would have written.
_BROKEN_OFF = ("error", "call_proposed")


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
class Chain:
    """One question's chain of thought and answer.

    Args:
        settings: The routing settings.
        plan: The shape of the answer.
        think_end_tags: What ends the thinking: those of both models, each of which may end it;
            empty for models that do not think in tags.
        think_start_tags: What opens the think block, which is open before the chain begins. One
            that a model writes itself is not shown.
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
        proposals: Calls that were proposed.
        separated: A tag or marker stands before the answer.
    """

    settings: ChainSettings
    plan: AnswerPlan
    think_end_tags: tuple[str, ...] = ()
    think_start_tags: tuple[str, ...] = ()
    window: int | None = None
    forced: Author | None = None
    forced_reason: str = "the other model failed"
    after_tool: bool = False
    stop_reason: StopReason | None = None
    answer_stop: StopReason | None = None
    phase: Phase = field(init=False, default="chain")
    parts: int = 0
    proposals: list[Proposal] = field(default_factory=list)
    _limits: Limits = field(init=False)
    _scanner: Scanner = field(init=False)
    _text: SharedText = field(default_factory=SharedText)
    _constraint: Constraint | None = None  # of the running answer
    _prefix: str = ""  # in the running step's text, but not shown yet
    separated: bool = field(init=False, default=False)
    _blank: bool = True  # nothing of that answer shown yet: skip the white space before it
    _proposing: bool = False  # a call that the running step begins is only a proposal
    _pieces: list[tuple[int, int]] = field(default_factory=list)  # its characters and tokens

    def __post_init__(self) -> None:
        self._limits = Limits(self.settings, self.window)
        self._enter("thinking" if self.think_end_tags else "chain")

    # -- what next ---------------------------------------------------------------------------

    @property
    def steps(self) -> list[Step]:
        """All steps, in order; the last one may be running."""
        return self._text.steps

    @property
    def next_step(self) -> StepStart | None:
        """What is known of the step to be written next; ``None``: the reply is complete."""
        if self.phase == "done":
            return None
        index = len(self.steps)
        return StepStart(
            index=index,
            place=self._place,
            steps=self.steps,
            is_answer=self.phase == "answer",
            constrained=self.constrained,
            decides_call=self.decides_call(index),
            only=self.forced,
            only_reason=self.forced_reason,
            can_close=self.can_close,
        )

    def begin(self, author: Author, entropy: float | None, cap: int | None = None) -> Step:
        """Start the next step.

        Args:
            author: Who writes it.
            entropy: H in nats; ``None``: no glimpse was made.
            cap: Tokens that it may take; ``None``: what the settings allow.
        """
        answers = self.phase == "answer"
        step = Step(len(self.steps), author, entropy, answers, place=self._place, cap=cap)
        if self.phase == "chain":
            self._proposing, self._pieces = self._only_proposes(author), []
            plan = self.plan
            self._scanner.look_for(plan.proposal_trigger if self._proposing else plan.trigger)
        else:
            self._proposing = False
        if self._constraint is not None and self._constraint.visible:
            step.text = self._prefix = self._constraint.prefix
        self._text.begin(step)
        return step

    def decides_call(self, step: int) -> bool:
        """Whether this step is written to decide on a call that the other model began."""
        last = self.proposals[-1] if self.proposals else None
        return last is not None and last.step < last.decided_in == step

    @property
    def constrained(self) -> bool:
        """Whether what is written has to follow a schema or a call's syntax."""
        return self._constraint is not None

    @property
    def can_close(self) -> bool:
        """Whether the thinking may be ended here, and an answer follows."""
        return self.phase == "thinking" or (self.phase == "chain" and self.plan.forced is not None)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """What the running step has to follow, from its prefix on to its end."""
        return None if self._constraint is None else self._constraint.schema

    @property
    def tokens(self) -> int:
        """Kept tokens of all steps."""
        return self._limits.total

    @property
    def room(self) -> int:
        """Tokens the running phase may still take."""
        return self._limits.room

    @property
    def step_room(self) -> int:
        """Tokens the running step may still take."""
        running = self._running
        used = 0 if running is None else running.tokens
        room = self._limits.step_room(used) if self._in_steps else self.room
        # JSON and calls are written to their end, also where no grammar ends them.
        cap = None if running is None or self.constrained else running.cap
        return room if cap is None else min(room, cap - used)

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end the running step."""
        if not self._in_steps:
            return ()
        return (self.settings.step_delimiter, *self._terminators(self.phase))

    def context(self, think_end_tag: str = "") -> str:
        """The text a model continues: all that follows its (opened) generation prompt.

        Args:
            think_end_tag: The model's own; what the models share is the text around it.
        """
        return self._text.read(think_end_tag)

    # -- what happened -----------------------------------------------------------------------

    def take(self, token: Token) -> StepUpdate:
        """Take a token of the running step's author."""
        step, discarded = self.steps[-1], 0
        cut = self._scanner.feed(token.text, multi_token=token.multi_token)
        self._keep(step, token.text, cut)
        self._count(step, token.count)
        step.measure(token)
        if self._proposing:
            self._pieces.append((len(token.text), token.count))
        shown, self._prefix = self._prefix + cut.shown, ""
        if cut.end == "trigger":
            end, discarded = self._end_at_trigger(step, cut.trigger)
            shown += self._end_step(end, cut.trigger)
        elif cut.end is not None:
            shown += self._end_step(cut.end, cut.trigger)
        elif token.text and not token.pending and self.step_room <= 0:
            # A step is never cut in the middle of a character, because the next author continues
            # text, not bytes. Nor at an end of sequence (which has no text): that comes next, and
            # is the better reason.
            shown += self._end_step("length")
        over = step.end is not None
        # Half a character after the end is dropped like other surplus: it is not in the text.
        truncated = cut.truncated or (over and token.pending)
        return StepUpdate(self._without_leading_blanks(step, shown), over, truncated, discarded)

    def ended(self, how: Ended, uncounted: int = 0) -> StepUpdate:
        """The author's output is over, inside the running step.

        Args:
            how: Why.
            uncounted: Tokens of the step beyond those that were taken one by one.
        """
        step = self.steps[-1]
        self._count(step, uncounted)
        prefix, self._prefix = self._prefix, ""
        shown = prefix + self._end_step("context_full" if how == "context" else how)
        shown = self._without_leading_blanks(step, shown)
        return StepUpdate(shown, step_over=True, truncated=False)

    def close_thinking(self, reason: StopReason) -> str:
        """End the chain of thought, in a step or between two; the answer is next.

        Returns:
            Text to show now.
        """
        if (step := self._running) is not None:
            step.end = "deadline" if reason == "deadline" else "max_cost"
        held_back = self._scanner.flush()
        self.stop_reason = reason
        self._enter_answer_after_chain(by_model=False)
        return held_back

    def stop_here(self, reason: StopReason) -> StepUpdate:
        """End the reply where it is, in a step or between two."""
        step = self._running
        prefix, self._prefix = self._prefix, ""
        if step is not None:
            step.end = "deadline" if reason == "deadline" else "max_cost"
        held_back = "" if self.phase == "done" else self._scanner.flush()
        if self.phase == "answer":
            self.answer_stop = reason
        else:
            self.stop_reason = reason
        self._constraint = None
        self._enter("done")
        shown = prefix + held_back
        if step is not None:
            shown = self._without_leading_blanks(step, shown)
        return StepUpdate(shown, step_over=True, truncated=True)

    def fall_back(
        self, author: Author, plan: AnswerPlan, reason: str = "the other model failed"
    ) -> StepUpdate:
        """``author`` writes the rest alone, beginning with a new step.

        Args:
            author: Who goes on.
            plan: The answer's shape where this author writes it.
            reason: Why the other model does not, in words.
        """
        self.forced, self.forced_reason = author, reason
        self.plan = plan
        self._limits.enter(self.phase, answer_follows=plan.forced is not None)
        step = self._running
        if step is None:
            return StepUpdate("", step_over=True, truncated=False)
        if self.decides_call(step.index):
            # The decision is still open, and is made in the step that comes instead.
            self.proposals[-1] = replace(self.proposals[-1], decided_in=step.index + 1)
        if self._prefix:
            step.text = self._prefix = ""  # nothing was written after it: the other begins with it
        shown = self._without_leading_blanks(step, self._end_step("error"))
        if self._constraint is not None:
            # The text that followed the schema is lost; the new author begins the call again,
            # without a schema where its backend cannot follow one.
            self._constraint = plan.forced or (
                self._constraint if plan.has_tools else replace(self._constraint, schema=None)
            )
            self._enter("answer")
        return StepUpdate(shown, step_over=True, truncated=False)

    @property
    def can_change_hands(self) -> bool:
        """Whether another model can go on from here: not from within a constrained text."""
        running = self._running
        return self.schema is None or running is None or running.text == self._prefix

    # -- inside: places ----------------------------------------------------------------------

    @property
    def _place(self) -> Place:
        if self.phase == "answer":
            return "answer"
        if self.steps:
            return "later"
        return "after_tool" if self.after_tool else "first"

    # -- inside: text ------------------------------------------------------------------------

    @property
    def _running(self) -> Step | None:
        return self.steps[-1] if self.steps and self.steps[-1].end is None else None

    @property
    def _in_steps(self) -> bool:
        if self.phase != "answer":
            return True
        return self.settings.answer_by == "router" and self._constraint is None

    def _count(self, step: Step, tokens: int) -> None:
        step.tokens += tokens
        self._limits.count(tokens)

    def _keep(self, step: Step, text: str, cut: Cut) -> None:
        """Add to the step what stays of a piece."""
        if cut.kept >= 0:
            step.text += text[: cut.kept]
            return
        # A terminator began in earlier pieces, perhaps in an earlier step, and goes with them.
        surplus = -cut.kept
        if cut.end == "trigger" and self._proposing and surplus > len(step.text):
            # A proposed call takes nothing from earlier steps, which may be the other model's.
            # What they hold of its beginning stays, and whoever decides may still complete it.
            self._scanner.hold(cut.trigger[: surplus - len(step.text)])
            step.text = ""
            return
        self._text.drop_from_end(surplus)

    def _without_leading_blanks(self, step: Step, shown: str) -> str:
        """Text to show; the white space between a tag or marker and the answer is not shown."""
        if not (self._blank and self.separated and step.is_answer):
            return shown
        shown = shown.lstrip()
        self._blank = not shown
        return shown

    # -- inside: calls that begin in a step --------------------------------------------------

    def _only_proposes(self, author: Author) -> bool:
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

    def _end_at_trigger(self, step: Step, trigger: str) -> tuple[StepEnd, int]:
        """A call, or the answer's JSON, begins in ``step``: its end, and tokens it loses."""
        if self.phase != "chain" or self.plan.forced is not None:
            return self.plan.trigger_kind, 0
        if not self._proposing:
            if not self.decides_call(step.index):
                self.proposals.append(Proposal(step.index, step.index, trigger))
            return "tool_call", 0
        self.proposals.append(Proposal(step.index, step.index + 1, trigger))
        # Pieces of which nothing is kept were written for nothing.
        kept, dropped = sum(characters for characters, _ in self._pieces), 0
        for characters, tokens in reversed(self._pieces):
            kept -= characters
            if kept < len(step.text):
                break
            dropped += tokens
        self._count(step, -dropped)
        return "call_proposed", dropped

    # -- inside: ends ------------------------------------------------------------------------

    def _end_step(self, end: StepEnd, trigger: str = "") -> str:
        """Close the running step and move on; returns text to show now.

        Most ends only end the step. Some end the phase, too, and then the text that the scanner
        held back, because it could have become a terminator, belongs to the reply after all.
        """
        step = self.steps[-1]
        step.end = end
        if end == "think_start":
            self._text.add(trigger)  # whoever wrote it goes on behind it
        self._scanner.end_step()
        reason = self._reason_to_stop(end)
        if reason is None:
            return ""
        held_back = self._scanner.flush()
        if self.phase == "answer":
            return held_back + self._end_answer(step, reason, trigger)
        self.stop_reason = reason
        if self.phase == "thinking":
            self._enter_answer_after_chain(by_model=end == "think_end")
        elif end == "think_end":
            self._text.add(self.settings.answer_marker or "")
            self._enter_answer(self.plan.forced)
        elif end in ("tool_call", "json"):
            self._enter_answer(self.plan.constraint_after(trigger))
        elif self.can_close:
            self._enter_answer_after_chain(by_model=False)
        else:
            self._enter("done")
        return held_back

    def _enter_answer_after_chain(self, *, by_model: bool) -> None:
        if self.phase == "thinking":
            self._text.end_thinking(by_model=by_model)
        else:
            self._text.add(self._blank_line_after_chain())
        self._enter_answer(self.plan.forced)

    def _blank_line_after_chain(self) -> str:
        """The newlines that are missing between a chain without tags and a forced answer."""
        text = self.context()
        line_ends = len(text) - len(text.rstrip("\n"))
        return "\n" * max(0, 2 - line_ends) if text.strip() else ""

    def _reason_to_stop(self, end: StepEnd) -> StopReason | None:
        """Why the phase ends with this step; ``None``: it goes on."""
        if end in ("think_end", "eos", "stop", "context_full", "tool_call", "json"):
            return end
        if self.room <= 0:
            return "budget" if self._limits.budget_is_spent else "context_full"
        return "repeated_step" if end not in _BROKEN_OFF and self._repeats() else None

    def _repeats(self) -> bool:
        is_answer = self.steps[-1].is_answer
        texts = (
            step.text
            for step in reversed(self.steps)
            if step.is_answer == is_answer and step.end not in _BROKEN_OFF
        )
        return repeats([*islice(texts, COMPARED)][::-1])

    def _end_answer(self, step: Step, reason: StopReason, trigger: str) -> str:
        """The answer, or a constrained part of it, is over; returns the part's suffix."""
        constraint = self._constraint
        if reason in ("tool_call", "json"):
            self._enter_answer(self.plan.constraint_after(trigger))
            return ""
        if reason == "think_end":
            stop = self._reason_to_stop("length")
            if stop is None:
                self._text.end_thinking(by_model=True)
                self._enter_answer(None)
                return ""
            reason = stop
        suffix = ""
        if constraint is not None and constraint.schema is not None and reason == "eos":
            # The grammar ended the text: it is complete, and gets its suffix. Unless it has to be
            # the last part, free text or another call may follow, but not the same call again,
            # which small models make without end.
            if constraint.visible:
                suffix = constraint.suffix
                step.text += suffix
            if not constraint.last and any(s.text == step.text for s in self.steps[:-1]):
                reason = "repeated_step"
            elif not constraint.last:
                self._enter_answer(None)
                return suffix
        self.answer_stop = reason
        self._constraint = None
        self._enter("done")
        return suffix

    # -- inside: phases ----------------------------------------------------------------------

    def _enter_answer(self, constraint: Constraint | None) -> None:
        self._constraint = constraint
        if constraint is not None and not constraint.visible:
            self._text.add(constraint.prefix)
        self._enter("answer")

    def _enter(self, phase: Phase) -> None:
        self._limits.enter(phase, answer_follows=self.plan.forced is not None)
        self.phase = phase
        self.parts += 1
        self.separated = self.separated or phase == "answer"
        free = phase == "answer" and self._constraint is None and self.plan.watches_answer
        self._scanner = Scanner(
            self.settings.step_delimiter if self._in_steps else None,
            self._terminators(phase),
            self.plan.trigger if phase == "chain" or free else None,
        )

    @property
    def _think_tags(self) -> dict[str, Terminator]:
        return {
            **dict.fromkeys(self.think_start_tags, "think_start"),
            **dict.fromkeys(self.think_end_tags, "think_end"),
        }

    def _terminators(self, phase: Phase) -> dict[str, Terminator]:
        """Texts that end the phase, and are not part of it."""
        if phase == "thinking":
            return self._think_tags
        constraint = self._constraint
        if constraint is not None and constraint.schema is not None:
            return {}  # the grammar ends it; a stop string inside would break it
        ends: dict[str, Terminator] = {}
        if phase == "answer" and constraint is None:
            # A model whose thinking was closed for it may go on thinking, and close it itself.
            ends.update(self._think_tags)
        # Where a constrained answer comes later, the chain is not the visible reply.
        if phase == "answer" or self.plan.forced is None:
            ends.update(dict.fromkeys(self.settings.stop or (), "stop"))
        if constraint is not None and constraint.stop is not None:
            ends[constraint.stop] = "stop"
        if phase == "chain" and self.settings.answer_marker is not None:
            ends[self.settings.answer_marker] = "think_end"
        return ends
