"""For tests of ``OpenAIBackend(client=...)``: clients of the openai package, and their servers."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import Any

import openai

from wire.fake_server import FakeHandler, FakeServer
from wire.tls import SecureServer, _SecureHandler

__all__ = ["HTTPX", "ClientCertificates", "Gateway", "made"]

# The module that this version of the openai package is made of.
HTTPX: Any = sys.modules[
    type(openai.AsyncOpenAI(api_key="x", base_url="http://h/v1").base_url).__module__.split(".")[0]
]


def made(url: str, *, own_http: bool, **options: Any) -> openai.AsyncOpenAI:
    """A client for this address, with an HTTP client of its own or without."""
    if own_http and "http_client" not in options:
        options["http_client"] = HTTPX.AsyncClient()
    options.setdefault("api_key", "sk-of-the-client")
    return openai.AsyncOpenAI(base_url=url, **options)


class Gateway(FakeServer):
    """Knows a deployment in its paths, and queries; also answers as a proxy, for any host.

    Attributes:
        targets: What requests were for, as it stood in them.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.handler = _GatewayHandler
        self.targets: list[str] = []


class _GatewayHandler(FakeHandler):
    owner: Gateway

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        if parsed:
            with self.owner.lock:
                self.owner.targets.append(self.path)
            path = self.path.partition("?")[0].removeprefix("http://models.invalid")
            self.path = path.replace("/openai/deployments/my-model", "/v1")
        return parsed


class ClientCertificates(SecureServer):
    """Talks to nobody who does not show the certificate that it has itself."""

    certificate: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        self.handler = _CertificateHandler


class _CertificateHandler(_SecureHandler):
    def setup(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.owner.certificate)
        context.load_verify_locations(self.owner.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        self.request = context.wrap_socket(self.request, server_side=True)
        FakeHandler.setup(self)
