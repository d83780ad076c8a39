"""Backends that send too much, count wrongly, or send what is no text or no number."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from helpers import ANSWER, CHAIN, OPENED, REASONING, model, router, shown, steps

from glimp_integrations import BackendError, io_loop
from glimp_integrations.backends import ScriptedBackend, Token
from glimp_integrations.backends.base import Report, Request
from glimp_integrations.backends.scripted import uniform
from glimp_integrations.method.tokens import count_of
from glimp_integrations.runtime.arrivals import Arrivals
from glimp_integrations.runtime.counters import Counters

STRATEGIES = ["two_request", "fused", "overlap"]
NAN, INF = math.nan, math.inf


def like(kind: type[ScriptedBackend], **options: object) -> ScriptedBackend:
    return kind(CHAIN, generation_prompt=OPENED, **options)


class Unlimited(ScriptedBackend):
    """Ignores max_tokens: writes to the end of its text."""

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        async for token in super().generate(replace(request, max_tokens=10_000), report):
            yield token


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("limits", [{}, {"max_step_tokens": 2}, {"max_thinking_tokens": 4}])
@pytest.mark.parametrize("role", ["small", "large"])
def test_a_backend_that_ignores_max_tokens(role, limits, strategy):
    sound = router(strategy=strategy, **limits).run("?")
    result = router(**{role: like(Unlimited)}, strategy=strategy, **limits).run("?")
    assert (result.reasoning, result.answer) == (sound.reasoning, sound.answer)
    names = ("author", "text", "end", "entropy", "tokens")
    assert steps(result, *names) == steps(sound, *names)
    assert result.trace.stop_reason == sound.trace.stop_reason
    assert result.trace.answer_stop == sound.trace.answer_stop


class Endless(ScriptedBackend):
    """Never stops, whatever was asked for."""

    piece = "word "
    count = 1
    sent = 0

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        self.requests.append(request)
        for number in itertools.count():
            self.sent += 1
            assert self.sent < 5_000
            text = f"{self.piece}{number} " if self.piece else ""
            yield Token(text, uniform(0.0) if request.logprobs else None, count=self.count)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("piece", ["word ", ""])
@pytest.mark.parametrize("count", [1, 0, -7, 10**9, NAN, None])
def test_a_backend_without_an_end_is_cut(count, piece, strategy):
    small = Endless([], generation_prompt=OPENED)
    small.piece, small.count = piece, count
    result = router(
        small,
        strategy=strategy,
        threshold=1.0,
        max_thinking_tokens=60,
        max_tokens=20,
        answer_by="small",
    ).run("?")
    assert result.trace.stop_reason in ("budget", "repeated_step", "eos")
    assert len(result.reasoning) + len(result.answer) < 2_000
    assert small.sent < 1_000


class Miscounting(ScriptedBackend):
    """Reports totals that cannot be."""

    total: object = None

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        own = Report()
        async for token in super().generate(request, own):
            report.completion_tokens = self.total
            yield token
        report.completion_tokens, report.ended = self.total, own.ended


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("total", [10**9, 10**400, 1e300, INF, NAN, -5, "many", True, [3]])
def test_totals_that_cannot_be_change_no_text(total, strategy):
    models = [like(Miscounting), like(Miscounting)]
    for each in models:
        each.total = total
    result = router(*models, strategy=strategy, max_thinking_tokens=200, max_tokens=100).run("?")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert (result.trace.stop_reason, result.trace.answer_stop) == ("think_end", "eos")
    assert sum(step.tokens for step in result.trace.steps) < len(REASONING + ANSWER) + 40


class TestCounts:
    def test_a_character_of_several_tokens(self):
        arrivals = Arrivals(100)
        arrivals.take(Token("\N{GRINNING FACE}"))
        assert [arrivals.uncounted(total) for total in (1, 3, 5, 6, 1000)] == [0, 2, 4, 4, 4]

    def test_an_end_of_sequence_that_was_not_shown(self):
        arrivals = Arrivals(100)
        for text in ("a", " b", " c"):
            arrivals.take(Token(text))
        assert [arrivals.uncounted(total) for total in (3, 4, 50)] == [0, 1, 1]

    def test_drafted_tokens_that_were_counted_first(self):
        arrivals = Arrivals(5)
        pieces = [Token("a", count=5), *[Token("b", count=0)] * 4, Token("c")]
        taken = [arrivals.take(token) for token in pieces]
        assert [token and token.count for token in taken] == [5, 0, 0, 0, 0, None]
        assert arrivals.overrun

    def test_a_group_counts_as_what_it_can_hold(self):
        arrivals = Arrivals(1000)
        token = arrivals.take(Token("a b c d", multi_token=True, count=10**6))
        assert 7 <= token.count <= 7 + 64

    @pytest.mark.parametrize(
        ("value", "count"),
        [
            *[(3, 3), (3.0, 3), (0, 0), (10**12, 10**12), (-1, None), (NAN, None), (INF, None)],
            *[("3", None), (True, None), (2.5, None), (10**12 + 1, None), (1e300, None)],
        ],
    )
    def test_count_of(self, value, count):
        assert count_of(value) == count

    def test_more_cached_than_read_is_no_negative_number(self):
        counters = Counters()
        counters.add(Report(prompt_tokens=5, cached_tokens=9, completion_tokens=2), 2)
        assert (counters.prefilled, counters.cached) == (0, 5)


class TestHalfCharacters:
    @pytest.mark.parametrize(
        ("pieces", "texts"),
        [
            (["a\ud83d", "\ude00b"], ["a", "\N{GRINNING FACE}b"]),
            (["\ud83d", "\ude00"], ["", "\N{GRINNING FACE}"]),
            (["\ud83d", "", "\ude00"], ["", "", "\N{GRINNING FACE}"]),
            (["a\ud83d", "b"], ["a", "\ufffdb"]),
            (["\ude00b"], ["\ufffdb"]),
            (["\ud83d\ude00"], ["\N{GRINNING FACE}"]),
            (["\ud83d\ud83d", "\ude00"], ["\ufffd", "\N{GRINNING FACE}"]),
        ],
    )
    def test_joined_or_replaced(self, pieces, texts):
        arrivals = Arrivals(100)
        taken = [arrivals.take(Token(piece)) for piece in pieces]
        assert [token.text for token in taken] == texts
        assert taken[0].pending is (pieces[0][-1] == "\ud83d")
        assert not taken[-1].pending and arrivals.rest() is None

    def test_a_half_at_the_end(self):
        arrivals = Arrivals(100)
        assert arrivals.take(Token("a\ud83d")).text == "a"
        assert arrivals.rest().text == "\ufffd"

    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("last", ["\ude00", "z", ""])
    def test_in_a_call(self, last, strategy):
        class Halves(ScriptedBackend):
            async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
                request.prompt.encode()
                found = dict(zip("AB", ("\ud83d", last), strict=True))
                async for token in super().generate(request, report):
                    yield replace(token, text=found.get(token.text, token.text))

        tokens = ["Think.", "</think>", "\n\n", "It is ", "A", "B", "!", ""]

        # The script is found by the text so far, so it has to know what its halves became.
        def follow(text: bytes) -> tuple[bytes, float]:
            for joined in ("\N{GRINNING FACE}", "\ufffdz", "\ufffd"):
                text = text.replace(joined.encode(), b"AB")
            done = itertools.accumulate(tokens, initial="")
            place = next((n for n, t in enumerate(done) if t.encode() == text), len(tokens) - 1)
            return tokens[place].encode(), 0.0

        models = [Halves(follow, generation_prompt=OPENED) for _ in range(2)]
        events = list(router(*models, strategy=strategy).stream("?"))
        wanted = {"\ude00": "\N{GRINNING FACE}", "z": "\ufffdz", "": "\ufffd"}[last]
        assert shown(events).endswith(f"It is {wanted}!")


class Misnumbered(ScriptedBackend):
    """Shows figures of another kind."""

    logprobs: object = None

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        async for token in super().generate(request, report):
            yield replace(token, logprobs=self.logprobs) if token.logprobs else token


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "logprobs",
    [
        (NAN,) * 20,
        (INF,) * 20,
        (1.0,) * 20,
        (0.3, *[-50.0] * 19),
        (710.0, *[-1.0] * 19),
        (10**400, *[-1.0] * 19),
        (None,) * 20,
        ("x",) * 20,
        (-0.1,) * 3,
        7,
    ],
)
def test_what_is_no_log_probability_decides_nothing(logprobs, strategy):
    small = like(Misnumbered)
    small.logprobs = logprobs
    result = router(small, strategy=strategy, on_backend_error="large").run("?")
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert all(step.entropy is None for step in result.trace.steps)
    (told,) = result.trace.errors
    assert told.startswith("small model: ")


@pytest.mark.parametrize("entropy", [NAN, INF, -1.0, "x"])
def test_an_entropy_that_cannot_be_is_an_error(entropy):
    class Measuring(ScriptedBackend):
        async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
            async def measure(estimator: str, k: int) -> float:
                return entropy

            async for token in super().generate(request, report):
                yield replace(token, logprobs=None, entropy_fn=measure)

    with pytest.raises(BackendError, match="small model: "):
        router(like(Measuring)).run("?")


def test_what_is_no_token_is_named():
    class Texts(ScriptedBackend):
        async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
            yield "just a text"

    with pytest.raises(BackendError) as caught:
        router(like(Texts)).run("?")
    assert "yielded 'just a text'" in str(caught.value.__cause__)


def test_the_speed_of_a_backend_without_an_end():
    io_loop.call(lambda: model().capabilities())
    speed = router(Endless([], generation_prompt=OPENED), Endless([])).measure()
    assert speed.small.token >= 0
