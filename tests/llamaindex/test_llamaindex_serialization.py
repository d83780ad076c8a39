"""Copies, pickles and JSON of the LLM; and where secrets must not appear."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.extractors import TitleExtractor
from pydantic import SecretStr
from scripted_llms import HI, LARGE, SMALL, authors, listening, scripted
from scripts import KEY, PASSWORD, SECRET_LARGE, SECRET_SMALL, TOKEN, UNUSUAL, tells_a_secret
from workflows.context.serializers import JsonSerializer

from glimp_integrations import BackendError, ConfigError
from glimp_integrations.backends import OpenAIBackend
from glimp_integrations.settings import Price, Prices
from llamaindex_glimp import GlimpRouterLLM

SETTINGS: dict[str, Any] = {
    **UNUSUAL,
    "threshold": 0.25,
    "prices": Prices(small=Price(input=1, output=2), large=Price(input=3, output=4, cached=0.5)),
    "context_window": 4096,
    "is_function_calling_model": False,
    "system_prompt": "Be brief.",
}


def settings_of(llm: GlimpRouterLLM) -> dict[str, Any]:
    return {name: getattr(llm, name) for name in [*SETTINGS, "small", "large"]}


def by_pickle(llm: GlimpRouterLLM) -> GlimpRouterLLM:
    return pickle.loads(pickle.dumps(llm))


def by_dict(llm: GlimpRouterLLM) -> GlimpRouterLLM:
    return GlimpRouterLLM.from_dict(llm.to_dict())


def by_json(llm: GlimpRouterLLM) -> GlimpRouterLLM:
    return GlimpRouterLLM.from_json(llm.to_json())


def by_workflow(llm: GlimpRouterLLM) -> GlimpRouterLLM:
    return JsonSerializer().deserialize(JsonSerializer().serialize(llm))


STORED = [by_pickle, by_dict, by_json, by_workflow]
COPIES = [
    copy.copy,
    copy.deepcopy,
    lambda llm: llm.model_copy(),
    lambda llm: llm.model_copy(deep=True),
]


# -- there and back --------------------------------------------------------------------------


@pytest.mark.parametrize("way", STORED)
def test_a_stored_llm_has_its_settings(way: Any) -> None:
    llm = GlimpRouterLLM(small=SMALL, large=LARGE, **SETTINGS)
    again = way(llm)
    assert type(again) is GlimpRouterLLM
    assert settings_of(again) == settings_of(llm)
    assert again.identity == llm.identity
    assert again.router.small is llm.router.small, "of one model string, so of one backend"
    assert again.router is not llm.router


@pytest.mark.parametrize(
    "way",
    STORED,
)
@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
def test_an_infinite_threshold_is_stored(way: Any, threshold: float) -> None:
    llm = GlimpRouterLLM(small=SMALL, large=LARGE, threshold=threshold)
    assert way(llm).threshold == threshold


@pytest.mark.parametrize("way", STORED)
def test_the_bundled_models_stay_the_bundled_models(
    way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = GlimpRouterLLM()
    monkeypatch.setenv("GLIMP_SMALL", SMALL)
    monkeypatch.setenv("GLIMP_LARGE", LARGE)
    again = way(llm)
    assert (again.small, again.large) == (None, None)
    assert again.pair_name == llm.pair_name


@pytest.mark.parametrize("way", STORED)
def test_a_pair_is_stored_by_its_name(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = GlimpRouterLLM(pair="qwen3-0.6b+8b", temperature=0.2)
    monkeypatch.setenv("GLIMP_SMALL", SMALL)
    monkeypatch.setenv("GLIMP_LARGE", LARGE)
    again = way(llm)
    assert (again.pair, again.small, again.large) == ("qwen3-0.6b+8b", None, None)
    assert again.identity == llm.identity
    assert again.router.small is llm.router.small


def test_other_models_replace_stored_ones() -> None:
    pair, models = "qwen3-0.6b+8b", {"small": SMALL, "large": LARGE}
    of_pair, of_models = GlimpRouterLLM(pair=pair).to_dict(), GlimpRouterLLM(**models).to_dict()
    assert GlimpRouterLLM.from_dict(of_models, pair=pair).pair_name.startswith("Qwen3-0.6B")
    assert GlimpRouterLLM.from_dict(of_pair, **models).pair_name == "S+L"


def test_a_stored_llm_names_its_class_and_holds_plain_data() -> None:
    stored = GlimpRouterLLM(small=SMALL, large=LARGE).to_dict()
    assert stored["class_name"] == "glimprouter_llm"
    assert stored["small"] == SMALL and "api_key" not in stored
    json.dumps(stored)


def test_callbacks_and_prompts_are_no_part_of_it() -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm = GlimpRouterLLM(
        small=SMALL,
        large=LARGE,
        callback_manager=CallbackManager([debug]),
        completion_to_prompt=str.upper,
    )
    for way in (by_dict, by_json):
        again = way(llm)
        assert again.callback_manager.handlers == []
        assert again.completion_to_prompt("a") == "a"
    assert by_pickle(llm).completion_to_prompt("a") == "A", "a function with a name can be sent"


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_answers_with_its_own_settings(way: Any) -> None:
    llm = scripted("Hello.")
    llm.chat(HI)
    again = way(llm)
    again.threshold = math.inf
    assert authors(again.chat(HI)) == ["small", "small", "large"]
    assert authors(llm.chat(HI)) == ["small", "large", "large"]
    assert again.small is llm.small, "what a model runs on is shared"


@pytest.mark.parametrize("way", [by_pickle, by_dict, by_json, lambda llm: llm.__getstate__()])
@pytest.mark.parametrize("role", ["small", "large"])
def test_a_backend_object_cannot_be_stored(way: Any, role: str) -> None:
    backend = OpenAIBackend("B", base_url=f"http://u:{PASSWORD}@127.0.0.1:9/v1")
    llm = GlimpRouterLLM(**{"small": SMALL, "large": LARGE, role: backend})
    with pytest.raises(ConfigError, match=f"{role} is the object .*name the model by") as caught:
        way(llm)
    assert not tells_a_secret(str(caught.value))


# -- secrets ---------------------------------------------------------------------------------


def everything_said(llm: GlimpRouterLLM) -> dict[str, str]:
    """All that frameworks write down of an LLM."""
    return {
        "repr": repr(llm),
        "str": str(llm),
        "payload": json.dumps(llm.to_payload()),
        "dict": f"{llm.dict()}",
        "model_dump": f"{llm.model_dump()}",
        "rich": f"{[*llm.__rich_repr__()]}",
        "identity": f"{llm.identity} {llm.pair_name}",
        "backends": f"{llm.router.small!r} {llm.router.large!r}",
    }


@pytest.mark.parametrize("given", ["arguments", "environment", "backends"])
def test_no_secret_is_written_anywhere(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"small": SECRET_SMALL, "large": SECRET_LARGE}
    if given == "environment":
        for name, value in {"SMALL": SECRET_SMALL, "LARGE": SECRET_LARGE, "API_KEY": KEY}.items():
            monkeypatch.setenv(f"GLIMP_{name}", value)
        llm = GlimpRouterLLM()
        assert llm.api_key == SecretStr(KEY) and llm.small == SECRET_SMALL
    elif given == "arguments":
        llm = GlimpRouterLLM(**models, api_key=KEY)
    else:
        url = SECRET_SMALL.partition("@")[2]
        keyed = OpenAIBackend("L", base_url=f"http://127.0.0.1:9/v1?token={TOKEN}", api_key=KEY)
        llm = GlimpRouterLLM(small=OpenAIBackend("S", base_url=url), large=keyed)
    said = everything_said(llm)
    if given != "backends":
        said |= {
            "json": f"{llm.to_json()} {llm.model_dump_json()}",
            "pickle": f"{pickle.dumps(llm)!r}",
        }
    assert {name for name, text in said.items() if tells_a_secret(text)} == set()
    assert "127.0.0.1:9/v1" in said["payload"], "without its user, an address may be told"


def test_no_secret_is_in_an_event_or_an_error() -> None:
    llm = GlimpRouterLLM(small=SECRET_SMALL, large=SECRET_LARGE, api_key=KEY, max_retries=0)
    debug = LlamaDebugHandler(print_trace_on_end=False)
    llm.callback_manager = CallbackManager([debug])
    with listening() as heard, pytest.raises(BackendError) as caught:
        llm.chat(HI)
    payloads = [event.payload for event in debug._event_pairs_by_id.popitem()[1]]
    texts = [f"{event.model_dump()}" for event in heard.events]
    for text in (*texts, f"{payloads}", str(caught.value), repr(caught.value)):
        assert not tells_a_secret(text)
    assert len(texts) == 2


def test_a_reader_takes_its_own_key_and_password(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(GlimpRouterLLM(small=SECRET_SMALL, large=SECRET_LARGE, api_key=KEY))
    bare = pickle.loads(data)
    assert (bare.small, bare.large, bare.api_key) == (SMALL, LARGE, None)
    monkeypatch.setenv("GLIMP_SMALL", SECRET_SMALL)
    monkeypatch.setenv("GLIMP_LARGE", "openai:Other@http://u:pw@127.0.0.1:9/v1")
    monkeypatch.setenv("GLIMP_API_KEY", "the reader's")
    again = pickle.loads(data)
    assert again.small == SECRET_SMALL
    assert again.large == LARGE, "another model's password is none of its business"
    assert again.api_key.get_secret_value() == "the reader's"
    restored = GlimpRouterLLM.from_json(
        GlimpRouterLLM(small=SMALL, large=LARGE, api_key=KEY).to_json()
    )
    assert restored.api_key.get_secret_value() == "the reader's"


@pytest.mark.parametrize(
    "key",
    [None, KEY],
)
def test_what_holds_the_llm_can_be_stored(key: str | None) -> None:
    llm = GlimpRouterLLM(small=SECRET_SMALL, large=SECRET_LARGE, api_key=key)
    stored = TitleExtractor(llm=llm).to_json()
    assert json.loads(stored)["llm"]["small"] == SMALL
    assert not tells_a_secret(stored)
