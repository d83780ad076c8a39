"""The client's end of the servers' process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["Servers"]

_ROOT = Path(__file__).parents[3]
_MODULE = "tests.faults.endurance.serving"
_SECONDS = 30.0


class Servers:
    """Both servers in a process of their own, so that the client's memory is measured alone.

    Args:
        seed: Decides texts and faults.
        share: Share of the requests that get a fault.
        only: What the names of the faults' kinds have to contain.
        module: What is run as the servers' process.
    """

    def __init__(self, seed: int, share: float, only: str = "", module: str = _MODULE) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(seed), str(share), only],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._rest = b""
        self._kept: list[dict[str, Any]] = []

    def __enter__(self) -> Servers:
        try:
            self.urls = self._wait_for("urls")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def told(self) -> list[dict[str, Any]]:
        """What was told since the last time.

        Raises:
            RuntimeError: The process is gone.
        """
        facts, self._kept = self._kept, []
        while True:
            try:
                data = os.read(self._pipe, 65536)
            except BlockingIOError:
                return facts
            if not data:
                raise RuntimeError("the servers' process has ended; see its messages above")
            *lines, self._rest = (self._rest + data).split(b"\n")
            facts += map(json.loads, lines)

    def state(self) -> dict[str, Any]:
        """How they are, as soon as no reply is being written any more, or after five seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"state\n")
        self._process.stdin.flush()
        return self._wait_for("state")

    def _wait_for(self, what: str) -> dict[str, Any]:
        until = time.monotonic() + _SECONDS
        others: list[dict[str, Any]] = []
        while time.monotonic() < until:
            facts = self.told()
            found = [fact for fact in facts if fact["what"] == what]
            others += [fact for fact in facts if fact["what"] != what]
            if found:
                self._kept = others
                return found[0]
            time.sleep(0.02)
        raise RuntimeError(f"the servers' process told no {what} within {_SECONDS:.0f} s")
