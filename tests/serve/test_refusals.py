"""Bad requests: refused by name, in OpenAI's shape, before a model is asked."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import openai
import pytest
from scripts import pair

from serve.conftest import QUESTION, Serve, Served

BODY = {"model": "glimp", "messages": QUESTION}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def served(serve_all: Serve) -> Served:
    return serve_all(pair("A", "."), max_messages=3, max_body_bytes=2000)


def post(served: Served, content: Any, **headers: str) -> httpx.Response:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    sent = {"content-type": "application/json", **headers}
    with httpx.Client() as client:
        return client.post(f"{served.url}/chat/completions", content=data, headers=sent)


def error(response: httpx.Response) -> dict[str, Any]:
    told = response.json()["error"]
    assert set(told) >= {"message", "type", "param", "code"}
    return dict(told)


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
        ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"logit_bias": {"1": 2}}, "logit_bias", "unsupported_parameter"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"min_tokens": 3}, "min_tokens", "unknown_parameter"),
        ({"presence_penalty": 2.1}, "presence_penalty", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"top_k": 1.5}, "top_k", "invalid_value"),
        ({"top_k": 2**31}, "top_k", "invalid_value"),
        ({"min_p": 1.1}, "min_p", "invalid_value"),
        ({"min_p": float("nan")}, "min_p", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty", "invalid_value"),
        ({"repetition_penalty": 1e300}, "repetition_penalty", "invalid_value"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_value"),
        ({"messages": QUESTION * 4}, "messages", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "invalid_value"),
        ({"glimp": {"small": "openai:x@http://h/v1"}}, "glimp.small", "unknown_parameter"),
        ({"glimp": {"api_key": "x"}}, "glimp.api_key", "unknown_parameter"),
        ({"glimp": {"policy": "x"}}, "glimp.policy", "unknown_parameter"),
        ({"glimp": {"nonsense": 1}}, "glimp.nonsense", "unknown_parameter"),
        ({"glimp": {"top_k": 1}}, "glimp.top_k", "unknown_parameter"),
        ({"glimp": {"threshold": "calibrated:/etc/passwd"}}, "glimp.threshold", "invalid_value"),
        ({"glimp": {"large_share": "calibrated:x"}}, "glimp.large_share", "invalid_value"),
        ({"glimp": {"trace": "yes"}}, "glimp.trace", "invalid_value"),
        ({"glimp": {"trace": 1}}, "glimp.trace", "invalid_value"),
        ({"glimp": []}, "glimp", "invalid_value"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_parameter_is_refused_by_its_name(
    served: Served, given: dict[str, Any], param: str, code: str, stream: bool
) -> None:
    asked = len(served.router.small.requests)  # type: ignore[attr-defined]
    response = post(served, {"stream": stream, **BODY, **given})
    assert response.status_code == 400
    told = error(response)
    assert (told["param"], told["code"]) == (param, code)
    assert told["type"] == "invalid_request_error"
    assert param.rpartition(".")[2] in told["message"]
    assert len(served.router.small.requests) == asked  # type: ignore[attr-defined]


def test_a_number_out_of_bounds_is_quoted_and_a_text_is_not(served: Served) -> None:
    for value, bound in ((1e-300, "0.01"), (1e300, "100")):
        told = error(post(served, {**BODY, "repetition_penalty": value}))
        assert f"(got {value!r})" in told["message"] and bound in told["message"]
    told = error(post(served, {**BODY, "temperature": "my secret"}))
    assert "secret" not in told["message"]


@pytest.mark.parametrize(
    "given",
    [
        {"messages": [{"role": "wizard", "content": "hi"}]},
        {"messages": [{"content": "hi"}]},
        {"messages": [{"role": "user", "content": " "}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"tools": [TOOL, TOOL]},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        {"tool_choice": "required"},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"glimp": {"threshold": 1, "large_share": 0.5}},
        {"glimp": {"answer_by": "nobody"}},
        {"glimp": {"max_cost": 1}},
        {"stop": ["a", ""]},
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_core_refuses_is_the_clients_mistake(
    served: Served, given: dict[str, Any], stream: bool
) -> None:
    response = post(served, {"stream": stream, **BODY, **given})
    assert response.status_code == 400, response.text
    assert error(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"[1]", "invalid_value"),
        (b"null", "invalid_value"),
        (b'{"messages": []}', "missing_required_parameter"),
        (b"[" * 1500, "invalid_json"),
        (b'{"model": "glimp", "messages": [{"role": "user", "content": "\\ud83d"}]}', None),
    ],
)
def test_a_malformed_body(served: Served, body: bytes, code: str | None) -> None:
    response = post(served, body)
    assert response.status_code == 400
    assert code in (None, error(response)["code"])


def test_a_body_that_is_too_large(served: Served) -> None:
    long = {**BODY, "messages": [{"role": "user", "content": "x" * 3000}]}
    response = post(served, long)
    assert (response.status_code, error(response)["code"]) == (413, "request_too_large")

    def parts() -> Any:
        for _ in range(30):
            yield b" " * 100

    with httpx.Client() as client:  # no length is announced
        response = client.post(
            f"{served.url}/chat/completions",
            content=parts(),
            headers={"content-type": "application/json"},
        )
    assert response.status_code == 413


def test_another_type_than_json_is_refused(served: Served) -> None:
    response = post(served, BODY, **{"content-type": "text/plain"})
    assert (response.status_code, error(response)["code"]) == (415, "unsupported_media_type")


def test_other_host_names_are_refused(served: Served) -> None:
    assert post(served, BODY, host="evil.example").status_code == 400
    assert post(served, BODY, host="localhost:1234").status_code == 200


def test_the_other_kind_of_local_address(serve: Serve) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    served = serve(host="::1")
    assert served.url.startswith("http://[::1]:")
    assert served.ask().choices[0].message.content == "It is four."


def test_pages_of_other_origins_are_told_nothing(served: Served) -> None:
    response = post(served, BODY, origin="https://evil.example")
    assert not [name for name in response.headers if name.startswith("access-control")]
    asked = httpx.options(f"{served.url}/chat/completions", headers={"origin": "https://e.example"})
    assert asked.status_code == 405


def test_another_model(served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        served.ask(model="gpt-5")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


def test_another_route(served: Served) -> None:
    response = httpx.get(f"{served.url}/embeddings")
    assert (response.status_code, error(response)["code"]) == (404, "not_found")
    response = httpx.get(f"{served.url}/chat/completions")
    assert (response.status_code, error(response)["code"]) == (405, "method_not_allowed")


def test_bounds_of_the_operator(serve: Serve) -> None:
    served = serve(
        pair("A", "."),
        allow={
            "threshold": {"min": 0.5, "max": 2},
            "route": {"values": ["always"]},
            "deadline": True,
        },
        routing={"deadline": 60, "max_completion_tokens": 100},
    )

    def refused(**given: Any) -> str:
        with pytest.raises(openai.BadRequestError) as raised:
            served.ask(**given)
        return str(raised.value.param)

    for setting, value in {
        "threshold": 2.5,
        "route": "when_it_pays",
        "deadline": 61,
        "answer_by": "small",
    }.items():
        assert refused(extra_body={"glimp": {setting: value}}) == f"glimp.{setting}"
    assert refused(extra_body={"glimp": {"threshold": "inf"}}) == "glimp.threshold"
    assert refused(max_tokens=101) == "max_tokens"
    served.ask(extra_body={"glimp": {"threshold": 2, "deadline": 60, "route": "always"}})
    served.ask(max_tokens=100)
    lifted = {"deadline": None}
    served.ask(extra_body={"glimp": lifted})


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_model_does_not_have_is_refused_by_its_name(serve: Serve, stream: bool) -> None:
    served = serve(pair("A", ".", sampling=("presence_penalty", "top_k")))
    for given in ({"min_p": 0.1}, {"top_k": 3, "repetition_penalty": 1.1}):
        *_, name = given
        response = post(served, {"stream": stream, **BODY, **given})
        assert response.status_code == 400
        told = error(response)
        assert (told["param"], told["code"]) == (name, "unsupported_parameter")
        assert f"{name}={given[name]}" in told["message"] and "small model" in told["message"]
    nothing = {"min_p": 0, "repetition_penalty": 1}
    assert post(served, {"stream": stream, **BODY, **nothing}).status_code == 200


def test_wanted_shares_are_kept_for_whole_percents_only(serve: Serve) -> None:
    served = serve()
    for number in range(30):
        served.ask(extra_body={"glimp": {"large_share": 0.2 + number / 100_000}})
    assert len(served.router._shares) == 1
