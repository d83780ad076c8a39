"""A Hugging Face hub in this process: files at revisions, over real HTTP, with its mistakes."""

from __future__ import annotations

import hashlib
import random
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from glimp_integrations.weights import WeightFile
from wire.loopback import Handler, Loopback

__all__ = ["PINNED", "FakeHub", "made_up", "point_to"]

PINNED = "a" * 40
COMMIT = "c" * 40


def made_up(name: str, size: int, **changes: Any) -> tuple[WeightFile, bytes]:
    data = random.Random(name).randbytes(size)
    values = {
        "model": name,
        "repo": f"made/{name}",
        "filename": f"{name}.gguf",
        "revision": PINNED,
        "size": size,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return WeightFile(**{**values, **changes}), data


def point_to(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the library makes of HF_ENDPOINT when it is imported.
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants, file_download

    for name in ("http", "https", "all"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    template = root + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", root)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Pieces are written as they come, and repeats come at once.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda _: None))


class FakeHub(Loopback):
    """Answers ``/REPO/resolve/REVISION/FILE`` as the hub does for files that it keeps in LFS.

    Attributes:
        files: The bytes, by ``(revision, file name)``; every repository has the same.
        tags: SHA-256 that are told in place of the true ones, by file name.
        refusal: A status and the hub's name of the error, for every request.
        storage: The address that bytes are kept at; empty: here.
        cuts: How many bytes of the next bodies are sent before the connection breaks.
        requests: Method, revision, file name and wanted range of each request.
        seen_tokens: The headers ``Authorization`` of all requests.
    """

    def __init__(self) -> None:
        self.handler = _Hub
        self.files: dict[tuple[str, str], bytes] = {}
        self.tags: dict[str, str] = {}
        self.refusal: tuple[int, str] | None = None
        self.storage = ""
        self.cuts: list[int] = []
        self.requests: list[tuple[str, str, str, str]] = []
        self.seen_tokens: set[str] = set()
        self.lock = threading.Lock()

    def downloads(self) -> list[str]:
        """Names of the files whose bytes were asked for."""
        return [name for method, _, name, _ in self.requests if method == "GET"]


class _Hub(Handler):
    owner: FakeHub

    def do_HEAD(self) -> None:
        self.serve({})

    def serve(self, body: dict[str, Any]) -> None:
        hub = self.owner
        _, _, revision, name = self.path.lstrip("/").rsplit("/", 3)
        with hub.lock:
            wanted = self.headers.get("Range", "")
            hub.requests.append((self.command, revision, name, wanted))
            hub.seen_tokens.add(self.headers.get("Authorization", ""))
        if hub.refusal is not None:
            return self._refuse(*hub.refusal)
        if not any(revision == known for known, _ in hub.files):
            return self._refuse(404, "RevisionNotFound")
        data = hub.files.get((revision, name))
        if data is None:
            return self._refuse(404, "EntryNotFound")
        return self._send(name, data, wanted)

    def _refuse(self, status: int, error: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, name: str, data: bytes, wanted: str) -> None:
        begin = int(wanted.removeprefix("bytes=").partition("-")[0] or 0) if wanted else 0
        storage = self.owner.storage
        self.send_response(302 if storage else 206 if wanted else 200)
        tag = self.owner.tags.get(name, hashlib.sha256(data).hexdigest())
        for header, value in {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(data)),
            "X-Linked-ETag": f'"{tag}"',
            "ETag": f'"{tag}"',
            "Accept-Ranges": "bytes",
            "Content-Length": "0" if storage else str(len(data) - begin),
            **({"Location": storage + self.path} if storage else {}),
            **({"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if wanted else {}),
        }.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD" or storage:
            return
        cuts = self.owner.cuts
        if cuts:
            self.close_connection = True
            data = data[: begin + cuts.pop(0)]
        self.wfile.write(data[begin:])
