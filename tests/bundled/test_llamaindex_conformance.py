"""Our conformance suite for LlamaIndex LLMs, on the bundled models."""

import pytest

from llamaindex_glimp import GlimpRouterLLM
from llamaindex_glimp.testing import FunctionCallingLLMTests

# Some six minutes on two idle cores.
pytestmark = pytest.mark.slow


class TestGlimpRouterLLM(FunctionCallingLLMTests):
    def make_llm(self) -> GlimpRouterLLM:
        return GlimpRouterLLM(
            temperature=0, max_tokens=96, max_thinking_tokens=48, threshold=1.0, api_key=self.secret
        )

    @property
    def has_thinking(self) -> bool:
        return True

    @property
    def thinking_question(self) -> str:
        # Without think tags the last paragraph is the answer, what is before it the thinking.
        return "Write a very short letter to Anna."

    @property
    def has_usage(self) -> bool:
        return True

    @property
    def secret(self) -> str:
        return "sk-nobody-may-read-this"

    @property
    def keeps_secret(self) -> bool:
        return True
