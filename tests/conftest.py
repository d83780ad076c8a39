"""What all tests share."""

import asyncio
import functools
import gc
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings

BUNDLED = Path(__file__).parent / "bundled"
"""All tests in there load the bundled models; its own conftest marks them."""

# Property tests: 100 examples here, fifteen times as many in `make test-slow`, and a quarter where
# only versions are new (`make test-lowest`). A pause of a busy machine is no failure; pytest's own
# timeout catches what hangs.
settings.register_profile("few", deadline=None, max_examples=25)
settings.register_profile("short", deadline=None, max_examples=100)
settings.register_profile("long", deadline=None, max_examples=1500)
settings.load_profile("short")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--compare-at-once``: the account of calls begins as early as on the slowest machine."""
    parser.addoption(
        "--compare-at-once",
        action="store_true",
        help="routers compare routed calls with the large model alone from the third call on, "
        "however little time those took: what fails so fails on a machine that is slow enough",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collecting makes a million objects that live to the end: none of them is garbage to look for.

    Frozen, they are not looked through again for every test's own garbage, which is collected as
    ever.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` finds the files with tests that run alone by the mark in their text.

    Raises:
        RuntimeError: A test would run nowhere, as its file does not say ``mark.serial``.
    """
    marked = {
        (item.path, name)
        for item in items
        for name in ("bundled", "serial")
        if item.get_closest_marker(name) and BUNDLED not in item.path.parents
    }
    for path, name in marked:
        if f"mark.{name}" not in path.read_text(encoding="utf-8"):
            raise RuntimeError(
                f"{path} has tests marked {name}, but no `mark.{name}` in its text, by which "
                "`make test` finds the file: write the mark there"
            )


def pytest_report_header(config: pytest.Config) -> str:
    """Which of the two environments of `make test` this is."""
    at_once = ", calls are compared at once" if config.getoption("--compare-at-once") else ""
    return f"pydantic {version('pydantic')}{at_once}"


@pytest.fixture(scope="module", autouse=True)
def no_loop_is_left() -> None:
    """LlamaIndex, called synchronously, would make a loop for the main thread and never close it.

    (``asyncio_run`` asks for the thread's loop. Told that there is none, it makes one for the call
    only.) The warning of the loop's end would hit whatever test runs then.
    """
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session", autouse=True)
def calls_are_compared_at_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """By default a router waits until routed calls of a kind took a second in all."""
    from glimp_integrations.method import accounts

    with pytest.MonkeyPatch.context() as patched:
        if request.config.getoption("--compare-at-once"):
            patched.setattr(accounts, "_NOTICED", -1.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def certificates_are_read_once() -> Iterator[None]:
    """A backend reads all certificates of the system, which is more work than most tests are."""
    # Not above: a process of xdist would not count the lines that run when modules are imported.
    from glimp_integrations.backends.http import dialing

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dialing, "_certificates", functools.cache(dialing._certificates))
        yield
