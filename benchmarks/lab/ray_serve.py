"""A local Ray with the recipe of ``deploy/ray``: its HTTP proxy, and two replicas behind it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.lab.proxies import Proxy, wait_until_ready
from benchmarks.lab.run import free_port

__all__ = ["RAY_SERVE", "RECIPE", "RayServe", "ray_serve"]

RAY_SERVE = Path(sys.executable).with_name("serve")
RECIPE = Path(__file__).parents[2] / "deploy" / "ray"
_REPLICAS = 2
_START_SECONDS = 180


@dataclass(frozen=True, kw_only=True)
class RayServe(Proxy):
    """A running Ray with the application.

    Attributes:
        environment: Variables for programs that are to find this Ray.
    """

    environment: Mapping[str, str]

    def processes(self) -> list[psutil.Process]:
        """Ray's HTTP proxy alone: replicas and Ray's own servers are no part of it."""
        return self._named("ProxyActor")

    def replicas(self) -> list[psutil.Process]:
        """Processes that Ray runs replicas in."""
        return self._named("ServeReplica:glimp:Glimp")

    def _named(self, name: str) -> list[psutil.Process]:
        children = self.process.children(recursive=True)
        return [child for child in children if name in _command(child)]


def _command(process: psutil.Process) -> str:
    """Its command line; of one that has just ended, nothing."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@contextmanager
def ray_serve(folder: Path, config: Path) -> Iterator[RayServe]:
    """A Ray of its own with two replicas.

    Args:
        folder: For its files.
        config: The configuration of the replicas, as ``deploy/ray/serve.toml`` is.

    Raises:
        FileNotFoundError: Ray is not installed (extra ``ray``).
        RuntimeError: It did not start; what it said is in the message.
    """
    port, log = free_port(), folder / "ray.log"
    root = f"http://127.0.0.1:{port}"
    # Ray's sockets have to have short paths.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as place:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": place,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(RAY_SERVE), "run", str(_recipe(folder, port, config))],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, "RAY_ADDRESS": "local"},
                cwd=folder,
            )
        try:
            running = RayServe(root, psutil.Process(process.pid), environment=environment)
            end = time.monotonic() + _START_SECONDS
            wait_until_ready(f"{root}/ready", process, log, _START_SECONDS)
            while len(running.replicas()) < _REPLICAS:
                if time.monotonic() > end:
                    raise RuntimeError(f"replicas are missing: {log.read_text()[-3000:]}")
                time.sleep(0.1)
            yield running
        finally:
            _end(process)


def _recipe(folder: Path, port: int, config: Path) -> Path:
    """The recipe with this address and configuration, for a small machine.

    Raises:
        ValueError: The recipe has changed.
    """
    text = (RECIPE / "serve.yaml").read_text(encoding="utf-8")
    for old, new in {
        "host: 0.0.0.0": "host: 127.0.0.1",
        "port: 8000": f"port: {port}",
        "/etc/glimp/serve.toml": str(config),
        "max_replicas: 8": f"max_replicas: {_REPLICAS}",
        "num_cpus: 1": "num_cpus: 0.5",
    }.items():
        if text.count(old) != 1:
            raise ValueError(f"{old!r} stands {text.count(old)} times in {RECIPE / 'serve.yaml'}")
        text = text.replace(old, new)
    path = folder / "serve.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _end(process: subprocess.Popen[bytes]) -> None:
    """End Ray, and what it leaves."""
    own = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(60)
    finally:
        for child in own:
            if child.is_running():
                child.kill()
        process.kill()
        process.wait()
