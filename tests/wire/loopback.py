"""HTTP on loopback for the servers of these tests: life, requests as they arrived, answers."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

__all__ = ["Handler", "Loopback", "Seen"]


@dataclass(frozen=True)
class Seen:
    """A request as it arrived. ``connection`` counts them, where the server does."""

    method: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    connection: int = 0


class Loopback:
    """A server of a test; use it as a context manager.

    ``handler`` answers, and finds the server as ``handler.owner``.
    """

    handler: type[Handler]

    def __enter__(self) -> Self:
        own = type("Own", (self.handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), own)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5.0)

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Handler(BaseHTTPRequestHandler):
    """Reads a request, and has it answered by ``serve``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30
    owner: Any
    number = 0

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client is gone
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self.serve({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.serve(json.loads(self.rfile.read(length) or b"{}"))

    def serve(self, body: dict[str, Any]) -> None:
        raise NotImplementedError

    def seen(self, body: dict[str, Any]) -> Seen:
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Seen(self.command, self.path, body, headers, self.number)

    def begin_stream(self, kind: str = "text/event-stream") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_piece(self, data: bytes) -> None:
        """One chunk of a streamed body; an empty one ends it."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def send_json(self, status: int, body: Any) -> None:
        self.send_bytes(status, json.dumps(body).encode(), "application/json")

    def send_bytes(
        self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
