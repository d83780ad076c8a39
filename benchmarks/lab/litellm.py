"""LiteLLM's real proxy with the recipe of ``deploy/litellm``; ``make litellm`` installs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml

from benchmarks.lab.proxies import Proxy, wait_until_ready
from benchmarks.lab.run import free_port
from tools.litellm_proxy import environment

__all__ = ["RECIPE", "litellm", "over_replicas"]

RECIPE = Path(__file__).parents[2] / "deploy" / "litellm" / "config.yaml"
_MASTER = "sk-" + "m" * 30
_START_SECONDS = 240  # it imports thousands of modules


def over_replicas(folder: Path, urls: Sequence[str]) -> Path:
    """The recipe for several ``glimp serve``: a file, with the model ``glimp`` at each address."""
    config = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    models = {model["model_name"]: model for model in config["model_list"]}
    params = models.pop("glimp")["litellm_params"]
    config["model_list"] = [
        {"model_name": "glimp", "litellm_params": {**params, "api_base": url}} for url in urls
    ] + list(models.values())
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@contextmanager
def litellm(
    folder: Path, config: Path, *, glimp: str, large: str, key: str = "none"
) -> Iterator[Proxy]:
    """LiteLLM's proxy, from an environment of its own.

    Args:
        folder: For its log, and as its home.
        config: As the recipe is.
        glimp: The address of ``glimp serve`` (``.../v1``), where the file leaves it open.
        large: The address of the large model's server, likewise.
        key: The key for both.

    Raises:
        FileNotFoundError: It is not installed.
        RuntimeError: It did not start; what it said is in the message.
    """
    port, log = free_port(), folder / "litellm.log"
    root = f"http://127.0.0.1:{port}"
    program = environment() / "bin" / "litellm"
    if not program.exists():
        raise FileNotFoundError(f"there is no {program}: run `make litellm`")
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        # Prices come with the package; nothing is fetched, nothing is reported.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": _MASTER,
        "GLIMP_URL": glimp,
        "GLIMP_KEY": key,
        "LARGE_URL": large,
        "LARGE_KEY": key,
    }
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until_ready(f"{root}/health/liveliness", process, log, _START_SECONDS)
        yield Proxy(root, psutil.Process(process.pid), key=_MASTER)
    finally:
        process.terminate()
        process.wait(60)
