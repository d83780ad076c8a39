"""LangChain's own unit suite for chat models."""

from typing import Any

from langchain_tests.unit_tests import ChatModelUnitTests

from glimp_integrations.backends import ScriptedBackend
from langchain_glimp import ChatGlimpRouter


class TestChatGlimpRouter(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatGlimpRouter]:
        return ChatGlimpRouter

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"small": ScriptedBackend(["ok"]), "large": ScriptedBackend(["ok"])}


class TestChatGlimpRouterFromStrings(ChatModelUnitTests):
    """Models named by short forms: construction must ask nobody."""

    @property
    def chat_model_class(self) -> type[ChatGlimpRouter]:
        return ChatGlimpRouter

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "small": "openai:small@http://127.0.0.1:9/v1",
            "large": "openai:large@http://127.0.0.1:9/v1",
        }

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        models = self.chat_model_params
        env = {
            "GLIMP_SMALL": models["small"],
            "GLIMP_LARGE": models["large"],
            "GLIMP_API_KEY": "sk-from-environment",
        }
        return env, {}, {**models, "api_key": "sk-from-environment"}


class TestEmbeddedPair(ChatModelUnitTests):
    """No models named: nothing may be fetched or loaded before the first question."""

    @property
    def chat_model_class(self) -> type[ChatGlimpRouter]:
        return ChatGlimpRouter
