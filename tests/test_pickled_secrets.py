"""Pickles hold no secrets and find them again in the environment; copies keep them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from glimp_integrations import ConfigError, GlimpRouter, RoutingSettings
from glimp_integrations.backends.http.openai import OpenAIBackend
from langchain_glimp import ChatGlimpRouter, GlimpRouterLLM
from llamaindex_glimp import GlimpRouterLLM as LlamaIndexLLM

KEY, PASSWORD, TOKEN = "sk-hush-hush", "pa%2Fss-word", "query-token"
SECRETS = (KEY, PASSWORD, "pa/ss-word", TOKEN, "jane")
SMALL = f"openai:S@http://jane:{PASSWORD}@127.0.0.1:9/v1?token={TOKEN}"
LARGE = "openai:L@http://127.0.0.1:9/v1"

Settings = RoutingSettings | GlimpRouter
KINDS = [RoutingSettings, GlimpRouter, ChatGlimpRouter, GlimpRouterLLM, LlamaIndexLLM]
COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy]
COPIES += [lambda model: model.model_copy(), lambda model: model.model_copy(deep=True)]


def settings_of(model: Settings) -> RoutingSettings:
    return model.settings if isinstance(model, GlimpRouter) else model


def key_of(model: Settings) -> str | None:
    key = settings_of(model).api_key
    return None if key is None else key.get_secret_value()


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLIMP_API_KEY", "GLIMP_SMALL", "GLIMP_LARGE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_holds_no_secret(kind: type[Settings], protocol: int) -> None:
    model = kind(small=SMALL, large=LARGE, api_key=KEY, threshold=0.5)
    stored = pickle.dumps(model, protocol)
    for secret in SECRETS:
        assert secret.encode() not in stored, secret
    again = pickle.loads(stored)
    settings = settings_of(again)
    assert type(again) is kind and settings.threshold == 0.5
    assert (settings.small, settings.large) == ("openai:S@http://127.0.0.1:9/v1", LARGE)
    assert key_of(again) is None
    if not isinstance(again, RoutingSettings) or isinstance(again, ChatGlimpRouter):
        router = again if isinstance(again, GlimpRouter) else again.router
        assert router.small.name == "S"


@pytest.mark.parametrize("kind", KINDS)
def test_secrets_come_from_the_environment_of_whoever_loads_it(
    kind: type[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = pickle.dumps(kind(small=SMALL, large=LARGE, api_key=KEY))
    monkeypatch.setenv("GLIMP_API_KEY", "sk-of-here")
    monkeypatch.setenv("GLIMP_SMALL", SMALL)
    again = pickle.loads(stored)
    assert key_of(again) == "sk-of-here"
    assert settings_of(again).small == SMALL


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", COPIES)
def test_copies_keep_their_secrets(kind: type[Settings], way: Callable[[Any], Any]) -> None:
    model = kind(small=SMALL, large=LARGE, api_key=KEY)
    if not hasattr(model, "model_copy") and way not in COPIES[:2]:
        return
    again = way(model)
    assert again is not model and type(again) is kind
    assert key_of(again) == KEY and settings_of(again).small == SMALL


def test_a_copied_router_shares_its_models() -> None:
    router = GlimpRouter(SMALL, LARGE, api_key=KEY)
    for again in (copy.copy(router), copy.deepcopy(router)):
        assert (again.small, again.large) == (router.small, router.large)
    assert copy.copy(router.small) is copy.deepcopy(router.small) is router.small


@pytest.mark.parametrize("kind", [RoutingSettings, GlimpRouter, ChatGlimpRouter, GlimpRouterLLM])
def test_a_backend_object_is_not_pickled(kind: type[Settings]) -> None:
    backend = OpenAIBackend("B", base_url="http://127.0.0.1:9/v1", api_key=KEY)
    for value in (backend, kind(small=backend, large=LARGE)):
        with pytest.raises(
            ConfigError, match=r"B at .*cannot be pickled.*by a model string"
        ) as caught:
            pickle.dumps(value)
        assert KEY not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_written_holds_a_secret(kind: type[Settings]) -> None:
    model = kind(small=SMALL, large=LARGE, api_key=KEY)
    texts = [repr(model), str(model)]
    if isinstance(model, RoutingSettings):
        texts += [str(model.model_dump()), model.model_dump_json()]
    if isinstance(model, ChatGlimpRouter | GlimpRouterLLM):
        from langchain_core.load import dumpd, dumps

        texts += [dumps(model), str(dumpd(model)), str(model._identifying_params)]
    if isinstance(model, LlamaIndexLLM):
        texts += [model.to_json(), str(model.to_dict())]
    for secret in SECRETS:
        assert not [text for text in texts if secret in text], secret
