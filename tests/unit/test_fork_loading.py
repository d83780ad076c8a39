"""A fork waits for what other threads import and load; else its child would wait for ever."""

from __future__ import annotations

import importlib
import os
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
import threading
from test_fork_loading import BEGUN, GO_ON
BEGUN.set()
GO_ON.wait(30)
complete = True
"""
BEGUN, GO_ON = threading.Event(), threading.Event()


def imported() -> str:
    with LOADING:
        return str(importlib.import_module("imported_slowly").complete)


@pytest.fixture
def importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Thread]:
    """A thread that is in the middle of an import."""
    monkeypatch.setitem(sys.modules, "test_fork_loading", sys.modules[__name__])
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
        while not condition():
            threading.Event().wait(0.001)
        act()

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


def test_the_thread_that_loads_may_fork() -> None:
    with LOADING, LOADING:
        assert forked(lambda: str(list(LOADING._threads.values()))) == "[2]"
    assert not LOADING._threads
