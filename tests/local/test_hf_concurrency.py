"""Many requests at once: the same texts, common passes, and one's trouble is nobody else's."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from typing import Any

import pytest
import torch
from tiny import (
    PROMPT,
    Answer,
    Watched,
    agenerate,
    bare,
    encoded,
    generate,
    meddled,
    on_loop,
    passes,
    settled,
    shared,
    tokenizer,
)

from glimp_integrations import BackendError, GlimpRouter
from glimp_integrations.backends.base import Report, Request

KINDS = ["llama", "gemma2", "mamba", "gpt"]
PROMPTS = [
    "so",
    PROMPT,
    "the quick brown fox",
    PROMPT * 3,
    "wait, let me see",
    "is it? yes",
    "a",
    "once upon a time there was a dog. the dog sleeps.\n\n",
]
COUNTS = [30, 12, 25, 30, 7, 30, 18, 30]
CALL_LIMITS = 120.0  # seconds; a busy machine is no failure
"""Seconds after which a test has met a hang."""


@functools.cache
def alone(kind: str) -> list[str]:
    """What bare ``generate`` writes for all prompts."""
    tokens = tokenizer()
    return [
        bare(shared(kind), tokens, encoded(prompt), count)
        for prompt, count in zip(PROMPTS, COUNTS, strict=True)
    ]


async def together(backend: Watched, *requests: tuple[str, int]) -> list[Answer]:
    """All requests at once."""
    work = asyncio.gather(*(agenerate(backend, prompt, count) for prompt, count in requests))
    return await asyncio.wait_for(work, CALL_LIMITS)


def patient(function: Any) -> Any:
    """Run a coroutine function on the project's loop; a hang is a failure."""
    return on_loop(lambda: asyncio.wait_for(function(), CALL_LIMITS))


def stream(backend: Watched, prompt: str = PROMPT, count: int = 400) -> AsyncIterator[Any]:
    return backend.generate(Request(prompt, count), Report())


@pytest.mark.parametrize("kind", KINDS)
class TestTexts:
    def test_tasks_get_what_each_would_get_alone(self, make, kind):
        backend = make(kind)
        for _ in range(2):  # the second time with everything kept
            answers = on_loop(lambda: together(backend, *zip(PROMPTS, COUNTS, strict=True)))
            assert [answer.text for answer in answers] == alone(kind)

    def test_threads_do_too(self, make, kind):
        backend = make(kind)
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(
                lambda request: generate(backend, *request), zip(PROMPTS, COUNTS, strict=True)
            )
        assert [answer.text for answer in answers] == alone(kind)

    def test_so_does_who_comes_while_others_write(self, make, kind):
        backend = make(kind)

        async def staggered() -> list[Answer]:
            tasks = []
            for prompt, count in zip(PROMPTS, COUNTS, strict=True):
                tasks.append(asyncio.create_task(agenerate(backend, prompt, count)))
                await asyncio.sleep(0.006)
            return await asyncio.gather(*tasks)

        assert [answer.text for answer in patient(staggered)] == alone(kind)

    def test_so_do_more_than_fit_into_a_pass(self, make, kind):
        backend = make(kind, parallel=3)
        answers = on_loop(lambda: together(backend, *zip(PROMPTS, COUNTS, strict=True)))
        assert [answer.text for answer in answers] == alone(kind)


