"""vLLM's own server, started and stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.real_vllm import environment, models
from glimp_integrations.errors import BackendError, ConfigError

__all__ = ["Server", "serving"]

_PATIENCE = 600  # seconds until a server that starts counts as hung
_STOP_SECONDS = 30.0  # for leaving in good order
_OWN = {
    # Loading is from a folder; nothing has to ask the hub, and this run is not reported anywhere.
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # GiB of KV cache: thousands of tokens, where the default takes most of the memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # By default one core is kept free of computing and the threads are pinned to the others:
    # two servers on a small machine would share a single core.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Threads that wait leave the cores to the other model.
    "OMP_WAIT_POLICY": "passive",
}


@dataclass(frozen=True)
class Server:
    """One running server. ``ready_seconds`` is the time from its start until it was healthy."""

    process: subprocess.Popen[bytes]
    model: str
    dtype: str
    window: int
    root: str
    log: Path
    ready_seconds: float

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"{self.root}/v1"

    @property
    def memory(self) -> int:
        """Bytes that only this server's processes hold."""
        parent = psutil.Process(self.process.pid)
        total = 0
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().uss
        return total

    def metric(self, name: str) -> float:
        """The sum of one metric of ``/metrics``."""
        with urllib.request.urlopen(f"{self.root}/metrics", timeout=10) as answer:  # noqa: S310
            text = answer.read().decode()
        values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.M)
        if not values:
            raise BackendError(f"/metrics has no {name}", model=self.model, url=self.root)
        return sum(float(value) for value in values)


@contextmanager
def serving(
    size: str, *, console: Console, port: int = 0, dtype: str = "bfloat16", window: int = 1024
) -> Iterator[Server]:
    """Serve one model of the pair; the server is gone when the block is left.

    Args:
        size: ``"small"`` or ``"large"``.
        console: Where progress is shown.
        port: On the loopback interface; 0: any free one.
        dtype: What the server computes in.
        window: Tokens of one conversation; small, so that a proof can fill it.

    Raises:
        ConfigError: vLLM or the model is not there, or the port is taken.
        BackendError: The server did not become healthy.
    """
    if not environment.installed():
        raise ConfigError(
            f"there is no vLLM in {environment.environment()}: run `python -m "
            "benchmarks.real_vllm install`, or name an environment of your own with GLIMP_VLLM"
        )
    place = models.folder(size)
    if not place.is_dir():
        raise ConfigError(
            f"there is no model in {place}: run `python -m benchmarks.real_vllm convert`"
        )
    port = _checked(port)
    name = models.FILES[size].model
    folder = environment.environment()
    log = folder / f"serve-{size}-{port}.log"
    command = [
        str(folder / "bin" / "vllm"),
        "serve",
        str(place),
        "--served-model-name",
        name,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        dtype,
        "--max-model-len",
        str(window),
        "--max-num-seqs",
        "4",
        # Compiling pays off after many more tokens than are written here.
        "--enforce-eager",
        # Only whole blocks are kept; on a CPU they have 128 tokens by default.
        "--block-size",
        "32",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
    ]
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env = {**inherited, **_OWN, "VLLM_CACHE_ROOT": str(folder / "cache")}
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            # A group of its own: Ctrl-C reaches this program, which then stops the server.
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    root = f"http://127.0.0.1:{port}"
    try:
        _wait(process, root, log, name, console)
        seconds = time.perf_counter() - started
        console.print(f"{name} ({dtype}) on vLLM at {root}/v1, ready after {seconds:.0f} s")
        yield Server(process, name, dtype, window, root, log, seconds)
    finally:
        with console.status(f"stopping {name}"):
            _stop(process)


def _checked(port: int) -> int:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still dying can be had.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port} cannot be had ({error}): choose another") from error
        return int(probe.getsockname()[1])


def _wait(
    process: subprocess.Popen[bytes], root: str, log: Path, name: str, console: Console
) -> None:
    started = time.perf_counter()
    with console.status(f"starting {name}") as status:
        while (seconds := time.perf_counter() - started) < _PATIENCE:
            if process.poll() is not None:
                break
            if _healthy(root):
                return
            status.update(f"starting {name}, {seconds:.0f} s: {_last_words(log)}")
            time.sleep(0.5)
    how = "hangs" if process.poll() is None else f"ended with exit code {process.returncode}"
    raise BackendError(
        f"vLLM {how} before it was healthy; the end of {log}:\n{_tail(log)}", model=name, url=root
    )


def _healthy(root: str) -> bool:
    try:
        with urllib.request.urlopen(f"{root}/health", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _last_words(log: Path) -> str:
    """The last line of the server's log, without its time and place."""
    line = _tail(log, 1)
    return re.sub(r"^.*?\[[\w./]+:\d+\] ", "", line)[:90].replace("[", r"\[")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to go; what is left of its processes after that is killed."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
