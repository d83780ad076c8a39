"""A conformance suite for LlamaIndex LLMs that call functions, of any author.

The tests are pytest's. This package can be imported without pytest; taking the suite from it
needs pytest. Subclass :class:`FunctionCallingLLMTests` in a test file, and say how your LLM is
made::

    from llamaindex_glimp.testing import FunctionCallingLLMTests


    class TestMyLLM(FunctionCallingLLMTests):
        def make_llm(self) -> MyLLM:
            return MyLLM(model="tiny", temperature=0, max_tokens=96)

        @property
        def has_usage(self) -> bool:
            return True

Every test checks something on which code of ``llama-index-core`` relies; its docstring says which
code. No test needs a clever model. Optional features are properties, described in
:class:`~llamaindex_glimp.testing.base.Suite`. The prompts are tiny, but there are about a hundred:
choose a small model, a low temperature, and a limit for the length of replies.

If your LLM fails a test for a known reason, override the test and mark it. Then you notice the day
on which it passes::

        @pytest.mark.xfail(strict=True, reason="the endpoint ignores max_tokens")
        def test_arguments_of_a_call(self, llm: MyLLM) -> None:
            super().test_arguments_of_a_call(llm)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamaindex_glimp.testing.suite import FunctionCallingLLMTests

__all__ = ["FunctionCallingLLMTests"]

_TOPICS = ("chat", "framework", "observing", "storing", "structured", "tools")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import pytest
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{__name__}.{name} is a suite of pytest tests, and pytest is not installed: "
            "pip install pytest"
        ) from error
    # Before the modules are imported, so that a failed assertion shows the values.
    pytest.register_assert_rewrite(*(f"{__name__}.{topic}" for topic in _TOPICS))
    return getattr(importlib.import_module(f"{__name__}.suite"), name)
