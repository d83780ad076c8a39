"""One routing loop, whoever calls: scripts, threads, coroutines, running event loops."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers import ANSWER, CHAIN, OPENED, model, result_of, router, without_times

from glimp_integrations import BackendError, Finished, TextDelta, io_loop
from glimp_integrations.backends.scripted import ScriptedBackend

SLOW = 0.02  # seconds a token


def endless(**options: object) -> ScriptedBackend:
    """A small model that never stops by itself."""
    return ScriptedBackend(lambda text: (b"word ", 0.5), delay=SLOW, **options)


async def collect(events) -> list[object]:
    return [event async for event in events]


async def eventually(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


class TestEveryWayIn:
    def test_all_four_give_the_same(self):
        streamed = list(router().stream("?"))
        streamed_async = asyncio.run(collect(router().astream("?")))
        whole = router().run("?")
        whole_async = asyncio.run(router().arun("?"))
        assert len(streamed) > 10
        expected = [without_times(event) for event in streamed]
        assert [without_times(event) for event in streamed_async] == expected
        assert without_times(Finished(whole)) == expected[-1]
        assert without_times(Finished(whole_async)) == expected[-1]

    async def test_sync_calls_inside_a_running_loop(self):
        assert router().run("?").answer == ANSWER
        assert result_of(list(router().stream("?"))).answer == ANSWER

    async def test_many_coroutines(self):
        shared = router()
        results = await asyncio.gather(*(shared.arun(f"question {i}") for i in range(20)))
        assert [result.answer for result in results] == [ANSWER] * 20

    def test_many_threads(self):
        small, large = model(), model()
        shared = router(small, large)
        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(shared.run, [f"question {i}" for i in range(64)]))
        assert [result.answer for result in results] == [ANSWER] * 64
        assert {result.trace.requests for result in results} == {4}
        asked = sorted(request.prompt for request in large.requests)
        assert len(asked) == 128
        assert len(set(asked)) == 128

    def test_two_event_loops_in_turn(self):
        shared = router()
        assert [asyncio.run(shared.arun("?")).answer for _ in range(2)] == [ANSWER] * 2

    def test_all_models_work_in_one_background_thread(self):
        threads = set()

        def small(text: bytes) -> tuple[bytes, float]:
            threads.add(threading.current_thread())
            return b"", 0.5

        shared = router(ScriptedBackend(small), ScriptedBackend([]))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(shared.run, "abcd"))
        asyncio.run(shared.arun("?"))
        assert len(threads) == 1
        assert threading.main_thread() not in threads

    @pytest.mark.serial
    def test_callers_wait_at_the_same_time(self):
        started = time.perf_counter()
        slow = router(model(delay=SLOW), model(delay=SLOW))
        slow.run("?")
        alone = time.perf_counter() - started
        started = time.perf_counter()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(slow.run, "abcdefgh"))
        assert time.perf_counter() - started < 4 * alone

    def test_a_stream_comes_while_it_is_written(self):
        stream = router(endless(), model()).stream("?")
        first = next(event for event in stream if isinstance(event, TextDelta))
        assert first.text == "word "
        stream.close()


class TestStopping:
    def test_closing_a_stream(self):
        small = endless()
        stream = router(small, model()).stream("?")
        next(stream)
        stream.close()
        assert (small.closed_early, len(small.requests)) == (1, 1)

    def test_breaking_out_of_a_stream(self):
        small = endless()
        for event in router(small, model()).stream("?"):
            if isinstance(event, TextDelta):
                break
        assert small.closed_early == 1

    def test_an_exception_in_the_callers_loop(self):
        small = endless()

        def read() -> None:
            for _ in router(small, model()).stream("?"):
                raise KeyError("the caller's own")

        with pytest.raises(KeyError):
            read()
        assert small.closed_early == 1

    async def test_closing_an_async_stream(self):
        small = endless()
        stream = router(small, model()).astream("?")
        await anext(stream)
        await stream.aclose()
        assert small.closed_early == 1

    async def test_breaking_out_of_an_async_stream(self):
        small = endless()
        async for event in router(small, model()).astream("?"):
            if isinstance(event, TextDelta):
                break
        await eventually(lambda: small.closed_early == 1)

    @pytest.mark.parametrize("way", ["arun", "astream"])
    async def test_cancelling_a_task(self, way):
        small = endless()
        r = router(small, model())
        task = asyncio.create_task(r.arun("?") if way == "arun" else collect(r.astream("?")))
        await eventually(lambda: small.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (small.closed_early, len(small.requests)) == (1, 1)

    async def test_a_timeout(self):
        small = endless()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5 * SLOW):
                await router(small, model()).arun("?")
        assert small.closed_early == 1

    def test_a_stream_that_was_never_read_asks_nothing(self):
        small = endless()
        router(small, model()).stream("?").close()
        assert small.requests == []

    def test_the_router_works_on_after_a_stop(self):
        shared = router(model(delay=SLOW), model())
        stream = shared.stream("?")
        next(stream)
        stream.close()
        assert shared.run("?").answer == ANSWER


class TestWithoutALoop:
    """Coroutines that somebody drives by hand, in a thread where no loop runs."""

    @staticmethod
    def by_hand(make) -> BaseException:
        """What the first step of a coroutine raises in a thread of its own."""

        def drive() -> BaseException:
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
                make().send(None)
            return caught.value

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(drive).result()

    @pytest.mark.parametrize("way", ["arun", "astream"])
    def test_the_error_says_what_to_do(self, way):
        small = endless()
        shared = router(small, model())
        make = {"arun": lambda: shared.arun("?"), "astream": lambda: anext(shared.astream("?"))}
        error = self.by_hand(make[way])
        assert isinstance(error, RuntimeError)
        assert "this thread has none" in str(error) and "asyncio.run(...)" in str(error)
        assert small.requests == [], "nothing was begun, so nothing is left running"

    def test_nothing_is_started(self):
        started = []

        async def work() -> None:
            started.append(True)

        async def items():
            started.append(True)
            yield 1

        for make in (lambda: io_loop.acall(work), lambda: anext(io_loop.aiterate(items))):
            assert isinstance(self.by_hand(make), RuntimeError)
        io_loop.call(_number)  # whatever was started before has run by now
        assert started == []

    def test_the_thread_may_have_a_loop_afterwards(self):
        shared = router()
        assert isinstance(self.by_hand(lambda: shared.arun("?")), RuntimeError)
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(lambda: asyncio.run(shared.arun("?"))).result()
        assert result.answer == ANSWER


class TestPassingThrough:
    def test_exceptions_of_a_backend(self):
        broken = router(model(fail_after=0))
        with pytest.raises(BackendError):
            broken.run("?")
        with pytest.raises(BackendError):
            list(broken.stream("?"))
        with pytest.raises(BackendError):
            asyncio.run(broken.arun("?"))
        with pytest.raises(BackendError):
            asyncio.run(collect(broken.astream("?")))

    def test_events_come_before_the_exception(self):
        seen = []

        def read() -> None:
            for event in router(large=model(fail_after=2)).stream("?"):
                seen.append(event)

        with pytest.raises(BackendError):
            read()
        written = "".join(event.text for event in seen if isinstance(event, TextDelta))
        assert written == "Let me think\n\n2 + 2 = 4"

    def test_an_unexpected_exception_is_not_disguised(self):
        def small(text: bytes) -> tuple[bytes, float]:
            raise ZeroDivisionError("a mistake in a backend")

        with pytest.raises(BackendError, match="ZeroDivisionError") as caught:
            router(ScriptedBackend(small), model()).run("?")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    @pytest.mark.parametrize("way", ["run", "stream", "arun", "astream"])
    def test_context_variables_are_visible_to_backends(self, way):
        span = contextvars.ContextVar("span", default="none")
        seen = set()

        def small(text: bytes) -> tuple[bytes, float]:
            seen.add(span.get())
            return b"", 0.5

        def call() -> None:
            span.set("the caller's")
            r = router(ScriptedBackend(small), ScriptedBackend([]))
            if way in ("run", "stream"):
                list(getattr(r, way)("?"))
            else:
                asyncio.run(r.arun("?") if way == "arun" else collect(r.astream("?")))

        contextvars.copy_context().run(call)
        assert seen == {"the caller's"}

    def test_a_sync_call_inside_the_io_loop_is_refused(self):
        class Nested(ScriptedBackend):
            async def render(self, messages):
                router().run("a question inside a question")

        with pytest.raises(BackendError) as caught:
            router(Nested(CHAIN, generation_prompt=OPENED)).run("?")
        assert "await its async twin" in str(caught.value.__cause__)
        assert router().run("?").answer == ANSWER

    def test_an_async_call_inside_the_io_loop_works(self):
        class Nested(ScriptedBackend):
            async def render(self, messages):
                inner = await router().arun("a question inside a question")
                return await super().render([{"role": "user", "content": inner.answer}])

        small = Nested(CHAIN, generation_prompt=OPENED)
        assert router(small).run("?").answer == ANSWER
        assert small.requests[0].prompt.startswith(f"<user>{ANSWER}\n")


async def _number() -> int:
    return 7


async def _numbers():
    for number in range(3):
        yield number


def test_the_bridge_itself():
    assert io_loop.call(_number) == 7
    assert list(io_loop.iterate(_numbers)) == [0, 1, 2]
    assert asyncio.run(io_loop.acall(_number)) == 7
    assert asyncio.run(collect(io_loop.aiterate(_numbers))) == [0, 1, 2]


def test_streams_see_the_context_they_were_asked_for_in():
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")

    async def names():
        yield who.get()

    async def read(items):
        return [item async for item in items]

    token = who.set("the asker")
    one, other = io_loop.iterate(names), io_loop.aiterate(names)
    who.reset(token)
    assert list(one) == asyncio.run(read(other)) == ["the asker"]


class TestDeliveries:
    """Items of many streams go to a reader's loop together."""

    @staticmethod
    def times_woken(count: int, pause: float) -> tuple[int, list[int]]:
        """How often a reader's loop is woken up by items, and what came."""
        woken, seen = 0, []

        async def items() -> AsyncGenerator[int, None]:
            for number in range(count):
                yield number
                await asyncio.sleep(pause)

        async def read() -> None:
            nonlocal woken
            loop = asyncio.get_running_loop()
            usual = loop.call_soon_threadsafe

            def counted(*arguments: Any, **options: Any) -> Any:
                nonlocal woken
                woken += 1
                return usual(*arguments, **options)

            loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
            seen.extend(await collect(io_loop.aiterate(items)))

        asyncio.run(read())
        return woken, seen

    def test_a_flood_comes_together_and_in_order(self):
        woken, seen = self.times_woken(500, 0)
        assert seen == list(range(500))
        assert woken < 250  # however slow the machine is

    def test_items_far_apart_come_one_by_one(self):
        woken, seen = self.times_woken(10, 0.02)
        assert seen == list(range(10))
        assert woken >= 10

    def test_readers_that_come_together_get_their_own(self):
        async def many() -> list[list[object]]:
            return await asyncio.gather(*(collect(router().astream(f"{i}")) for i in range(20)))

        expected = [without_times(event) for event in router().stream("?")]
        for events in asyncio.run(many()):
            assert [without_times(event) for event in events][:-1] == expected[:-1]
            assert result_of(events).answer == ANSWER

    def test_a_stream_ends_when_its_readers_loop_is_closed(self):
        small = endless()

        async def leave() -> AsyncGenerator[object, None]:
            stream = router(small, model()).astream("?")
            await anext(stream)
            return stream

        # Kept: an object that is collected ends its work itself.
        kept = asyncio.run(leave())
        asyncio.run(eventually(lambda: small.closed_early == 1))
        del kept

    def test_a_loop_is_not_kept_alive(self):
        loops = []

        async def read() -> None:
            loops.append(weakref.ref(asyncio.get_running_loop()))
            await collect(router().astream("?"))

        asyncio.run(read())
        asyncio.run(eventually(lambda: gc.collect() >= 0 and loops[0]() is None))
