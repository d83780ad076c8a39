"""``glimp serve`` over the bundled pair, through other people's clients of OpenAI's API.

One server, started by its command, answers all of them; each asks, streams, calls a tool and wants
data. What is not installed is skipped: ``make test-clients`` makes an environment that has them
all. The client of OpenAI itself is in ``test_serve_bundled.py``.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from serve.held import until

KEY = "a-key-of-this-server"
CONFIG = f"""
[routing]
route = "always"
untagged_answer = "whole"  # so that the reply is streamed as it is written

[[api_keys]]
name = "test"
key = "{KEY}"
"""
PROGRAM = "from glimp_integrations.cli.app import main; main()"
COUNT = "Count from 1 to 10. Write only the numbers, with commas."
SUM = "What is 17 + 25? Answer with the number."
WEATHER = "How is the weather in Paris?"
CAPITAL = "What is the capital of France?"
LIMITS = {"temperature": 0, "max_tokens": 120}


class City(BaseModel):
    """A city."""

    city: str


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"Sunny in {city}."


TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": City.model_json_schema(),
    },
}
CHOICE = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that runs as long as the tests of this file."""
    folder = tmp_path_factory.mktemp("serve")
    config, log = folder / "serve.toml", folder / "log"
    config.write_text(CONFIG, encoding="utf-8")
    command = ["serve", "--config", str(config), "--port", "0", "--pair", "bundled"]
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, *command], stderr=output)
    try:
        until(lambda: process.poll() is not None or address_in(log), 120)
        assert process.poll() is None, log.read_text(encoding="utf-8")
        yield address_in(log)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        said = log.read_text(encoding="utf-8")
        assert process.returncode in (0, -signal.SIGTERM), said
        assert "Traceback" not in said and KEY not in said, said
    finally:
        process.kill()
        process.wait()


def address_in(log: Path) -> str:
    found = re.search(r" at (http://\S+/v1),", log.read_text(encoding="utf-8"))
    return found[1] if found else ""


class LangChain:
    """``langchain-openai``."""

    def __init__(self, url: str) -> None:
        chat = pytest.importorskip("langchain_openai")
        self.model = chat.ChatOpenAI(model="glimp", base_url=url, api_key=KEY, **LIMITS)

    def chat(self, question: str) -> str:
        return str(self.model.invoke(question).content)

    def stream(self, question: str) -> list[str]:
        return [str(chunk.content) for chunk in self.model.stream(question)]

    def call(self, question: str) -> tuple[str, dict[str, Any]]:
        model = self.model.bind_tools([get_weather], tool_choice="get_weather")
        (call,) = model.invoke(question).tool_calls
        return call["name"], call["args"]

    def data(self, question: str) -> Any:
        model = self.model.with_structured_output(City, method="json_schema")
        return model.invoke(question)


class LlamaIndex:
    """``llama-index-llms-openai-like``."""

    def __init__(self, url: str) -> None:
        like = pytest.importorskip("llama_index.llms.openai_like")
        self.model = like.OpenAILike(
            model="glimp",
            api_base=url,
            api_key=KEY,
            is_chat_model=True,
            is_function_calling_model=True,
            context_window=8192,
            timeout=300,
            **LIMITS,
        )

    def chat(self, question: str) -> str:
        return str(self.model.complete(question).text)

    def stream(self, question: str) -> list[str]:
        return [chunk.delta or "" for chunk in self.model.stream_complete(question)]

    def call(self, question: str) -> tuple[str, dict[str, Any]]:
        from llama_index.core.tools import FunctionTool

        tool = FunctionTool.from_defaults(get_weather)
        reply = self.model.chat_with_tools([tool], user_msg=question, tool_required=True)
        (call,) = self.model.get_tool_calls_from_response(reply)
        return call.tool_name, call.tool_kwargs

    def data(self, question: str) -> Any:
        return self.model.as_structured_llm(City).complete(question).raw


class LiteLLM:
    """LiteLLM's SDK."""

    def __init__(self, url: str) -> None:
        self.completion = pytest.importorskip("litellm").completion
        self.url = url

    def ask(self, question: str, **given: Any) -> Any:
        return self.completion(
            model="openai/glimp",
            api_base=self.url,
            api_key=KEY,
            messages=[{"role": "user", "content": question}],
            **LIMITS,
            **given,
        )

    def chat(self, question: str) -> str:
        return str(self.ask(question).choices[0].message.content)

    def stream(self, question: str) -> list[str]:
        return [c.choices[0].delta.content or "" for c in self.ask(question, stream=True)]

    def call(self, question: str) -> tuple[str, dict[str, Any]]:
        reply = self.ask(question, tools=[TOOL], tool_choice=CHOICE)
        (call,) = reply.choices[0].message.tool_calls
        return call.function.name, json.loads(call.function.arguments)

    def data(self, question: str) -> Any:
        reply = self.ask(question, response_format=City)
        return City.model_validate_json(reply.choices[0].message.content)


class Curl:
    """The command ``curl``."""

    def __init__(self, url: str) -> None:
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        self.url = url

    def ask(self, question: str, **given: Any) -> str:
        messages = [{"role": "user", "content": question}]
        body = json.dumps({"model": "glimp", "messages": messages, **LIMITS, **given})
        headers = ["-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json"]
        command = ["curl", "-sSN", "--noproxy", "*", *headers, "--data-binary", "@-"]
        done = subprocess.run(
            [*command, f"{self.url}/chat/completions"],
            input=body,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def message(self, question: str, **given: Any) -> Any:
        return json.loads(self.ask(question, **given))["choices"][0]["message"]

    def chat(self, question: str) -> str:
        return str(self.message(question)["content"])

    def stream(self, question: str) -> list[str]:
        lines = [line for line in self.ask(question, stream=True).splitlines() if line]
        *chunks, last = [line.removeprefix("data: ") for line in lines if line[0] != ":"]
        assert last == "[DONE]"
        deltas = [c["delta"] for chunk in chunks for c in json.loads(chunk)["choices"]]
        return [delta.get("content") or "" for delta in deltas]

    def call(self, question: str) -> tuple[str, dict[str, Any]]:
        message = self.message(question, tools=[TOOL], tool_choice=CHOICE)
        (call,) = message["tool_calls"]
        return call["function"]["name"], json.loads(call["function"]["arguments"])

    def data(self, question: str) -> Any:
        schema = {"name": "city", "schema": City.model_json_schema()}
        wanted = {"type": "json_schema", "json_schema": schema}
        return City.model_validate_json(self.message(question, response_format=wanted)["content"])


@pytest.fixture(
    params=[
        LangChain,
        LlamaIndex,
        # Its own types warn when it is imported.
        pytest.param(LiteLLM, marks=pytest.mark.filterwarnings("ignore")),
        Curl,
    ]
)
def client(request: pytest.FixtureRequest, url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    # LiteLLM would fetch a table of prices when it is imported.
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return request.param(url)


def test_chat(client: Any) -> None:
    assert "42" in client.chat(SUM)


def test_stream(client: Any) -> None:
    pieces = [piece for piece in client.stream(COUNT) if piece]
    assert len(pieces) > 9 and "8,9,10" in "".join(pieces).replace(" ", "")


def test_tool_call(client: Any) -> None:
    name, arguments = client.call(WEATHER)
    assert name == "get_weather" and "Paris" in arguments["city"]


def test_data(client: Any) -> None:
    found = client.data(CAPITAL)
    assert isinstance(found, City) and "Paris" in found.city
