"""``deploy/ray`` on a real local Ray: replicas, streams, clients that go, a full queue.

tests/deploy/test_ray_files.py builds the application without a cluster.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serve.conftest import QUESTION
from serve.held import until
from wire.fake_server import THINKING_TEMPLATE, FakeServer, Fault
from wire.helpers import THOUGHT, THOUGHT_ANSWER

from benchmarks.lab.ray_serve import RAY_SERVE, RECIPE, RayServe, ray_serve

KEY = "k" * 40
# As `serve deploy` does it without this application, or its controller when a replica has to go.
DELETE = """
import ray
from ray import serve
ray.init(address="auto", log_to_driver=False)
serve.delete("glimp")
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RAY_SERVE.exists(), reason="Ray is not installed (extra ray)"),
]


@dataclass
class Cluster:
    """A running Ray with the application; its models are ``small`` and ``large``."""

    ray: RayServe
    small: FakeServer
    large: FakeServer

    @property
    def url(self) -> str:
        return self.ray.root

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


def configuration(folder: Path, small: FakeServer, large: FakeServer) -> Path:
    """The recipe's configuration with addresses and paths of this test."""
    config = folder / "serve.toml"
    text = (RECIPE / "serve.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(("small", "large ="))]
    lines += [
        f'small = "openai:fake-model@{small.url}"',
        f'large = "openai:fake-model@{large.url}"',
    ]
    keys = folder / "keys.toml"
    keys.write_text(f'[[api_keys]]\nname = "test"\nkey = "{KEY}"\n')
    text = "\n".join(lines).replace("/etc/glimp/keys.toml", str(keys)) + "\ntemperature = 0\n"
    text = text.replace("max_running = 32", "max_running = 2")
    config.write_text(text.replace("max_waiting = 128", "max_waiting = 0"))
    return config


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")
    models: dict[str, Any] = {"template": THINKING_TEMPLATE}
    with (
        FakeServer(THOUGHT, **models) as small,
        FakeServer(THOUGHT, **models) as large,
        ray_serve(folder, configuration(folder, small, large)) as running,
    ):
        yield Cluster(running, small, large)


def test_replies_and_streams(cluster: Cluster) -> None:
    with cluster.client() as client:
        reply = client.chat.completions.create(model="glimp", messages=QUESTION)  # type: ignore
        assert reply.choices[0].message.content == THOUGHT_ANSWER
        chunks = list(
            client.chat.completions.create(model="glimp", messages=QUESTION, stream=True)  # type: ignore
        )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == THOUGHT_ANSWER
    assert len(chunks) > 5


def test_keys_are_asked_for(cluster: Cluster) -> None:
    assert httpx.get(f"{cluster.url}/v1/models").status_code == 401
    with cluster.client("x" * 40) as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_names_of_other_hosts_are_let_in(cluster: Cluster) -> None:
    asked = httpx.get(f"{cluster.url}/health", headers={"host": "llm.example.com"})
    assert asked.json() == {"status": "ok"}


def test_a_client_that_goes_stops_the_model_and_a_full_queue_says_so(cluster: Cluster) -> None:
    cluster.small.faults.append(Fault("hang", tokens=1, chat_only=True))
    try:
        with httpx.Client(
            base_url=cluster.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60
        ) as client:
            body = {"model": "glimp", "messages": QUESTION, "stream": True}
            request = client.build_request("POST", "/v1/chat/completions", json=body)
            held: list[httpx.Response] = []
            # Two replicas with two places each.
            for _ in range(5):
                held.append(client.send(request, stream=True))
                if held[-1].status_code == 429:
                    break
                until(lambda: cluster.small.active == len(held))
            refused = held[-1]
            refused.read()
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
            assert refused.json()["error"]["code"] == "too_many_conversations"
            assert cluster.small.active == len(held) - 1 > 1
            for response in held:
                response.close()
            until(lambda: cluster.small.active == 0)
    finally:
        cluster.small.faults.clear()
    with cluster.client() as client:
        reply = client.chat.completions.create(model="glimp", messages=QUESTION)  # type: ignore
        assert reply.choices[0].message.content == THOUGHT_ANSWER


def test_running_answers_finish_when_the_replicas_go(cluster: Cluster) -> None:
    # The last test: nothing is served after it.
    cluster.large.delay = 1.0  # so that it lasts longer than the deletion takes to begin
    client = cluster.client()
    try:
        with (
            client,
            client.chat.completions.create(  # type: ignore[call-overload]
                model="glimp", messages=QUESTION, stream=True
            ) as stream,
        ):
            first = next(stream)
            subprocess.run([sys.executable, "-c", DELETE], env=cluster.ray.environment, check=True)
            chunks = [first, *stream]
    finally:
        cluster.large.delay = 0.0
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == THOUGHT_ANSWER
    assert choices[-1].finish_reason == "stop"
    until(lambda: not cluster.ray.replicas(), 60)
