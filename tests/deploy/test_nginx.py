"""``deploy/nginx``: nginx' grammar, and a real nginx before two replicas where there is one."""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crossplane
import httpx
import pytest
from serve.conftest import QUESTION, Serve, servers
from serve.held import held_pair, until

from benchmarks.lab.nginx import NGINX, nginx
from deploy.files import DEPLOY, Mistake, routes
from glimp_integrations.serve.config import ServeConfig

FILE = "nginx/glimp.conf"
_UNITS = {"k": 1024, "m": 1024**2}


def whole(snippet: Path, folder: Path) -> Path:
    """A configuration of nginx that includes the snippet."""
    path = folder / "nginx.conf"
    path.write_text(f"events {{ }}\nhttp {{\n    include {snippet};\n}}\n", encoding="utf-8")
    return path


def directives(block: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {item["directive"]: item["args"] for item in block}


def nginx_problems(deploy: Path, folder: Path) -> list[str]:
    """Everything that is wrong with ``deploy/nginx/glimp.conf``."""
    parsed = crossplane.parse(str(whole(deploy / FILE, folder)), strict=True, combine=True)
    if parsed["errors"]:
        return [error["error"] for error in parsed["errors"]]
    http = parsed["config"][0]["parsed"][1]["block"]
    upstream = next(item for item in http if item["directive"] == "upstream")
    server = next(item for item in http if item["directive"] == "server")
    places = {
        tuple(item["args"]): item["block"]
        for item in server["block"]
        if item["directive"] == "location"
    }
    own, found = directives(places["/",]), []
    if own["proxy_pass"] != [f"http://{upstream['args'][0]}"]:
        found.append(f"requests go to {own['proxy_pass']}")
    if own.get("proxy_buffering") != ["off"]:
        found.append("streams are held back")
    if own.get("proxy_http_version") != ["1.1"] or own.get("proxy_set_header") is None:
        found.append("connections are not kept")
    fields = ServeConfig.model_fields
    if int(own["proxy_read_timeout"][0][:-1]) <= 2 * fields["keepalive_seconds"].default:
        found.append("silent streams are ended")
    if "non_idempotent" in own["proxy_next_upstream"]:
        found.append("a conversation may be begun twice")
    size = directives(server["block"])["client_max_body_size"][0]
    if int(size[:-1]) * _UNITS[size[-1]] != fields["max_body_bytes"].default:
        found.append(f"bodies may have {size}, and glimp serve's limit is another")
    closed = {args[1] for args, block in places.items() if directives(block) == {"return": ["404"]}}
    if closed != {"/metrics", "/status"} or not closed <= routes():
        found.append(f"closed are {closed}")
    if "ssl" not in directives(server["block"])["listen"]:
        found.append("there is no TLS")
    if "least_conn" not in directives(upstream["block"]):
        found.append("replicas get requests in turn, however long conversations last")
    return found


MISTAKES = [
    Mistake(FILE, "proxy_buffering off;", "proxy_bufering off;", "unknown directive"),
    Mistake(FILE, "proxy_buffering off;", "proxy_buffering on;", "held back"),
    Mistake(FILE, "proxy_http_version 1.1;", "", "not kept"),
    Mistake(FILE, "proxy_read_timeout 600s;", "proxy_read_timeout 15s;", "are ended"),
    Mistake(FILE, "client_max_body_size 4m;", "client_max_body_size 1m;", "limit is another"),
    Mistake(FILE, "error timeout;", "error timeout non_idempotent;", "begun twice"),
    Mistake(FILE, "location = /status ", "location = /health ", "closed are"),
    Mistake(FILE, "listen 443 ssl;", "listen 80;", "no TLS"),
    Mistake(FILE, "http://glimp;", "http://glimps;", "requests go to"),
    Mistake(FILE, "    least_conn;", "    ip_hash;", "in turn"),
    Mistake(FILE, "keepalive 32;\n}", "keepalive 32;\n", "unexpected"),
]


def test_nginx(tmp_path: Path) -> None:
    assert nginx_problems(DEPLOY, tmp_path) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_noticed(mistake: Mistake, tmp_path: Path) -> None:
    assert mistake.told in "\n".join(nginx_problems(mistake.made(tmp_path), tmp_path))


def begin(response: httpx.Response) -> Iterator[str]:
    """The chunks of a stream. Whoever drops the iterator closes the connection."""
    return (line for line in response.iter_lines() if line.startswith("data: {"))


@pytest.fixture
def replicas() -> Iterator[Serve]:
    with servers() as start:
        yield start


@pytest.mark.skipif(
    NGINX is None or shutil.which("openssl") is None,
    reason="nginx or openssl is not installed (Debian: nginx-light, openssl)",
)
def test_a_real_nginx_passes_tokens_on_as_they_come(replicas: Serve, tmp_path: Path) -> None:
    """The first tokens arrive while the model is held; a client that goes frees its replica."""
    models = [held_pair(), held_pair()]
    served = [replicas(pair) for pair in models]
    ports = [int(server.root.rpartition(":")[2]) for server in served]
    body = {"model": "glimp", "messages": QUESTION, "stream": True}

    def running_at() -> list[int]:
        return [server.application.conversations.places.running for server in served]

    with nginx(tmp_path, ports) as proxy:
        context = ssl.create_default_context(cafile=str(proxy.certificate))
        with httpx.Client(verify=context, base_url=proxy.root, timeout=60) as client:
            assert client.get("/metrics").status_code == client.get("/status").status_code == 404
            with client.stream("POST", "/v1/chat/completions", json=body) as first:
                began = begin(first)
                chunk = next(began)
                assert json.loads(chunk.removeprefix("data: "))["object"] == "chat.completion.chunk"
                assert sum(running_at()) == 1
                with client.stream("POST", "/v1/chat/completions", json=body) as second:
                    also = begin(second)
                    next(also)
                    assert running_at() == [1, 1]  # the free one is preferred
            until(lambda: running_at() == [0, 0])
        for pair in models:
            pair["large"].free.set()
