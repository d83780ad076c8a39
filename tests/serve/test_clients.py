"""Other people's clients of OpenAI's API, used as their documentation says.

Each asks, streams, calls a tool and wants data. LlamaIndex's client does not go with OpenAI's
newest package, so it is not in every environment: ``make test-clients`` makes one that has them
all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel
from scripts import CALL, answer, demanded, of_own_accord, pair

from serve.conftest import ANSWER, Serve, Served

KEY = "a-key-of-this-server"
QUESTION = "What is 2 + 2?"
JSON = ('{"city": ', '"Paris"}')


class City(BaseModel):
    """A city."""

    city: str


def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"Sunny in {city}."


def served(serve: Serve, *behind: str) -> Served:
    keys = [{"name": "test", "key": KEY}]
    return serve(pair(*behind), api_keys=keys)


def whole(texts: Sequence[str | None]) -> str:
    return "".join(text or "" for text in texts)


class TestLangChain:
    """``langchain-openai``."""

    def model(self, place: Served, **options: Any) -> Any:
        chat = pytest.importorskip("langchain_openai")
        return chat.ChatOpenAI(model="glimp", base_url=place.url, api_key=KEY, **options)

    def test_chat(self, serve: Serve) -> None:
        model = self.model(served(serve, *ANSWER), temperature=0, max_tokens=100)
        reply = model.invoke(QUESTION)
        assert reply.content == "It is four."
        assert reply.usage_metadata["output_token_details"]["reasoning"] == 5
        assert reply.response_metadata["finish_reason"] == "stop"

    def test_stream(self, serve: Serve) -> None:
        model = self.model(served(serve, *ANSWER), stream_usage=True)
        chunks = list(model.stream(QUESTION))
        assert len([chunk for chunk in chunks if chunk.content]) == len(ANSWER)
        total = chunks[0]
        for chunk in chunks[1:]:
            total += chunk
        assert total.content == "It is four." and total.usage_metadata["total_tokens"] > 0

    @pytest.mark.parametrize("stream", [False, True])
    def test_tool_call(self, serve: Serve, stream: bool) -> None:
        model = self.model(served(serve, *of_own_accord(CALL))).bind_tools([get_weather])
        if stream:
            first, *rest = model.stream(QUESTION)
            for chunk in rest:
                first += chunk
        else:
            first = model.invoke(QUESTION)
        (call,) = first.tool_calls
        assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})

    @pytest.mark.parametrize("method", ["json_schema", "function_calling"])
    def test_data(self, serve: Serve, method: str) -> None:
        call = ['{"name": "City", ', '"arguments": {"city": ', '"Paris"}}']
        behind = answer(JSON) if method == "json_schema" else demanded(call)
        model = self.model(served(serve, *behind)).with_structured_output(City, method=method)
        assert model.invoke(QUESTION) == City(city="Paris")

    async def test_settings_of_a_request(self, serve: Serve) -> None:
        extra = {"glimp": {"threshold": 3, "trace": True}}
        model = self.model(served(serve, *ANSWER), extra_body=extra)
        assert (await model.ainvoke(QUESTION)).content == "It is four."
        await model.root_async_client.close()


class TestLlamaIndex:
    """``llama-index-llms-openai-like``."""

    def model(self, place: Served) -> Any:
        like = pytest.importorskip("llama_index.llms.openai_like")
        return like.OpenAILike(
            model="glimp",
            api_base=place.url,
            api_key=KEY,
            is_chat_model=True,
            is_function_calling_model=True,
            context_window=8192,
            max_retries=0,
        )

    def test_chat(self, serve: Serve) -> None:
        from llama_index.core.llms import ChatMessage

        model = self.model(served(serve, *ANSWER))
        assert model.complete(QUESTION).text == "It is four."
        reply = model.chat([ChatMessage(role="user", content=QUESTION)])
        assert reply.message.content == "It is four."

    def test_stream(self, serve: Serve) -> None:
        model = self.model(served(serve, *ANSWER))
        deltas = [chunk.delta for chunk in model.stream_complete(QUESTION)]
        assert whole(deltas) == "It is four."
        assert len([delta for delta in deltas if delta]) == len(ANSWER)

    def test_tool_call(self, serve: Serve) -> None:
        from llama_index.core.tools import FunctionTool

        model = self.model(served(serve, *of_own_accord(CALL)))
        tool = FunctionTool.from_defaults(get_weather)
        reply = model.chat_with_tools([tool], user_msg=QUESTION)
        (call,) = model.get_tool_calls_from_response(reply)
        assert (call.tool_name, call.tool_kwargs) == ("get_weather", {"city": "Paris"})

    def test_data(self, serve: Serve) -> None:
        call = ['{"name": "City", ', '"arguments": {"city": ', '"Paris"}}']
        model = self.model(served(serve, *demanded(call)))
        assert model.as_structured_llm(City).complete(QUESTION).raw == City(city="Paris")


@pytest.mark.filterwarnings("ignore")  # of its own types, when it is imported
class TestLiteLLM:
    """LiteLLM's SDK."""

    @pytest.fixture(autouse=True)
    def _from_its_own_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Otherwise it fetches a table of prices when it is imported.
        monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")

    def ask(self, place: Served, **given: Any) -> Any:
        litellm = pytest.importorskip("litellm")
        return litellm.completion(
            model="openai/glimp",
            api_base=place.url,
            api_key=KEY,
            messages=[{"role": "user", "content": QUESTION}],
            max_retries=0,
            **given,
        )

    def test_chat(self, serve: Serve) -> None:
        reply = self.ask(served(serve, *ANSWER), temperature=0, max_tokens=100)
        message = reply.choices[0].message
        assert message.content == "It is four."
        assert message.reasoning_content == "First.\n\nThen.\n"
        assert reply.usage.completion_tokens_details.reasoning_tokens == 5

    def test_stream(self, serve: Serve) -> None:
        chunks = list(self.ask(served(serve, *ANSWER), stream=True))
        assert whole([c.choices[0].delta.content for c in chunks]) == "It is four."
        reasoning = [getattr(c.choices[0].delta, "reasoning_content", None) for c in chunks]
        assert whole(reasoning) == "First.\n\nThen.\n"

    def test_tool_call(self, serve: Serve) -> None:
        function = {"name": "get_weather", "parameters": City.model_json_schema()}
        tools = [{"type": "function", "function": function}]
        reply = self.ask(served(serve, *of_own_accord(CALL)), tools=tools)
        (call,) = reply.choices[0].message.tool_calls
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"city": "Paris"}

    def test_data(self, serve: Serve) -> None:
        reply = self.ask(served(serve, *answer(JSON)), response_format=City)
        assert City.model_validate_json(reply.choices[0].message.content) == City(city="Paris")

    def test_errors_are_its_own(self, serve: Serve) -> None:
        litellm = pytest.importorskip("litellm")
        place = served(serve, *ANSWER)
        with pytest.raises(litellm.BadRequestError):
            self.ask(place, n=2)
        with pytest.raises(litellm.AuthenticationError):
            litellm.completion(
                model="openai/glimp",
                api_base=place.url,
                api_key="wrong-wrong-wrong-wrong",
                messages=[{"role": "user", "content": QUESTION}],
            )
