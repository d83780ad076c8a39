"""One question's chain of thought and answer, as a pure state machine.

Tokens go in; what the next step is, and the text to show, come out. There is no I/O, no clock and
no randomness here, so a recorded conversation replays to the same steps, and every strategy of
the runtime shares this file. Who writes a step is not decided here but in
:mod:`glimp_integrations.method.rule`; what can be known of a chain is in
:mod:`glimp_integrations.method.chain_state`, and which phase follows which in
:mod:`glimp_integrations.method.phases`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from glimp_integrations.method import phases
from glimp_integrations.method.answer_plan import AnswerPlan
from glimp_integrations.method.boundaries import Cut
from glimp_integrations.method.chain_state import ChainSettings, ChainState
from glimp_integrations.method.limits import Limits
from glimp_integrations.method.policy import Author
from glimp_integrations.method.steps import Step, StepEnd, StepUpdate, StopReason
from glimp_integrations.method.tokens import Ended, Token

__all__ = ["Chain", "ChainSettings"]


@dataclass(slots=True)
class Chain(ChainState):
    """One question's chain of thought and answer, and what happens to it.

    Arguments and attributes are those of
    :class:`~glimp_integrations.method.chain_state.ChainState`.
    """

    _prefix: str = field(init=False, default="")  # in the running step's text, but not shown yet
    # Nothing of an answer after a tag or marker was shown yet: skip the white space before it.
    _blank: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        self.limits = Limits(self.settings, self.window)
        phases.enter(self, "thinking" if self.think_end_tags else "chain")

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end the running step."""
        if not self.in_steps:
            return ()
        return (self.settings.step_delimiter, *phases.terminators(self))

    @property
    def can_change_hands(self) -> bool:
        """Whether another model can go on from here: not from within a constrained text."""
        running = self.running
        return self.schema is None or running is None or running.text == self._prefix

    # -- a step ------------------------------------------------------------------------------

    def begin(self, author: Author, entropy: float | None, cap: int | None = None) -> Step:
        """Start the next step.

        Args:
            author: Who writes it.
            entropy: H in nats; ``None``: no glimpse was made.
            cap: Tokens that it may take; ``None``: what the settings allow.
        """
        answers = self.phase == "answer"
        step = Step(len(self.steps), author, entropy, answers, place=self.place, cap=cap)
        proposes = self.only_proposes(author)
        self.calls.begin_step(awaited=proposes)
        if self.phase == "chain":
            plan = self.plan
            self.scanner.look_for(plan.proposal_trigger if proposes else plan.trigger)
        if self.constraint is not None and self.constraint.visible:
            step.text = self._prefix = self.constraint.prefix
        self.text.begin(step)
        return step

    def take(self, token: Token) -> StepUpdate:
        """Take a token of the running step's author."""
        step, discarded = self.text.steps[-1], 0
        cut = self.scanner.feed(token.text, multi_token=token.multi_token)
        self._keep(step, token.text, cut)
        self._count(step, token.count)
        step.measure(token)
        if self.calls.awaited:
            self.calls.count(len(token.text), token.count)
        shown, self._prefix = self._prefix + cut.shown, ""
        if cut.end == "trigger":
            end, discarded = self._end_at_trigger(step, cut.trigger)
            shown += phases.end_step(self, end, cut.trigger)
        elif cut.end is not None:
            shown += phases.end_step(self, cut.end, cut.trigger)
        elif token.text and not token.pending and self.step_room <= 0:
            # A step is never cut in the middle of a character, because the next author continues
            # text, not bytes. Nor at an end of sequence (which has no text): that comes next, and
            # is the better reason.
            shown += phases.end_step(self, "length")
        over = step.end is not None
        shown = self._without_leading_blanks(step, shown)
        if self.closed_by_model and not (self.tags_are_text or over or self._blank):
            self.tags_are_text = self.scanner.drop(phases.think_tags(self))
        # Half a character after the end is dropped like other surplus: it is not in the text.
        truncated = cut.truncated or (over and token.pending)
        return StepUpdate(shown, over, truncated, discarded)

    def ended(self, how: Ended, uncounted: int = 0) -> StepUpdate:
        """The author's output is over, inside the running step.

        Args:
            how: Why.
            uncounted: Tokens of the step beyond those that were taken one by one.
        """
        step = self.steps[-1]
        self._count(step, uncounted)
        prefix, self._prefix = self._prefix, ""
        end: StepEnd = "context_full" if how == "context" else how
        shown = self._without_leading_blanks(step, prefix + phases.end_step(self, end))
        return StepUpdate(shown, step_over=True, truncated=False)

    # -- what comes from outside: limits of a call, a model's failure ------------------------

    def close_thinking(self, reason: StopReason) -> str:
        """End the chain of thought, in a step or between two; the answer is next.

        Returns:
            Text to show now.
        """
        if (step := self.running) is not None:
            step.end = "deadline" if reason == "deadline" else "max_cost"
        held_back = self.scanner.flush()
        self.stop_reason = reason
        phases.end_reasoning(self, by_model=False)
        return held_back

    def stop_here(self, reason: StopReason) -> StepUpdate:
        """End the reply where it is, in a step or between two."""
        step = self.running
        prefix, self._prefix = self._prefix, ""
        if step is not None:
            step.end = "deadline" if reason == "deadline" else "max_cost"
        held_back = "" if self.phase == "done" else self.scanner.flush()
        if self.phase == "answer":
            self.answer_stop = reason
        else:
            self.stop_reason = reason
        self.constraint = None
        phases.enter(self, "done")
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
        self.limits.enter(self.phase, answer_follows=plan.forced is not None)
        step = self.running
        if step is None:
            return StepUpdate("", step_over=True, truncated=False)
        self.calls.postpone(step.index)
        if self._prefix:
            step.text = self._prefix = ""  # nothing was written after it: the other begins with it
        shown = self._without_leading_blanks(step, phases.end_step(self, "error"))
        if self.constraint is not None:
            # The text that followed the schema is lost; the new author begins the call again,
            # without a schema where its backend cannot follow one.
            self.constraint = plan.forced or (
                self.constraint if plan.has_tools else replace(self.constraint, schema=None)
            )
            phases.enter(self, "answer")
        return StepUpdate(shown, step_over=True, truncated=False)

    # -- inside ------------------------------------------------------------------------------

    def _count(self, step: Step, tokens: int) -> None:
        step.tokens += tokens
        self.limits.count(tokens)

    def _keep(self, step: Step, text: str, cut: Cut) -> None:
        """Add to the step what stays of a piece."""
        if cut.kept >= 0:
            step.text += text[: cut.kept]
            return
        # A terminator began in earlier pieces, perhaps in an earlier step, and goes with them.
        surplus = -cut.kept
        if cut.end == "trigger" and self.calls.awaited and surplus > len(step.text):
            # A proposed call takes nothing from earlier steps, which may be the other model's.
            # What they hold of its beginning stays, and whoever decides may still complete it.
            self.scanner.hold(cut.trigger[: surplus - len(step.text)])
            step.text = ""
            return
        self.text.drop_from_end(surplus)

    def _without_leading_blanks(self, step: Step, shown: str) -> str:
        """Text to show; the white space between a tag or marker and the answer is not shown."""
        if not (self._blank and self.separated and step.is_answer):
            return shown
        shown = shown.lstrip()
        self._blank = not shown
        return shown

    def _end_at_trigger(self, step: Step, trigger: str) -> tuple[StepEnd, int]:
        """A call, or the answer's JSON, begins in ``step``: its end, and tokens it loses."""
        if self.phase != "chain" or self.plan.forced is not None:
            return self.plan.trigger_kind, 0
        if not self.calls.awaited:
            self.calls.decide(step.index, trigger)
            return "tool_call", 0
        dropped = self.calls.propose(step, trigger)
        self._count(step, -dropped)
        return "call_proposed", dropped
