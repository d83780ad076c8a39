"""The real LiteLLM proxy, with ``deploy/litellm/config.yaml``, in front of ``glimp serve``.

Needs `make litellm` first (or ``GLIMP_LITELLM``, the folder of an environment with
``litellm[proxy]``). tests/deploy/test_litellm.py checks the file without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from scripts import CALL, PARIS, of_own_accord, pair
from serve.conftest import ANSWER, QUESTION, Serve, Served, servers
from serve.held import until

from benchmarks.lab.litellm import RECIPE, litellm
from tools import litellm_proxy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not litellm_proxy.installed(),
        reason=f"no LiteLLM in {litellm_proxy.environment()}: run `make litellm`, or name an "
        "environment of your own with GLIMP_LITELLM",
    ),
]
KEY = "k" * 40
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@contextmanager
def proxy(config: Path, folder: Path, glimp: str, large: str) -> Iterator[openai.OpenAI]:
    """The proxy with a configuration; OpenAI's client of it."""
    with (
        litellm(folder, config, glimp=glimp, large=large, key=KEY) as running,
        openai.OpenAI(
            base_url=f"{running.root}/v1", api_key=running.key, max_retries=0, timeout=120
        ) as client,
    ):
        yield client


def keyed(start: Serve, models: dict[str, Any] | None = None, **options: Any) -> Served:
    return start(models, api_keys=[{"name": "litellm", "key": KEY}], **options)


@pytest.fixture(scope="module")
def start() -> Iterator[Serve]:
    with servers() as starting:
        yield starting


@pytest.fixture(scope="module")
def ask(start: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Asks through the proxy as it stands in ``deploy/``."""
    glimp = keyed(start)
    large = keyed(start, model_name="Qwen/Qwen3-32B")
    with proxy(RECIPE, tmp_path_factory.mktemp("proxy"), glimp.url, large.url) as client:

        def asking(**given: Any) -> Any:
            return client.chat.completions.create(
                **{"model": "glimp", "messages": QUESTION, **given}
            )

        asking.glimp, asking.client = glimp, client  # type: ignore[attr-defined]
        yield asking


def test_a_reply_with_its_chain_of_thought_and_usage(ask: Callable[..., Any]) -> None:
    reply = ask(temperature=0)
    message = reply.choices[0].message
    assert message.content == "".join(ANSWER)
    assert message.reasoning_content == "First.\n\nThen.\n"
    assert reply.usage.completion_tokens > 0 and reply.usage.prompt_tokens > 0


def test_a_stream(ask: Callable[..., Any]) -> None:
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "".join(ANSWER)
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert thought == "First.\n\nThen.\n"
    assert len([delta for delta in deltas if delta.content]) > 1
    assert chunks[-1].usage.completion_tokens > 0


def test_settings_of_one_request_pass_through(ask: Callable[..., Any]) -> None:
    reply = ask(extra_body={"glimp": {"threshold": 9.0, "trace": True}})
    assert reply.glimp["trace"]["steps"] and reply.glimp["large_share"] < 0.8


def test_only_known_keys_are_let_in(ask: Callable[..., Any]) -> None:
    # Without its database LiteLLM knows no key but the first, and says so.
    for key in ("sk-wrong", KEY):
        stranger = ask.client.with_options(api_key=key)  # type: ignore[attr-defined]
        with pytest.raises(openai.APIStatusError) as caught:
            stranger.chat.completions.create(model="glimp", messages=QUESTION)
        assert caught.value.status_code in (400, 401)


def test_mistakes_of_a_request_are_told(ask: Callable[..., Any]) -> None:
    with pytest.raises(openai.BadRequestError, match="top_p"):
        ask(top_p=7)


def test_tool_calls(start: Serve, tmp_path: Path) -> None:
    glimp = keyed(start, pair(*of_own_accord(CALL)))
    with proxy(RECIPE, tmp_path, glimp.url, glimp.url) as client:
        reply = client.chat.completions.create(
            model="glimp",
            messages=[{"role": "user", "content": "Weather in Paris?"}],
            tools=[TOOL],  # type: ignore[list-item]
        )
    (call,) = reply.choices[0].message.tool_calls or ()
    assert call.type == "function" and (call.function.name, "Paris" in call.function.arguments) == (
        PARIS[0],
        True,
    )


def test_the_large_model_answers_when_glimp_serve_is_gone(start: Serve, tmp_path: Path) -> None:
    glimp, large = keyed(start), keyed(start, pair("Large", "."), model_name="Qwen/Qwen3-32B")
    with proxy(RECIPE, tmp_path, glimp.url, large.url) as client:

        def answer() -> str | None:
            reply = client.chat.completions.create(model="glimp", messages=QUESTION)  # type: ignore
            return str(reply.choices[0].message.content)

        assert answer() == "".join(ANSWER)
        glimp.stop()
        assert answer() == "Large."


def test_the_large_model_answers_when_the_budget_is_spent(start: Serve, tmp_path: Path) -> None:
    glimp, large = keyed(start), keyed(start, pair("Large", "."), model_name="Qwen/Qwen3-32B")
    text = RECIPE.read_text(encoding="utf-8")
    assert text.count("max_budget: 100\n") == 1
    config = tmp_path / "config.yaml"
    config.write_text(text.replace("max_budget: 100\n", "max_budget: 0.000000001\n"))
    with proxy(config, tmp_path, glimp.url, large.url) as client:

        def answer() -> str | None:
            reply = client.chat.completions.create(model="glimp", messages=QUESTION)  # type: ignore
            return str(reply.choices[0].message.content)

        assert answer() == "".join(ANSWER)
        until(lambda: answer() == "Large.", 30)
