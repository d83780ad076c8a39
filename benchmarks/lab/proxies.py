"""What stands in front of ``glimp serve``: where it is, and the processor time it takes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.lab.crowd_measure import cpu_of

__all__ = ["Proxy", "cpu_of_all", "wait_until_ready"]


@dataclass(frozen=True)
class Proxy:
    """A running proxy.

    Attributes:
        root: Its address, ``http://...`` or ``https://...``.
        process: Its first process, whose children may do the work.
        certificate: What a client has to trust: a file; ``None``: it has no TLS.
        key: What a client has to show; ``None``: nothing.
    """

    root: str
    process: psutil.Process
    certificate: Path | None = None
    key: str | None = None

    def processes(self) -> list[psutil.Process]:
        """Those whose time counts: all of them."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu(self) -> float:
        """CPU seconds that they took so far."""
        return cpu_of_all(self.processes())


def cpu_of_all(processes: Iterable[psutil.Process]) -> float:
    """CPU seconds that these processes took so far."""
    return sum(map(cpu_of, processes), 0.0)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    """Wait until this address answers with 200.

    Args:
        url: The address.
        process: What is to answer there.
        log: A file of what it says.
        seconds: How long at most.

    Raises:
        RuntimeError: The process ended, or it takes longer; what it said last is in the message.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(url, timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    state = "does not answer" if process.poll() is None else f"ended with {process.returncode}"
    said = log.read_text(encoding="utf-8", errors="replace")[-3000:]
    raise RuntimeError(f"what was to be at {url} {state}: {said}")
