"""Tokens are taken, and may be shown, where they are read, and nothing else changes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import suppress

import pytest
from helpers import ANSWER, OPENED, REASONING, model, router, without_times

from glimp_integrations import BackendError, Finished, GlimpError, GlimpRouter, TextDelta, io_loop
from glimp_integrations.backends import ScriptedBackend, Token
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.runtime.call import Call, Events, call_hooks
from glimp_integrations.trace.events import Event

STRATEGIES = ["two_request", "fused", "overlap"]
# What can stand at, across and around an end of a step, of the thinking and of the reply.
PIECES = (
    *(" word", " and", ".", " 12", "{", '"a": 1}', "é", "\N{GRINNING FACE}"),
    *(
        "\n",
        "\n\n",
        ".\n\n",
        "\n\n\n",
        "</think>",
        "</",
        "thi",
        "nk>",
        " ST",
        "OP",
        " STOP",
        " STOP",
        "<",
    ),
)


@pytest.fixture
def seen() -> Iterator[list[Event]]:
    """The events of all calls."""
    events: list[Event] = []

    def hook(call: Call, make: Events) -> Events:
        async def noted() -> AsyncGenerator[Event, None]:
            async for event in make():
                events.append(event)
                yield event

        return noted

    call_hooks.append(hook)
    yield events
    call_hooks.remove(hook)


def by_script(seed: int, strategy: str) -> GlimpRouter:
    """A router whose models, settings and failures follow from a seed."""
    dice = random.Random(seed)
    tokens: list[tuple[bytes, float]] = []
    for _ in range(dice.randrange(3, 60)):
        data = dice.choice(PIECES).encode()
        cut = dice.randrange(len(data)) if not data.isascii() else 0
        parts = [part for part in (data[:cut], data[cut:]) if part]
        tokens += [(part, dice.choice([0.1, 2.0])) for part in parts]
    tokens.append((b"", 0.0))

    def one(name: str) -> ScriptedBackend:
        failing = dice.random() < 0.4
        return model(
            tokens,
            name=name,
            chunk_sizes=[dice.randrange(1, 4) for _ in range(5)],
            fail_after=dice.randrange(1, 30) if failing else None,
            failures=dice.randrange(1, 4),
            retryable=dice.random() < 0.7,
            context_window=dice.choice([None, None, None, 90]),
        )

    return router(
        one("S"),
        one("L"),
        strategy=strategy,
        untagged_answer=dice.choice(["last_step", "whole"]),
        stop=dice.choice([[], ["STOP"]]),
        max_step_tokens=dice.choice([1, 3, 500]),
        max_thinking_tokens=dice.choice([5, 4000]),
        max_tokens=dice.choice([7, 2048]),
        on_backend_error=dice.choice(["raise", "large", "small"]),
        max_retries=dice.choice([0, 2]),
    )


def outcome(one: GlimpRouter, *, streamed: bool) -> tuple[object, ...]:
    """What a call came to, without its times."""
    error: GlimpError | None = None
    try:
        if streamed:
            *_, last = one.stream("?")
            assert isinstance(last, Finished)
            result = last.result
        else:
            result = one.run("?")
    except GlimpError as raised:
        error, result = raised, raised.partial
    told = None if result is None else result.model_dump()
    if told is not None:
        del told["trace"]["seconds"]
        for step in told["trace"]["steps"]:
            del step["seconds"], step["first_token_seconds"]
    requests = [backend.requests for backend in (one.small, one.large)]
    return told, type(error), str(error), getattr(error, "step", None), requests


def shown(one: GlimpRouter) -> list[object]:
    """The events of a call, without their times."""
    events, told = one.stream("?"), []
    with suppress(GlimpError):
        for event in events:
            told.append(without_times(event))
    return told


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_events_are_the_same_where_a_hook_sees_them_first(strategy, monkeypatch):
    """Without hooks text is shown where it is read; with one, all events pass the loop."""
    monkeypatch.setattr("glimp_integrations.runtime.request_stream.pause", lambda *_, **__: 0.0)
    for seed in range(300):
        directly = shown(by_script(seed, strategy))
        with monkeypatch.context() as patched:
            patched.setattr("glimp_integrations.router.call_hooks", [lambda _, events: events])
            assert directly == shown(by_script(seed, strategy)), f"seed {seed}"


async def delivered(told: list[Event], one: GlimpRouter) -> int:
    """How many events were yielded to a reader who is shown some at once; told are all."""
    yielded = 0
    async for event in one.astream_to(told.append, "?"):
        told.append(event)
        yielded += 1
    return yielded


def test_a_server_on_the_models_loop_gets_each_event_once_and_in_its_place():
    here: list[Event] = []
    yielded = io_loop.call(lambda: delivered(here, router()))
    assert [*map(without_times, here)] == shown(router())
    assert yielded < len(here)


def test_on_another_loop_all_events_are_yielded():
    there: list[Event] = []
    yielded = asyncio.run(delivered(there, router()))
    assert [*map(without_times, there)] == shown(router())
    assert yielded == len(there)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_comes_of_a_call_that_is_streamed(strategy, monkeypatch):
    monkeypatch.setattr("glimp_integrations.runtime.request_stream.pause", lambda *_, **__: 0.0)
    ends = set()
    for seed in range(300):
        taken = outcome(by_script(seed, strategy), streamed=False)
        assert taken == outcome(by_script(seed, strategy), streamed=True), f"seed {seed}"
        ends |= {step["end"] for step in taken[0]["trace"]["steps"]} if taken[0] else {taken[1]}
    assert {"delimiter", "think_end", "eos", "length", "stop", "context_full"} <= ends, ends


def test_text_is_shown_when_its_step_is_over(seen):
    result = router().run("?")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    texts = [event.text for event in seen if isinstance(event, TextDelta)]
    assert "".join(texts) == REASONING + ANSWER
    # What was glimpsed is handed on before the rest is written.
    glimpsed = sum(step.entropy is not None for step in result.trace.steps)
    assert len(texts) <= len(result.trace.steps) + glimpsed
    words = model([(f" w{number}".encode(), 0.0) for number in range(500)] + [(b"", 0.0)])
    seen.clear()
    router(words, words, strategy="fused").run("?")
    assert len([event for event in seen if isinstance(event, TextDelta)]) < 5


class Loud(ScriptedBackend):
    """Changes what its model writes, as a user's own class may."""

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        assert request.take is None
        async for token in super().generate(request, report):
            yield Token(token.text.replace("yes", "YES"), token.logprobs)


def test_a_class_that_looks_at_tokens_gets_all_of_them():
    texts = ["</think>", "\n\n", "yes", ""]
    after = {"".join(texts[:n]): texts[n] for n in range(4)}
    loud = Loud(lambda text: (after[text.decode().lower()].encode(), 0.0), generation_prompt=OPENED)
    assert router(loud, loud).run("?").answer == "YES"


def test_what_was_taken_is_kept_when_a_model_fails(seen):
    with pytest.raises(BackendError) as failed:
        router(large=model(fail_after=2)).run("?")
    assert failed.value.partial is not None
    assert failed.value.partial.reasoning == "Let me think\n\n2 + 2 = 4"


def test_what_was_taken_is_kept_when_the_time_is_over(seen):
    words = [(f" w{number}".encode(), 0.0) for number in range(200)]
    slow = model([*words, (b"", 0.0)], delay=0.02)
    result = router(slow, slow, deadline=0.5, threshold=-1.0).run("?")
    assert "w3" in result.reasoning + result.answer
    shown = "".join(event.text for event in seen if isinstance(event, TextDelta))
    assert shown.split() == [step for s in result.trace.steps for step in s.text.split()]
