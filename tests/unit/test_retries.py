"""When a failed request is repeated, and after how long: a fake clock, fake sleep, no server."""

from __future__ import annotations

import asyncio
import pickle
import time
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime, formatdate

import pytest
from helpers import ANSWER, REASONING, model, router
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from glimp_integrations.backends.http import sending
from glimp_integrations.backends.http.client import StatusError
from glimp_integrations.backends.http.connection import BrokenConnectionError
from glimp_integrations.backends.http.sending import RequestLimits, sent
from glimp_integrations.backends.retries import (
    LONGEST_WAIT,
    describe_pause,
    may_repeat,
    pause,
    retry_after,
)
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.errors import BackendError

NOW = 1_800_000_000.0


def said(text: str | None, **more: str) -> float | None:
    headers = {**({} if text is None else {"retry-after": text}), **more}
    return retry_after(headers, lambda: NOW)


class TestReadingTheHeader:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("7", 7.0), (" 7 ", 7.0), ("1.5", 1.5), ("0", 0.0), ("86400", 86400.0)],
    )
    def test_seconds(self, text, seconds):
        assert said(text) == seconds

    def test_a_date_is_counted_from_now(self):
        assert said(formatdate(NOW + 30, usegmt=True)) == 30.0

    @pytest.mark.parametrize("zone", ["GMT", "+0000", "-0000"])
    def test_a_date_in_any_notation_of_utc(self, zone):
        assert said(formatdate(NOW + 30, usegmt=True).replace("GMT", zone)) == 30.0

    def test_a_date_of_another_zone(self):
        there = timezone(timedelta(hours=5))
        assert said(format_datetime(datetime.fromtimestamp(NOW + 30, there))) == 30.0

    def test_a_date_that_is_over_means_now(self):
        assert said(formatdate(NOW - 3600, usegmt=True)) == 0.0

    @pytest.mark.parametrize(
        "text",
        [
            None,
            "",
            " ",
            "-5",
            "+5",
            "nan",
            "inf",
            "-inf",
            "1e9",
            "0x10",
            "1_000",
            "٣",
            "soon",
            "9" * 400,
            "Wed, 99 Foo 2026 00:00:00 GMT",
            "Wed, 21 Oct 99999 07:28:00 GMT",
            "5 s",
            "5, 6",
        ],
    )
    def test_what_cannot_be_understood_is_not_said(self, text):
        assert said(text) is None

    def test_milliseconds_are_more_exact(self):
        assert said("1", **{"retry-after-ms": "250"}) == 0.25
        assert said("1", **{"retry-after-ms": "soon"}) == 1.0

    def test_headers_are_found_in_any_case(self):
        assert retry_after(CIMultiDict({"RETRY-AFTER": "3"})) == 3.0

    @given(st.text(max_size=40))
    def test_no_text_of_a_server_is_an_error_here(self, text):
        seconds = said(text)
        assert seconds is None or seconds >= 0


class TestPauses:
    def test_what_the_server_asks_for_goes_before_a_guess(self):
        assert pause(1, 7.0) == pause(5, 7.0) == 7.0
        assert pause(1, LONGEST_WAIT) == LONGEST_WAIT

    def test_more_than_the_cap_is_not_waited(self):
        assert pause(1, LONGEST_WAIT + 0.1) is None

    def test_a_guess_doubles_up_to_a_limit(self):
        whole = [pause(attempt, draw=lambda: 1.0) for attempt in (1, 2, 3, 4, 5, 6, 10_000)]
        assert whole == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
        assert [pause(n, draw=lambda: 0.0) for n in (1, 2, 9)] == [0.25, 0.5, 4.0]

    def test_now_is_no_reason_to_ask_without_a_pause(self):
        assert pause(1, 0.0, lambda: 0.0) == 0.25

    def test_guesses_differ(self):
        assert len({pause(3) for _ in range(20)}) > 10

    @pytest.mark.parametrize(
        ("status", "again"),
        [
            (408, True),
            (409, True),
            (429, True),
            (500, True),
            (503, True),
            (529, True),
            (400, False),
            (401, False),
            (404, False),
            (422, False),
            (501, False),
        ],
    )
    def test_statuses_that_pass(self, status, again):
        assert may_repeat(status, {}) is again
        assert may_repeat(status, {"x-should-retry": "true"})
        assert not may_repeat(status, {"x-should-retry": "false"})

    def test_words(self):
        assert describe_pause(None) == describe_pause(0.0) == ""
        assert describe_pause(5.0) == "; it asks for a pause of 5 s before the next request"
        assert describe_pause(300.0).endswith(
            "asks for a pause of 300 s before the next request, and no call waits more than 60 s"
        )


