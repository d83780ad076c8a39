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
from pathlib import Path
from typing import Any

from wire.loopback import Handler, Loopback, Seen

__all__ = ["TRANSCRIPTS", "Replay", "load"]

TRANSCRIPTS = Path(__file__).parent / "transcripts"
Transcript = dict[str, Any]


def load(server: str, name: str) -> Transcript:
    data: Transcript = json.loads((TRANSCRIPTS / server / f"{name}.json").read_text("utf-8"))
    return data


@dataclass
class Replay(Loopback):
    """Plays transcripts; use it as a context manager. The last one of a route is repeated."""

    transcripts: list[Transcript]
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.handler = _Handler
        self._lock = threading.Lock()
        self._waiting = list(self.transcripts)

    def bodies(self, path: str) -> list[Any]:
        with self._lock:
            return [seen.body for seen in self.seen if seen.path == path]

    def next(self, seen: Seen) -> Transcript | None:
        """What to answer, if anything is known of this route."""
        with self._lock:
            self.seen.append(seen)
            matching = [
                t for t in self._waiting if (t["method"], t["path"]) == (seen.method, seen.path)
            ]
            if len(matching) > 1:
                self._waiting.remove(matching[0])
            return matching[0] if matching else None


class _Handler(Handler):
    owner: Replay

    def serve(self, body: dict[str, Any]) -> None:
        transcript = self.owner.next(self.seen(body))
        if transcript is None:
            transcript = {"status": 404, "answer": {"detail": "Not Found"}}
        if "stream" not in transcript:
            return self._answer(
                transcript, json.dumps(transcript["answer"]).encode(), "application/json"
            )
        lines = transcript["framing"] == "lines"
        head, tail = (b"", b"\n") if lines else (b"data: ", b"\n\n")
        # Not escaped: JSON may hold characters that end a line of text.
        texts = [json.dumps(item, ensure_ascii=False) for item in transcript["stream"]]
        pieces = [head + text.encode() + tail for text in texts]
        if transcript.get("comments"):
            pieces = [p for piece in pieces for p in (b": OPENROUTER PROCESSING\n\n", piece)]
        if transcript.get("done"):
            pieces.append(b"data: [DONE]\n\n")
        kind = "application/x-ndjson" if lines else "text/event-stream"
        return self._answer(transcript, b"".join(pieces), kind)

    def _answer(self, transcript: Transcript, data: bytes, kind: str) -> None:
        self.send_bytes(transcript["status"], data, kind, transcript.get("headers"))
