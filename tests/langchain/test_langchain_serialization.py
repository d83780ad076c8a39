"""Storing models and loading them again; and where secrets must not appear."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import pytest
from langchain_core._api import LangChainBetaWarning
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd, dumps, load, loads
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from pydantic import SecretStr
from scripted_models import chat, text_model
from scripts import KEY, SECRET_LARGE, SECRET_SMALL, TOKEN, UNUSUAL, pair, tells_a_secret

from glimp_integrations import BackendError
from glimp_integrations.backends import OpenAIBackend
from glimp_integrations.settings import Price, Prices
from langchain_glimp import ChatGlimpRouter, GlimpRouterLLM

KINDS = [ChatGlimpRouter, GlimpRouterLLM]
SMALL, LARGE = "openai:S@http://127.0.0.1:9/v1", "openai:L@http://127.0.0.1:9/v1"
SETTINGS: dict[str, Any] = {**UNUSUAL, "threshold": math.inf, "streaming": False}


def restored(stored: Any, **options: Any) -> Any:
    """The model a stored one loads to."""
    function = loads if isinstance(stored, str) else load
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f".*`{function.__name__}`.*", LangChainBetaWarning)
        return function(
            stored, allowed_objects=KINDS, valid_namespaces=["langchain_glimp"], **options
        )


def settings_of(model: Any) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields if name != "metadata"}


# -- there and back --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_model_loads_with_its_settings(kind: Any) -> None:
    llm = kind(small=SMALL, large=LARGE, **SETTINGS)
    stored = dumpd(llm)
    again = restored(stored)
    assert type(again) is kind
    assert settings_of(again) == settings_of(llm)
    assert again.identity == llm.identity
    assert again.router.small is llm.router.small, "of one model string, so of one backend"
    assert dumpd(again) == stored
    assert settings_of(restored(dumps(llm))) == settings_of(llm), "as text, too"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_model_names_its_class_and_holds_plain_data(kind: Any) -> None:
    stored = dumpd(kind(small=SMALL, large=LARGE))
    assert stored["type"] == "constructor"
    assert stored["id"] == [*kind.__module__.split("."), kind.__name__]
    assert stored["id"][0] == "langchain_glimp"
    assert stored["kwargs"]["small"] == SMALL
    json.dumps(stored)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_stored_by_its_name(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = kind(pair="qwen3-0.6b+8b", max_tokens=7)
    stored = dumpd(llm)
    assert stored["kwargs"]["pair"] == "qwen3-0.6b+8b"
    monkeypatch.setenv("GLIMP_SMALL", SMALL)
    monkeypatch.setenv("GLIMP_LARGE", LARGE)
    again = restored(stored)
    assert settings_of(again) == settings_of(llm)
    assert again.identity == llm.identity
    assert again.pair_name == "Qwen3-0.6B-Q8_0+Qwen3-8B-Q4_K_M"
    assert again.router.small is llm.router.small


def test_the_bundled_models_stay_the_bundled_models() -> None:
    stored = dumpd(ChatGlimpRouter(max_tokens=5))
    assert {"small", "large"}.isdisjoint(stored["kwargs"])
    again = restored(stored)
    assert (again.small, again.large, again.max_tokens) == (None, None, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_prices_are_stored(kind: Any) -> None:
    prices = Prices(small=Price(input=1, output=2), large=Price(input=3, output=4, cached=0.5))
    again = restored(dumpd(kind(small=SMALL, large=LARGE, prices=prices)))
    assert again.prices == prices


def test_a_chain_with_the_model_loads() -> None:
    chain = ChatPromptTemplate.from_template("{q}") | ChatGlimpRouter(small=SMALL, large=LARGE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`load`.*", LangChainBetaWarning)
        again = load(
            dumpd(chain),
            allowed_objects=[
                ChatGlimpRouter,
                type(chain),
                *map(type, chain.first.messages),
                ChatPromptTemplate,
                type(chain.first.messages[0].prompt),
            ],
            valid_namespaces=["langchain_glimp"],
        )
    assert again.last.pair_name == "S+L"


def test_only_classes_that_were_named_are_loaded() -> None:
    stored = dumpd(GlimpRouterLLM(small=SMALL, large=LARGE))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`load`.*", LangChainBetaWarning)
        with pytest.raises(ValueError, match="GlimpRouterLLM"):
            load(stored, allowed_objects=[ChatGlimpRouter], valid_namespaces=["langchain_glimp"])


# -- secrets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_secrets_are_stored_by_name_and_read_from_the_environment(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = kind(small=SECRET_SMALL, large=SECRET_LARGE, api_key=KEY)
    stored = dumpd(llm)
    secrets = {name: stored["kwargs"][name] for name in ("small", "large", "api_key")}
    assert secrets == {
        name: {"lc": 1, "type": "secret", "id": [place]}
        for name, place in (
            ("small", "GLIMP_SMALL"),
            ("large", "GLIMP_LARGE"),
            ("api_key", "GLIMP_API_KEY"),
        )
    }
    monkeypatch.setenv("GLIMP_SMALL", SECRET_SMALL)
    monkeypatch.setenv("GLIMP_LARGE", SECRET_LARGE)
    monkeypatch.setenv("GLIMP_API_KEY", KEY)
    again = restored(stored, secrets_from_env=True)
    assert settings_of(again) == settings_of(llm)
    assert again.api_key.get_secret_value() == KEY


def test_secrets_may_be_given_to_load() -> None:
    stored = dumpd(ChatGlimpRouter(small=SMALL, large=LARGE, api_key=KEY))
    again = restored(stored, secrets_map={"GLIMP_API_KEY": "another"})
    assert again.api_key == SecretStr("another")
    assert (again.small, again.large) == (SMALL, LARGE), "without a password no secret"


def test_without_its_secret_a_model_has_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = dumpd(ChatGlimpRouter(small=SMALL, large=LARGE, api_key=KEY))
    monkeypatch.setenv("GLIMP_API_KEY", "of somebody else")
    assert restored(stored, secrets_from_env=False).api_key is None


def test_a_key_from_the_environment_is_a_secret_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMP_API_KEY", KEY)
    monkeypatch.setenv("GLIMP_SMALL", SECRET_SMALL)
    monkeypatch.setenv("GLIMP_LARGE", SECRET_LARGE)
    stored = json.dumps(dumpd(ChatGlimpRouter()))
    assert not tells_a_secret(stored)
    assert restored(json.loads(stored), secrets_from_env=True).small == SECRET_SMALL


def all_texts(llm: Any) -> dict[str, str]:
    """All that frameworks write down of a model."""
    bound = llm.bind(stop=["x"])
    return {
        "dumpd": json.dumps(dumpd(llm)),
        "dumps": dumps(llm, pretty=True),
        "repr": repr(llm),
        "str": str(llm),
        "asdict": str(llm.asdict()),
        "identity": str(llm._identifying_params),
        "tracing": str(llm._get_ls_params(stop=["x"])),
        "bound": f"{bound!r} {json.dumps(dumpd(bound))}",
        "chain": repr(ChatPromptTemplate.from_template("{q}") | llm),
        "backends": f"{llm.router.small!r} {llm.router.large!r}",
        "graph": str(llm.get_graph().to_json()),
        "name": f"{llm.get_name()} {llm.pair_name}",
    }


@pytest.mark.parametrize("objects", [False, True], ids=["model strings", "backends"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_written_anywhere(kind: Any, objects: bool) -> None:
    small, large = SECRET_SMALL, SECRET_LARGE
    llm: Any
    if objects:
        url = small.partition("@")[2]
        keyed = OpenAIBackend("L", base_url=f"http://127.0.0.1:9/v1?token={TOKEN}", api_key=KEY)
        llm = kind(small=OpenAIBackend("S", base_url=url), large=keyed)
    else:
        llm = kind(small=small, large=large, api_key=KEY)
    texts = all_texts(llm)
    assert {name for name, text in texts.items() if tells_a_secret(text)} == set()
    assert "127.0.0.1:9/v1" in texts["asdict"], "without its user, an address may be told"


class Seen(BaseCallbackHandler):
    """Keeps what callbacks are told at a run's start."""

    def __init__(self) -> None:
        self.starts: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.starts.append({"serialized": serialized, **kwargs})

    def on_llm_start(self, serialized: Any, prompts: Any, **kwargs: Any) -> None:
        self.starts.append({"serialized": serialized, **kwargs})


