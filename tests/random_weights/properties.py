"""What has to hold of every reply, whatever the models write."""

from __future__ import annotations

from collections import Counter
from typing import Any

from glimp_integrations import Finished, GlimpRouter, RoutedAnswer, StepDone, TextDelta, Trace
from glimp_integrations.trace.events import Event, KindResolved, ToolCallDelta, from_dict, to_dict
from random_weights.conversations import Case
from random_weights.pairs import Models

TAGS = ("<think>", "</think>")
EDGE = 0.02
"""Nats; two engines' arithmetic may differ by so much of H."""
_CHARACTER = 4
"""A cap never falls inside a character, which has four tokens at most."""


def answered(models: Models, case: Case, strategy: str, **changes: Any) -> list[Event]:
    """All events of one reply."""
    router = GlimpRouter(*models.pair(case.pair, strategy, thinks=case.thinks, tidy=case.tidy))
    settings = {**case.settings, "strategy": strategy, **changes}
    return list(router.stream(case.messages, case.output, **settings))


def result_of(events: list[Event]) -> RoutedAnswer:
    """The result that a stream ends with."""
    last = events[-1]
    assert isinstance(last, Finished)
    return last.result


def shown(events: list[Event], kind: str) -> str:
    """What a reader of the stream has seen of one kind."""
    return "".join(
        event.text
        for event in events
        if isinstance(event, TextDelta | KindResolved) and event.kind == kind
    )


def check(case: Case, events: list[Event]) -> None:
    """Look at one reply."""
    result = result_of(events)
    trace, usage = result.trace, result.usage
    # The text is the pieces, and nothing else.
    assert shown(events, "reasoning") == result.reasoning
    assert shown(events, "answer") == result.answer
    undecided = "".join(e.text for e in events if isinstance(e, TextDelta) and e.kind is None)
    resolved = "".join(e.text for e in events if isinstance(e, KindResolved))
    if not case.output.tools:
        assert undecided == resolved
    # No tag where the block may be open. Behind one that a model closed, or with thinking switched
    # off, a tag is a text like any other.
    if case.thinks:
        closed = next((s.index for s in trace.steps if s.end == "think_end"), len(trace.steps))
        before = "".join(s.text for s in trace.steps[: closed + 1])
        for tag in TAGS:
            assert tag not in result.reasoning and tag not in before
    # Reasoning and answer partition the steps and their tokens.
    tokens: Counter[str] = Counter()
    of_kind = {"reasoning": "", "answer": ""}
    for step in trace.steps:
        of_kind[step.kind] += step.text
        tokens[step.kind] += step.tokens
    assert of_kind["reasoning"] == result.reasoning
    if not (result.tool_calls or result.invalid_tool_calls):
        assert of_kind["answer"].strip() == result.answer.strip()
    assert tokens["reasoning"] == usage.reasoning_tokens
    # Usage adds up.
    kept = sum(step.tokens for step in trace.steps)
    discarded = sum(step.discarded_tokens for step in trace.steps)
    if case.tidy:
        assert usage.output_tokens == kept + discarded
    else:  # of a character of several tokens, a server shows one
        assert usage.output_tokens >= kept
    assert usage.small.requests + usage.large.requests == trace.requests
    assert usage.cached_tokens <= usage.input_tokens
    _check_limits(case, trace)
    _check_decisions(case, trace)
    _check_records(events, trace)
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    written = len(result.tool_calls) + len(result.invalid_tool_calls)
    assert len({event.index for event in calls}) == written
    assert {call.name for call in result.tool_calls} <= set(case.output.names)


def _check_limits(case: Case, trace: Trace) -> None:
    settings = case.settings
    thought = [s.tokens for s in trace.steps if s.kind == "reasoning"]
    said = [s.tokens for s in trace.steps if s.kind == "answer"]
    assert all(tokens < settings["max_step_tokens"] + _CHARACTER for tokens in thought)
    assert sum(thought) < settings["max_thinking_tokens"] + _CHARACTER
    assert sum(said) < max(settings["max_tokens"], settings["max_thinking_tokens"]) + _CHARACTER


def _check_decisions(case: Case, trace: Trace) -> None:
    threshold = case.settings["threshold"]
    for step in trace.steps:
        if step.entropy is not None:
            assert step.author == ("large" if step.entropy > threshold else "small")
            assert step.threshold == threshold


def _check_records(events: list[Event], trace: Trace) -> None:
    """A trace is read back as it was, and its events tell the same story again."""
    assert Trace.from_json(trace.to_json()) == trace
    assert [from_dict(to_dict(event)) for event in events] == events
    records = [event.record for event in events if isinstance(event, StepDone)]
    assert [(r.index, r.author, r.end) for r in records] == [
        (s.index, s.author, s.end) for s in trace.steps
    ]
    assert trace.to_html() and str(trace)


def story(result: RoutedAnswer) -> list[Any]:
    """What no strategy may change."""
    return [
        [(s.author, s.kind, s.text, s.end, s.tokens) for s in result.trace.steps],
        result.trace.stop_reason,
        result.trace.answer_stop,
        result.reasoning,
        result.answer,
        [(call.name, call.arguments) for call in result.tool_calls],
        [(call.name, call.text) for call in result.invalid_tool_calls],
        [(p.step, p.decided_in, p.called) for p in result.trace.call_proposals],
    ]


def check_all(models: Models, case: Case) -> RoutedAnswer:
    """Ask by every strategy, streamed and not: each reply is sound, and all are the same."""
    first, *others = models.strategies
    events = answered(models, case, first)
    check(case, events)
    result = result_of(events)
    for strategy in others:
        others_events = answered(models, case, strategy)
        check(case, others_events)
        other = result_of(others_events)
        if not (case.tidy or models.keeps_tokens):
            continue  # a text that is sent back is read as other tokens than it was written as
        assert story(other) == story(result), strategy
        for step, same in zip(other.trace.steps, result.trace.steps, strict=True):
            if step.entropy is not None and same.entropy is not None:
                assert abs(step.entropy - same.entropy) <= EDGE
    router = GlimpRouter(*models.pair(case.pair, thinks=case.thinks, tidy=case.tidy))
    at_once = router.run(case.messages, case.output, **case.settings, strategy=first)
    assert story(at_once) == story(result), "not streamed"
    return result
