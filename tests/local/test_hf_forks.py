"""Processes forked from one that has loaded a model: they compute with the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from forked import forked

from glimp_integrations import GlimpRouter

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
Make = Callable[..., tiny.Watched]

# The loading thread is in the middle of an import when the process forks; the child leaves as
# programs do.
LOADING = """
import os, sys, threading, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from glimp_integrations import io_loop
from glimp_integrations.backends import HuggingFaceBackend
from glimp_integrations.backends.base import Report, Request

backend, importing = HuggingFaceBackend(sys.argv[1]), threading.Event()

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "transformers.activations":  # which llama's module needs
            importing.set()
            threading.Event().wait(1.0)

async def write():
    return "".join([token.text async for token in backend.generate(Request("one", 8), Report())])

sys.meta_path.insert(0, Slow())
first = threading.Thread(target=io_loop.call, args=[write])
first.start()
assert importing.wait(300)
child = os.fork()
if child == 0:
    print(len(io_loop.call(write)) > 0, flush=True)
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
first.join()
"""


def test_parent_and_child_write_the_same(make: Make) -> None:
    backend = make()
    text = tiny.generate(backend, tiny.PROMPT, 12).text

    assert forked(lambda: tiny.generate(backend, tiny.PROMPT, 12).text) == text

    computed = backend.computed_tokens
    assert tiny.generate(backend, tiny.PROMPT, 12).text == text
    assert 0 < backend.computed_tokens - computed <= 12  # its caches are still there


def test_a_fork_while_the_model_computes(make: Make) -> None:
    backend = make()
    text = tiny.generate(backend, tiny.PROMPT, 60).text
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            assert tiny.generate(backend, tiny.PROMPT, 60).text == text

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            tiny.generate(backend, tiny.PROMPT, 3)
            assert forked(lambda: tiny.generate(backend, tiny.PROMPT, 60).text) == text
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_router_over_two_models_of_the_parent(make: Make) -> None:
    router = GlimpRouter(
        make(seed=1), make(seed=2), temperature=0.0, threshold=1.0, max_thinking_tokens=40
    )
    before = router.run("what is it?").answer

    assert forked(lambda: router.run("what is it?").answer) == before
    assert router.run("what is it?").answer == before


@pytest.mark.slow  # imports torch anew; tests/unit/test_fork_loading.py proves the waiting
def test_a_fork_while_a_model_is_being_loaded(tmp_path: Path) -> None:
    tiny.shared().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)

    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=500.0,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-3000:]
