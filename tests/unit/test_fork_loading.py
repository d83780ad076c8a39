"""A fork waits for what other threads import and load; else its child would wait for ever."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked import forked

from glimp_integrations import forks
from glimp_integrations.forks import LOADING

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
# Imported, it waits until it is told to go on.
SOURCE = """
from test_fork_loading import BEGUN, GO_ON
BEGUN.set()
GO_ON.wait(30)
complete = True
"""
# A new interpreter: which modules were imported first is what this is about.
LOCKS = """
import os, threading, warnings
from glimp_integrations import forks
import logging
from concurrent.futures import ThreadPoolExecutor

warnings.simplefilter("ignore", DeprecationWarning)
forks._WAIT_SECONDS = 10.0
begun = threading.Event()

def load():
    with forks.LOADING:
        begun.set()
        while forks.LOADING._forking is None:
            pass
        logging.getLogger("loaded").setLevel("INFO")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result()

threading.Thread(target=load).start()
begun.wait()
child = os.fork()
if child == 0:
    os._exit(forks.LOADING._torn)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
BEGUN, GO_ON = threading.Event(), threading.Event()


def imported() -> str:
    with LOADING:
        return str(importlib.import_module("imported_slowly").complete)


@pytest.fixture
def importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Thread]:
    """A thread that is in the middle of an import."""
    monkeypatch.setitem(sys.modules, "test_fork_loading", sys.modules[__name__])
    monkeypatch.setattr(forks, "_WAIT_SECONDS", 10.0)
    (tmp_path / "imported_slowly.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    BEGUN.clear()
    GO_ON.clear()
    thread = threading.Thread(target=imported)
    thread.start()
    assert BEGUN.wait(30)
    yield thread
    GO_ON.set()
    thread.join()
    sys.modules.pop("imported_slowly", None)


def when(condition: Callable[[], bool], act: Callable[[], object]) -> None:
    """Act in another thread as soon as a condition is true."""

    def wait() -> None:
        for _ in range(10_000):
            if condition():
                act()
                return
            threading.Event().wait(0.001)

    threading.Thread(target=wait).start()


def test_a_fork_waits_for_an_import(importing: threading.Thread) -> None:
    when(lambda: LOADING._forking is not None, GO_ON.set)

    assert forked(imported) == "True"

    assert imported() == "True"
    assert not LOADING._threads and LOADING._forking is None


def test_a_thread_that_begins_to_load_waits_for_the_fork(importing: threading.Thread) -> None:
    inside = threading.Event()

    def load() -> None:
        with LOADING:
            inside.set()

    def begin_to_load() -> None:
        threading.Thread(target=load).start()
        inside.wait(0.05)
        GO_ON.set()

    when(lambda: LOADING._forking is not None, begin_to_load)

    assert forked(lambda: str(inside.is_set())) == "False"
    assert inside.wait(30)


def test_after_a_fork_that_could_not_wait_loading_is_an_error(
    importing: threading.Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "_WAIT_SECONDS", 0.05)

    text = forked(imported)

    assert "RuntimeError: this process was forked while another thread was loading" in text
    assert "'spawn' method" in text
    GO_ON.set()
    assert imported() == "True"  # the parent is none the worse


def test_who_loads_can_log_and_start_threads_while_a_fork_waits() -> None:
    assert subprocess.run([sys.executable, "-c", LOCKS], timeout=60.0, check=False).returncode == 0


def test_the_thread_that_loads_may_fork() -> None:
    with LOADING, LOADING:
        assert forked(lambda: str(list(LOADING._threads.values()))) == "[2]"
    assert not LOADING._threads
