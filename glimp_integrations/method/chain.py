"""Who writes the next step: the method of the paper (section 3) as a pure state machine.

Tokens go in, actions come out. There is no I/O, no clock and no randomness here, so a recorded
conversation replays to the same decisions, and every strategy of the engine shares this file.

::

    thinking ──close tag, end of sequence, budget, repetition──> answer ──> done
    chain (models without tags) ──end of sequence, budget, repetition, stop──> done
                                ──answer marker, a call begins──> answer ──> done
                                ──any of these, where the answer has a form──> answer ──> done
    chain ──the small model begins a call, and the large one answers──> chain, the large
            model's step: it calls, or says something else
    answer ──a call begins──> answer, bound to the call's form ──> answer ──> done
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

from glimp_integrations.backends.base import Ended, Token
from glimp_integrations.method.boundaries import Cut, Scanner, Terminator
from glimp_integrations.output.constraints import FREE, Constraint, Plan
from glimp_integrations.settings import RoutingSettings
from glimp_integrations.trace.trace import Author

__all__ = [
    "Action",
    "Author",
    "Chain",
    "Done",
    "Glimpse",
    "Proposal",
    "Step",
    "StepUpdate",
    "StopReason",
    "Write",
]

Phase = Literal["thinking", "chain", "answer", "done"]
StopReason = Literal[
    "think_end", "eos", "budget", "repeated_step", "context_full", "stop", "tool_call", "json"
]
THINK_END = "\0closing tag\0"
"""Stands in the shared text where each model reads its own closing tag."""

# A closing tag and the blank line behind it, generously.
_TAG_TOKENS = 8
StepEnd = Literal[
    "delimiter",
    "think_end",
    "eos",
    "length",
    "stop",
    "context_full",
    "error",
    "tool_call",
    "json",
    "call_proposed",
]

_BEGINS = ("tool_call", "json")
_BROKEN_OFF = ("error", "call_proposed")


@dataclass(frozen=True, slots=True)
class Glimpse:
    """Ask the small model for one token; decide on its entropy."""


@dataclass(frozen=True, slots=True)
class Write:
    """Let ``author`` write the step."""

    author: Author


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more to write."""


Action = Glimpse | Write | Done


