"""GlimpRouter for LangChain: two models write one chain of thought, as one LLM."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_glimp.chat_models import ChatGlimpRouter
    from langchain_glimp.llms import GlimpRouterLLM
    from langchain_glimp.printer import StepPrinter

__all__ = ["ChatGlimpRouter", "GlimpRouterLLM", "StepPrinter"]

_HOMES = {"ChatGlimpRouter": "chat_models", "GlimpRouterLLM": "llms", "StepPrinter": "printer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
