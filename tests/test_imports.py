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
    "opentelemetry",
]
ALLOWED = {
    # langsmith, which LangChain brings, imports OpenTelemetry's SDK where it is installed.
    "langchain_glimp": {"langchain_core", "opentelemetry"},
    "llamaindex_glimp": {"llama_index", "numpy"},  # LlamaIndex's core imports numpy itself
}
CLASSES = {
    "glimp_integrations": "GlimpRouter",
    "glimp_integrations.backends": "OpenAIBackend",
    "glimp_integrations.bench": "load_task",
    "langchain_glimp": "ChatGlimpRouter",
    "llamaindex_glimp": "GlimpRouterLLM",
}


@pytest.mark.parametrize("package", CLASSES)
def test_importing_loads_nothing_heavy(package: str) -> None:
    heavy = [name for name in HEAVY if name not in ALLOWED.get(package, ())]
    code = (
        f"import sys\nfrom {package} import {CLASSES[package]}\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", CLASSES)
def test_everything_public_can_be_had(package: str) -> None:
    module = __import__(package, fromlist=["__all__"])
    assert sorted(module.__all__) == module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_naming_a_local_model_loads_nothing_before_it_is_used() -> None:
    code = (
        "import sys\nfrom glimp_integrations import GlimpRouter\n"
        "GlimpRouter('hf:ORG/SMALL', 'hf:ORG/LARGE', draft='small', strategy='in_process')\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