class TestBatches:
    @pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3"])
    def test_requests_share_passes(self, make, kind):
        backend = make(kind)
        generate(backend, "so", 1)
        with passes(shared(kind)) as seen:
            on_loop(lambda: together(backend, *((prompt, 30) for prompt in PROMPTS)))
        assert max(seen.rows) == len(PROMPTS)
        assert len(seen) < 30 * len(PROMPTS) / 2

    def test_not_more_than_allowed(self, make):
        backend = make(parallel=3)
        generate(backend, "so", 1)
        with passes(shared()) as seen:
            on_loop(lambda: together(backend, *((prompt, 20) for prompt in PROMPTS)))
        assert max(seen.rows) == 3

    def test_none_where_one_is_allowed(self, make):
        backend = make(parallel=1)
        generate(backend, "so", 1)
        with passes(shared()) as seen:
            on_loop(lambda: together(backend, *((prompt, 10) for prompt in PROMPTS)))
        assert set(seen.rows) == {1}
        assert seen.ids == sum(
            r.prompt_tokens - r.cached_tokens + r.completion_tokens - 1 for r in backend.reports[1:]
        )

    def test_a_rows_cache_is_as_good_as_one_of_its_own(self, make):
        backend = make()
        answers = on_loop(lambda: together(backend, *zip(PROMPTS, COUNTS, strict=True)))
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            with passes(shared()) as seen:
                more = generate(backend, prompt + answer.text, 5)
            ids = encoded(prompt) + encoded(answer.text)
            expected = bare(shared(), tokenizer(), ids, 5)
            if len(ids) == more.report.prompt_tokens:  # read as it was written
                assert more.text == expected
            assert seen.ids <= more.report.prompt_tokens - more.report.cached_tokens + 4

    def test_a_slow_reader_holds_nobody_up(self, make):
        backend = make()

        async def both() -> tuple[str, str]:
            slow: list[str] = []
            async with aclosing(stream(backend, "so", 20)) as tokens:
                slow.append((await anext(tokens)).text)
                slow.append((await anext(tokens)).text)
                # It reads nothing until two others are finished.
                await together(backend, (PROMPT, 30), ("is it? yes", 30))
                async for token in tokens:
                    slow.append(token.text)
            return "".join(slow)

        assert patient(both) == bare(shared(), tokenizer(), encoded("so"), 20)

    def test_a_long_prompt_does_not_keep_a_writer_waiting(self, make):
        backend = make()
        generate(backend, "so", 1)
        sizes: list[int] = []

        async def both() -> None:
            async with aclosing(stream(backend, "so", 60)) as tokens:
                await anext(tokens)
                reading = asyncio.create_task(agenerate(backend, PROMPT * 60, 1))
                with meddled(shared(), lambda ids, _: sizes.append(ids.shape[1])):
                    async for _ in tokens:
                        if reading.done():
                            break
                await reading

        patient(both)
        long = [place for place, size in enumerate(sizes) if size > 400]
        assert len(long) > 2
        # Between pieces of the prompt the writer had its pass.
        assert any(later - earlier > 1 for earlier, later in itertools.pairwise(long))


class TestStopping:
    @pytest.fixture
    def slow(self):
        """Every pass of the shared model takes its time."""
        with meddled(shared(), lambda *_: time.sleep(0.03)):
            yield

    def test_a_cancelled_request_stops_within_a_pass(self, make, slow):
        backend = make()
        generate(backend, "so", 1)

        async def cancelled(seen: Any) -> int:
            task = asyncio.create_task(agenerate(backend, PROMPT, 400))
            while len(seen) < 3:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            before = len(seen)
            await asyncio.sleep(0.15)
            return len(seen) - before

        with passes(shared()) as seen:
            assert on_loop(lambda: cancelled(seen)) <= 1
        assert settled(backend).kept_bytes > 0  # and what it read is kept

    def test_the_others_go_on(self, make, slow):
        backend = make()

        async def one_of_three(seen: Any) -> list[Answer]:
            tasks = [
                asyncio.create_task(agenerate(backend, prompt, count))
                for prompt, count in ((PROMPT, 400), ("so", 12), ("is it? yes", 12))
            ]
            while 3 not in seen.rows:
                await asyncio.sleep(0.005)
            tasks[0].cancel()
            return await asyncio.gather(*tasks[1:])

        with passes(shared()) as seen:
            answers = patient(lambda: one_of_three(seen))
        tokens = tokenizer()
        assert [answer.text for answer in answers] == [
            bare(shared(), tokens, encoded(prompt), 12) for prompt in ("so", "is it? yes")
        ]
        assert seen.rows[-1] < 3

    def test_a_closed_stream_of_the_router_stops_both_models(self, make):
        small, large = make(), make("qwen2", "other")
        router = GlimpRouter(small, large, temperature=0, max_thinking_tokens=400)
        events = router.stream("is it?")
        for _ in range(6):
            next(events)
        events.close()
        before = [settled(model).computed_tokens for model in (small, large)]
        time.sleep(0.05)
        assert [settled(model).computed_tokens for model in (small, large)] == before


