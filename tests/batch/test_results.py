"""What a batch writes, and what it asks."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from scripts import CALL, of_own_accord, pair
from serve.held import Held, until

from batch.files import ANSWER, Batch, asking, request
from glimp_integrations.batch import BatchPlan
from glimp_integrations.errors import BackendError, ConfigError, ModelError

PRICES = {"small": {"input": 1, "output": 2}, "large": {"input": 10, "output": 20}}


def test_every_request_has_a_result_in_openais_shape(tmp_path: Path) -> None:
    batch = Batch(tmp_path, asking("b", "Two?"), asking("a", "One? \u2028 Ja"), request("\u00e4"))
    totals = batch.run({"prices": PRICES})
    found = batch.read()
    assert set(found) == {"a", "b", "\u00e4"}
    for line in found.values():
        assert set(line) == {"id", "custom_id", "response", "error"} and line["error"] is None
        assert line["id"].startswith("batch_req_")
        response = line["response"]
        assert response["status_code"] == 200 and response["request_id"].startswith("req_")
        reply = ChatCompletion.model_validate(response["body"])
        assert reply.choices[0].message.content == "It is four." and reply.model == "glimp"
        assert response["body"]["choices"][0]["message"]["reasoning_content"]
    assert len({line["id"] for line in found.values()}) == 3
    assert sorted(batch.asked()) == ["One? \u2028 Ja", "Two?", "What is 2 + 2?"]
    bodies = [line["response"]["body"] for line in found.values()]
    assert (totals.requests, totals.done, totals.failed, totals.left) == (3, 3, 0, 0)
    assert totals.cost == pytest.approx(sum(body["glimp"]["cost"] for body in bodies))
    assert totals.large_share == pytest.approx(bodies[0]["glimp"]["large_share"])
    used = [body["usage"] for body in bodies]
    assert totals.small.input + totals.large.input == sum(u["prompt_tokens"] for u in used)
    assert totals.small.output + totals.large.output == sum(u["completion_tokens"] for u in used)


def test_bodies_are_those_of_the_server(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
    batch = Batch(
        tmp_path,
        request("tool", tools=[tool], glimp={"threshold": 3, "trace": True}, seed=3),
        models=pair(*of_own_accord(CALL)),
    )
    batch.run()
    body = batch.read()["tool"]["response"]["body"]
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
    assert body["glimp"]["trace"]["steps"] and body["glimp"]["large_step_share"] == 0


def test_what_a_body_asks_in_vain_is_the_result_of_its_line(tmp_path: Path) -> None:
    batch = Batch(
        tmp_path,
        request("unknown", colour="red"),
        request("twice", n=2),
        request("stream", stream=True),
        request("mine", glimp={"api_key": "x"}),
        request("half", messages=[{"role": "user", "content": "\ud83d"}]),
        request("good"),
    )
    totals = batch.run()
    assert (totals.done, totals.failed) == (1, 5)
    codes = {
        name: line["response"]["body"]["error"]["code"]
        for name, line in batch.read().items()
        if line["response"]["status_code"] == 400
    }
    assert codes == {
        "unknown": "unknown_parameter",
        "twice": "unsupported_parameter",
        "stream": "invalid_value",
        "mine": "unknown_parameter",
        "half": "invalid_json",
    }
    assert len(batch.asked()) == 1


def test_a_failure_tells_what_was_written_and_is_counted(tmp_path: Path) -> None:
    models = {**pair("It", " is."), "large": pair("It", " is.", fail_after=3)["large"]}
    batch = Batch(tmp_path, request("a"), models=models)
    totals = batch.run()
    line = batch.read()["a"]
    assert line["response"]["status_code"] == 502 and line["error"] is None
    error = line["response"]["body"]["error"]
    assert error["code"] == "model_failed" and error["partial"]["reasoning_content"]
    assert totals.failed == 1 and totals.small.kept == error["partial"]["tokens"]["small"]["kept"]
    assert totals.small.kept > 0


def test_a_fault_of_ours_is_one_failed_line_without_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from glimp_integrations.batch import answering

    def broken(*_: object, **__: object) -> bytes:
        raise RuntimeError(" ".join(("a", "prompt", "may", "stand", "here")))

    monkeypatch.setattr(answering, "completion", broken)
    batch = Batch(tmp_path, request("a"))
    assert batch.run().failed == 1
    assert batch.read()["a"]["response"]["body"]["error"]["code"] == "internal_error"
    assert "a prompt" not in batch.results.read_text() + caplog.text and "broken" in caplog.text


def test_a_batch_stops_when_the_models_are_gone(tmp_path: Path) -> None:
    models = pair("It.")
    render = models["large"].render

    async def gone(messages: Any, tools: Any = ()) -> Any:
        if messages[-1]["content"] == "Hello":  # what a pair is asked before it answers
            return await render(messages, tools)
        raise BackendError("nobody is there", model="big")

    lines = [*(request(f"bad {n}", n=3) for n in range(30)), *(request(str(n)) for n in range(60))]
    batch = Batch(tmp_path, *lines, models=models)
    models["large"].render = gone
    with pytest.raises(ModelError, match=r"nobody is there.*--retry-failed"):
        batch.run(concurrency=2)
    found = batch.read()
    assert 16 <= sum(not name.startswith("bad") for name in found) <= 18
    del models["large"].render
    totals = batch.run(retry_failed=True)
    assert (totals.done, totals.failed) == (60, 30)


def test_so_many_requests_run_at_a_time(tmp_path: Path) -> None:
    models = {**pair(*ANSWER), "large": pair(*ANSWER, kind=Held)["large"]}
    held = models["large"]
    batch = Batch(tmp_path, *(request(str(n)) for n in range(9)), models=models)

    thread = threading.Thread(target=lambda: batch.run(concurrency=3))
    thread.start()
    try:
        until(lambda: held.waiting == 3)
        assert len(batch.asked()) == 3
    finally:
        held.free.set()
        thread.join(30)
    assert len(batch.read()) == 9


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"max_line_bytes": 10}, "max_line_bytes is 10"),
        ({"model_name": ""}, "model_name is empty"),
    ],
)
def test_impossible_plans(tmp_path: Path, fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BatchPlan(tmp_path / "in", tmp_path / "out", **fields)  # type: ignore[arg-type]


def test_the_manifest_has_no_secret(tmp_path: Path) -> None:
    batch = Batch(tmp_path, request("a"))
    batch.run({"api_key": "hush-hush-hush", "threshold": 0.5})
    text = (tmp_path / "out.jsonl.run.json").read_text()
    assert "hush" not in text
    assert json.loads(text)["settings"]["threshold"] == 0.5
