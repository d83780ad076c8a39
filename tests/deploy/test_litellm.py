"""``deploy/litellm``: names, fallbacks and secrets. tests/slow/test_litellm_proxy.py runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from deploy.files import DEPLOY, Mistake, read_yaml
from glimp_integrations.serve.config import ServeConfig

FILE = "litellm/config.yaml"


def litellm_problems(deploy: Path) -> list[str]:
    """Everything that is wrong with the file of LiteLLM's proxy."""
    path = deploy / FILE
    content = read_yaml(path)
    found: list[str] = []
    models: dict[str, Any] = {m["model_name"]: m["litellm_params"] for m in content["model_list"]}
    served = ServeConfig.model_fields["model_name"].default
    if models.get(served, {}).get("model") != f"openai/{served}":
        found.append(f"no model is glimp serve's {served!r}")
    for fallback in content["router_settings"]["fallbacks"]:
        for name, others in fallback.items():
            found += [f"{m} is no model" for m in (name, *others) if m not in models]
    secrets = [value for model in models.values() for k, value in model.items() if k == "api_key"]
    secrets.append(content["general_settings"]["master_key"])
    if not all(str(secret).startswith("os.environ/") for secret in secrets):
        found.append("a secret stands in the file")
    text = path.read_text(encoding="utf-8")
    explained = set(re.findall(r"\b[A-Z]+_(?:[A-Z]+_)*[A-Z]+\b", text.partition("model_list")[0]))
    used = set(re.findall(r"^[^#\n]*os\.environ/(\w+)", text, re.M))
    if used != explained:
        found.append(f"{used} is read from the environment, and {explained} explained")
    if not {"max_budget", "budget_duration"} <= set(models.get(served, ())):
        found.append("there is no budget")
    return found


MISTAKES = [
    Mistake(FILE, "model: openai/glimp", "model: openai/router", "no model is glimp"),
    Mistake(FILE, "- glimp: [large]", "- glimp: [big]", "big is no model"),
    Mistake(FILE, "os.environ/LARGE_KEY", "sk-1234567890", "a secret stands"),
    Mistake(FILE, "os.environ/GLIMP_URL", "os.environ/GLIMP_BASE", "and {"),
    Mistake(FILE, "max_budget", "budget", "no budget"),
]


def test_litellm() -> None:
    assert litellm_problems(DEPLOY) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_noticed(mistake: Mistake, tmp_path: Path) -> None:
    assert mistake.told in "\n".join(litellm_problems(mistake.made(tmp_path)))