class Slept(list[float]):
    """Every sleep, in seconds; nobody sleeps."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)

    def are_guesses(self, *whole: float) -> bool:
        """Whether the sleeps were drawn from these, half of each being sure."""
        pairs = zip(self, whole, strict=True)
        return all(seconds / 2 <= slept <= seconds for slept, seconds in pairs)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> Slept:
    slept = Slept()
    monkeypatch.setattr(sending.asyncio, "sleep", slept)
    return slept


def answered(status: int, **headers: str) -> StatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return StatusError(status, CIMultiDict(named), b"")


class Server:
    """Fails as told, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.requests = 0

    @asynccontextmanager
    async def post(self):
        self.requests += 1
        if self.failures:
            raise self.failures.pop(0)
        yield "answer"


def post(server: Server, retries: int = 2, seconds: float = 600.0) -> str:
    async def answer():
        async with sent(server.post, RequestLimits(seconds, retries)) as response:
            return response

    return asyncio.run(answer())


class TestSending:
    def test_waits_as_long_as_the_server_asks(self, slept):
        server = Server(answered(429, retry_after="7"), answered(503, retry_after="2"))
        assert post(server) == "answer"
        assert slept == [7.0, 2.0]

    def test_waits_for_a_date(self, slept):
        server = Server(answered(503, retry_after=formatdate(time.time() + 20, usegmt=True)))
        assert post(server) == "answer"
        assert 18.0 < slept[0] <= 20.0

    @pytest.mark.parametrize("said", ["-1", "nan", "tomorrow", "0"])
    def test_backs_off_where_the_server_says_nothing_of_use(self, slept, said):
        assert post(Server(answered(500, retry_after=said), answered(500))) == "answer"
        assert slept.are_guesses(0.5, 1.0)

    def test_more_than_the_cap_is_raised_at_once(self, slept):
        server = Server(answered(429, retry_after="61"))
        with pytest.raises(StatusError):
            post(server)
        assert slept == [] and server.requests == 1

    def test_more_than_the_caller_waits_for_an_answer_is_raised_at_once(self, slept):
        server = Server(answered(429, retry_after="6"))
        with pytest.raises(StatusError):
            post(server, seconds=5.0)
        assert slept == [] and server.requests == 1

    def test_what_does_not_pass_is_raised_at_once(self, slept):
        server = Server(answered(400, retry_after="1"))
        with pytest.raises(StatusError):
            post(server)
        assert slept == [] and server.requests == 1

    def test_connections_and_time_outs_are_tried_again(self, slept):
        failures = BrokenConnectionError(), TimeoutError()
        assert post(Server(*failures)) == "answer"
        assert slept.are_guesses(0.5, 1.0)

    @pytest.mark.parametrize("retries", [0, 1, 3])
    def test_as_often_as_allowed_and_never_by_the_client(self, slept, retries):
        server = Server(*[answered(500)] * 9)
        with pytest.raises(StatusError):
            post(server, retries)
        assert server.requests == 1 + retries


class Resting(ScriptedBackend):
    """Breaks off once in the middle, and says how long to pause."""

    retry_after: float | None = None

    def _maybe_fail(self) -> None:
        try:
            super()._maybe_fail()
        except BackendError as error:
            error.retry_after = self.retry_after
            raise


def resting(retry_after: float | None, failures: int = 1) -> Resting:
    sound = model()
    broken = Resting(
        sound._next,
        name="L",
        generation_prompt=sound._generation_prompt,
        fail_after=1,
        failures=failures,
        retryable=True,
    )
    broken.retry_after = retry_after
    return broken


class TestBrokenStreams:
    @pytest.mark.parametrize("asked", [None, 0.0, 9.0])
    def test_go_on_after_the_wait(self, slept, asked):
        result = router(large=resting(asked)).run("?")
        assert (result.reasoning, result.answer) == (REASONING, ANSWER)
        assert slept == [9.0] if asked else slept.are_guesses(0.5)

    def test_back_off_longer_each_time(self, slept):
        router(large=resting(None, failures=3), max_retries=3).run("?")
        assert slept.are_guesses(0.5, 1.0, 2.0)

    def test_more_rest_than_the_cap_is_an_error_with_all_that_was_written(self, slept):
        with pytest.raises(BackendError) as caught:
            router(large=resting(3600.0)).run("?")
        assert slept == []
        assert caught.value.retry_after == 3600.0
        assert caught.value.partial.reasoning.startswith("Let me think\n\n")

    def test_or_the_other_model_goes_on(self, slept):
        result = router(large=resting(3600.0), on_backend_error="small").run("?")
        assert result.answer == ANSWER and slept == []


def test_the_error_can_be_copied_and_pickled():
    error = BackendError("busy", model="m", status=429, retry_after=5.0)
    assert pickle.loads(pickle.dumps(error)).retry_after == 5.0
