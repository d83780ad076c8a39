"""Streams that llama.cpp ends itself: the exact text, and no closed connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends import LlamaCppBackend, OpenAIBackend
from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.backends.http.replies import BusySlot
from glimp_integrations.weights import SMALL, ensure

ASKED = "Write three short paragraphs about tea, divided by blank lines."


def written(
    backend: OpenAIBackend, prompt: str, *stop: str, most: int = 60
) -> tuple[list[Token], Report]:
    async def go() -> tuple[list[Token], Report]:
        request, report = Request(prompt, most, stop=stop), Report()
        async with aclosing(backend.generate(request, report)) as tokens:
            return [token async for token in tokens], report

    return io_loop.call(go)


def cut(tokens: list[Token], *stop: str) -> tuple[str, int]:
    """Text and count up to the token that completes one of ``stop``."""
    text, count = "", 0
    for token in tokens:
        text, count = text + token.text, count + token.count
        if any(end in text for end in stop):
            break
    return text, count


def prompt_of(backend: LlamaCppBackend, question: str = ASKED) -> str:
    return io_loop.call(lambda: backend.render([{"role": "user", "content": question}])).text


@pytest.fixture(scope="module")
def whole(small: LlamaCppBackend) -> list[Token]:
    """What the small model writes where nothing stops it."""
    written(small, prompt_of(small), most=1)  # from now on the prompt is in the cache
    return written(small, prompt_of(small), most=24)[0]


@pytest.mark.parametrize("stop", [("\n\n",), (".",), (" tea",), ("e",), ("@@@", " a", "\n\n")])
def test_it_ends_with_the_exact_text(
    small: LlamaCppBackend, whole: list[Token], stop: tuple[str, ...]
) -> None:
    stopped, report = written(small, prompt_of(small), *stop)
    assert ("".join(t.text for t in stopped), sum(t.count for t in stopped)) == cut(whole, *stop)
    assert report.ended == "stop_string"
    assert report.completion_tokens == sum(t.count for t in stopped)
    assert report.prompt_tokens is not None and report.cached_tokens is not None


def test_an_end_of_sequence_and_a_full_budget_are_told_apart(small: LlamaCppBackend) -> None:
    prompt = prompt_of(small, "Say only the word yes.")
    assert written(small, prompt, "\n\n")[1].ended == "eos"
    assert written(small, prompt_of(small), "@@@", most=5)[1].ended == "length"


def test_what_could_begin_a_stop_string_is_not_lost_at_the_limit(small: LlamaCppBackend) -> None:
    prompt = prompt_of(small)
    whole, _ = written(small, prompt, most=6)
    text = "".join(token.text for token in whole)
    stopped, report = written(small, prompt, f"{text[-1]}@@@", most=6)
    assert "".join(token.text for token in stopped) == text
    assert sum(token.count for token in stopped) == 6
    assert report.ended == "length"


@pytest.fixture
def reports(router: GlimpRouter, monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """Reports of all requests of a test."""
    found: list[Report] = []
    for backend in (router.small, router.large):
        plain = backend.generate

        def watched(request: Request, report: Report, plain=plain):  # type: ignore[no-untyped-def]
            found.append(report)
            return plain(request, report)

        monkeypatch.setattr(backend, "generate", watched)
    return found


@pytest.fixture(scope="module")
def forced() -> Iterator[dict[str, LlamaCppBackend]]:
    """The small model, made to write one token only."""
    made = {}
    for text in ("\n\n\n", "\n", ".\n\n", " \n\n\n"):
        plain = LlamaCppBackend(ensure(SMALL), parallel=1, context_window=512)
        ids = io_loop.call(lambda b=plain, t=text: b.tokenize(t))
        assert len(ids) == 1, (text, ids)
        plain.close()
        made[text] = LlamaCppBackend(
            ensure(SMALL),
            parallel=1,
            context_window=512,
            extra_body={"logit_bias": [[ids[0], 1000.0]]},
        )
    yield made
    for backend in made.values():
        backend.close()


@pytest.mark.slow  # four loaded models; the unit tests have the same cases
@pytest.mark.parametrize(
    ("token", "text", "count"),
    [("\n\n\n", "\n\n\n", 1), ("\n", "\n\n", 2), (".\n\n", ".\n\n", 1), (" \n\n\n", " \n\n\n", 1)],
)
def test_nothing_of_the_last_token_is_lost(
    forced: dict[str, LlamaCppBackend], token: str, text: str, count: int
) -> None:
    tokens, report = written(forced[token], "Say it:", "\n\n", most=8)
    assert ("".join(t.text for t in tokens), sum(t.count for t in tokens)) == (text, count)
    assert report.ended == "stop_string"


def test_steps_of_two_request_close_no_stream(router: GlimpRouter, reports: list[Report]) -> None:
    question = "A pen costs 3 dollars, a book 5 more. What do 4 of both cost? Think step by step."
    trace = router.run(question, strategy="two_request", threshold=0.5, max_tokens=96).trace
    assert len(trace.steps) > 2 and {s.author for s in trace.steps} == {"small", "large"}
    # The budget's last token is not waited behind.
    assert [r.ended for r in reports[:-1]].count(None) == 0
    assert [r.ended for r in reports].count("stop_string") >= 2


async def test_a_call_without_a_reader_can_be_cancelled(
    router: GlimpRouter, small: LlamaCppBackend
) -> None:
    question = "Write one long paragraph about tea, of three hundred words."
    options: dict[str, Any] = {"strategy": "two_request", "threshold": 9.0, "max_tokens": 2000}
    call = asyncio.ensure_future(router.arun(question, **options))
    await asyncio.sleep(1.5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    started = time.monotonic()
    while any(
        slot["is_processing"] for slot in io_loop.call(lambda: small.get("/slots", list[BusySlot]))
    ):
        assert time.monotonic() - started < 3, "the server still writes"
    assert "tea" in (await router.arun(question, max_tokens=40)).answer.lower()


def test_a_server_that_hides_the_route_is_closed_instead(
    small: LlamaCppBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glimp_integrations.backends.http.protocols.llamacpp import LlamaCpp

    path = LlamaCpp.path

    def hidden(self, root, ask):  # type: ignore[no-untyped-def]
        address = path(self, root, ask)
        return address.replace("/completion", "/nothing") if address.startswith("http") else address

    monkeypatch.setattr(LlamaCpp, "path", hidden)
    # Another client of the same server, which has not yet found out what the server can do.
    backend = OpenAIBackend(base_url=f"{small.url}/v1", api_key=small._api_key())
    assert io_loop.call(backend.capabilities).supports_stop
    # Other conversations may have taken the prompt's place in the cache. Read anew, in other pieces
    # than before, it gives log-probabilities that differ in the last digits, and its first two
    # tokens are close. So what is compared is written from what is in the cache now.
    written(small, prompt_of(small), most=1)
    begin, count = cut(written(small, prompt_of(small), most=24)[0], ".")
    tokens, report = written(backend, prompt_of(small), ".", most=count + 4)
    assert "".join(t.text for t in tokens).startswith(begin)
    assert (sum(t.count for t in tokens), report.ended) == (count + 4, "length")
    assert not io_loop.call(backend.capabilities).supports_stop
    backend.close()
