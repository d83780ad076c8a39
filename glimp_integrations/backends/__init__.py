"""Backends: where models run. Nothing heavy is imported before a name is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glimp_integrations.backends.base import (
        Backend,
        Capabilities,
        Rendered,
        Report,
        Request,
        Token,
    )
    from glimp_integrations.backends.hf.backend import HuggingFaceBackend
    from glimp_integrations.backends.http.openai import OpenAIBackend
    from glimp_integrations.backends.llamacpp import LlamaCppBackend
    from glimp_integrations.backends.scripted import ScriptedBackend

__all__ = [
    "Backend",
    "Capabilities",
    "HuggingFaceBackend",
    "LlamaCppBackend",
    "OpenAIBackend",
    "Rendered",
    "Report",
    "Request",
    "ScriptedBackend",
    "Token",
]

_HOMES = {
    "HuggingFaceBackend": "hf.backend",
    "LlamaCppBackend": "llamacpp",
    "OpenAIBackend": "http.openai",
    "ScriptedBackend": "scripted",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'base')}"), name)
