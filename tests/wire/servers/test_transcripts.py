"""Every transcript: the request is sent as documented, and the answer is understood.

The transcripts were written by hand from the documentation each of them names; none was recorded.
They prove that we keep to what is documented, not that a service does. Where a page gives the
status of an error but not its words, the words are ours.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from glimp_integrations import io_loop
from glimp_integrations.backends.base import Request
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.http.protocols import PROTOCOLS, RequestContext
from glimp_integrations.backends.http.protocols.chat import header
from glimp_integrations.backends.http.servers import MODEL_STRING_SERVERS, SERVERS
from glimp_integrations.errors import (
    BackendError,
    ConfigError,
    GlimpError,
    UnsuitableEndpointError,
)
from wire.helpers import collect
from wire.servers.conftest import OPTIONS
from wire.servers.replay import TRANSCRIPTS, Replay, load

Play = Callable[..., Replay]
Connect = Callable[..., OpenAIBackend]
ALL = sorted((p.parent.name, p.stem) for p in TRANSCRIPTS.glob("*/*.json"))
EXCHANGES = [(server, name) for server, name in ALL if "ask" in load(server, name)]
ERRORS: dict[str, type[GlimpError]] = {
    "BackendError": BackendError,
    "UnsuitableEndpointError": UnsuitableEndpointError,
}
KEY = "sk-do-not-show-4711"


def prompt_of(transcript: dict[str, Any]) -> str:
    if "prompt" in transcript:
        return str(transcript["prompt"])
    return header(transcript["conversation"], thinks=transcript["thinks"]) + str(transcript["text"])


def request_of(transcript: dict[str, Any]) -> dict[str, Any]:
    ask = dict(transcript["ask"])
    return {"prompt": prompt_of(transcript), "max_tokens": ask.pop("max_tokens"), **ask}


def options_of(transcript: dict[str, Any]) -> dict[str, Any]:
    return (
        {"template_kwargs": {"enable_thinking": transcript["thinks"]}}
        if "thinks" in transcript
        else {}
    )


@pytest.mark.parametrize(("server", "name"), ALL)
def test_transcript_names_its_source_and_what_it_shows(server: str, name: str) -> None:
    transcript = load(server, name)
    assert len(transcript["source"]) > 10 and len(transcript["shows"]) > 10


@pytest.mark.parametrize("server", sorted(OPTIONS))
def test_every_server_has_its_transcripts(server: str) -> None:
    names = {name for owner, name in EXCHANGES if owner == server}
    kinds = [load(server, name) for name in names]
    assert any("gives" in kind for kind in kinds)
    raised = [kind["raises"] for kind in kinds if "raises" in kind]
    assert any(r.get("context_full") for r in raised), "a context that is full"
    assert any(r.get("retryable") for r in raised), "a failure that may pass"
    assert any("stream" in kind and "raises" in kind for kind in kinds), "an error in a stream"


@pytest.mark.parametrize(("server", "name"), EXCHANGES)
def test_request_is_sent_and_its_answer_understood(
    replay: Play, backend: Connect, server: str, name: str
) -> None:
    transcript = load(server, name)
    played = replay(server, transcript)
    one = backend(server, played, api_key=KEY, **options_of(transcript))
    request = {**request_of(transcript), "max_retries": 0}
    if "raises" in transcript:
        with pytest.raises(GlimpError) as caught:
            collect(one, **request)
        check_error(caught.value, transcript["raises"])
    else:
        tokens, report = collect(one, **request)
        gives = transcript["gives"]
        shown = [
            {
                "text": t.text,
                "logprobs": None if t.logprobs is None else list(t.logprobs),
                "pending": t.pending,
                "count": t.count,
            }
            for t in tokens
        ]
        # Where nothing tells how many tokens a piece has, its count means nothing.
        if gives.get("multi_token"):
            assert all(t.multi_token for t in tokens)
        assert shown == gives["tokens"]
        counts = {k: getattr(report, k) for k in gives if k.endswith("_tokens")}
        assert (report.ended, counts) == (gives["ended"], {k: gives[k] for k in counts})
    assert played.bodies(transcript["path"]) == [transcript["body"]]
    assert {seen.headers["authorization"] for seen in played.seen} == {f"Bearer {KEY}"}


def check_error(error: GlimpError, raises: dict[str, Any]) -> None:
    assert type(error) is ERRORS[raises["type"]], repr(error)
    for part in raises["says"]:
        assert part in str(error)
    for mark in ("retryable", "context_full", "status"):
        if mark in raises:
            assert getattr(error, mark) == raises[mark]
    assert KEY not in str(error)


@pytest.mark.parametrize("server", ["ollama", "tgi"])
def test_server_renders_the_conversation(replay: Play, backend: Connect, server: str) -> None:
    transcript = load(server, "render")
    played = replay(server)
    one = backend(server, played)
    rendered = io_loop.call(lambda: one.render(transcript["conversation"]))
    assert (rendered.text, rendered.tokens) == (
        transcript["rendered"],
        transcript.get("rendered_tokens"),
    )
    assert played.bodies(transcript["path"]) == [transcript["body"]]


def without_debug_info() -> dict[str, Any]:
    transcript = load("ollama", "render")
    del transcript["answer"]["_debug_info"]
    return transcript


def test_old_ollama_without_a_template_says_what_to_pass(backend: Connect) -> None:
    names = [load("ollama", name) for name in ("tags", "show", "ps")]
    with Replay([*names, without_debug_info()]) as played:
        one = backend("ollama", played)
        with pytest.raises(ConfigError) as caught:
            io_loop.call(lambda: one.render([{"role": "user", "content": "hi"}]))
        (body,) = played.bodies("/api/chat")
    for part in ("qwen3:4b", "too old", "tokenizer=", "chat_template="):
        assert part in str(caught.value)
    assert body["options"]["num_predict"] == 1, "an answer in its place is a short one"


def test_old_ollama_that_shows_a_jinja_template_is_rendered_here(backend: Connect) -> None:
    show = load("ollama", "show")
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[bot]"
    show["answer"]["model_info"]["tokenizer.chat_template"] = template
    with Replay(
        [load("ollama", "tags"), show, load("ollama", "ps"), without_debug_info()]
    ) as played:
        one = backend("ollama", played)
        rendered = io_loop.call(lambda: one.render([{"role": "user", "content": "hi"}]))
    assert rendered.text == "[user]hi[bot]"


@pytest.mark.parametrize(
    ("server", "window"),
    [
        ("sglang", 32768),
        ("ollama", 4096),
        ("tgi", 4096),
        ("together", 40960),
        ("fireworks", None),
        ("deepseek", None),
        ("mistral", 262144),
        ("openrouter", 40960),
    ],
)
def test_context_window_is_taken_from_where_it_is_told(
    replay: Play, backend: Connect, server: str, window: int | None
) -> None:
    capabilities = io_loop.call(backend(server, replay(server)).capabilities)
    assert capabilities.context_window == window


@pytest.mark.parametrize("server", sorted(OPTIONS))
def test_nothing_undocumented_is_sent(server: str) -> None:
    fields, profile = load(server, "fields"), SERVERS[server]
    conversation = [{"role": "developer", "content": "hi", "name": "jane", "extra": 1}]
    chat = profile.protocol == "chat"
    for text in ("", "<think>\nso", "<think>\nso</think>\n\nit is"):
        for thinks in (False, True):
            for more in ({}, {"seed": 3, "temperature": 0.7, "top_p": 0.9}, {"logprobs": 2}):
                prompt = header(conversation, thinks=thinks) + text
                request = Request(
                    prompt if chat else text, 1, distribution_only=True, schema={}, **more
                )
                context = RequestContext("m", request, profile, {}, stop=["8"], window=2048)
                body = PROTOCOLS[profile.protocol].body(context)
                assert body.keys() <= set(fields["fields"])
                for name, names in fields["inner"].items():
                    inner = body[name] if isinstance(body[name], list) else [body[name]]
                    assert all(item.keys() <= set(names) for item in inner)
                assert json.dumps(body)


@pytest.mark.parametrize("server", ["together", "fireworks", "deepseek", "mistral", "openrouter"])
def test_retry_waits_as_long_as_the_service_asks(
    replay: Play, backend: Connect, server: str
) -> None:
    limited = load(server, "rate")
    limited["headers"] = {"Retry-After": "0.2"}
    good = next(
        load(server, name)
        for owner, name in EXCHANGES
        if owner == server and "gives" in load(server, name)
    )
    played = replay(server, limited, good)
    started = time.monotonic()
    tokens, _ = collect(
        backend(server, played, **options_of(good)), **request_of(good), max_retries=1
    )
    assert tokens and time.monotonic() - started >= 0.2
    assert len(played.bodies(good["path"])) == 2


@pytest.mark.parametrize("server", ["ollama", "tgi", "fireworks"])
def test_line_ends_of_other_alphabets_are_text(replay: Play, backend: Connect, server: str) -> None:
    odd = "a\x85b\u2028c\x0bd"
    text = json.dumps(load(server, "stream"), ensure_ascii=False)
    transcript = json.loads(text.replace("Eight", "a\x85b\u2028c\\u000bd"))
    tokens, _ = collect(backend(server, replay(server, transcript)), **request_of(transcript))
    assert tokens[0].text == odd


def test_whatever_has_a_short_form_has_transcripts() -> None:
    assert set(MODEL_STRING_SERVERS) <= set(OPTIONS) == {server for server, _ in ALL}
