"""Programs that fork, run against fake servers."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from wire.helpers import ANSWER

__all__ = ["PREAMBLE", "run"]

PREAMBLE = """
import multiprocessing, os, sys, threading, time, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from glimp_integrations import GlimpRouter
SMALL, LARGE = sys.argv[1:]

def router():
    return GlimpRouter(SMALL, LARGE, temperature=0.0, route="always", strategy="two_request")

def forked(work):
    # The child ends as programs do, so that everything in it is destroyed.
    child = os.fork()
    if child == 0:
        work()
        sys.exit(7)
    return child

def ended(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def run(script: str, *servers: Any, seconds: float = 25.0, **environment: str) -> None:
    """Run a script in a process of its own; it has to end without a word on standard error."""
    models = [server.model_string for server in servers]
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, *models],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    assert set(done.stdout.split("|")) == {ANSWER, ""}, done.stdout
