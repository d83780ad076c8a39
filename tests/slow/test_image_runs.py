"""The image of ``deploy/Dockerfile`` as a container, locked, before fake model servers.

Needs `make image` first, with Docker or Podman. tests/deploy/test_image.py checks the file without
it.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from deploy.files import OWN_IMAGE
from serve.conftest import QUESTION
from serve.held import until
from wire.fake_server import THINKING_TEMPLATE, FakeServer
from wire.helpers import THOUGHT, THOUGHT_ANSWER

KEY = "k" * 40
# What Kubernetes and Compose set, too. Podman alone would give it a /tmp to write to.
LOCKED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
START_SECONDS = 60
FOLDERS = ("/", "/tmp", "/etc/glimp", "/opt/glimp", "/usr/local/lib/python3.11")
LOOK = f"""
import json, os
from pathlib import Path
status = dict(line.split(":", 1) for line in Path("/proc/1/status").read_text().splitlines())
print(json.dumps({{
    "ids": [status[name].split()[0] for name in ("Uid", "Gid")],
    "capabilities": int(status["CapEff"], 16),
    "home": os.path.expanduser("~"),
    "writes": [folder for folder in {FOLDERS!r} if os.access(folder, os.W_OK)],
    "packages": [name for name in ("pip", "setuptools", "torch")
                 if list(Path("/opt/glimp/lib").glob(f"*/site-packages/{{name}}"))],
}}))
"""


def engine() -> str | None:
    """Docker or Podman, whichever has the image."""
    for name in ("docker", "podman"):
        if shutil.which(name):
            done = subprocess.run([name, "image", "inspect", OWN_IMAGE], capture_output=True)
            if done.returncode == 0:
                return name
    return None


ENGINE = engine()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ENGINE is None, reason=f"there is no image {OWN_IMAGE}: run `make image`"),
]


def ask(*arguments: str) -> str:
    """What the engine prints."""
    assert ENGINE is not None
    done = subprocess.run([ENGINE, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Container:
    """A running container."""

    name: str
    root: str

    def python(self, *arguments: str) -> str:
        """What the container's Python prints, errors included."""
        assert ENGINE is not None
        command = [ENGINE, "exec", self.name, "python", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def stream(self, client: httpx.Client) -> Any:
        """A streamed reply that has begun."""
        body = {"model": "glimp", "messages": QUESTION, "stream": True}
        return client.stream(
            "POST",
            f"{self.root}/v1/chat/completions",
            json=body,
            headers={"Authorization": f"Bearer {KEY}"},
        )

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.root}/ready", timeout=30).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    """The image on this machine's network, where the fakes are."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    models: dict[str, Any] = {"template": THINKING_TEMPLATE, "delay": 0.1}
    name = f"glimp-test-{uuid.uuid4().hex[:12]}"
    with FakeServer(THOUGHT, **models) as small, FakeServer(THOUGHT, **models) as large:
        config = tmp_path / "serve.toml"
        config.write_text(
            f'host = "127.0.0.1"\nport = {port}\ngrace_seconds = 30\n[routing]\n'
            f'small = "openai:fake-model@{small.url}"\nlarge = "openai:fake-model@{large.url}"\n'
            'temperature = 0\nroute = "always"\n'
        )
        config.chmod(0o644)
        locked = [*LOCKED, "--read-only-tmpfs=false"] if ENGINE == "podman" else LOCKED
        ask(
            *("run", "--detach", "--name", name, "--pull", "never", "--network", "host", *locked),
            *("--env", f"GLIMP_SERVE_API_KEYS={KEY}"),
            *("--volume", f"{config}:/etc/glimp/serve.toml:ro", OWN_IMAGE),
        )
        running = Container(name, f"http://127.0.0.1:{port}")
        try:
            until(running.ready, START_SECONDS)
            yield running
        finally:
            ask("rm", "--force", name)


def answer(lines: Iterator[str]) -> str:
    """The answer in a stream that came to its end."""
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events[-1]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_it_answers_and_can_write_nowhere(container: Container) -> None:
    assert httpx.get(f"{container.root}/health").status_code == 200
    with httpx.Client(timeout=60) as client, container.stream(client) as reply:
        assert answer(reply.iter_lines()) == THOUGHT_ANSWER
    assert json.loads(container.python("-c", LOOK)) == {
        "ids": ["10001", "10001"],
        "capabilities": 0,
        "home": "/",
        "writes": [],
        "packages": [],
    }


def test_its_health_check_passes(container: Container) -> None:
    (found,) = json.loads(ask("inspect", container.name))
    kind, program, *arguments = found["Config"]["Healthcheck"]["Test"]
    assert (kind, program) == ("CMD", "python")
    port = container.root.rpartition(":")[2]
    container.python(*(argument.replace(":8000/", f":{port}/") for argument in arguments))


def test_nothing_is_compiled_at_a_start(container: Container) -> None:
    """A compiled module that Python does not accept is read and thrown away at every start."""
    modules = "urllib.request, glimp_integrations.cli.serve, glimp_integrations.serve.server"
    said = container.python("-v", "-c", f"import {modules}")
    # From a compiled module, the path is quoted.
    compiled = [line for line in said.splitlines() if line.startswith("# code object from /")]
    assert compiled == [] and "# code object from '" in said


def test_sigterm_lets_a_running_answer_finish(container: Container) -> None:
    with httpx.Client(timeout=60) as client, container.stream(client) as reply:
        lines = reply.iter_lines()
        next(lines)
        ask("kill", "--signal", "TERM", container.name)
        assert answer(lines) == THOUGHT_ANSWER
    assert ask("wait", container.name).strip() == "0"
