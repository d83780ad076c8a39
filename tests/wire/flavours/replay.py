"""Answers HTTP requests from transcripts that were written by hand from documentation.

A transcript is a JSON file: where it was taken from (``source``), what it ``shows``, a request
(``method``, ``path``, ``body``) and its answer (``status``, ``headers``, and ``answer`` or
``stream``). ``framing`` is ``sse`` or ``lines``; ``done`` ends a stream with ``[DONE]``;
``comments`` puts the keep-alive comments of OpenRouter into it.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from wire.fake_server import Seen

__all__ = ["TRANSCRIPTS", "Replay", "load"]

TRANSCRIPTS = Path(__file__).parent / "transcripts"
Transcript = dict[str, Any]


def load(server: str, name: str) -> Transcript:
    data: Transcript = json.loads((TRANSCRIPTS / server / f"{name}.json").read_text("utf-8"))
    return data


@dataclass
class Replay:
    """Plays transcripts; use it as a context manager. The last one of a route is repeated."""

    transcripts: list[Transcript]
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = list(self.transcripts)

    def __enter__(self) -> Replay:
        handler = type("Handler", (_Handler,), {"replay": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5.0)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def bodies(self, path: str) -> list[Any]:
        with self._lock:
            return [seen.body for seen in self.seen if seen.path == path]

    def next(self, seen: Seen) -> Transcript | None:
        """What to answer, if anything is known of this route."""
        with self._lock:
            self.seen.append(seen)
            known = [
                t for t in self._waiting if (t["method"], t["path"]) == (seen.method, seen.path)
            ]
            if len(known) > 1:
                self._waiting.remove(known[0])
            return known[0] if known else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30
    replay: Replay

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._serve(json.loads(self.rfile.read(length) or b"{}"))

    def _serve(self, body: dict[str, Any]) -> None:
        headers = {k.lower(): v for k, v in self.headers.items()}
        found = self.replay.next(Seen(self.command, self.path, body, headers))
        if found is None:
            found = {"status": 404, "answer": {"detail": "Not Found"}}
        if "stream" not in found:
            return self._send(found, json.dumps(found["answer"]).encode(), "application/json")
        lines = found["framing"] == "lines"
        head, tail = (b"", b"\n") if lines else (b"data: ", b"\n\n")
        # Not escaped: JSON may hold characters that end a line of text.
        texts = [json.dumps(item, ensure_ascii=False) for item in found["stream"]]
        pieces = [head + text.encode() + tail for text in texts]
        if found.get("comments"):
            pieces = [p for piece in pieces for p in (b": OPENROUTER PROCESSING\n\n", piece)]
        if found.get("done"):
            pieces.append(b"data: [DONE]\n\n")
        kind = "application/x-ndjson" if lines else "text/event-stream"
        return self._send(found, b"".join(pieces), kind)

    def _send(self, found: Transcript, data: bytes, kind: str) -> None:
        self.send_response(found["status"])
        for name, value in (found.get("headers") or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