class TestClosing:
    def test_a_reader_that_waits_gets_the_error(self, make, own_thread):
        backend = make(name="tiny-one")

        async def closed() -> None:
            task = asyncio.create_task(agenerate(backend, PROMPT, 1900))
            await asyncio.sleep(0.1)
            await backend.aclose()
            with pytest.raises(BackendError, match="tiny-one was closed"):
                await task

        patient(closed)

    def test_a_reader_that_comes_back_later_gets_it_too(self, make, own_thread):
        backend = make(name="tiny-one")

        async def closed() -> None:
            async with aclosing(stream(backend)) as tokens:
                await anext(tokens)
                await backend.aclose()
                await asyncio.sleep(0.05)  # its thread has ended
                with pytest.raises(BackendError, match="tiny-one was closed"):
                    await asyncio.wait_for(anext(tokens), 2)

        patient(closed)

    def test_whoever_begins_meanwhile_gets_an_end(self, make, own_thread):
        backend = make()
        generate(backend, "so", 1)

        async def begun(pauses: int) -> list[Any]:
            tasks = [asyncio.create_task(agenerate(backend, prompt, 3)) for prompt in PROMPTS[:3]]
            for _ in range(pauses):
                await asyncio.sleep(0)
            await backend.aclose()
            work = asyncio.gather(*tasks, return_exceptions=True)
            return await asyncio.wait_for(work, 5)

        for pauses in range(12):
            for result in on_loop(lambda n=pauses: begun(n)):
                assert isinstance(result, Answer | BackendError), result

    def test_it_can_be_used_again(self, make, own_thread):
        backend = make()
        first = generate(backend, PROMPT, 10).text
        backend.close()
        assert backend.kept_bytes == 0
        assert generate(backend, PROMPT, 10).text == first
        backend.close()
        backend.close()
        assert generate(backend, PROMPT, 10).report.cached_tokens == 0

    def test_a_backend_never_used_can_be_closed(self, make):
        make().close()

    def test_the_thread_ends_with_the_last_model(self, make, own_thread):
        first, second = make(), make()
        generate(first, "so", 1)
        generate(second, "so", 1)
        thread = first._engine.runner.thread._thread
        first.close()
        assert thread.is_alive()
        assert generate(second, PROMPT, 3).text
        second.close()
        thread.join(2)
        assert not thread.is_alive()

    def test_routing_with_a_closed_model_opens_it_again(self, make):
        small, large = make(), make("qwen2", "other")
        router = GlimpRouter(small, large, temperature=0, max_thinking_tokens=20, max_tokens=5)
        first = router.run("is it?")
        small.close()
        assert router.run("is it?").reasoning == first.reasoning


class TestOneDevice:
    def test_models_of_a_device_compute_in_turn_on_one_thread(self, make):
        models = make("llama"), make("qwen2", "other"), make("mamba")
        running: list[int] = []
        threads: set[str] = set()
        overlaps: list[int] = []

        def enter(*_: Any) -> None:
            running.append(1)
            overlaps.append(len(running))
            threads.add(threading.current_thread().name)
            time.sleep(0.001)

        def leave(*_: Any) -> None:
            running.pop()

        for model in models:
            generate(model, "so", 1)
        with ExitStack() as stack:
            for weights in (shared("llama"), shared("qwen2", "other"), shared("mamba")):
                stack.callback(weights.register_forward_pre_hook(enter).remove)
                stack.callback(weights.register_forward_hook(leave).remove)

            async def all_of_them() -> None:
                await asyncio.gather(*(agenerate(model, PROMPT, 15) for model in models))

            patient(all_of_them)
        assert set(overlaps) == {1}
        assert threads == {"glimp-cpu"}
        assert len({model._engine.runner.thread for model in models}) == 1

    def test_they_take_turns(self, make):
        first, second = make("llama"), make("qwen2")
        order: list[str] = []
        for model in (first, second):
            generate(model, "so", 1)
        with ExitStack() as stack:
            for name in ("llama", "qwen2"):
                stack.enter_context(meddled(shared(name), lambda *_, n=name: order.append(n)))

            async def both() -> None:
                await asyncio.gather(*(agenerate(model, PROMPT, 30) for model in (first, second)))

            patient(both)
        middle = order[4:-4]
        assert middle.count("llama") > 5 < middle.count("qwen2")
        assert "llama" * 10 not in "".join(middle)  # a reader may be late, though

    def test_a_job_that_fails_takes_nobody_with_it(self, make, own_thread, caplog):
        backend = make()
        first = generate(backend, PROMPT, 5).text

        def fail() -> None:
            raise ZeroDivisionError("a mistake of ours")

        backend._engine.submit(fail)
        assert patient(lambda: agenerate(backend, PROMPT, 5)).text == first
        assert "a mistake of ours" in caplog.text

    def test_nothing_is_computed_while_nobody_asks(self, make, own_thread, monkeypatch):
        backend = make()
        generate(backend, PROMPT, 5)
        runner = settled(backend)._engine.runner
        looks: list[float] = []
        due = runner.due
        monkeypatch.setattr(runner, "due", lambda now: looks.append(now) or due(now))
        time.sleep(0.1)
        assert len(looks) <= 4  # the thread sleeps, once it has looked around

    def test_routed_questions_at_once_are_answered_as_alone(self, make):
        small, large = make(), make("gemma2", "other")
        router = GlimpRouter(
            small,
            large,
            temperature=0,
            route="always",
            threshold=2.5,
            max_thinking_tokens=40,
            max_step_tokens=10,
            max_tokens=8,
        )
        expected = [router.run(question) for question in PROMPTS]

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*(router.arun(question) for question in PROMPTS))

        small.drop_caches()
        large.drop_caches()
        answers = asyncio.run(all_of_them())
        assert [(r.reasoning, r.answer) for r in answers] == [
            (r.reasoning, r.answer) for r in expected
        ]


