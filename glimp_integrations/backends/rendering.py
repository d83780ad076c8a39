"""Running chat templates of others: off the I/O loop, within limits of time and size.

A template is a program. One that loops for minutes, or writes gigabytes, would hold up every call
of the process, and no exception of its own choosing may reach a user raw.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar

from glimp_integrations.errors import ConfigError

__all__ = ["MAX_CHARACTERS", "MAX_SECONDS", "guarded", "limited", "off_loop", "refuse_huge"]

T = TypeVar("T")

MAX_SECONDS = 10.0
"""How long a template may take. Real ones take milliseconds."""
MAX_CHARACTERS = 64 * 1024 * 1024
"""The longest prompt: far more than any context window holds."""
_REASON_CHARACTERS = 500
_EXPONENT = 1024
_BITS = 65536


class _OutOfTimeError(BaseException):
    """Raised inside of a template that took too long.

    No ``Exception``: a function of the user that catches all of them would go on.
    """


def guarded(render: Callable[[], object], name: str) -> str:
    """What a template writes; whatever else it does becomes an error in words.

    Args:
        render: Runs the template.
        name: Names the template, for messages; such as ``"the chat template of qwen"``.

    Raises:
        ConfigError: It failed, refused, wrote too much, or no text.
    """
    try:
        text = render()
    except ConfigError:
        raise
    except Exception as error:
        raise _refusal(name, error) from None
    if not isinstance(text, str):
        raise ConfigError(f"{name} returned {type(text).__name__}: it has to return the prompt")
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            f"{name} wrote {len(text):,} characters, and {MAX_CHARACTERS:,} are allowed: look for "
            "a loop in it"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{name} wrote half of a character ({error.object[error.start]!a}), which no request "
            "can carry: look for texts in it, or in the conversation, that were cut"
        ) from None
    return text


def limited(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces that a template writes, up to ``MAX_CHARACTERS``.

    Raises:
        OverflowError: It writes more.
    """
    written = 0
    for piece in pieces:
        written += len(piece)
        if written > MAX_CHARACTERS:
            raise OverflowError(f"it writes more than {MAX_CHARACTERS:,} characters")
        yield piece


def refuse_huge(operator: str, left: Any, right: Any) -> None:
    """Refuse a product or power so large that it alone would take minutes or gigabytes.

    Nothing can end a single operation of Python that runs.

    Raises:
        OverflowError: It is.
    """
    pairs = (left, right), (right, left)
    if operator == "**":
        huge = isinstance(left, int) and isinstance(right, int) and abs(right) > _EXPONENT
    else:
        huge = any(
            isinstance(one, Sized) and isinstance(n, int) and len(one) * n > MAX_CHARACTERS
            for one, n in pairs
        ) or all(isinstance(n, int) and n.bit_length() > _BITS for n in (left, right))
    if huge:
        raise OverflowError(f"the result of {operator!r} is too large")


def _refusal(name: str, error: BaseException) -> ConfigError:
    """An error that says why a template failed, and where if that is known."""
    line = _line_of(error)
    where = "" if line is None else f" (line {line})"
    reason = " ".join(str(error).split())[:_REASON_CHARACTERS]
    if not _is_jinjas(error):
        reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return ConfigError(
        f"{name}{where} cannot render this conversation: {reason}. Change the conversation, or "
        "pass another chat_template"
    )


def _is_jinjas(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "jinja2"


def _line_of(error: BaseException) -> int | None:
    """The line of the template's source, which Jinja writes into tracebacks."""
    # A mistake in the grammar has it as an attribute; errors of other modules mean other lines.
    line = getattr(error, "lineno", None) if _is_jinjas(error) else None
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = step.tb_lineno
        step = step.tb_next
    return line if isinstance(line, int) else None


async def off_loop(work: Callable[[], T], name: str, *, seconds: float | None = None) -> T:
    """Run a template in a thread, and end it there if it takes too long.

    Args:
        work: Renders, and maybe counts tokens.
        name: Names the template, for messages.
        seconds: How long it may take; by default ``MAX_SECONDS``.

    Raises:
        ConfigError: It took longer.
    """
    seconds = MAX_SECONDS if seconds is None else seconds
    job = _Job(work)
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(job.start())
    except TimeoutError:
        raise ConfigError(
            f"{name} took longer than {seconds:g} seconds: look for a loop in it, shorten the "
            "conversation, or pass another chat_template"
        ) from None
    finally:
        job.end()


class _Job:
    """Work in a thread of its own that can be ended from outside."""

    def __init__(self, work: Callable[[], Any]) -> None:
        # The caller's context variables (tracing spans) stay visible to functions of the user.
        context = contextvars.copy_context()
        self._work: Callable[[], Any] = lambda: context.run(work)
        self._future: Future[Any] = Future()
        self._lock = threading.Lock()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="glimp-template", daemon=True)

    def start(self) -> Future[Any]:
        """Begin; returns the result to come."""
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending: no thread starts any more
            self._run()
        return self._future

    def end(self) -> None:
        """End the work, if it still runs: at the next step of Python code in its thread."""
        with self._lock:
            if self._over or self._thread.ident is None:
                return
            # The way that Python has for ending code in another thread. It cannot end a single
            # operation of C code, which goes on in its thread and holds up no call for longer.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident), ctypes.py_object(_OutOfTimeError)
            )
            self._over = True

    def _run(self) -> None:
        try:
            try:
                self._finish(self._future.set_result, self._work())
            except Exception as error:
                self._finish(self._future.set_exception, error)
        except _OutOfTimeError:
            return

    def _finish(self, deliver: Callable[[Any], None], outcome: Any) -> None:
        with self._lock:
            self._over = True
        with suppress(InvalidStateError):  # cancelled meanwhile
            deliver(outcome)
