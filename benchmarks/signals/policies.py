"""What is measured: the signals, the arm of each, and a policy that records all of them at once."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from benchmarks.signals.bounds import Tuned, tuned
from examples.policies.first_tokens import FirstTokens
from examples.policies.margin import Margin
from examples.policies.trigreason import TrigReason
from glimp_integrations.method.policy import Glimpse, StepStart, Write
from glimp_integrations.method.rule import Threshold
from glimp_integrations.trace.trace import Trace

__all__ = ["SIGNALS", "Recording", "Signal", "SmallOnly", "Start", "starts"]

_EXAMPLES = "routed:policy=examples.policies"
_NEVER = 1_000_000  # steps of doubt in a row
_LOOKS_BACK = f"{_EXAMPLES}.trigreason:TrigReason,policy.priming=0"
# The default strategy of two llama.cpp models does not tell how sure the small one was.
_FUSED = "strategy=fused"


@dataclass(frozen=True, slots=True)
class Start:
    """A step's start in a recorded reply: the signals there, by key.

    Attributes:
        index: The step's number in its reply.
        signals: Numbers; ``None``: the signal does not exist there.
    """

    index: int
    signals: Mapping[str, float | None]


@dataclass(frozen=True)
class Recording:
    """Notes every signal at every step, and lets a number decide that has nothing to do with them.

    Signals depend on who wrote the steps before, so the large model gets the share that the
    bounds are chosen for. The number follows from what was seen, as a policy may not draw one.

    Args:
        share: Of steps that go to the large model, 0 to 1.
    """

    share: float = 0.3
    name = "recording"

    def decide(self, start: StepStart) -> Glimpse | Write:
        if start.glimpse is None:
            return Glimpse(tokens=FirstTokens().tokens, probabilities=True)
        signals = {
            "h": _signal(Threshold(), start),
            "margin": _signal(Margin(), start),
            "first_tokens": _signal(FirstTokens(), start),
            "sure": _signal(TrigReason(priming=0, sure=1.0, hesitant=_NEVER), start),
            "doubts": _doubts(start),
        }
        before = start.steps[-1].text if start.steps else ""
        seen = f"{start.index} {before} {start.glimpse.entropies}"
        number = zlib.crc32(seen.encode("utf-8", "replace")) / 2**32
        author = "large" if number < self.share else "small"
        return Write(author, json.dumps(signals), number, self.share)


@dataclass(frozen=True)
class SmallOnly:
    """The small model writes every step that is a policy's to decide; makes no glimpse."""

    name = "small_only"

    def decide(self, start: StepStart) -> Write:
        return Write("small", "nothing decides")


def _signal(policy: Any, start: StepStart) -> float | None:
    decision = policy.decide(start)
    return decision.signal if isinstance(decision, Write) else None


def _doubts(start: StepStart) -> float:
    """How many small steps in a row, up to here, opened with a word of doubt."""

    def fires(count: int) -> bool:
        policy = TrigReason(priming=0, sure=1.0, hesitant=count)
        return policy.decide(start).author == "large"

    return float(sum(1 for _ in takewhile(fires, range(1, len(start.steps) + 1))))


def starts(traces: Sequence[Trace]) -> Iterator[Start]:
    """The recorded step starts of all replies."""
    for trace in traces:
        for step in trace.steps:
            if step.policy == Recording.name:
                yield Start(step.index, json.loads(step.reason))


@dataclass(frozen=True)
class Signal:
    """One way to decide.

    Attributes:
        name: For the table.
        arm: The arm of ``glimp bench`` for a bound; what it is given fires *above* the bound.
        key: Of the recorded signal; ``None``: no bound is chosen.
        sign: -1 where a low value calls the large model.
        primed: The first step is the large model's in any case.
    """

    name: str
    arm: Callable[[float], str]
    key: str | None = None
    sign: int = 1
    primed: bool = False

    def tuned(self, recorded: Sequence[Start], share: float) -> Tuned:
        """Its bound, in the signal's own direction, for a share of the recorded steps."""
        values = [self._value(start) for start in recorded]
        first = sum(start.index == 0 for start in recorded) if self.primed else 0
        return tuned(values, share, first)

    def shown(self, bound: float) -> float:
        """The bound as its policy takes it."""
        return self.sign * bound + 0.0  # no "-0"

    def _value(self, start: Start) -> float | None:
        if self.key is None or (self.primed and start.index == 0):
            return None
        value = start.signals[self.key]
        # Nobody in doubt: no number of steps in doubt is as low as that.
        if value is None or (self.key == "doubts" and not value):
            return None
        return self.sign * value


def _hesitation(bound: float) -> str:
    return f"{_LOOKS_BACK},policy.sure=1.0,policy.hesitant={int(bound // 1) + 1},{_FUSED}"


SIGNALS = (
    Signal("H above a threshold", lambda bound: f"routed@{bound!r}", "h"),
    Signal(
        "margin (top 1 minus top 2) below a bound",
        lambda bound: f"{_EXAMPLES}.margin:Margin,policy.bound={-bound!r}",
        "margin",
        sign=-1,
    ),
    Signal(
        "H over the first 4 tokens",
        lambda bound: f"{_EXAMPLES}.first_tokens:FirstTokens,policy.bound={bound!r}",
        "first_tokens",
    ),
    Signal(
        "over-confidence of the small step before",
        lambda bound: f"{_LOOKS_BACK},policy.hesitant={_NEVER},policy.sure={bound!r},{_FUSED}",
        "sure",
    ),
    Signal("hesitation", _hesitation, "doubts"),
    Signal(
        "priming alone",
        lambda bound: "routed:policy=benchmarks.signals.policies:SmallOnly,first_large_steps=1",
        primed=True,
    ),
    Signal(
        "priming, then H",
        lambda bound: f"routed@{bound!r}:first_large_steps=1",
        "h",
        primed=True,
    ),
)
"""Those with a bound that is chosen, and priming, whose share follows from the task."""
