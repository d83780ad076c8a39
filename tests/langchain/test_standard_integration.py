"""LangChain's own integration suite on the embedded pair.

Switched off by properties: images, audio and PDFs, because both models read text only, and the
override of the model's name in a call, because a pair has no single name to exchange (its models
are configurable fields instead).
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
        return {"max_tokens": 96, "max_thinking_tokens": 96, "temperature": 0}

    @property
    def supports_model_override(self) -> bool:
        return False

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def returns_usage_metadata(self) -> bool:
        return True
