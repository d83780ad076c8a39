"""Resolve the lowest and the highest versions that pyproject.toml allows.

::

    python tools/versions.py lowest FILE    # what the second test environment installs
    python tools/versions.py check          # do both ends resolve, and do users get the newest?
    python tools/versions.py lock FILE      # the versions that developers share

uv reads metadata only and installs nothing. torch is left out: where its builds for a CPU come
from differs between machines, and the tests of the lowest versions do without it.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# pip's settings and those of uv that mean the same; uv does not read pip's.
SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
HEADER = (
    "# Versions that developers share, for Python 3.11 on Linux. Renewed by `make lock`:",
    "# never edited by hand. CI does without it and tests what pip installs today.",
)
COMMAS = {"UV_FIND_LINKS", "UV_INSECURE_HOST"}
SECTIONS = ("global", "install", ":env:")
Versions = dict[str, str]


def settings_of_pip(listed: str) -> dict[str, str]:
    """Environment variables for uv, from what ``pip config list`` prints."""
    found: dict[str, str] = {}
    for section in SECTIONS:  # the later goes before the earlier
        for line in listed.splitlines():
            key, _, value = line.partition("=")
            name = SETTINGS.get(key.removeprefix(f"{section}."))
            if name is not None and key.startswith(f"{section}."):
                text = str(ast.literal_eval(value))
                found[name] = ",".join(text.split()) if name in COMMAS else text
    return found


def resolve(*extras: str, lowest: bool) -> str:
    """The pinned versions of the package with these extras, one a line.

    Raises:
        SystemExit: Nothing satisfies all requirements; uv says on stderr which.
    """
    pip = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        overrides = Path(folder) / "overrides.txt"
        overrides.write_text('torch; sys_platform == "never"\n')
        command = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "compile",
            str(ROOT / "pyproject.toml"),
            "--quiet",
            "--no-header",
            "--no-annotate",
            "--no-emit-index-url",
            "--no-emit-find-links",
            "--index-strategy",
            "unsafe-best-match",
            "--override",
            str(overrides),
            "--python",
            sys.executable,
            "--resolution",
            "lowest-direct" if lowest else "highest",
        ]
        for extra in extras:
            command += ["--extra", extra]
        # What is set for uv itself goes before what is set for pip.
        env = settings_of_pip(listed) | dict(os.environ)
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        end = "lowest" if lowest else "highest"
        sys.exit(f"the {end} versions of [{','.join(extras)}] cannot be installed together")
    return done.stdout


def versions(pinned: str) -> Versions:
    return dict(re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", pinned, re.M))


def held_back(users: Versions, developers: Versions) -> dict[str, tuple[str, str | None]]:
    """What users get in another version than the tests have: (theirs, ours)."""
    return {
        name: (version, developers.get(name))
        for name, version in users.items()
        if developers.get(name) != version
    }


def check() -> None:
    """Both ends resolve, and the tools of developers hold nothing back.

    Raises:
        SystemExit: They do not.
    """
    resolve("lowest", lowest=True)
    users, ours = (versions(resolve(extra, lowest=False)) for extra in ("all", "dev"))
    late = held_back(users, ours)
    if late:
        rows = "\n".join(f"  {name}: users get {u}, the tests {d}" for name, (u, d) in late.items())
        sys.exit(f"a requirement of the extra 'dev' holds back what users install:\n{rows}")
    print(f"both ends resolve; users and tests get pydantic {users['pydantic']}")


def lock() -> str:
    """The newest of everything developers use, pinned; names no index and no folder."""
    dev = PROJECT["optional-dependencies"]["dev"]
    torch = next(text for text in dev if text.startswith("torch=="))
    lines = [*resolve("dev", lowest=False).splitlines(), torch]
    return "\n".join([*HEADER, *sorted(lines), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lowest").add_argument("file", type=Path)
    commands.add_parser("check")
    commands.add_parser("lock").add_argument("file", type=Path)
    given = parser.parse_args()
    if given.command == "check":
        check()
    elif given.command == "lock":
        given.file.write_text(lock())
    else:
        given.file.write_text(resolve("lowest", lowest=True))


if __name__ == "__main__":
    main()
