"""The access log: one JSON line a request, with neither texts nor secrets."""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glimp_integrations.errors import ConfigError

__all__ = ["AccessLog", "details", "writer"]

_log = logging.getLogger(__name__)

_DETAILS = "glimp_access_log"
_GONE = 499
"""The status that logs show where the client closed the connection first (nginx' number)."""


def details(scope: Scope) -> dict[str, Any]:
    """What is known of a request besides its line; handlers add to it."""
    known: dict[str, Any] = scope.setdefault(_DETAILS, {})
    return known


def writer(place: str) -> Callable[[str], None] | None:
    """Writes lines to a place.

    Args:
        place: A file's name, ``"-"`` for standard output, or an empty text for none.

    Raises:
        ConfigError: The file cannot be written.
    """
    if not place:
        return None
    if place == "-":
        return lambda line: print(line, file=sys.stdout, flush=True)
    path = Path(place)

    def append(line: str) -> None:
        # Opened for every line, so that the file may be moved away at any time.
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    try:
        path.touch()
    except OSError as error:
        raise ConfigError(
            f"--access-log {place}: cannot be written ({type(error).__name__})"
        ) from None
    return append


class AccessLog:
    """ASGI middleware that gives each request an id, and writes a line when it is over.

    Args:
        app: The application.
        write: Writes a line; ``None``: there is no log.
        paths: Paths that are shown; others may hold anything.
        done: Called with what the line says.
        unexpected: Answers where an exception that nobody expected came out of the application.
            It ends here: a server would log its text, which may quote a conversation.
    """

    def __init__(
        self,
        app: ASGIApp,
        write: Callable[[str], None] | None,
        paths: frozenset[str],
        done: Callable[[dict[str, Any]], None],
        unexpected: Callable[[Scope, Exception], ASGIApp],
    ) -> None:
        self._app, self._write, self._paths, self._done = app, write, paths, done
        self._unexpected = unexpected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, now = time.monotonic(), datetime.now(UTC)
        request_id = f"req_{uuid.uuid4().hex}"
        status = _GONE
        begun = complete = False

        async def sending(message: Message) -> None:
            nonlocal status, begun, complete
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            answer = self._unexpected(scope, error)
            if not begun:
                await answer(scope, receive, sending)
        finally:
            path = scope["path"]
            line = {
                "time": now.isoformat(timespec="milliseconds"),
                "id": request_id,
                "method": scope["method"] if scope["method"].isalpha() else "?",
                "path": path if path in self._paths else "(other)",
                "status": status if complete else _GONE,
                "seconds": round(time.monotonic() - began, 4),
                **details(scope),
            }
            self._done(line)
            if self._write is not None:
                try:
                    self._write(json.dumps(line, ensure_ascii=False))
                except OSError as error:  # a full disk ends no conversation
                    _log.error("the access log cannot be written: %s", type(error).__name__)