class TestFailures:
    def test_a_failed_pass_fails_who_was_in_it_and_nobody_else(self, make):
        backend = make(name="tiny-one")
        generate(backend, "so", 1)

        def refuse_long(ids: torch.Tensor, _: Any) -> None:
            if ids.shape[1] > 60:
                raise RuntimeError("boom")

        async def three() -> list[Any]:
            return await asyncio.gather(
                *(agenerate(backend, prompt, 30) for prompt in (PROMPT, PROMPT * 3, "is it? yes")),
                return_exceptions=True,
            )

        with meddled(shared(), refuse_long):
            first, failed, third = patient(three)
        assert isinstance(failed, BackendError)
        assert str(failed) == "tiny-one failed: RuntimeError: boom"
        assert isinstance(failed.__cause__, RuntimeError)
        tokens = tokenizer()
        for prompt, answer in ((PROMPT, first), ("is it? yes", third)):
            assert answer.text == bare(shared(), tokens, encoded(prompt), 30)
        # Nothing is left of the failed pass.
        expected = bare(shared(), tokens, encoded(PROMPT * 3), 10)
        assert generate(backend, PROMPT * 3, 10).text == expected

    def test_a_failed_batch_fails_its_rows_and_later_requests_work(self, make):
        backend = make()
        generate(backend, "so", 1)
        left = [1]

        def refuse_once(ids: torch.Tensor, _: Any) -> None:
            if ids.shape[0] == 2 and left:
                left.pop()
                raise RuntimeError("boom")

        async def two() -> list[Any]:
            return await asyncio.gather(
                *(agenerate(backend, prompt, 30) for prompt in PROMPTS[:2]), return_exceptions=True
            )

        with meddled(shared(), refuse_once):
            errors = patient(two)
            assert all(isinstance(error, BackendError) for error in errors)
            again = patient(two)
        tokens = tokenizer()
        assert [answer.text for answer in again] == [
            bare(shared(), tokens, encoded(prompt), 30) for prompt in PROMPTS[:2]
        ]

    def test_a_failure_keeps_what_was_written(self, make):
        backend = make()
        seen: list[str] = []

        def refuse_later(*_: Any) -> None:
            if len(seen) >= 4:
                raise RuntimeError("boom")

        async def read() -> None:
            async for token in stream(backend):
                seen.append(token.text)

        with meddled(shared(), refuse_later), pytest.raises(BackendError, match="boom"):
            patient(read)
        assert "".join(seen) == bare(shared(), tokenizer(), encoded(PROMPT), len(seen))


class TestMemory:
    def short(self, at: int, times: int = 10**6) -> Any:
        """Every pass from ``at`` on meets the end of memory, ``times`` times."""
        number = 0

        def meddle(*_: Any) -> None:
            nonlocal number
            number += 1
            if at <= number < at + times:
                raise torch.OutOfMemoryError("tried to allocate 2 GiB")

        return meddle

    @pytest.mark.parametrize("at", [1, 2, 9])
    @pytest.mark.parametrize("kind", KINDS[:3])
    def test_short_of_memory_once_drops_caches_and_writes_the_same(self, make, kind, at):
        backend = make(kind)
        generate(backend, "the quick brown fox", 3)
        kept = settled(backend).kept_bytes
        assert kept > 0
        tokens = tokenizer()
        with meddled(shared(kind), self.short(at, times=1)), passes(shared(kind)) as seen:
            answer = generate(backend, PROMPT, 15)
        assert answer.text == bare(shared(kind), tokens, encoded(PROMPT), 15)
        assert seen.ids > answer.report.prompt_tokens + 14  # read once more
        # Of the other text nothing is left.
        assert generate(backend, "the quick brown fox jumps", 1).report.cached_tokens == 0

    def test_a_batch_short_of_memory_once_writes_the_same(self, make):
        backend = make()
        generate(backend, "so", 1)
        left = [1]

        def refuse_once(ids: torch.Tensor, _: Any) -> None:
            if ids.shape[0] > 1 and left:
                left.pop()
                raise torch.OutOfMemoryError("tried to allocate 2 GiB")

        with meddled(shared(), refuse_once):
            answers = on_loop(lambda: together(backend, *zip(PROMPTS, COUNTS, strict=True)))
        assert not left
        assert [answer.text for answer in answers] == alone("llama")

    def test_always_short_of_memory_is_an_error_that_says_so(self, make):
        backend = make(name="tiny-one")
        generate(backend, "so", 1)
        with (
            meddled(shared(), self.short(3)),
            pytest.raises(BackendError, match=r"tiny-one failed: OutOfMemoryError: tried to"),
        ):
            patient(lambda: agenerate(backend, PROMPT, 15))
        assert generate(backend, PROMPT, 5).text  # and is over with the shortage
