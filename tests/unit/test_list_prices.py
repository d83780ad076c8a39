"""``prices="auto"``, with the real package: who is priced, who is free, and what is not known."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from genai_prices import Usage, calc_price, data_snapshot
from genai_prices.types import TieredPrices
from langchain_core.load import dumpd
from scripts import SPOKEN

from glimp_integrations import ConfigError, GlimpRouter, Prices, RoutingSettings
from glimp_integrations.backends import (
    HuggingFaceBackend,
    LlamaCppBackend,
    OpenAIBackend,
    ScriptedBackend,
)
from glimp_integrations.callers import users_line
from glimp_integrations.cli.ask import run as ask
from glimp_integrations.conversation.prompt import TEXT
from glimp_integrations.runtime import list_prices
from glimp_integrations.runtime.call import Call
from glimp_integrations.runtime.list_prices import list_price
from glimp_integrations.settings import prices as price_settings
from langchain_glimp import ChatGlimpRouter

MISTRAL = "https://api.mistral.ai/v1"


@pytest.fixture(autouse=True)
def _nothing_was_said_before() -> Iterator[None]:
    list_prices._log_once.cache_clear()
    list_prices._listed.cache_clear()
    yield
    list_prices._log_once.cache_clear()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something was to be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def at(url: str | None, name: str) -> ScriptedBackend:
    made = ScriptedBackend([*SPOKEN, "So", "."], name=name)
    made.url = url
    return made


def hosted(name: str = "mistral-large-latest") -> ScriptedBackend:
    return at(MISTRAL, name)


def served(name: str, kind: str, url: str) -> OpenAIBackend:
    return OpenAIBackend(name, base_url=url, server=kind)


def resolved(small: Any, large: Any, **options: Any) -> Prices | None:
    settings = RoutingSettings(prices="auto", **options)
    call = Call(settings, small, large, [], TEXT, users_line())
    return list_prices.with_list_prices(call).settings.known_prices


def listed(provider: str, *, tiers: bool = False) -> str:
    """A model of a provider in the package's data, which change from release to release."""
    (models,) = (p.models for p in data_snapshot.get_snapshot().providers if p.id == provider)
    for model in models:
        price = getattr(model.prices, "input_mtok", None)
        known = price is not None and getattr(model.prices, "output_mtok", None) is not None
        names = [getattr(c, "equals", "") for c in getattr(model.match, "or_", [model.match])]
        if known and names[0] and isinstance(price, TieredPrices) is tiers:
            return str(names[0])
    raise AssertionError(f"no such model of {provider}: choose another one")


@pytest.mark.parametrize("server", ["mistral", "together", "fireworks", "openrouter"])
def test_a_hosted_service_has_the_packages_prices(server: str) -> None:
    model = listed(server)
    options = {"provider": "deepinfra"} if server == "openrouter" else {}
    price = list_price(OpenAIBackend(model, server=server, **options))
    assert price is not None
    for count, own in (("input_tokens", price.input), ("output_tokens", price.output)):
        other = {"input_tokens": 0, "output_tokens": 0, count: 1_000_000}
        theirs = calc_price(Usage(**other), model, provider_id=server)
        assert own == pytest.approx(float(theirs.total_price))
    assert data_snapshot._custom_snapshot is None


def test_prices_may_change_by_the_hour_and_have_one_for_what_is_cached() -> None:
    price = list_price(OpenAIBackend("deepseek-chat", server="deepseek"))
    assert price is not None and price.cached is not None
    assert 0 < price.cached < price.input < price.output


def test_of_prices_that_rise_with_the_prompt_the_lowest() -> None:
    model = listed("google", tiers=True)
    price = list_price(at("https://generativelanguage.googleapis.com/v1beta", model))
    theirs = calc_price(Usage(input_tokens=1, output_tokens=0), model, provider_id="google")
    assert price is not None
    assert price.input == pytest.approx(float(theirs.total_price) * 1e6)


@pytest.mark.parametrize(
    "backend",
    [
        at(None, "mistral-large-latest"),
        at("http://gpu1:8000/v1", "mistral-large-latest"),
        at(MISTRAL, "no-such-model"),
        OpenAIBackend("mistral-large-latest", server="mistral", base_url="http://gateway/v1"),
    ],
    ids=["no address", "own server", "unknown model", "a gateway"],
)
def test_nothing_else_has_a_price(backend: Any) -> None:
    assert list_price(backend) is None