@pytest.mark.parametrize("way", ["invoke", "stream"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_in_a_trace(kind: Any, way: str) -> None:
    # Nobody listens at the address, so traces hold the failure as well.
    llm = kind(small=SECRET_SMALL, large=SECRET_LARGE, api_key=KEY, max_retries=0)
    seen, collector = Seen(), RunCollectorCallbackHandler()
    config: Any = {"callbacks": [seen, collector]}
    with pytest.raises(BackendError) as caught:
        list(llm.stream("hi", config) if way == "stream" else llm.invoke("hi", config))
    (start,), (run,) = seen.starts, collector.traced_runs
    for text in (str(start), run.model_dump_json(), str(caught.value)):
        assert not tells_a_secret(text)
    assert start["serialized"]["kwargs"]["api_key"]["type"] == "secret"
    assert start["serialized"]["kwargs"]["small"]["id"] == ["GLIMP_SMALL"]


@pytest.mark.parametrize("make", [chat, text_model])
def test_backend_objects_are_shown_by_name_and_cannot_be_stored(make: Any) -> None:
    llm = make("Hello.")
    stored = dumpd(llm)
    small = stored["kwargs"]["small"]
    assert (small["type"], small["id"][-1]) == ("not_implemented", "Listening")
    assert small["repr"] == "<Listening tiny>"
    json.dumps(stored)
    with pytest.raises(NotImplementedError, match="Listening"):
        restored(stored)


def test_callbacks_see_what_runs() -> None:
    seen = Seen()
    llm = ChatGlimpRouter(**pair("Hello."), threshold=0.5)
    llm.invoke("hi", config={"callbacks": [seen]})
    list(llm.stream("hi", config={"callbacks": [seen]}))
    for start in seen.starts:
        assert start["serialized"]["id"] == ["langchain_glimp", "chat_models", "ChatGlimpRouter"]
        assert start["serialized"]["kwargs"]["threshold"] == 0.5
        assert start["invocation_params"]["routing"]["threshold"] == 0.5
        assert start["metadata"]["ls_model_name"] == "tiny+big"
