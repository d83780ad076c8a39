"""Files of requests and results, and models that answer them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts import pair

from glimp_integrations import GlimpRouter
from glimp_integrations.batch import BatchObserver, BatchPlan, Totals, run

ANSWER = ("It", " is", " four", ".")
BODY: dict[str, Any] = {
    "model": "glimp",
    "messages": [{"role": "user", "content": "What is 2 + 2?"}],
}


def request(custom_id: str, **body: Any) -> dict[str, Any]:
    """A line of a file of requests."""
    url = "/v1/chat/completions"
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**BODY, **body}}


def asking(custom_id: str, question: str, **body: Any) -> dict[str, Any]:
    """A request with this question."""
    return request(custom_id, messages=[{"role": "user", "content": question}], **body)


def write(path: Path, lines: Iterable[Any]) -> Path:
    """Write JSON lines; texts and bytes as they are."""
    with path.open("wb") as file:
        for line in lines:
            text = line if isinstance(line, str | bytes) else json.dumps(line)
            file.write((text if isinstance(text, bytes) else text.encode()) + b"\n")
    return path


def results(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a file of results, by custom id; each id is there once."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


class Said(BatchObserver):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


class Batch:
    """Two files in a folder, and a pair.

    Attributes:
        models: The pair; what it was asked is in its requests.
        said: What the user was told.
    """

    def __init__(self, folder: Path, *lines: Any, models: dict[str, Any] | None = None) -> None:
        self.requests = write(folder / "in.jsonl", lines)
        self.results = folder / "out.jsonl"
        self.models = models or pair(*ANSWER)
        self.said = Said()

    def run(self, routing: dict[str, Any] | None = None, **options: Any) -> Totals:
        """Run it, or go on with it; every router is a new one, as in a new process."""
        routing = {"temperature": 0, "route": "always", "max_retries": 0, **(routing or {})}
        plan = BatchPlan(self.requests, self.results, **options)
        return run(plan, GlimpRouter(**self.models, **routing), self.said)

    def asked(self) -> list[str]:
        """The last message of every conversation so far, in order."""
        last = (c[-1]["content"] for c in self.models["large"].conversations)
        return [text for text in last if text != "Hello"]  # what a pair is asked before it answers

    def read(self) -> dict[str, dict[str, Any]]:
        """The results."""
        return results(self.results)