@pytest.mark.parametrize(
    "small",
    [
        HuggingFaceBackend("Qwen/Qwen3-0.6B"),
        LlamaCppBackend("/models/small.gguf"),
        served("qwen3:4b", "ollama", "http://127.0.0.1:11434"),
        served("q", "vllm", "http://localhost:8000/v1"),
        served("q", "llama.cpp", "http://[::1]:8080/v1"),
    ],
    ids=["hf", "llamacpp", "ollama", "vllm", "llama.cpp"],
)
def test_what_runs_here_is_free_beside_a_hosted_model(small: Any) -> None:
    prices = resolved(small, hosted())
    assert prices is not None
    assert (prices.small.input, prices.small.output) == (0, 0)
    assert prices.large == list_price(hosted())


@pytest.mark.parametrize(
    "small",
    [
        served("q", "vllm", "http://gpu1:8000/v1"),
        served("q", "litellm", "http://127.0.0.1:4000/v1"),
        served("q", "generic", "http://127.0.0.1:4000/v1"),
        served("gpt-oss:120b-cloud", "ollama", "http://127.0.0.1:11434"),
        at(None, "somebody's backend"),
    ],
    ids=["vllm", "litellm", "generic", "ollama's cloud", "own backend"],
)
def test_where_tokens_may_be_charged_for_nothing_is_guessed(
    small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert resolved(small, hosted()) is None
    (record,) = caplog.records  # said once
    for part in (small.label, "no price is known", "prices=Prices("):
        assert part in record.message
    assert MISTRAL not in record.message


def test_two_models_of_this_machine_cost_nothing_that_could_be_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = HuggingFaceBackend("Qwen/Qwen3-0.6B")
    assert resolved(own, own) is None
    assert "nobody charges" in caplog.text


def test_the_trace_has_the_cost() -> None:
    small, large = hosted("mistral-small-latest"), hosted()
    result = GlimpRouter(small, large, prices="auto").run("hi")
    prices = Prices(small=list_price(small), large=list_price(large))
    assert result.trace.cost == pytest.approx(prices.of(result.usage)) and result.trace.cost > 0
    by_hand = GlimpRouter(small, large, prices=prices).run("hi").trace
    assert result.trace.large_alone_cost == by_hand.large_alone_cost


def test_without_a_price_there_is_no_cost() -> None:
    assert GlimpRouter(hosted(), at(None, "x"), prices="auto").run("hi").trace.cost is None


def test_max_cost_holds_with_prices_that_were_looked_up() -> None:
    cheap = GlimpRouter(hosted(), hosted(), prices="auto", max_cost=1.0).run("hi")
    assert cheap.trace.stop_reason == "eos"
    dear = GlimpRouter(hosted(), hosted(), prices="auto", max_cost=1e-9).run("hi")
    assert dear.trace.stop_reason == "max_cost"


@pytest.mark.parametrize("large", [at(None, "unknown"), HuggingFaceBackend("Qwen/Qwen3-0.6B")])
def test_max_cost_without_a_price_is_an_error(large: Any) -> None:
    small = large if isinstance(large, HuggingFaceBackend) else hosted()
    with pytest.raises(ConfigError) as caught:
        resolved(small, large, max_cost=0.5)
    for part in ("max_cost=0.5", large.label, "prices=Prices("):
        assert part in str(caught.value)


def test_a_call_may_ask_for_it() -> None:
    router = GlimpRouter(hosted(), hosted())
    assert router.run("hi").trace.cost is None
    assert router.run("hi", prices="auto", max_cost=1.0).trace.cost


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_settings, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'glimp-integrations\[prices\]'"):
        RoutingSettings(prices="auto")


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="or 'auto'"):
        RoutingSettings(prices="list")


def test_langchain_stores_it() -> None:
    stored = dumpd(ChatGlimpRouter(small="ollama:a", large="mistral:b", prices="auto"))
    assert stored["kwargs"]["prices"] == "auto"
    again = ChatGlimpRouter(small="ollama:a", large="mistral:b", prices=stored["kwargs"]["prices"])
    assert again.prices == "auto"


def test_the_command_line_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Stop(Exception):
        pass

    def router(**options: Any) -> None:
        seen.update(options)
        raise Stop

    monkeypatch.setattr("glimp_integrations.cli.ask.GlimpRouter", router)
    with pytest.raises(Stop):
        ask("hi", None, "auto", max_cost=0.5)
    assert (seen["prices"], seen["max_cost"]) == ("auto", 0.5)
