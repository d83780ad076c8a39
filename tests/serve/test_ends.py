"""How conversations end: failures, clients that go, queues, and the end of the server."""

from __future__ import annotations

import json
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from scripts import pair, tells_a_secret

from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.errors import BackendError, UnsuitableEndpointError
from serve.conftest import ANSWER, QUESTION, Serve, Served
from serve.held import Held, held_pair, until

BODY = {"model": "glimp", "messages": QUESTION}


class Failing(ScriptedBackend):
    """Fails with any error before its first token."""

    error: Exception

    async def capabilities(self) -> Any:
        raise self.error


def failing(error: Exception) -> dict[str, Any]:
    models = pair(*ANSWER)
    models["large"] = Failing([], name="big")
    models["large"].error = error
    return models


def unsuitable() -> UnsuitableEndpointError:
    return UnsuitableEndpointError(probe="P1", server="big at x", detail="is odd", remedy="Mend it")


class Background:
    """A request that is answered in a thread."""

    def __init__(self, served: Served, stream: bool = False) -> None:
        self.result: Any = None
        self._ask = lambda: served.ask(stream=stream)
        self._stream = stream
        self.thread = threading.Thread(target=self._go)
        self.thread.start()

    def _go(self) -> None:
        try:
            reply = self._ask()
            self.result = list(reply) if self._stream else reply
        except Exception as error:
            self.result = error

    def wait(self) -> Any:
        self.thread.join(30)
        return self.result


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BackendError("it fell over", model="big"), 502, "model_failed"),
        (BackendError("no key", model="big", status=401), 502, "model_failed"),
        (BackendError("too slow", model="big", timed_out=True), 504, "model_timeout"),
        (BackendError("busy", model="big", status=429, retry_after=7), 503, "model_overloaded"),
        (BackendError("no room", model="big", context_full=True), 400, "context_length_exceeded"),
        (unsuitable(), 502, "model_unsuitable"),
        (RuntimeError("a prompt may stand here"), 502, "model_failed"),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_fails_at_once(
    serve: Serve, error: Exception, status: int, code: str, stream: bool
) -> None:
    served = serve(failing(error))
    with pytest.raises(openai.APIStatusError) as raised:
        served.ask(stream=stream)
    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert "large model" in raised.value.message
    assert "a prompt" not in raised.value.message
    headers = raised.value.response.headers
    if code == "model_overloaded":
        assert headers["retry-after"] == "7"
    elif status >= 500:
        assert headers["x-should-retry"] == "false"


def broken_pair(after: int = 3) -> dict[str, Any]:
    models = pair(*ANSWER)
    broken = pair(*ANSWER, fail_after=after)["large"]
    return {**models, "large": broken}


def test_a_failure_in_the_middle_says_what_was_written(serve: Serve) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        serve(broken_pair()).ask()
    told: Any = raised.value.body
    assert told["partial"]["reasoning_content"] == "First.\n\nThen.\n"
    assert told["partial"]["usage"]["completion_tokens"] > 0
    assert told["partial"]["tokens"]["small"]["kept"] > 0
    assert "error.partial" in told["message"]


def test_a_failure_in_a_stream_is_an_event_and_the_end(serve: Serve) -> None:
    served = serve(broken_pair(4))
    seen: list[str] = []
    stream = served.ask(stream=True)
    with pytest.raises(openai.APIError) as raised:
        seen.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(seen) == "It"
    assert raised.value.code == "model_failed"
    with httpx.stream(
        "POST", f"{served.url}/chat/completions", json={**BODY, "stream": True}
    ) as raw:
        lines = [line for line in raw.iter_lines() if line]
    assert raw.status_code == 200
    assert "error" in json.loads(lines[-1].removeprefix("data: "))
    assert "data: [DONE]" not in lines


def test_a_deputy_finishes_the_reply(serve: Serve) -> None:
    served = serve(broken_pair(), routing={"on_backend_error": "small"})
    assert served.ask().choices[0].message.content == "It is four."


@pytest.mark.parametrize("place", ["completion", "Chunks.of", "ChatRequest.conversation"])
def test_a_fault_of_the_server_tells_no_text(
    serve: Serve,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = " ".join(["words", "of", "a", "prompt"])  # not in the code that the log shows

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(words)

    target = f"glimp_integrations.serve.completions.{place}"
    monkeypatch.setattr(target, property(broken) if "conversation" in place else broken)
    served = serve()
    if place == "Chunks.of":
        address, body = f"{served.url}/chat/completions", {**BODY, "stream": True}
        with pytest.raises(httpx.RemoteProtocolError):  # the connection is closed in the middle
            httpx.post(address, json=body)
    else:
        with pytest.raises(openai.InternalServerError) as raised:
            served.ask()
        assert raised.value.code == "internal_error"
    until(lambda: "RuntimeError while a request was answered" in caplog.text)
    assert words not in caplog.text
    assert served.application.conversations.places.running == 0


# -- clients that go -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_stops_the_models(serve: Serve, stream: bool) -> None:
    models = held_pair()
    large: Held = models["large"]
    served = serve(models)
    client = httpx.Client()
    if stream:
        with client.stream(
            "POST", f"{served.url}/chat/completions", json={**BODY, "stream": True}
        ) as response:
            lines = response.iter_lines()
            next(lines)
            until(lambda: large.waiting)
    else:
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"{served.url}/chat/completions", json=BODY, timeout=0.5)
    client.close()
    until(lambda: large.cancelled and not large.waiting)
    until(lambda: served.application.conversations.places.running == 0)
    large.free.set()
    assert served.ask().choices[0].message.content == "It is four."


