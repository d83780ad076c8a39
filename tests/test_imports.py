"""Importing a package must stay cheap: no framework it does not serve, no torch, no numpy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = [
    "torch",
    "transformers",
    "numpy",
    "langchain_core",
    "llama_index",
    "xllamacpp",
    "huggingface_hub",
    "scipy",
    "matplotlib",
    "reasoning_gym",
    "math_verify",
    "datasets",
    "pandas",
    "pyarrow",
    "opentelemetry",
    "starlette",
    "uvicorn",
    "prometheus_client",
    "pydantic_settings",
    "ray",
]
ALLOWED = {
    # langsmith, which LangChain brings, imports OpenTelemetry's SDK where it is installed.
    "langchain_glimp": {"langchain_core", "opentelemetry"},
    "llamaindex_glimp": {"llama_index", "numpy"},  # LlamaIndex's core imports numpy itself
}
CLASSES = {
    "glimp_integrations": "GlimpRouter",
    "glimp_integrations.backends": "OpenAIBackend",
    "glimp_integrations.batch": "run",
    "glimp_integrations.bench": "load_task",
    "langchain_glimp": "ChatGlimpRouter",
    "llamaindex_glimp": "GlimpRouterLLM",
}


def loaded(code: str, modules: list[str]) -> str:
    """Which of these modules a process has, once it has run the code."""
    code = f"import sys\n{code}\nprint([m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_loads_nothing_heavy() -> None:
    # In one process: what loads nothing heavy together loads nothing heavy alone, and naming
    # local models loads nothing before they are used.
    lines = [f"from {p} import {CLASSES[p]}" for p in CLASSES if p not in ALLOWED]
    models = "'hf:ORG/SMALL', 'hf:ORG/LARGE', draft='small', strategy='in_process'"
    assert loaded("\n".join([*lines, f"GlimpRouter({models})"]), HEAVY) == "[]"


@pytest.mark.parametrize("package", ALLOWED)
def test_importing_an_adapter_loads_its_own_framework_only(package: str) -> None:
    heavy = [name for name in HEAVY if name not in ALLOWED[package]]
    assert loaded(f"from {package} import {CLASSES[package]}", heavy) == "[]"


@pytest.mark.parametrize("package", CLASSES)
def test_everything_public_can_be_had(package: str) -> None:
    module = __import__(package, fromlist=["__all__"])
    assert sorted(module.__all__) == module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None
