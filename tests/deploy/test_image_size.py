"""``tools/image_size.py`` on small archives as engines write them."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from typing import Any

import pytest

from deploy.files import ROOT

BASE, OWN = b"b" * 1_500_000, bytes(range(256)) * 1000
HISTORY = [
    {"created_by": "/bin/sh -c #(nop) ADD file:1 in / "},
    {"created_by": "/bin/sh -c #(nop) ENV A=1", "empty_layer": True},
    {"created_by": "/bin/sh -c pip install \\\n    x"},
]


def saved(files: dict[str, bytes]) -> bytes:
    """A tar archive of these files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def image(own: bytes = OWN, history: list[Any] | None = None, images: int = 1) -> bytes:
    """What `docker save` writes: two layers, and the list of them at the end."""
    manifest = [{"Config": "c.json", "Layers": ["1.tar", "2.tar"]}] * images
    return saved(
        {
            "1.tar": BASE,
            "2.tar": own,
            "c.json": json.dumps({"history": HISTORY if history is None else history}).encode(),
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


def said(archive: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(ROOT / "tools" / "image_size.py")]
    return subprocess.run(command, input=archive, capture_output=True, timeout=60)


def rows(archive: bytes) -> list[list[str]]:
    done = said(archive)
    assert done.returncode == 0, done.stderr
    return [line.split(maxsplit=2) for line in done.stdout.decode().splitlines()[1:]]


def test_layers_and_their_sum() -> None:
    packed = [f"{len(gzip.compress(content, 6)) / 1e6:.1f}" for content in (BASE, OWN)]
    assert rows(image()) == [
        ["1.5", packed[0], "ADD file:1 in /"],
        ["0.3", packed[1], "pip install \\ x"],
        ["1.8", f"{sum(map(float, packed)):.1f}", "all"],
    ]


def test_a_compressed_layer_is_measured_unpacked() -> None:
    assert rows(image(gzip.compress(OWN))) == rows(image())


def test_without_a_history_there_are_sizes() -> None:
    assert [row[0] for row in rows(image(history=[]))] == ["1.5", "0.3", "1.8"]


@pytest.mark.parametrize(
    ("archive", "told"),
    [
        (b"no archive" * 200, "no archive of an image"),
        (saved({"other": b""}), "has no manifest.json"),
        (image(images=2), "there are 2 images"),
    ],
)
def test_what_is_no_image_is_refused(archive: bytes, told: str) -> None:
    done = said(archive)
    assert done.returncode == 1 and told in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
