"""LiteLLM's proxy in a virtual environment of its own, for the test of ``deploy/litellm``.

::

    python tools/litellm_proxy.py       # or: make litellm

It pins dozens of packages, some to versions that others here do not go with, so it stays out of the
developers' environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from filelock import FileLock

from glimp_integrations.weights import home

__all__ = ["VERSION", "environment", "install", "installed"]

VERSION = "1.100.0"


def environment() -> Path:
    """The environment's folder: ``GLIMP_LITELLM``, else one in the cache."""
    chosen = os.environ.get("GLIMP_LITELLM")
    return Path(chosen).expanduser() if chosen else home() / f"litellm-{VERSION}"


def installed() -> bool:
    """Whether there is an environment; one of the user's own is believed."""
    folder = environment()
    if os.environ.get("GLIMP_LITELLM"):
        return (folder / "bin" / "litellm").exists()
    return (folder / ".installed").exists()


def install() -> Path:
    """Make the environment; one that is complete is left alone.

    Raises:
        SystemExit: ``GLIMP_LITELLM`` names no environment, or pip failed, which says why.
    """
    folder = environment()
    if installed():
        return folder
    if os.environ.get("GLIMP_LITELLM"):
        raise SystemExit(
            f"GLIMP_LITELLM is {str(folder)!r}, and there is no bin/litellm: name the folder of a "
            "virtual environment that has litellm[proxy], or unset it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not installed():
            shutil.rmtree(folder, ignore_errors=True)  # what an interrupted attempt left
            print(f"making the environment {folder} (some minutes)", file=sys.stderr)
            venv.create(folder, with_pip=True)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            done = subprocess.run(
                [*pip, "--disable-pip-version-check", f"litellm[proxy]=={VERSION}"]
            )
            if done.returncode != 0:
                raise SystemExit(f"pip could not install litellm[proxy]=={VERSION}; see above")
            (folder / ".installed").touch()
    return folder


if __name__ == "__main__":
    print(install())
