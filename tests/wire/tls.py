"""The fake server behind TLS, with a certificate made here."""

from __future__ import annotations

import select
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from wire.fake_server import Dropped, FakeHandler, FakeServer

__all__ = ["SecureServer", "certificate"]


def certificate(folder: Path) -> Path:
    """A file with a new key and its self-signed certificate for 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, which makes the certificate")
    path = folder / "server.pem"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    command = [openssl, *made, *names, *files, "-days", "2"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text("".join((folder / name).read_text() for name in ("key.pem", "cert.pem")))
    return path


class SecureServer(FakeServer):
    """Clients trust it if ``SSL_CERT_FILE`` names the certificate.

    Attributes:
        certificate: From :func:`certificate`; set before the server is started.
    """

    certificate: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        self.handler = _SecureHandler

    @property
    def root(self) -> str:
        return super().root.replace("http://", "https://")


class _SecureHandler(FakeHandler):
    def setup(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.owner.certificate)
        self.request = context.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def check_client(self) -> None:
        # A client has nothing to say while it reads a stream, but that it goes.
        if select.select([self.connection], [], [], 0)[0]:
            with self.owner.lock:
                self.owner.aborted += 1
            raise Dropped
