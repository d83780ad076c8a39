"""Short ways to build what the unit tests need."""

from __future__ import annotations

import dataclasses

from glimp_integrations import (
    Finished,
    GlimpRouter,
    KindResolved,
    RoutedAnswer,
    StepDone,
    TextDelta,
)
from glimp_integrations.backends.scripted import ScriptedBackend, ScriptedToken

OPENED = "<assistant>\n<think>\n"
"""A generation prompt whose template opens the think block itself."""
TAGS = ("<think>", "</think>")


def script(*items: str | tuple[str, float]) -> list[ScriptedToken]:
    """Tokens from texts; a plain text has H = 0."""
    pairs = [(item, 0.0) if isinstance(item, str) else item for item in items]
    return [(text.encode(), entropy) for text, entropy in pairs]


# Both models agree on every word, so only the routing decides who writes it.
CHAIN = script(
    ("Let me think", 0.2),
    "\n\n",
    ("2 + 2", 2.0),
    " = 4",
    ".\n\n",
    ("Done.", 0.3),
    "\n",
    "</think>",
    "\n\n",
    "The answer is 4.",
    "",
)
REASONING = "Let me think\n\n2 + 2 = 4.\n\nDone.\n"
ANSWER = "The answer is 4."


def model(tokens: list[ScriptedToken] | None = None, **options: object) -> ScriptedBackend:
    """A model with the given script whose template opens the think block."""
    options.setdefault("generation_prompt", OPENED)
    return ScriptedBackend(CHAIN if tokens is None else tokens, **options)


def router(
    small: ScriptedBackend | None = None, large: ScriptedBackend | None = None, **options: object
) -> GlimpRouter:
    """A greedy router over two scripted models; by default both follow ``CHAIN``.

    It routes every call: by default the machine's speed decides which calls of a router are
    written by the large model alone, to compare.
    """
    options.setdefault("temperature", 0.0)
    options.setdefault("route", "always")
    return GlimpRouter(small or model(name="S"), large or model(name="L"), **options)


def result_of(events: list[object]) -> RoutedAnswer:
    """The result in the last event."""
    assert isinstance(events[-1], Finished)
    return events[-1].result


def shown(events: list[object]) -> str:
    """All text a reader saw, in order."""
    return "".join(e.text for e in events if isinstance(e, TextDelta))


def told(events: list[object], kind: str) -> str:
    """All text said to be of one kind, at once or later."""
    return "".join(
        e.text for e in events if isinstance(e, TextDelta | KindResolved) and e.kind == kind
    )


def steps(result: RoutedAnswer, *names: str) -> list[tuple[object, ...]]:
    """The named fields of every step."""
    return [tuple(getattr(step, name) for name in names) for step in result.trace.steps]


def without_times(event: object) -> object:
    """The event as data, without measured seconds."""
    no_times = {"first_token_seconds": None, "seconds": 0.0}
    if isinstance(event, StepDone):
        return event.record.model_copy(update=no_times)
    if isinstance(event, Finished):
        trace = event.result.trace
        steps = [step.model_copy(update=no_times) for step in trace.steps]
        trace = trace.model_copy(update={"steps": steps, "seconds": 0.0})
        return event.result.model_copy(update={"trace": trace})
    return dataclasses.astuple(event)
