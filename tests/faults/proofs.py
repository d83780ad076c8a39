"""What every case has to prove."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from glimp_integrations import RoutedAnswer, TextDelta
from glimp_integrations.errors import (
    BackendError,
    ConfigError,
    UnsuitableEndpointError,
)

from .texts import CLOSE, lowered

if TYPE_CHECKING:
    from .cases import Case

__all__ = ["Outcome", "Streamed", "right", "verdict", "written_by"]

_EXPECTED = (BackendError, UnsuitableEndpointError, ConfigError)
# Words that tell a reader what to do.
_REMEDY = re.compile(
    r"\b(raise|check|pass|use|shorten|serve|set|start|restart|wait|try|ask|lower|make|look|name|see"
    r"|change|update|choose|increase|repeat|send|give|remove|continue"
    r"|is the server|is base_url|needs?)\b",
    re.I,
)
# What a caller has to change about the conversation: no other model is asked in its place.
_CALLERS = re.compile(r"context window|no room|shorten|refuses this conversation", re.I)


HEALTHY = "an error of a healthy server"


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        kind: ``"right"``, ``"error"`` (a right error), ``"went on"`` or ``"failed"``.
        failures: What was not as it must be: what, and details.
        seconds: Duration of the first call.
        hung: Whether it had to be given up.
    """

    kind: str
    failures: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    hung: bool = False

    @property
    def blames_healthy(self) -> bool:
        """Whether an error came from a server that did nothing wrong."""
        return any(what == HEALTHY for what, _ in self.failures)

    def fail(self, what: str, details: str = "") -> None:
        """Note a failure."""
        self.kind = "failed"
        self.failures.append((what, details))


@dataclass
class Streamed:
    """The text that a stream has shown."""

    texts: dict[str, str] = field(default_factory=lambda: {"reasoning": "", "answer": ""})
    authors_wrong: str = ""

    def take(self, event: Any) -> None:
        """An event."""
        if isinstance(event, TextDelta):
            assert event.kind is not None, "think tags are given"
            self.texts[event.kind] += event.text
            if not written_by(event.author, event.text):
                self.authors_wrong = f"{event.text!r} by {event.author}"


def verdict(case: Case, result: RoutedAnswer | BaseException | None, streamed: Streamed) -> Outcome:
    """Judge a call; ``None`` stands for one that did not end."""
    if result is None:
        return Outcome("failed", [("no end", f"not within {case.seconds} s")], hung=True)
    if isinstance(result, BaseException):
        return _judge_error(case, result, streamed)
    errors = result.trace.errors
    outcome = Outcome("went on" if errors else "right")
    if problem := right(case, result, changed_hands=bool(errors)):
        outcome.fail("wrong text", problem)
    if errors and case.harmless:
        outcome.fail("a harmless thing counted as an error", errors[0])
    if errors and not (case.fired or case.late):
        outcome.fail(HEALTHY, errors[0])
    if errors and case.repeatable:
        outcome.fail("was not repeated", errors[0])
    for text in errors:
        _judge_message(case, outcome, text, text, needs_role=True)
    _judge_stream(case, outcome, streamed, result)
    return outcome


def _judge_error(case: Case, error: BaseException, streamed: Streamed) -> Outcome:
    outcome = Outcome("error")
    text = str(error)
    shown = f"{type(error).__name__}: {text}"
    if not isinstance(error, _EXPECTED):
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "nowhere"
        outcome.fail(f"raw {type(error).__name__}", f"{shown[:300]} ({place})")
        return outcome
    if not (case.fired or case.late):
        outcome.fail(HEALTHY, shown)
    elif case.harmless:
        outcome.fail("a harmless thing raised", shown)
    if case.repeatable:
        outcome.fail("was not repeated", shown)
    is_callers = isinstance(error, ConfigError) and _CALLERS.search(text) is not None
    if case.deputy is not None and not is_callers:
        outcome.fail(f"did not go on: {type(error).__name__}", shown)
    everything = "".join(traceback.format_exception(error)) + repr(error)
    _judge_message(case, outcome, text, everything, needs_role=not isinstance(error, ConfigError))
    role = getattr(error, "role", None)
    if not isinstance(error, ConfigError) and role not in _failing(case):
        outcome.fail("wrong role", f"{role}: {shown}")
    partial = error.partial
    if partial is None:
        if any(streamed.texts.values()):
            outcome.fail("lost text", f"streamed {streamed.texts}, and no partial")
    elif problem := _beginning(case, partial):
        outcome.fail("partial is not a beginning", problem)
    else:
        _judge_stream(case, outcome, streamed, partial)
    return outcome


def _failing(case: Case) -> set[str]:
    return {role for role, _ in case.fired} | set(case.late)


def _judge_message(
    case: Case, outcome: Outcome, text: str, everything: str, *, needs_role: bool
) -> None:
    failing = _failing(case)
    if case.key in everything:
        outcome.fail("secret", text)
    if not all(c.isprintable() for c in text):
        outcome.fail("control characters", repr(text))
    names = [n for role in failing for n in (case.servers[role].url, f"{role}-model")]
    if not any(name in text for name in names):
        outcome.fail("no URL", text)
    if needs_role and not any(f"{role} model" in text for role in failing):
        outcome.fail("message without a role", text)
    if not _REMEDY.search(text):
        outcome.fail("no remedy", text)


def _judge_stream(case: Case, outcome: Outcome, streamed: Streamed, result: Any) -> None:
    if case.way not in ("stream", "astream"):
        return
    if streamed.authors_wrong:
        outcome.fail("wrong author in the stream", streamed.authors_wrong)
    written = {"reasoning": result.reasoning, "answer": result.answer}
    if streamed.texts != written:
        outcome.fail("streamed text differs", f"{streamed.texts} and {written}")


def right(case: Case, result: RoutedAnswer, *, changed_hands: bool) -> str:
    """What is wrong with a finished answer; empty if nothing is."""
    text = case.text
    if lowered(result.reasoning) != text.reasoning or lowered(result.answer) != text.answer:
        return (
            f"{result.reasoning!r} {result.answer!r} in place of {text.reasoning!r} {text.answer!r}"
        )
    steps = result.trace.steps
    if wrong := [s for s in steps if not written_by(s.author, s.text)]:
        return f"step {wrong[0].index} by {wrong[0].author}: {wrong[0].text!r}"
    authors = tuple(step.author for step in steps)
    if not changed_hands and authors != text.authors:
        return f"written by {authors} in place of {text.authors}"
    return _strays(case)


def _beginning(case: Case, partial: Any) -> str:
    reasoning, answer = lowered(partial.reasoning), lowered(partial.answer)
    whole = reasoning == case.text.reasoning
    begins = case.text.reasoning.startswith(reasoning) and case.text.answer.startswith(answer)
    if not begins or (answer and not whole):
        return f"{partial.reasoning!r} {partial.answer!r} of {case.text.reasoning!r}"
    wrong = [s for s in partial.trace.steps if not written_by(s.author, s.text)]
    if wrong:
        return f"step {wrong[0].index} by {wrong[0].author}: {wrong[0].text!r}"
    return _strays(case)


def _strays(case: Case) -> str:
    strays: Sequence[str] = [s for server in case.servers.values() for s in server.model.strays]
    return f"sent what belongs to no right text: {strays[0]!r}" if strays else ""


def written_by(author: str, text: str) -> bool:
    """Whether this model may have written a text."""
    text = text.replace("<think>", "").replace(CLOSE, "")
    return not any(c.islower() if author == "large" else c.isupper() for c in text)
