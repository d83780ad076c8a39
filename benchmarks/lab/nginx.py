"""The real nginx with the recipe of ``deploy/nginx``, in front of servers on this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.lab.proxies import Proxy
from benchmarks.lab.run import free_port, wait_for

__all__ = ["NGINX", "certificate", "nginx"]

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
_RECIPE = Path(__file__).parents[2] / "deploy" / "nginx" / "glimp.conf"


def certificate(folder: Path) -> Path:
    """A file with a new key and its self-signed certificate for 127.0.0.1.

    Raises:
        FileNotFoundError: openssl, which makes it, is not installed.
    """
    path = folder / "server.pem"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    command = ["openssl", *made, *names, *files, "-days", "2"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text("".join((folder / name).read_text() for name in ("key.pem", "cert.pem")))
    return path


@contextmanager
def nginx(folder: Path, ports: Sequence[int]) -> Iterator[Proxy]:
    """Nginx as the recipe has it: only addresses and the certificate are others.

    Args:
        folder: For its files.
        ports: As many replicas as the recipe has, on this machine.

    Raises:
        FileNotFoundError: nginx or openssl is not installed.
        TimeoutError: nginx did not start; it said why on standard error.
    """
    if NGINX is None:
        raise FileNotFoundError("nginx is not installed (Debian: nginx-light)")
    pem, port, addresses = certificate(folder), free_port(), iter(ports)
    text = _RECIPE.read_text(encoding="utf-8")
    text = re.sub(r"10\.0\.0\.\d+:8000", lambda _: f"127.0.0.1:{next(addresses)}", text)
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    text = re.sub(r"/etc/nginx/tls/(cert|key)\.pem", str(pem), text)
    head = f"daemon off;\nuser root;\npid {folder}/pid;\nerror_log stderr;\n"
    own = f"    access_log {folder}/access.log;\n"
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        own += f"    {kind}_temp_path {folder}/{kind};\n"
    path = folder / "nginx.conf"
    path.write_text(f"{head}events {{ }}\nhttp {{\n{own}{text}}}\n", encoding="utf-8")
    process = subprocess.Popen([NGINX, "-e", "stderr", "-c", str(path), "-p", str(folder)])
    try:
        wait_for(port)
        yield Proxy(f"https://127.0.0.1:{port}", psutil.Process(process.pid), pem)
    finally:
        process.terminate()
        process.wait(30)
