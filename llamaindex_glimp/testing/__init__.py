"""A conformance suite for LlamaIndex LLMs that call functions, whoever wrote them.

Needs pytest. Subclass :class:`FunctionCallingLLMTests` and say how your LLM is made:

    from llamaindex_glimp.testing import FunctionCallingLLMTests

    class TestMyLLM(FunctionCallingLLMTests):
        def make_llm(self) -> MyLLM:
            return MyLLM(model="tiny", temperature=0, max_tokens=96)

        @property
        def has_usage(self) -> bool:
            return True

Every test asks for something that code of ``llama-index-core`` relies on; its docstring says which.
What a model has to be clever for is not tested. Optional features are properties, described in
:class:`~llamaindex_glimp.testing.base.Suite`. The prompts are tiny, but there are about a hundred:
choose a small model, a low temperature, and a bound on the length of replies.

A test that your LLM fails for a known reason is best overridden and marked, so that the day on
which it passes is noticed:

        @pytest.mark.xfail(strict=True, reason="the endpoint ignores max_tokens")
        def test_arguments_of_a_call(self, llm: MyLLM) -> None:
            super().test_arguments_of_a_call(llm)
"""

from __future__ import annotations

import pytest

# Before they are imported: a failed assertion then tells the values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{topic}" for topic in ("chat", "framework", "observing", "structured", "tools")),
    f"{__name__}.storing",
)

from llamaindex_glimp.testing.chat import ChatTests, CompletionTests, CrowdTests  # noqa: E402
from llamaindex_glimp.testing.framework import FrameworkTests  # noqa: E402
from llamaindex_glimp.testing.observing import ObservingTests  # noqa: E402
from llamaindex_glimp.testing.storing import StoringTests  # noqa: E402
from llamaindex_glimp.testing.structured import StructuredTests  # noqa: E402
from llamaindex_glimp.testing.tools import ToolTests  # noqa: E402

__all__ = ["FunctionCallingLLMTests"]


class FunctionCallingLLMTests(
    StoringTests,
    ChatTests,
    CompletionTests,
    CrowdTests,
    ObservingTests,
    ToolTests,
    StructuredTests,
    FrameworkTests,
):
    """All tests; subclass it and give :meth:`make_llm`."""
