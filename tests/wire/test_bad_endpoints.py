"""Endpoints that cannot do what routing needs, or stop doing it: what the user is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from glimp_integrations import GlimpRouter
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.errors import (
    BackendError,
    ConfigError,
    GlimpError,
    UnsuitableEndpointError,
)
from wire.fake_server import FakeServer, Fault
from wire.helpers import (
    ANSWER,
    CHAIN,
    GREEDY,
    MESSAGES,
    REASONING,
    THOUGHT,
    THOUGHT_ANSWER,
    THOUGHT_REASONING,
)

Serve = Callable[..., FakeServer]
Connect = Callable[..., OpenAIBackend]
both_roles = pytest.mark.parametrize("role", ["small", "large"])


@pytest.fixture
def routed(serve: Serve, connect: Connect) -> Callable[..., GlimpRouter]:
    """A router with this backend in one role and a good one in the other."""

    def make(backend: OpenAIBackend, role: str = "small", **options: object) -> GlimpRouter:
        good = connect(serve(CHAIN, model="good"))
        pair: dict[str, Any] = {"small": good, "large": good, role: backend}
        return GlimpRouter(**pair, **{**GREEDY, **options})

    return make


Routed = Callable[..., GlimpRouter]


def failure(router: GlimpRouter, kind: type[GlimpError]) -> GlimpError:
    with pytest.raises(GlimpError) as caught:
        router.run(MESSAGES)
    assert type(caught.value) is kind, str(caught.value)
    return caught.value


# -- not reachable ---------------------------------------------------------------------------


@both_roles
def test_nothing_listens(connect: Connect, routed: Routed, role: str, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}/v1"
    started = time.monotonic()
    error = failure(routed(connect(url, "gone"), role), BackendError)
    assert time.monotonic() - started < 10.0
    for part in (f"{role} model", "gone", url, "is the server running", "base_url"):
        assert part in str(error)


def test_wrong_key(serve: Serve, connect: Connect, routed: Routed) -> None:
    server = serve(CHAIN, api_key="right")
    error = failure(routed(connect(server, api_key="wrong")), BackendError)
    for part in ("small model", server.model, server.url, "401", "api_key"):
        assert part in str(error)
    assert len(server.requests) == 1, "a refused key is not tried again"


def test_server_that_never_answers_the_first_request(
    serve: Serve, connect: Connect, routed: Routed
) -> None:
    server = serve(CHAIN, faults=[Fault("hang"), Fault("hang", route="/v1/models")])
    router = routed(connect(server), timeout=0.3, max_retries=0)

    async def run() -> None:
        await asyncio.wait_for(router.arun(MESSAGES), 8.0)

    with pytest.raises(BackendError, match="did not answer in time"):
        asyncio.run(run())


def test_server_that_never_answers_the_check(
    serve: Serve, connect: Connect, routed: Routed
) -> None:
    router = routed(connect(serve(CHAIN, faults=[Fault("hang")])), timeout=0.3, max_retries=0)

    async def run() -> None:
        await asyncio.wait_for(router.arun(MESSAGES), 8.0)

    with pytest.raises(BackendError, match="did not answer in time"):
        asyncio.run(run())


@both_roles
def test_server_that_hangs_later(serve: Serve, connect: Connect, routed: Routed, role: str) -> None:
    server = serve(CHAIN, faults=[Fault("hang", chat_only=True)])
    router = routed(connect(server), role, timeout=0.5, max_retries=0)
    started = time.monotonic()
    error = failure(router, BackendError)
    assert 0.4 < time.monotonic() - started < 5.0
    for part in (f"{role} model", server.model, server.url, "in time", "timeout"):
        assert part in str(error)
    assert server.wait_for(lambda: server.aborted == 1), "the request is taken back"


@both_roles
def test_server_that_falls_silent_in_mid_answer(
    serve: Serve, connect: Connect, routed: Routed, role: str
) -> None:
    server = serve(CHAIN, faults=[Fault("hang", tokens=2, chat_only=True)])
    router = routed(connect(server), role, timeout=0.5, max_retries=0, strategy="fused")
    error = failure(router, BackendError)
    assert "in time" in str(error)
    expected = "First," if role == "small" else "First, look.\n\nThen a"
    assert error.partial is not None
    assert error.partial.reasoning + error.partial.answer == expected


# -- not suitable ----------------------------------------------------------------------------


@both_roles
def test_prompt_wrapped_in_a_template(
    serve: Serve, connect: Connect, routed: Routed, role: str
) -> None:
    server = serve(CHAIN, wraps=True)
    error = failure(routed(connect(server), role), UnsuitableEndpointError)
    assert isinstance(error, UnsuitableEndpointError)
    assert error.probe == "P1 rawness"
    for part in (server.model, server.url, "chat template", "prompt_tokens=23", "Ollama"):
        assert part in str(error)


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_conversation_rendered_to_nothing(
    serve: Serve, connect: Connect, routed: Routed, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(engine=engine)
    monkeypatch.setattr(server, "render" if engine == "llama.cpp" else "detokenize", lambda *_: "")
    error = failure(routed(connect(server)), BackendError)
    assert "prompt is ''" in str(error)
    sent = [seen.body["prompt"] for seen in server.seen("/v1/completions")]
    assert "" not in sent  # from nothing, a model writes anything


def test_no_logprobs_as_small_model(serve: Serve, connect: Connect, routed: Routed) -> None:
    server = serve(CHAIN, logprobs=0)
    error = failure(routed(connect(server)), UnsuitableEndpointError)
    assert isinstance(error, UnsuitableEndpointError)
    assert error.probe == "P2 logprobs"
    for part in ("small model", server.model, server.url, "large model only"):
        assert part in str(error)


@pytest.mark.parametrize("refuse", [False, True])
def test_no_logprobs_as_large_model_works(
    serve: Serve, connect: Connect, routed: Routed, refuse: bool
) -> None:
    result = routed(connect(serve(CHAIN, logprobs=0, refuse=refuse)), "large").run(MESSAGES)
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert [step.author for step in result.trace.steps] == ["small", "large", "small"]


def test_no_logprobs_as_small_model_works_where_none_are_needed(
    serve: Serve, connect: Connect, routed: Routed
) -> None:
    router = routed(connect(serve(CHAIN, logprobs=0)), threshold=float("inf"))
    assert router.run(MESSAGES).answer == ANSWER


def test_fewer_logprobs_than_asked_for(serve: Serve, connect: Connect, routed: Routed) -> None:
    server = serve(CHAIN, logprobs=5)
    error = failure(routed(connect(server)), UnsuitableEndpointError)
    for part in (server.model, server.url, "5 of 20", "top_logprobs=5", "threshold"):
        assert part in str(error)


def test_fewer_logprobs_work_when_asked_for(serve: Serve, connect: Connect, routed: Routed) -> None:
    router = routed(connect(serve(CHAIN, logprobs=5), top_logprobs=5))
    result = router.run(MESSAGES)
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    assert {step.estimator for step in result.trace.steps} == {"topk_renorm@5"}


def test_refusal_of_that_many_logprobs_is_passed_on(
    serve: Serve, connect: Connect, routed: Routed
) -> None:
    # vLLM with --max-logprobs 5 does not send fewer, it refuses.
    server = serve(CHAIN, engine="vllm", logprobs=5, refuse=True)
    error = failure(routed(connect(server)), UnsuitableEndpointError)
    assert "greater than max allowed: 5" in str(error)


def test_one_logprob_too_many_changes_nothing(
    serve: Serve, connect: Connect, routed: Routed
) -> None:
    result = routed(connect(serve(CHAIN, engine="vllm", extra=True))).run(MESSAGES)
    assert [round(step.entropy or 0, 3) for step in result.trace.steps] == [0.1, 2.0, 0.1]


@both_roles
def test_no_completions_route(serve: Serve, connect: Connect, routed: Routed, role: str) -> None:
    server = serve(CHAIN, missing={"/v1/completions"})
    error = failure(routed(connect(server), role), UnsuitableEndpointError)
    for part in (server.model, server.url, "404", "POST /v1/completions", "chat-only"):
        assert part in str(error)


def test_model_that_is_not_served(serve: Serve, connect: Connect, routed: Routed) -> None:
    server = serve(CHAIN, engine="vllm", model="served-one")
    error = failure(routed(connect(server, "other-one")), UnsuitableEndpointError)
    assert isinstance(error, UnsuitableEndpointError)
    assert error.probe == "P0 identity"
    for part in ("other-one", "served-one", server.url):
        assert part in str(error)
    assert server.seen("/v1/completions") == []


def test_model_that_is_not_served_by_a_server_without_a_list(
    serve: Serve, connect: Connect, routed: Routed
) -> None:
    fault = Fault("status", status=404, body="The model `other` does not exist.")
    server = serve(engine="generic", missing={"/v1/models"}, faults=[fault])
    error = failure(routed(connect(server, "other")), UnsuitableEndpointError)
    assert isinstance(error, UnsuitableEndpointError)
    assert error.probe == "P0 identity"
    assert "GET /v1/models" in str(error)


def test_template_that_nobody_has(serve: Serve, connect: Connect, routed: Routed) -> None:
    server = serve(CHAIN, engine="generic")
    error = failure(routed(connect(server)), UnsuitableEndpointError)
    for part in (server.url, "tokenizer=", "chat_template="):
        assert part in str(error)


# -- context ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_conversation_longer_than_the_window(
    serve: Serve, connect: Connect, routed: Routed, engine: str
) -> None:
    server = serve(CHAIN, engine=engine, context_window=50)
    router = routed(connect(server))
    with pytest.raises(ConfigError) as caught:
        router.run("word " * 100)
    for part in (server.model, "50", "shorten"):
        assert part in str(caught.value)


def test_window_that_only_the_server_knows(serve: Serve, connect: Connect, routed: Routed) -> None:
    server = serve(CHAIN, engine="generic", context_window=50)
    backend = connect(server, chat_template=lambda m: server.render(m))
    with pytest.raises(ConfigError) as caught:
        routed(backend).run("word " * 100)
    for part in (server.model, server.url, "maximum context length", "shorten"):
        assert part in str(caught.value)
    assert len(server.completions()) == 1, "asking again would not help"


# -- failing in mid-answer -------------------------------------------------------------------

endless = pytest.mark.parametrize("kind", ["drop", "close", "stream_error"])


@endless
@both_roles
def test_failure_in_mid_answer_keeps_the_text(
    serve: Serve, connect: Connect, routed: Routed, kind: str, role: str
) -> None:
    fault = Fault(kind, tokens=2, chat_only=True)  # type: ignore[arg-type]
    server = serve(CHAIN, faults=[fault])
    error = failure(routed(connect(server), role, max_retries=0), BackendError)
    assert isinstance(error, BackendError) and error.role == role
    for part in (f"{role} model", server.model, server.url, ".partial"):
        assert part in str(error)
    assert "cannot be reached" not in str(error)
    partial = error.partial
    assert partial is not None
    written = "First," if role == "small" else "First, look.\n\nThen a"
    assert partial.reasoning + partial.answer == written
    assert "".join(step.text for step in partial.trace.steps) == written
    assert partial.usage.output_tokens >= partial.trace.tokens("small")


def test_failure_in_the_answer_keeps_reasoning_and_answer_apart(
    serve: Serve, connect: Connect
) -> None:
    small = connect(serve(THOUGHT))
    large = connect(serve(THOUGHT, faults=[Fault("close", tokens=2, skip=1, chat_only=True)]))
    router = GlimpRouter(small, large, max_retries=0, think_tags=("<think>", "</think>"), **GREEDY)
    partial = failure(router, BackendError).partial
    assert partial is not None
    assert partial.reasoning == THOUGHT_REASONING
    assert partial.answer and THOUGHT_ANSWER.startswith(partial.answer)


@endless
def test_streams_that_break_on_and_on_are_given_up(
    serve: Serve, connect: Connect, routed: Routed, kind: str
) -> None:
    fault = Fault(kind, tokens=0, chat_only=True)  # type: ignore[arg-type]
    server = serve(CHAIN, faults=[fault])
    failure(routed(connect(server), max_retries=1), BackendError)
    assert len(server.completions()) == 2


@both_roles
def test_other_model_goes_on_alone_if_wanted(
    serve: Serve, connect: Connect, routed: Routed, role: str
) -> None:
    other = "large" if role == "small" else "small"
    server = serve(CHAIN, faults=[Fault("close", tokens=2, chat_only=True)])
    router = routed(connect(server), role, max_retries=0, on_backend_error=other)
    result = router.run(MESSAGES)
    assert result.reasoning + result.answer == REASONING + ANSWER
    assert result.trace.steps[-1].author == other
    assert len(result.trace.errors) == 1 and server.url in result.trace.errors[0]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_server_that_keeps_failing(
    serve: Serve, connect: Connect, routed: Routed, status: int
) -> None:
    server = serve(CHAIN, faults=[Fault("status", status=status, body="no way", chat_only=True)])
    error = failure(routed(connect(server), max_retries=0), BackendError)
    assert isinstance(error, BackendError) and error.retryable
    for part in (server.model, server.url, str(status), "no way"):
        assert part in str(error)


@pytest.mark.parametrize(
    "body", [b"<html>\n<body>\nBad Gateway\n</body>\n</html>\n", "Traceback:\n  line 1\n  line 2"]
)
def test_long_error_of_a_server_is_told_in_one_line(
    serve: Serve, connect: Connect, routed: Routed, body: str | bytes
) -> None:
    server = serve(CHAIN, faults=[Fault("status", status=502, body=body, chat_only=True)])
    error = failure(routed(connect(server), max_retries=0), BackendError)
    assert "502" in str(error)
    assert "\n" not in str(error)


def test_recovered_server_is_used_again_by_the_same_router(
    serve: Serve, connect: Connect, routed: Routed
) -> None:
    server = serve(CHAIN, faults=[Fault("status", route="/v1/models", status=401, times=1)])
    router = routed(connect(server))
    failure(router, BackendError)
    assert router.run(MESSAGES).answer == ANSWER
