"""How long a stream is waited for: since its last token, and only while somebody reads it."""

from __future__ import annotations

import asyncio
import time

import pytest

from glimp_integrations.backends.http.token_clock import TokenClock

NEVER = 60.0


async def after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "came"


async def test_what_comes_in_time_is_returned() -> None:
    clock = TokenClock(0.5)
    assert [await clock.wait(after(0.01)) for _ in range(3)] == ["came"] * 3
    clock.close()


async def test_a_silent_stream_is_given_up_after_its_seconds() -> None:
    clock, begun = TokenClock(0.1), time.monotonic()
    with pytest.raises(TimeoutError):
        await clock.wait(after(NEVER))
    assert 0.1 <= time.monotonic() - begun < 5
    with pytest.raises(TimeoutError):  # nor is anything waited for after that
        await clock.wait(after(0))


async def test_bytes_that_are_no_token_do_not_prolong_the_wait() -> None:
    clock = TokenClock(0.2)

    async def trickle() -> None:
        while True:
            await clock.wait(after(0.03))

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(trickle(), NEVER)


async def test_a_token_begins_the_time_anew() -> None:
    clock, begun = TokenClock(0.3), time.monotonic()
    while time.monotonic() - begun < 0.8:
        await clock.wait(after(0.05))
        clock.reset()
    clock.close()


async def test_a_sign_of_progress_counts_only_so_often() -> None:
    clock = TokenClock(0.2)

    async def endless() -> None:
        while True:
            await clock.wait(after(0.02))
            clock.reset(at_most=3)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(endless(), NEVER)


async def test_the_readers_own_time_does_not_count() -> None:
    clock = TokenClock(0.2)
    await clock.wait(after(0.01))
    await asyncio.sleep(0.5)  # the timer runs out meanwhile
    assert await clock.wait(after(0.05)) == "came"
    with pytest.raises(TimeoutError):  # and is set again for the next wait
        await clock.wait(after(NEVER))


async def test_whoever_cancels_is_not_told_of_a_timeout() -> None:
    clock = TokenClock(NEVER)
    task = asyncio.create_task(clock.wait(after(NEVER)))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    clock.close()


async def test_a_cancelled_task_that_runs_out_of_time_too_ends_as_cancelled() -> None:
    clock = TokenClock(0.05)

    async def both() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.05, task.cancel)
        await clock.wait(after(NEVER))

    task = asyncio.create_task(both())
    with pytest.raises((asyncio.CancelledError, TimeoutError)):
        await task
    # Where both came at the same moment, the cancellation is not forgotten.
    assert task.cancelled() or task.cancelling() == 1


async def test_without_a_limit_there_is_no_timer() -> None:
    clock = TokenClock(None)
    assert await clock.wait(after(0.01)) == "came"
    assert clock._timer is None
