"""What an operator sees: logs, metrics, health; and the process itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripts import pair, tells_a_secret
from wire.fake_server import THINKING_TEMPLATE, FakeServer
from wire.helpers import THOUGHT, THOUGHT_ANSWER

from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.errors import BackendError
from glimp_integrations.serve import readiness
from glimp_integrations.serve.metrics import LastHour
from serve.conftest import ANSWER, QUESTION, Serve
from serve.held import held_pair, until

PRICES = {"small": {"input": 1, "output": 2}, "large": {"input": 10, "output": 20}}
KEY = "the-key-the-key-the-key"


def metrics(url: str, key: str = KEY) -> dict[tuple[str, ...], float]:
    """Samples by name and the values of their labels."""
    text = httpx.get(f"{url}/metrics", headers={"authorization": f"Bearer {key}"}).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_access_log_has_figures_and_neither_texts_nor_keys(
    serve: Serve, tmp_path: Path
) -> None:
    path = tmp_path / "access.jsonl"
    keys = [{"name": "anna", "key": KEY}]
    served = serve(access_log=str(path), api_keys=keys, routing={"prices": PRICES})
    client = served.client(api_key=KEY).chat.completions
    reply = client.create(model="glimp", messages=QUESTION)  # type: ignore[call-overload]
    list(client.create(model="glimp", messages=QUESTION, stream=True))  # type: ignore
    with pytest.raises(openai.AuthenticationError):
        served.client(api_key="wrong-secret").models.list()
    httpx.get(f"{served.root}/secret-path?token=secret")
    served.stop()
    text = path.read_text()
    assert not [word for word in (KEY, "wrong-secret", "2 + 2", "four", "secret") if word in text]
    whole, stream, refused, other = [json.loads(line) for line in text.splitlines()]
    assert whole["key"] == "anna" and whole["path"] == "/v1/chat/completions"
    assert (whole["status"], whole["stream"], whole["reply"]) == (200, False, reply.id)
    assert (whole["small_tokens"], whole["large_tokens"], whole["share"]) == (2, 8, 0.8)
    assert whole["cost"] > 0 and whole["seconds"] > 0 and whole["stop"] == "eos"
    assert stream["stream"] and stream["share"] == 0.8
    assert (refused["status"], refused["error"]) == (401, "invalid_api_key")
    assert (other["path"], other["status"]) == ("(other)", 404)


def test_metrics(serve: Serve) -> None:
    served = serve(api_keys=[{"name": "anna", "key": KEY}], routing={"prices": PRICES})
    client = served.client(api_key=KEY).chat.completions
    client.create(model="glimp", messages=QUESTION)  # type: ignore[call-overload]
    with pytest.raises(openai.BadRequestError):
        client.create(model="glimp", messages=QUESTION, n=2)  # type: ignore[call-overload]
    seen = metrics(served.root)
    assert seen["glimp_requests_total", "200"] == seen["glimp_requests_total", "400"] == 1
    assert seen["glimp_errors_total", "unsupported_parameter"] == 1
    assert seen["glimp_kept_tokens_total", "large"] == 8
    assert seen["glimp_tokens_total", "output", "small"] > 0
    assert seen["glimp_tokens_total", "input", "large"] > 0
    assert seen[("glimp_large_share_sum",)] == pytest.approx(0.8)
    assert seen[("glimp_first_token_seconds_count",)] == 1
    assert seen[("glimp_token_seconds_count",)] == seen[("glimp_queue_seconds_count",)] == 1
    assert seen[("glimp_cost_total",)] > 0
    assert seen[("glimp_running",)] == seen[("glimp_waiting",)] == 0


def test_metrics_of_what_runs_and_what_failed(serve: Serve) -> None:
    models = held_pair()
    served = serve(models, max_running=1)
    with httpx.stream(
        "POST",
        f"{served.url}/chat/completions",
        json={"model": "glimp", "messages": QUESTION, "stream": True},
    ):
        until(lambda: models["large"].waiting)
        assert metrics(served.root)[("glimp_running",)] == 1
    until(lambda: ("glimp_errors_total", "client_gone") in metrics(served.root))
    models["large"].free.set()


def test_the_last_hour() -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    class Trace:
        cost: float | None = 0.5

        def tokens(self, author: str) -> int:
            return {"small": 30, "large": 10}[author]

    clock = Clock()
    hour = LastHour(clock)
    assert hour.data()["large_share"] is None and hour.data()["cost"] is None
    trace: Any = Trace()
    hour.reply(trace)
    clock.now = 1800
    hour.reply(trace)
    hour.failed()
    assert hour.data() == {
        "replies": 2,
        "failed": 1,
        "small_tokens": 60,
        "large_tokens": 20,
        "large_share": 0.25,
        "cost": 1.0,
    }
    clock.now = 3601
    assert hour.data()["replies"] == 1
    clock.now = 9000
    assert hour.data()["replies"] == 0


def test_status_tells_what_is_served(serve: Serve) -> None:
    served = serve()
    served.ask()
    told = httpx.get(f"{served.root}/status").json()
    assert (told["small"], told["large"], told["policy"]) == ("tiny", "big", "threshold=1")
    assert told["last_hour"]["large_share"] == 0.8 and told["last_hour"]["cost"] is None
    assert "threshold" in told["settings"]


def test_ready_is_when_both_models_answer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_KEPT_SECONDS", 0.0)

    class Down(ScriptedBackend):
        up = False

        async def capabilities(self) -> Any:
            if not self.up:
                raise BackendError("cannot be reached", model="big", url="http://secret-host/v1")
            return await super().capabilities()

    models = pair(*ANSWER)
    models["large"] = Down(["A", ""], name="big")
    served = serve(models)
    assert httpx.get(f"{served.root}/health").status_code == 200
    answer = httpx.get(f"{served.root}/ready")
    assert answer.status_code == 503
    assert answer.json()["reason"] == "the large model does not answer"
    models["large"].up = True
    assert httpx.get(f"{served.root}/ready").json() == {"status": "ready"}


def test_a_slow_model_is_not_asked_again_and_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_WAIT_SECONDS", 0.05)
    models = held_pair()
    held = models["large"]
    asked = []

    async def capabilities() -> Any:
        asked.append(1)
        await held._wait()
        return await type(held).capabilities(held)

    monkeypatch.setattr(held, "capabilities", capabilities)
    served = serve(models)
    for _ in range(3):
        assert httpx.get(f"{served.root}/ready").status_code == 503
    assert len(asked) == 1
    held.free.set()
    until(lambda: httpx.get(f"{served.root}/ready").status_code == 200)


def test_pages_run_nothing_of_others(serve: Serve) -> None:
    served = serve()
    for path in ("/", "/playground.js", "/style.css"):
        page = httpx.get(served.root + path)
        assert page.status_code == 200 and page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "http://" not in page.text and "https://" not in page.text
        assert "innerHTML" not in page.text


def test_the_process_serves_real_http_to_curl_and_ends_in_order(tmp_path: Path) -> None:
    options: dict[str, Any] = {"template": THINKING_TEMPLATE, "api_key": "hush-hush-hush"}
    with FakeServer(THOUGHT, **options) as small, FakeServer(THOUGHT, **options) as large:
        log = tmp_path / "log.jsonl"
        command = [sys.executable, "-c", "from glimp_integrations.cli.app import main; main()"]
        command += ["serve", "--port", "0", "--access-log", str(log)]
        command += ["--small", f"openai:fake-model@{small.url}"]
        command += ["--large", f"openai:fake-model@{large.url}"]
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={"GLIMP_API_KEY": "hush-hush-hush", "PATH": "/usr/bin:/bin", "PYTHONPATH": "."},
        )
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert "fake-model" in line, line + process.stderr.read()
            url = line.split(" at ")[1].split(",")[0]
            body = {"model": "glimp", "messages": QUESTION, "temperature": 0}
            done = subprocess.run(
                [
                    *("curl", "--silent", "--show-error", "--fail", f"{url}/chat/completions"),
                    *("--header", "Content-Type: application/json", "--data", json.dumps(body)),
                ],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
            assert json.loads(done.stdout)["choices"][0]["message"]["content"] == THOUGHT_ANSWER
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) in (0, -signal.SIGTERM)
            said = line + process.stderr.read() + log.read_text()
            assert "hush" not in said and not tells_a_secret(said) and "Traceback" not in said
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