@dataclass(slots=True)
class Step:
    """A step being written, and after its end what it came to.

    Attributes:
        entropy: H in nats at the step's start; ``None`` when no glimpse was made.
        text: The exact text, delimiter included, end-of-thinking tag excluded; a call's lead and
            close, which no model wrote, included.
        tokens: Kept tokens.
    """

    index: int
    author: Author
    entropy: float | None
    is_answer: bool
    text: str = ""
    tokens: int = 0
    end: StepEnd | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A call that was begun in a chain without tags; whoever writes the answer decides on it.

    Attributes:
        step: Number of the step in which it was begun.
        decided_in: Number of the step whose author decides.
        trigger: What it began with.
    """

    step: int
    decided_in: int
    trigger: str


@dataclass(frozen=True, slots=True)
class StepUpdate:
    """What a token led to.

    Attributes:
        shown: Text to show.
        step_over: The step ended.
        truncated: Text was dropped behind its end.
        discarded: Tokens that had been taken for it and are dropped.
    """

    shown: str
    step_over: bool
    truncated: bool
    discarded: int = 0


@dataclass(slots=True)
class Chain:
    """One question's chain of thought and answer.

    Args:
        settings: The routing settings.
        think_end_tags: What ends the thinking: those of both models, each of which may end it;
            empty for models that do not think in tags.
        window: Tokens that fit behind the prompt in the smaller of the two contexts;
            ``None``: unknown.
        plan: The form of the answer.
        random_draw: Numbers from 0 to 1, which the random router draws.
    """

    settings: RoutingSettings
    think_end_tags: tuple[str, ...] = ()
    window: int | None = None
    plan: Plan = FREE
    random_draw: Callable[[], float] | None = None
    steps: list[Step] = field(default_factory=list)
    stop_reason: StopReason | None = None
    answer_stop: StopReason | None = None
    forced: Author | None = None
    phase: Phase = field(init=False, default="chain")
    parts: int = 0  # grows where no stream may run on: at a new phase, at a form's ends
    proposals: list[Proposal] = field(default_factory=list)
    _scanner: Scanner = field(init=False)
    _written: list[Step | str] = field(default_factory=list)  # what both models continue
    _constraint: Constraint | None = None  # the form of the running answer
    _prefix: str = ""  # in the running step's text, but not shown yet
    _tokens: int = 0
    _phase_tokens: int = 0
    _separated: bool = False  # a tag or marker stands before the answer
    _blank: bool = True  # nothing of that answer shown yet: skip the white space before it
    _pieces: list[tuple[int, int]] = field(default_factory=list)  # characters, tokens of the step

    def __post_init__(self) -> None:
        self._enter("thinking" if self.think_end_tags else "chain")

    # -- what next ---------------------------------------------------------------------------

    @property
    def action(self) -> Action:
        """What has to happen before the next step is written."""
        if self.phase == "done":
            return Done()
        author = self._author_without_glimpse()
        return Glimpse() if author is None else Write(author)

    def decide(self, entropy: float | None) -> Author:
        """The one decision of the method: ``H > threshold`` is the large model's step.

        ``None`` means the small model ended its sequence without showing a distribution; that
        is nothing the large model was asked to correct.
        """
        if entropy is None:
            return "small"
        share = self.settings.random_share
        if share is not None and self.random_draw is not None:
            return "large" if self.random_draw() < share else "small"
        return "large" if entropy > self.settings.threshold else "small"

    def begin(self, author: Author, entropy: float | None) -> Step:
        """Start the next step."""
        step = Step(len(self.steps), author, entropy, self.phase == "answer")
        self._pieces = []
        if self.phase == "chain":
            proposes = self._proposes(author)
            self._scanner.look_for(self.plan.proposal_trigger if proposes else self.plan.trigger)
        if self._constraint is not None and self._constraint.visible:
            step.text = self._prefix = self._constraint.prefix
        self.steps.append(step)
        self._written.append(step)
        return step

    def decides_call(self, step: int) -> bool:
        """Whether this step is written to decide on a call that the other model began."""
        last = self.proposals[-1] if self.proposals else None
        return last is not None and last.step < last.decided_in == step

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """What the running step has to follow, from its lead on to its end."""
        return None if self._constraint is None else self._constraint.schema

    @property
    def room(self) -> int:
        """Tokens the running phase may still take."""
        return max(0, min(self._budget - self._phase_tokens, self._window_left))

    @property
    def step_room(self) -> int:
        """Tokens the running step may still take."""
        if not self._in_steps:
            return self.room
        used = self.steps[-1].tokens if self.steps and self.steps[-1].end is None else 0
        return min(self.room, self.settings.max_step_tokens - used)

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end the running step."""
        if not self._in_steps:
            return ()
        return (self.settings.step_delimiter, *self._terminators(self.phase))

    def context(self, think_end_tag: str = "") -> str:
        """The text a model continues: all that follows its (opened) generation prompt.

        Args:
            think_end_tag: The model's own closing tag; what the models share is the text around it.
        """
        return "".join(
            part.text if isinstance(part, Step) else think_end_tag if part is THINK_END else part
            for part in self._written
        )

    # -- what happened -----------------------------------------------------------------------

    def take(self, token: Token) -> StepUpdate:
        """A token of the running step's author."""
        step, discarded = self.steps[-1], 0
        cut = self._scanner.feed(token.text, multi_token=token.multi_token)
        proposed = cut.end == "trigger" and self._proposes(step.author)
        self._keep(step, token.text, cut, only_here=proposed)
        self._count(step, token.count)
        self._pieces.append((len(token.text), token.count))
        shown, self._prefix = self._prefix + cut.shown, ""
        if cut.end == "trigger":
            end, discarded = self._begins(step, cut.trigger)
            shown += self._end_step(end, cut.trigger)
        elif cut.end is not None:
            shown += self._end_step(cut.end)
        elif token.text and not token.pending and self.step_room <= 0:
            # Never in the middle of a character: the next author continues text. Nor at an
            # end of sequence, which comes next and is the better reason.
            shown += self._end_step("length")
        # Half a character behind the end is dropped like other surplus: it is not in the text.
        over = step.end is not None
        truncated = cut.truncated or (over and token.pending)
        return StepUpdate(self._trim(step, shown), over, truncated, discarded)

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
        return StepUpdate(self._trim(step, shown), step_over=True, truncated=False)

    def fall_back(self, author: Author, plan: Plan = FREE) -> StepUpdate:
        """The other model failed: ``author`` writes the rest, beginning with a new step.

        Args:
            author: Who goes on.
            plan: As it is for this author.
        """
        self.forced = author
        self.plan = plan
        if not self.steps or self.steps[-1].end is not None:
            return StepUpdate("", step_over=True, truncated=False)
        step = self.steps[-1]
        if self.decides_call(step.index):
            self.proposals[-1] = replace(self.proposals[-1], decided_in=step.index + 1)
        if self._prefix:
            step.text = self._prefix = ""  # nothing was written behind it: the other begins with it
        kept = StepUpdate(
            self._trim(step, self._end_step("error")), step_over=True, truncated=False
        )
        if self._constraint is not None:
            self._constraint = plan.forced or (
                self._constraint if plan.tools else replace(self._constraint, schema=None)
            )
            self._enter("answer")
        return kept

    @property
    def can_change_hands(self) -> bool:
        """Whether another model can go on from here: not from within a bound text."""
        running = self.steps[-1] if self.steps and self.steps[-1].end is None else None
        return self.schema is None or running is None or running.text == self._prefix

    # -- results -----------------------------------------------------------------------------

    @property
    def reasoning(self) -> str:
        """The chain of thought without tags; see :attr:`answer`."""
        return self._split()[0]

    @property
    def answer(self) -> str:
        """The visible reply."""
        return self._split()[1]

    @property
    def undecided(self) -> bool:
        """Whether text of this phase may turn out to be reasoning or answer."""
        settings = self.settings
        last_step = settings.untagged_answer == "last_step"
        may_change = settings.answer_marker is not None or self.plan.forced is not None
        return self.phase == "chain" and (last_step or may_change)

    def kind_of(self, step: Step) -> Literal["reasoning", "answer"]:
        """Whether a finished chain counts ``step`` as reasoning or as answer."""
        if step.is_answer:
            return "answer"
        if self.think_end_tags:
            return "reasoning"
        whole = self.settings.untagged_answer == "whole"
        if self._separated:
            # A call of the model's own accord is a part of the reply, like the words before it.
            called = self.stop_reason == "tool_call" and self.plan.forced is None
            return "answer" if whole and called else "reasoning"
        if whole:
            return "answer"
        spoken = next((s.index for s in reversed(self.steps) if s.text.strip()), 0)
        return "answer" if step.index >= self.first_of(spoken) else "reasoning"

    def first_of(self, step: int) -> int:
        """Where the step begins that this one continues: behind a call that was only proposed."""
        while step and self.steps[step - 1].end == "call_proposed":
            step -= 1
        return step

    def _split(self) -> tuple[str, str]:
        parts: dict[str, list[str]] = {"reasoning": [], "answer": []}
        for step in self.steps:
            parts[self.kind_of(step)].append(step.text)
        answer = "".join(parts["answer"])
        return "".join(parts["reasoning"]), answer.lstrip() if self._separated else answer

    # -- inside ------------------------------------------------------------------------------

    @property
    def _in_steps(self) -> bool:
        if self.phase != "answer":
            return True
        return self.settings.answer_by == "router" and self._constraint is None

    @property
    def _budget(self) -> int:
        settings = self.settings
        if self.phase == "thinking":
            return settings.max_thinking_tokens
        if self.phase == "chain" and settings.answer_marker is None and self.plan.forced is None:
            # The whole reply is the chain, and max_tokens is what a caller bounds a reply with.
            return min(settings.max_thinking_tokens, settings.max_tokens)
        return settings.max_thinking_tokens if self.phase == "chain" else settings.max_tokens

    @property
    def _window_left(self) -> int:
        if self.window is None:
            return self._budget
        left = self.window - self._tokens - _TAG_TOKENS
        if self.phase == "answer":
            return left
        # Thinking must leave the answer its place, as far as that is sensible.
        if self.phase == "chain" and self.plan.forced is None:
            return left
        return left - min(self.settings.max_tokens, self.window // 4)

    def _author_without_glimpse(self) -> Author | None:
        if self.forced is not None:
            return self.forced
        if self.phase == "answer" and self.settings.answer_by != "router":
            return self.settings.answer_by
        if self._constraint is not None:
            return "large"  # a form is written in one piece
        if self.decides_call(len(self.steps)):
            return "large"
        if self.settings.threshold == float("inf"):
            return "small"
        return "large" if self.settings.threshold < 0 else None

    def _proposes(self, author: Author) -> bool:
        """Whether a call that this author begins in the chain is for the other to decide on.

        A call is a part of the answer, and with ``answer_by="router"`` the large model's, too. A
        call that the caller demanded needs no decision.
        """
        return (
            author == "small"
            and self.phase == "chain"
            and self.forced is None
            and self.settings.answer_by != "small"
            and self.plan.forced is None
        )

    def _begins(self, step: Step, trigger: str) -> tuple[StepEnd, int]:
        """A call, or the answer's JSON, begins in ``step``: its end, and tokens it loses."""
        if self.phase != "chain" or self.plan.forced is not None:
            return self.plan.trigger_kind, 0
        if not self._proposes(step.author):
            if not self.decides_call(step.index):
                self.proposals.append(Proposal(step.index, step.index, trigger))
            return "tool_call", 0
        self.proposals.append(Proposal(step.index, step.index + 1, trigger))
        # Pieces that hold nothing of the kept text were written for nothing.
        written, dropped = sum(size for size, _ in self._pieces), 0
        for size, tokens in reversed(self._pieces):
            written -= size
            if written < len(step.text):
                break
            dropped += tokens
        self._count(step, -dropped)
        return "call_proposed", dropped

    def _enter(self, phase: Phase) -> None:
        if phase != self.phase:  # a form that begins or ends inside the answer shares its budget
            self._phase_tokens = 0
        self.phase = phase
        self.parts += 1
        self._separated = self._separated or phase == "answer"
        free = phase == "answer" and self._constraint is None and self.plan.watches_answer
        self._scanner = Scanner(
            self.settings.step_delimiter if self._in_steps else None,
            self._terminators(phase),
            self.plan.trigger if phase == "chain" or free else None,
        )

    def _terminators(self, phase: Phase) -> dict[str, Terminator]:
        if phase == "thinking":
            return dict.fromkeys(self.think_end_tags, "think_end")
        constraint = self._constraint
        if constraint is not None and constraint.schema is not None:
            return {}  # the grammar ends it; a stop string inside would break it
        ends: dict[str, Terminator] = {}
        # Where an answer of a certain form comes later, the chain is no visible reply.
        if phase == "answer" or self.plan.forced is None:
            ends.update(dict.fromkeys(self.settings.stop or (), "stop"))
        if constraint is not None and constraint.stop is not None:
            ends[constraint.stop] = "stop"
        if phase == "chain" and self.settings.answer_marker is not None:
            ends[self.settings.answer_marker] = "think_end"
        return ends

    def _count(self, step: Step, tokens: int) -> None:
        step.tokens += tokens
        self._phase_tokens += tokens
        self._tokens += tokens

    def _keep(self, step: Step, text: str, cut: Cut, *, only_here: bool) -> None:
        """What stays of a piece; ``only_here``: whatever earlier steps hold stays as it is."""
        if cut.kept >= 0:
            step.text += text[: cut.kept]
            return
        # A terminator began in earlier pieces, perhaps in an earlier step.
        surplus = -cut.kept
        if only_here and surplus > len(step.text):
            # It stays open what this is: the one who decides may begin a call behind it.
            self._scanner.hold(cut.trigger[: surplus - len(step.text)])
            step.text = ""
            return
        for earlier in reversed(self.steps):
            drop = min(surplus, len(earlier.text))
            earlier.text = earlier.text[: len(earlier.text) - drop]
            surplus -= drop
            if surplus == 0:
                break

    def _end_step(self, end: StepEnd, trigger: str = "") -> str:
        """Close the running step and move on; returns text to show now."""
        step = self.steps[-1]
        step.end = end
        self._scanner.end_step()
        reason = self._reason_to_stop(end)
        if reason is None:
            return ""
        held = self._scanner.flush()
        if self.phase == "answer":
            return held + self._end_answer(step, reason, trigger)
        self.stop_reason = reason
        if self.phase == "thinking":
            # Closed by force, the tag gets a line of its own, as templates write it.
            seam = "" if end == "think_end" or self.context().endswith("\n") else "\n"
            self._written += [seam, THINK_END, "\n\n"]
            self._enter_answer(self.plan.forced)
        elif end == "think_end":
            self._written.append(self.settings.answer_marker or "")
            self._enter_answer(self.plan.forced)
        elif end in _BEGINS:
            self._enter_answer(self.plan.begun(trigger))
        elif self.plan.forced is not None:
            text = self.context()
            ended = len(text) - len(text.rstrip("\n"))
            self._written.append("\n" * max(0, 2 - ended) if text.strip() else "")
            self._enter_answer(self.plan.forced)
        else:
            self._enter("done")
        return held

    def _enter_answer(self, constraint: Constraint | None) -> None:
        self._constraint = constraint
        if constraint is not None and not constraint.visible:
            self._written.append(constraint.prefix)
        self._enter("answer")

    def _end_answer(self, step: Step, reason: StopReason, trigger: str) -> str:
        """The answer, or a bound part of it, is over; returns the part's close."""
        constraint = self._constraint
        if reason in _BEGINS:
            self._enter_answer(self.plan.begun(trigger))
            return ""
        suffix = ""
        if constraint is not None and constraint.schema is not None and reason == "eos":
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

    def _reason_to_stop(self, end: StepEnd) -> StopReason | None:
        if end in ("think_end", "eos", "stop", "context_full", "tool_call", "json"):
            return end
        if self.room <= 0:
            return "budget" if self._phase_tokens >= self._budget else "context_full"
        # A step that broke off says nothing about what the model would have written.
        return "repeated_step" if end not in _BROKEN_OFF and self._repeats() else None

    def _repeats(self) -> bool:
        """Two equal steps, two steps in turn (A B A B), or nothing but blank lines twice."""
        now = self.steps[-1].is_answer
        steps = (s for s in reversed(self.steps) if s.is_answer == now)
        texts = [*islice((s.text for s in steps if s.end not in _BROKEN_OFF), 4)][::-1]
        if len(texts) >= 2 and texts[-1] == texts[-2]:
            return True
        if len(texts) >= 2 and not texts[-1].strip() and not texts[-2].strip():
            return True
        return len(texts) == 4 and texts[0] == texts[2] and texts[1] == texts[3]

    def _trim(self, step: Step, shown: str) -> str:
        if not (self._blank and self._separated and step.is_answer):
            return shown
        shown = shown.lstrip()
        self._blank = not shown
        return shown
