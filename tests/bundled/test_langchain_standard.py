"""LangChain's own integration suite on the bundled models.

Switched off by properties: images, audio and PDFs, because both models read text only, and the
override of the model's name in a call, because a pair has no single name to exchange (its models
are configurable fields instead).
"""

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_glimp import ChatGlimpRouter


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

    @property
    def supported_usage_metadata_details(self) -> dict[Any, Any]:
        details = ["reasoning_output", "cache_read_input"]
        return {"invoke": details, "stream": details}

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        # A letter has paragraphs, whatever a cache does to the last digits of a tie.
        message = self._asked("Write a very short letter to Anna.", stream)
        assert message.usage_metadata is not None
        assert message.usage_metadata["output_token_details"]["reasoning"] > 0
        return message

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        self._asked("What colour is the sky?", stream)
        message = self._asked("What colour is the sky?", stream)
        assert message.usage_metadata is not None
        assert message.usage_metadata["input_token_details"]["cache_read"] > 0
        return message

    def _asked(self, text: str, stream: bool) -> AIMessage:
        model = self.chat_model_class(**self.chat_model_params)
        if not stream:
            return model.invoke(text)
        total: AIMessageChunk | None = None
        for chunk in model.stream(text):
            assert isinstance(chunk, AIMessageChunk)
            total = chunk if total is None else total + chunk
        assert total is not None
        return total
