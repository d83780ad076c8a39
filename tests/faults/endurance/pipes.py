"""A process that tells what happens in it, and answers questions: lines of JSON in its pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Piped", "tell"]

_ROOT = Path(__file__).parents[3]
_SECONDS = 30.0


def tell(**facts: Any) -> None:
    """Write a line, whole, before anything else happens: in the process."""
    os.write(sys.stdout.fileno(), json.dumps(facts).encode() + b"\n")


class Piped:
    """The other end of such a process: a context manager. The process ends with its input.

    Args:
        module: What is run.
        *arguments: Of its command line.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        os.set_blocking(self._pipe, False)
        self._rest = b""
        self._kept: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        try:
            self.begun()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._end()

    def begun(self) -> None:
        """Wait for what it tells first."""
        raise NotImplementedError

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
                raise RuntimeError(
                    f"the process of {self._module} has ended; see its messages above"
                )
            *lines, self._rest = (self._rest + data).split(b"\n")
            facts += map(json.loads, lines)

    def ask(self, what: str) -> dict[str, Any]:
        """Ask for something, and wait until it is told."""
        assert self._process.stdin is not None
        self._process.stdin.write(what.encode() + b"\n")
        self._process.stdin.flush()
        return self.wait_for(what)

    def wait_for(self, what: str) -> dict[str, Any]:
        """The next telling of this; others are kept.

        Raises:
            RuntimeError: It does not come.
        """
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
        raise RuntimeError(f"the process of {self._module} told no {what} within {_SECONDS:.0f} s")
