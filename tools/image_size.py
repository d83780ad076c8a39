"""How large an image is, layer by layer: unpacked, and compressed as a registry sends it.

::

    docker save glimp-serve:0.1.0 | python tools/image_size.py       # or: make image

It reads what `docker save` and `podman save` write, from standard input or from a file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

__all__ = ["Layer", "layers", "table"]

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Layer:
    """A layer of an image.

    Attributes:
        made_by: The instruction that made it, or "" where the image does not say.
        unpacked: Bytes of its tar archive.
        packed: Bytes of that by gzip at its usual level, 6. Registries and engines compress about
            as well.
    """

    made_by: str
    unpacked: int
    packed: int


def layers(saved: IO[bytes]) -> Iterator[Layer]:
    """The layers of a saved image, the base's first.

    Args:
        saved: An archive of one image; it has to be seekable.

    Raises:
        ValueError: It is no such archive, or holds several images.
    """
    try:
        archive = tarfile.open(fileobj=saved, mode="r:")  # noqa: SIM115 - closed below
    except tarfile.TarError as error:
        raise ValueError(f"this is no archive of an image: {error}") from None
    with archive:
        try:
            manifest = json.load(_member(archive, "manifest.json"))
        except KeyError:
            raise ValueError("this is no archive of an image: it has no manifest.json") from None
        if len(manifest) != 1:
            raise ValueError(f"there are {len(manifest)} images in it: save one")
        image = manifest[0]
        config: dict[str, Any] = json.load(_member(archive, image["Config"]))
        history = [
            _instruction(item.get("created_by", ""))
            for item in config.get("history", [])
            if not item.get("empty_layer")
        ]
        names = image["Layers"]
        if len(history) != len(names):
            history = [""] * len(names)
        for made_by, name in zip(history, names, strict=True):
            yield _measured(made_by, _member(archive, name))


def table(found: list[Layer]) -> str:
    """Megabytes (10^6 bytes) of each layer and of all."""
    rows = [*found, Layer("all", sum(f.unpacked for f in found), sum(f.packed for f in found))]
    lines = ["unpacked  gzip'ed  MB, layer"]
    lines += [f"{r.unpacked / 1e6:8.1f} {r.packed / 1e6:8.1f}  {r.made_by[:72]}" for r in rows]
    return "\n".join(lines)


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"this is no archive of an image: {name} is not a file")
    return file


def _instruction(created_by: str) -> str:
    """The instruction, without the shell that engines write before it."""
    text = re.sub(r"^/bin/sh -c (#\(nop\) )?", "", created_by)
    return re.sub(r"\s+", " ", text).strip()


def _measured(made_by: str, layer: IO[bytes]) -> Layer:
    with layer:
        compressed = layer.read(2) == b"\x1f\x8b"
        layer.seek(0)
        content = gzip.GzipFile(fileobj=layer) if compressed else layer
        packer, unpacked, packed = zlib.compressobj(6, wbits=31), 0, 0
        while block := content.read(_BLOCK):
            unpacked += len(block)
            packed += len(packer.compress(block))
        return Layer(made_by, unpacked, packed + len(packer.flush()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "file", nargs="?", type=Path, help="a saved image (default: standard input)"
    )
    options = parser.parse_args()
    if options.file is None and sys.stdin.isatty():
        parser.error("give a file, or pipe `docker save IMAGE` into this")
    with tempfile.TemporaryFile() as copy:
        # Standard input cannot be read twice, and the list of the layers may come last.
        with options.file.open("rb") if options.file else sys.stdin.buffer as source:
            shutil.copyfileobj(source, copy)
        copy.seek(0)
        try:
            print(table([*layers(copy)]))
        except ValueError as error:
            parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
