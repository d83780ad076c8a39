"""A hub that holds small datasets, over real HTTP: as much of it as ``datasets`` asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

SHA = "ab" * 20
"""The commit of every dataset."""


class FakeDatasets:
    """Serves files of datasets by ``{repository: {file: bytes}}``; answers 401 where it is gated.

    Args:
        repositories: What there is.
        gated: Repositories whose terms were not accepted.
    """

    def __init__(
        self, repositories: Mapping[str, Mapping[str, bytes]], gated: tuple[str, ...] = ()
    ) -> None:
        self.repositories, self.gated = repositories, gated
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length)
                path = unquote(urlsplit(self.path).path)
                hub.asked.append(f"{self.command} {path}")
                status, headers, content = hub.answer(path, body)
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = _answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> FakeDatasets:
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = path.removeprefix("/api").strip("/").split("/")
        if parts[0] != "datasets" or len(parts) < 3:
            return 404, {}, b"{}"
        name, verb, rest = f"{parts[1]}/{parts[2]}", (*parts, "")[3], parts[4:]
        if name in self.gated:
            return 401, {"X-Error-Code": "GatedRepo"}, b"{}"
        files = self.repositories.get(name)
        if files is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if rest and rest[0] not in ("main", SHA):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if verb == "resolve":
            return self._file(files, "/".join(rest[1:]))
        if verb in ("tree", "paths-info"):
            return self._list(files, rest, body, verb)
        return 200, {}, json.dumps({"id": name, "sha": SHA, "siblings": []}).encode()

    def _file(self, files: Mapping[str, bytes], name: str) -> tuple[int, dict[str, str], bytes]:
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": SHA}, b"{}"
        tag = hashlib.sha1(files[name], usedforsecurity=False).hexdigest()
        return 200, {"X-Repo-Commit": SHA, "ETag": f'"{tag}"'}, files[name]

    def _list(
        self, files: Mapping[str, bytes], rest: list[str], body: bytes, verb: str
    ) -> tuple[int, dict[str, str], bytes]:
        rows = [
            {
                "type": "file",
                "path": name,
                "size": len(data),
                "oid": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
            }
            for name, data in files.items()
        ]
        if verb == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else []
            rows = [row for row in rows if row["path"] in wanted]
        elif rest[1:]:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        return 200, {}, json.dumps(rows).encode()