def test_a_client_that_goes_leaves_the_queue(serve: Serve) -> None:
    models = held_pair()
    served = serve(models, max_running=1)
    first = Background(served)
    places = served.application.conversations.places
    until(lambda: models["large"].waiting)
    with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{served.url}/chat/completions", json=BODY, timeout=0.3)
    until(lambda: places.waiting == 0)
    models["large"].free.set()
    assert first.wait().choices[0].message.content == "It is four."
    until(lambda: places.running == 0)


# -- limits --------------------------------------------------------------------------------------


def test_the_queue_is_bounded_and_in_order(serve: Serve) -> None:
    models = held_pair()
    served = serve(models, max_running=1, max_waiting=2)
    places = served.application.conversations.places
    running = [Background(served)]
    until(lambda: models["large"].waiting)
    for number in (1, 2):
        running.append(Background(served, stream=number == 2))
        until(lambda number=number: places.waiting == number)
    with pytest.raises(openai.RateLimitError) as raised:
        served.ask()
    assert raised.value.code == "too_many_conversations"
    assert int(raised.value.response.headers["retry-after"]) >= 1
    models["large"].free.set()
    assert running[0].wait().choices[0].message.content == "It is four."
    assert running[1].wait().choices[0].message.content == "It is four."
    assert running[2].wait()[-1].choices[0].finish_reason == "stop"


def test_nobody_waits_for_ever(serve: Serve) -> None:
    models = held_pair()
    served = serve(models, max_running=1, queue_seconds=0.2)
    first = Background(served)
    until(lambda: models["large"].waiting)
    with pytest.raises(openai.RateLimitError, match=r"within 0.2 seconds"):
        served.ask()
    models["large"].free.set()
    first.wait()
    served.ask()


def test_a_silent_stream_sends_comments(serve: Serve) -> None:
    models = held_pair()
    served = serve(models, keepalive_seconds=0.05)
    with httpx.stream(
        "POST", f"{served.url}/chat/completions", json={**BODY, "stream": True}
    ) as response:
        lines = response.iter_lines()
        comments = 0
        for line in lines:
            comments += line.startswith(":")
            if comments == 3:
                models["large"].free.set()
        assert comments >= 3
        assert line == "" or line == "data: [DONE]"
    # OpenAI's client skips them.
    models["large"].free.clear()
    stream = served.ask(stream=True)
    timer = threading.Timer(0.3, models["large"].free.set)
    timer.start()
    assert "".join(c.choices[0].delta.content or "" for c in stream) == "It is four."
    timer.join()


# -- the end of the server -----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_running_answers_finish(serve: Serve, stream: bool) -> None:
    models = held_pair()
    served = serve(models, grace_seconds=20)
    running = Background(served, stream)
    until(lambda: models["large"].waiting)
    served.server.should_exit = True
    until(lambda: served.application.conversations.places.closed)
    models["large"].free.set()
    reply = running.wait()
    assert (reply[-1] if stream else reply).choices[0].finish_reason == "stop"
    served.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_finish_ends_with_an_error(serve: Serve, stream: bool) -> None:
    models = held_pair()
    served = serve(models, grace_seconds=0.2)
    running = Background(served, stream)
    until(lambda: models["large"].waiting)
    served.server.should_exit = True
    error = running.wait()
    assert isinstance(error, openai.APIError), error
    assert error.code == "server_shutting_down"
    assert models["large"].cancelled
    served.stop()


def test_who_waits_is_sent_away_at_the_end(serve: Serve) -> None:
    models = held_pair()
    served = serve(models, max_running=1, grace_seconds=20)
    first = Background(served)
    until(lambda: models["large"].waiting)
    second = Background(served)
    until(lambda: served.application.conversations.places.waiting)
    served.server.should_exit = True
    assert second.wait().code == "server_shutting_down"
    models["large"].free.set()
    assert first.wait().choices[0].finish_reason == "stop"
    served.stop()


def test_an_idle_connection_is_kept_longer_than_proxies_keep_theirs(serve: Serve) -> None:
    served = serve()
    connection = HTTPConnection("127.0.0.1", urlsplit(served.url).port or 0, timeout=20)
    with closing(connection):
        for pause in (6.0, 0.0):  # uvicorn's own limit is 5 seconds
            connection.request("GET", "/health")
            response = connection.getresponse()
            assert response.status == 200 and response.read()
            time.sleep(pause)


def test_no_error_tells_a_secret(serve: Serve) -> None:
    from scripts import KEY, SECRET_LARGE, SECRET_SMALL

    served = serve(
        {"small": SECRET_SMALL, "large": SECRET_LARGE, "api_key": KEY}, routing={"max_retries": 0}
    )
    with pytest.raises(openai.APIStatusError) as raised:
        served.ask()
    assert raised.value.status_code == 502
    assert not tells_a_secret(raised.value.response.text)
    assert not tells_a_secret(httpx.get(f"{served.root}/ready").text)
    assert not tells_a_secret(httpx.get(f"{served.root}/status").text)
    served.router.close()
