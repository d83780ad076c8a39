"""LangChain's own integration suite on the embedded pair.

Tools and structured output are off because the class has none (bind_tools is not overridden);
images, audio and PDFs because both models read text only. Everything else runs.
"""

from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_glimp import ChatGlimpRouter

pytestmark = pytest.mark.pair


class TestChatGlimpRouter(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[ChatGlimpRouter]:
        return ChatGlimpRouter

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"max_tokens": 48, "temperature": 0}

    @property
    def supports_model_override(self) -> bool:
        return False  # a pair has no single model to exchange

    @property
    def returns_usage_metadata(self) -> bool:
        return True
