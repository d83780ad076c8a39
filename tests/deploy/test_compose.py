"""``deploy/compose``: the schema of Compose, and whether the services fit together."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deploy.files import DEPLOY, Mistake, address, image_problems, read_yaml, seconds, serve_config
from glimp_integrations.serve.config import ServeConfig
from glimp_integrations.serve.server import _ENDING_SECONDS


def schema_problems(content: Any) -> Iterator[str]:
    """By the schema of the Compose specification, which check-jsonschema brings along."""
    place = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((place / "compose-spec.json").read_text(encoding="utf-8"))
    for error in jsonschema.Draft202012Validator(schema).iter_errors(content):
        yield f"compose.yaml at {'.'.join(map(str, error.absolute_path))}: {error.message[-300:]}"


def option(service: dict[str, Any], name: str) -> str:
    """The value of an option of a service's command."""
    given = [text for text in service["command"] if text.startswith(f"--{name}=")]
    assert len(given) == 1, f"--{name} stands {len(given)} times in {service['command']}"
    return str(given[0].partition("=")[2])


def file_problems(folder: Path, content: Any) -> Iterator[str]:
    named = set(content["volumes"])
    used = set()
    for service in content["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                if not (folder / source).exists():
                    yield f"{source} does not exist"
            else:
                used.add(source)
    if named != used:
        yield f"volumes {named} are declared, {used} are used"
    text = (folder / "compose.yaml").read_text(encoding="utf-8")
    example = (folder / ".env.example").read_text(encoding="utf-8")
    wanted = set(re.findall(r"\$\{(\w+)", text))
    explained = set(re.findall(r"^(\w+)=", example, re.M))
    if wanted != explained:
        yield f"variables {wanted} are used, .env.example has {explained}"
    if filled := re.findall(r"^\w+=.+$", example, re.M):
        yield f".env.example has values: {filled}"


def service_problems(content: Any) -> Iterator[str]:
    services = content["services"]
    for name, service in services.items():
        yield from image_problems(service["image"])
        for port in service.get("ports", ()):
            if not port.startswith("127.0.0.1:"):
                yield f"{name} publishes {port} to other machines"
        needed = service.get("depends_on", {})
        for other in needed:
            if other not in services:
                yield f"{name} depends on {other}, which there is not"
            elif isinstance(needed, dict) and "healthcheck" not in services[other]:
                yield f"{name} waits until {other} is healthy, and nothing says when"


def model_problems(services: dict[str, Any], config: ServeConfig) -> Iterator[str]:
    for role in ("small", "large"):
        model, host, port = address(config, role)
        if host not in services:
            yield f"serve.toml asks {host}, which there is not"
            continue
        service = services[host]
        if service["command"][0] != model:
            yield f"{host} serves {service['command'][0]}, and serve.toml asks for {model}"
        if int(option(service, "port")) != port:
            yield f"{host} listens at {option(service, 'port')}, and serve.toml asks {port}"
        if f":{port}/health" not in service["healthcheck"]["test"][-1]:
            yield f"the health check of {host} is not at its port {port}"
        if int(option(service, "max-model-len")) <= config.routing["max_completion_tokens"]:
            yield f"a reply of max_completion_tokens does not fit into the context of {host}"
    speculates = [n for n in services if "--speculative-config" in str(services[n].get("command"))]
    if speculates != ["vllm-large"]:
        yield f"{speculates} speculate; it is to be the large model"
    else:
        json.loads(option(services["vllm-large"], "speculative-config"))


def compose_problems(deploy: Path, tmp_path: Path) -> list[str]:
    """Everything that is wrong with ``deploy/compose/compose.yaml`` and what it mounts."""
    folder = deploy / "compose"
    content = read_yaml(folder / "compose.yaml")
    found = [*schema_problems(content)]
    if found:
        return found
    found += [*file_problems(folder, content), *service_problems(content)]
    key = [{"name": "a", "key": "k" * 48}]
    config, mistakes = serve_config(folder / "serve.toml", tmp_path, api_keys=key)
    if config is None:
        return found + mistakes
    services = content["services"]
    glimp = services["glimp"]
    found += model_problems(services, config)
    if not glimp["ports"][0].endswith(f":{config.port}"):
        found.append(f"glimp listens at {config.port}, and {glimp['ports']} are published")
    if seconds(glimp["stop_grace_period"]) < config.grace_seconds + _ENDING_SECONDS:
        found.append("stop_grace_period is shorter than grace_seconds and the end")
    if "./serve.toml:/etc/glimp/serve.toml:ro" not in glimp["volumes"]:
        found.append("serve.toml is not where the image looks for it")
    context = folder / glimp["build"]["context"]
    if (context / glimp["build"]["dockerfile"]).resolve() != (deploy / "Dockerfile").resolve():
        found.append("glimp is built by another Dockerfile")
    return found


FILE = "compose/compose.yaml"
SPECULATIVE = "      - '--speculative-config="
MISTAKES = [
    Mistake(FILE, "stop_grace_period: 80s", "stop_grace_period: [80]", "stop_grace_period"),
    Mistake(FILE, "    read_only: true", "    readonly: true", "readonly"),
    Mistake(FILE, "vllm-openai:v0.32.0", "vllm-openai:latest", "not pinned"),
    Mistake(FILE, "glimp-serve:0.1.0", "glimp-serve:0.0.9", "not of this version"),
    Mistake(FILE, "- 127.0.0.1:9090:9090", "- 9090:9090", "to other machines"),
    Mistake(FILE, "stop_grace_period: 80s", "stop_grace_period: 60s", "shorter than"),
    Mistake(FILE, "./alerts.yml:", "./rules.yml:", "does not exist"),
    Mistake(FILE, "\n  weights:\n", "\n  models:\n", "are declared"),
    Mistake(FILE, "depends_on: [prometheus]", "depends_on: [victoria]", "there is not"),
    Mistake(FILE, "      - Qwen/Qwen3-4B\n", "      - Qwen/Qwen3-8B\n", "and serve.toml asks for"),
    Mistake(FILE, SPECULATIVE, "      - '--other-config=", "it is to be the large"),
    Mistake(FILE, "127.0.0.1:8000:8000", "127.0.0.1:8000:9000", "are published"),
    Mistake(FILE, "dockerfile: deploy/Dockerfile", "dockerfile: Dockerfile", "another Dockerfile"),
    Mistake("compose/.env.example", "GRAFANA_PASSWORD=", "GRAFANA_ADMIN=", "are used"),
    Mistake("compose/.env.example", "HF_TOKEN=", "HF_TOKEN=hf_secret", "has values"),
    Mistake("compose/serve.toml", "@http://vllm-large:8000", "@http://large:8000", "there is not"),
    Mistake("compose/serve.toml", "vllm-small:8000", "vllm-small:8001", "serve.toml asks 8001"),
    Mistake("compose/serve.toml", "max_waiting", "max_queue", "unknown setting 'max_queue'"),
    Mistake("compose/serve.toml", "large_share = 0.25", "share = 0.25", "share"),
    Mistake("compose/serve.toml", "= 16384", "= 32768", "does not fit"),
]


def test_compose(tmp_path: Path) -> None:
    assert compose_problems(DEPLOY, tmp_path) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_noticed(mistake: Mistake, tmp_path: Path) -> None:
    assert mistake.told in "\n".join(compose_problems(mistake.made(tmp_path), tmp_path))


def compose() -> list[str] | None:
    """The command of Docker Compose 2, if there is one; no engine is needed for what is asked."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True)
            if done.returncode == 0 and done.stdout.lstrip("v").startswith("2."):
                return command
    return None


@pytest.mark.skipif(compose() is None, reason="Docker Compose 2 is not installed")
def test_docker_compose_reads_it_and_asks_for_what_is_secret(tmp_path: Path) -> None:
    copy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, copy)
    folder = copy / "compose"
    example = (folder / ".env.example").read_text(encoding="utf-8")

    def config() -> subprocess.CompletedProcess[str]:
        command = [*(compose() or ()), "config", "--format", "json"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    assert "copy .env.example to .env and give a" in config().stderr
    (folder / ".env").write_text(example, encoding="utf-8")
    assert "copy .env.example to .env and give a" in config().stderr
    filled = re.sub(r"^(\w+)=$", r"\1=" + "k" * 24, example, flags=re.M)
    (folder / ".env").write_text(filled, encoding="utf-8")
    done = config()
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert services.keys() == read_yaml(folder / "compose.yaml")["services"].keys()
    assert services["glimp"]["environment"]["GLIMP_SERVE_API_KEYS"] == "k" * 24
    built = services["glimp"]["build"]
    assert Path(built["context"]) / built["dockerfile"] == copy.parent / "deploy" / "Dockerfile"
