"""The line of a user's program that made a call."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from glimp_integrations import callers
from glimp_integrations.callers import users_line

OURS = Path(callers.__file__).with_name("made_up.py")


def defined_in(file: Path, calls: Any) -> Any:
    """A function of this file that calls another, on its second line."""
    space: dict[str, Any] = {"__name__": file.stem, "calls": calls}
    exec(compile("def function():\n    return calls()", str(file), "exec"), space)
    return space["function"]


def test_it_is_the_line_that_calls() -> None:
    frame = inspect.currentframe()
    assert frame is not None
    assert users_line() == (__file__, frame.f_lineno, __name__)


def test_the_project_and_installed_packages_are_passed_over(tmp_path: Path) -> None:
    installed = tmp_path / "site-packages" / "framework" / "core.py"
    in_library = Path(threading.__file__).with_name("made_up.py")
    program = tmp_path / "program.py"
    inner = defined_in(installed, defined_in(in_library, defined_in(OURS, users_line)))
    assert defined_in(program, inner)() == (str(program), 2, "program")


def test_in_a_frameworks_thread_it_is_the_frameworks_line(tmp_path: Path) -> None:
    installed = tmp_path / "dist-packages" / "framework.py"
    work = defined_in(installed, defined_in(OURS, users_line))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result(timeout=60) == (str(installed), 2, "framework")
