"""LangChain's own integration suite on the bundled models.

Switched off by properties: images, audio and PDFs, because both models read text only, and the
override of the model's name in a call, because a pair has no single name to exchange (its models
are configurable fields instead).

One test of each kind runs always, the rest of the suite in the longer proofs: what it adds are
other spellings of the same schema, tool or history, which `tests/langchain` has on scripted models.
"""

from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_glimp import ChatGlimpRouter

LONGER = {
    "test_agent_loop[model0]",
    "test_agent_loop[model1]",
    "test_bind_runnables_as_tools",
    "test_json_mode",
    "test_structured_output[pydantic]",
    "test_structured_output[typeddict]",
    "test_structured_output_async[json_schema]",
    "test_structured_output_async[typeddict]",
    "test_structured_output_optional_param",
    "test_structured_output_pydantic_2_v1",
    "test_tool_calling[model1]",
    "test_tool_calling_with_no_arguments",
    "test_tool_choice",
    "test_tool_message_histories_string_content",
    "test_unicode_tool_call_integration",
    "test_usage_metadata",
}
"""Tests of the suite that take ten seconds or more, or are like one that runs always."""


class TestChatGlimpRouter(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[ChatGlimpRouter]:
        return ChatGlimpRouter

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"max_tokens": 48, "max_thinking_tokens": 32, "temperature": 0}

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
