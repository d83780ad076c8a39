"""What users of LangChain expect of any model: configuration, caches, limits, events, counting."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField
from scripted_models import WAYS, added, ask, called, chat, text_model
from scripts import (
    CALL,
    PARIS,
    REASONING,
    ROUTED,
    SPOKEN_TEXT,
    Listening,
    Turns,
    clock,
    get_weather,
    model,
    of_own_accord,
    pair,
)

from glimp_integrations import BackendError, ConfigError
from glimp_integrations.backends import OpenAIBackend
from glimp_integrations.backends.base import Message, Rendered
from glimp_integrations.settings import Price, Prices
from langchain_glimp import ChatGlimpRouter, GlimpRouterLLM

OUTPUT_ARGUMENTS = "openai:{}@http://127.0.0.1:9/v1"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
# Of the event streams of the third version, which LangChain calls a beta.
BETA = "ignore:.*stream_v3:langchain_core._api.LangChainBetaWarning"


def authors(message: Any) -> list[str]:
    return [step["author"] for step in message.response_metadata["glimprouter"]["steps"]]


class Heard(BaseCallbackHandler):
    """Counts what callbacks are told."""

    raise_error = True

    def __init__(self) -> None:
        self.tokens: list[Any] = []
        self.chunks: list[Any] = []
        self.ends = 0
        self.steps: list[str] = []

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens.append(token)
        self.chunks.append(kwargs.get("chunk"))

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.ends += 1

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.steps.append(data["type"])


# -- configuration at run time ---------------------------------------------------------------


def test_the_threshold_is_configured_by_with_config() -> None:
    llm = chat("Hello.").configurable_fields(threshold=ConfigurableField(id="nats"))
    assert authors(llm.invoke("hi")) == ["small", "large", "large"]
    alone = llm.with_config(configurable={"nats": math.inf}, tags=["x"])
    assert authors(alone.invoke("hi")) == ["small", "small", "large"]
    assert authors(added(list(alone.stream("hi")))) == ["small", "small", "large"]
    chain = ChatPromptTemplate.from_template("{q}") | llm
    assert authors(chain.invoke({"q": "hi"}, {"configurable": {"nats": -1}})) == ["large"] * 3
    assert authors(llm.invoke("hi")) == ["small", "large", "large"], "the original is as it was"


def test_the_models_are_configured_by_their_model_strings() -> None:
    llm = ChatGlimpRouter(
        small=OUTPUT_ARGUMENTS.format("S"), large=OUTPUT_ARGUMENTS.format("L"), api_key="k"
    )
    fields = llm.configurable_fields(
        small=ConfigurableField(id="small"), large=ConfigurableField(id="large")
    )
    other = fields.with_config(configurable={"large": OUTPUT_ARGUMENTS.format("XL")})
    changed, _ = other.prepare()
    assert (changed.pair_name, llm.pair_name) == ("S+XL", "S+L")
    assert changed.router.small is llm.router.small, "one backend of one model string and key"
    assert changed.api_key == llm.api_key
    with pytest.raises(ConfigError, match="'gpt-4'"):
        fields.with_config(configurable={"small": "gpt-4"}).invoke("hi")


def test_a_configured_model_has_the_profile_of_what_it_is() -> None:
    llm = ChatGlimpRouter(
        small=OUTPUT_ARGUMENTS.format("S"), large=OUTPUT_ARGUMENTS.format("L"), max_tokens=2048
    )
    fields = llm.configurable_fields(
        large=ConfigurableField(id="large"), max_tokens=ConfigurableField(id="most")
    )
    changed, _ = fields.prepare(
        {"configurable": {"large": OUTPUT_ARGUMENTS.format("XL"), "most": 5}}
    )
    assert changed.profile is not None
    assert changed.profile["max_output_tokens"] == 5
    assert changed.profile["name"] == "S+XL"


def test_a_profile_of_the_user_s_own_is_kept() -> None:
    own: Any = {"max_input_tokens": 77}
    llm = ChatGlimpRouter(**pair("x"), profile=own)
    assert llm.profile == own
    fields = llm.configurable_fields(threshold=ConfigurableField(id="nats"))
    assert fields.prepare({"configurable": {"nats": 2}})[0].profile == own


def test_alternatives_are_chosen_by_configuration() -> None:
    llm = chat("Hello.").configurable_alternatives(
        ConfigurableField(id="model"), default_key="pair", cautious=chat("Hello.", threshold=-1)
    )
    assert authors(llm.invoke("hi")) == ["small", "large", "large"]
    cautious = llm.with_config(configurable={"model": "cautious"})
    assert authors(cautious.invoke("hi")) == ["large"] * 3
    assert authors(added(list(cautious.stream("hi")))) == ["large"] * 3


def test_a_bound_stop_and_settings_hold_for_every_call() -> None:
    llm = chat("One. Two.").bind(stop=["Two"], threshold=-1)
    for message in (llm.invoke("hi"), added(list(llm.stream("hi")))):
        assert (message.content, authors(message)) == ("One. ", ["large"] * 3)
    assert llm.invoke("hi", threshold=math.inf).content == "One. "


# -- limits, caches --------------------------------------------------------------------------


class Limiter(BaseRateLimiter):
    def __init__(self) -> None:
        self.asked = 0
        self.awaited = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        assert blocking
        self.asked += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        assert blocking
        self.awaited += 1
        return True


@pytest.mark.parametrize("way", WAYS)
async def test_a_rate_limiter_is_asked_once_a_call(way: str) -> None:
    limiter = Limiter()
    llm = chat(*of_own_accord(CALL), rate_limiter=limiter).bind_tools([WEATHER])
    for _ in range(3):
        await ask(way, llm)
    counts = (limiter.asked, limiter.awaited)
    assert counts == ((0, 3) if way.startswith("a") else (3, 0))


@pytest.mark.filterwarnings(BETA)
def test_a_rate_limiter_is_asked_by_event_streams() -> None:
    limiter = Limiter()
    assert chat("Hi.", rate_limiter=limiter).stream_events("hi", version="v3").output.text == "Hi."
    assert limiter.asked == 1


def test_a_cached_answer_costs_no_request_and_no_permission() -> None:
    limiter, cache = Limiter(), InMemoryCache()
    llm = chat("Look.", *of_own_accord(CALL), cache=cache, rate_limiter=limiter)
    tools = llm.bind_tools([WEATHER])
    first, second = tools.invoke("hi"), tools.invoke("hi")
    assert limiter.asked == 1
    assert len(llm.small.requests) == 1
    for field in ("content", "tool_calls", "additional_kwargs", "response_metadata"):
        assert getattr(second, field) == getattr(first, field), field
    assert second.usage_metadata["output_tokens"] == first.usage_metadata["output_tokens"]


async def test_awaited_answers_are_cached_with_the_others() -> None:
    cache = InMemoryCache()
    llm = chat("Hello.", cache=cache)
    first = await llm.ainvoke("hi")
    assert llm.invoke("hi").content == first.content
    assert len(cache._cache) == 1


def test_other_output_is_not_answered_from_the_cache() -> None:
    cache = InMemoryCache()
    llm = chat("Hello.", cache=cache)
    changes: list[dict[str, Any]] = [
        {},
        {"tools": [WEATHER]},
        {"tools": [WEATHER, CLOCK]},
        {"tools": [WEATHER], "tool_choice": "none"},
        {"response_format": "json_object"},
        {"threshold": -1},
        {"max_tokens": 1},
        {"stop": ["l"]},
    ]
    for number, change in enumerate(changes, start=1):
        llm.invoke("hi", **change)
        assert len(cache._cache) == number, change
    asked = len(llm.large.requests)
    for change in changes:
        llm.invoke("hi", **change)
    assert len(llm.large.requests) == asked


def test_a_changed_model_does_not_answer_from_the_cache_of_what_it_was() -> None:
    llm = chat("One. Two.", cache=InMemoryCache())
    assert llm.invoke("hi").content == "One. Two."
    copy = llm.model_copy(update={"stop": ["Two"]})
    assert copy.invoke("hi").content == "One. "
    llm.stop = ["One"]
    assert llm.invoke("hi").content == ""


@pytest.mark.parametrize("make", [chat, text_model])
def test_a_cache_can_be_switched_off(make: Any) -> None:
    llm = make("Hello.", cache=False)
    llm.invoke("hi")
    llm.invoke("hi")
    assert len(llm.small.requests) == 2


# -- streaming habits ------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_streaming_can_be_disabled(way: str) -> None:
    llm = chat("Hello", " there.", disable_streaming=True)
    chunks = (
        list(llm.stream("hi")) if way == "stream" else [chunk async for chunk in llm.astream("hi")]
    )
    assert [chunk.content for chunk in chunks] == ["Hello there."]


def test_streaming_can_be_disabled_for_tools_only() -> None:
    llm = chat("Hello", " there.", disable_streaming="tool_calling")
    assert [m.content for m in llm.bind_tools([WEATHER]).stream("hi")] == ["Hello there."]
    assert [c.content for c in llm.stream("hi") if c.content] == ["Hello", " there."]


@pytest.mark.parametrize("make", [chat, text_model])
async def test_streaming_true_streams_inside_invoke(make: Any) -> None:
    for streaming, expected in ((True, ["Hello", " there."]), (None, [])):
        llm = make("Hello", " there.", streaming=streaming)
        for asynchronous in (False, True):
            heard = Heard()
            config: Any = {"callbacks": [heard]}
            reply = await llm.ainvoke("hi", config) if asynchronous else llm.invoke("hi", config)
            assert getattr(reply, "content", reply) == "Hello there."
            assert [token for token in heard.tokens if token] == expected
            assert heard.ends == 1


@pytest.mark.parametrize("make", [chat, text_model])
async def test_streaming_false_never_streams(make: Any) -> None:
    llm = make("Hello", " there.", streaming=False)
    pieces = [*llm.stream("hi"), *[piece async for piece in llm.astream("hi")]]
    assert [getattr(piece, "content", piece) for piece in pieces] == ["Hello there."] * 2


@pytest.mark.parametrize("make", [chat, text_model])
@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_callbacks_hear_every_token_of_a_stream_once(way: str, make: Any) -> None:
    heard = Heard()
    llm = make("Hello", " there.").with_config(callbacks=[heard])
    if way == "stream":
        pieces = list(llm.stream("hi"))
    else:
        pieces = [piece async for piece in llm.astream("hi")]
    assert [t for t in heard.tokens if t] == ["Hello", " there."]
    assert len(heard.tokens) == len(pieces)
    assert all(chunk is not None for chunk in heard.chunks)
    assert heard.ends == 1


def test_callbacks_hear_the_pieces_of_a_call() -> None:
    heard = Heard()
    llm = chat(*of_own_accord(CALL)).bind_tools([WEATHER])
    list(llm.stream("hi", config={"callbacks": [heard]}))
    calls = [c for chunk in heard.chunks for c in chunk.message.tool_call_chunks]
    assert "".join(c["args"] for c in calls) == '{"city": "Paris"}'
    thoughts = [c.message.additional_kwargs.get("reasoning_content", "") for c in heard.chunks]
    assert "".join(thoughts) == REASONING


async def test_events_of_the_second_version_tell_of_a_chat_model() -> None:
    llm = chat("Hello", " there.", *of_own_accord(CALL)).bind_tools([WEATHER])
    chain = ChatPromptTemplate.from_template("{q}") | llm
    events = [e async for e in chain.astream_events({"q": "hi"}, version="v2")]
    of_model = [e for e in events if e["event"].startswith("on_chat_model_")]
    kinds = [e["event"].removeprefix("on_chat_model_") for e in of_model]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert set(kinds[1:-1]) == {"stream"}
    total = added([e["data"]["chunk"] for e in of_model[1:-1]])
    end = of_model[-1]["data"]["output"]
    assert (end.content, total.content) == ("Hello there.", "Hello there.")
    assert called(end) == called(total) == [PARIS]
    assert of_model[0]["metadata"]["ls_model_name"] == "tiny+big"


async def test_events_of_the_second_version_tell_of_the_text_class() -> None:
    events = [e async for e in text_model("Hello", " there.").astream_events("hi", version="v2")]
    kinds = [e["event"] for e in events]
    assert (kinds[0], kinds[-1]) == ("on_llm_start", "on_llm_end")
    pieces = [e["data"]["chunk"] for e in events if e["event"] == "on_llm_stream"]
    assert "".join(getattr(piece, "text", piece) for piece in pieces) == "Hello there."


@pytest.mark.filterwarnings(BETA)
async def test_events_of_the_third_version_have_each_part_apart() -> None:
    llm = chat("Hello", " there.", *of_own_accord(CALL)).bind_tools([WEATHER])
    stream = llm.stream_events("hi", version="v3")
    assert list(stream.text) == ["Hello", " there."]
    assert "".join(stream.reasoning) == REASONING
    (call,) = stream.tool_calls.get()
    assert (call["name"], call["args"]) == PARIS
    for message in (stream.output, await (await llm.astream_events("hi", version="v3")).output):
        kinds = [block["type"] for block in message.content]
        assert kinds == ["reasoning", "text", "tool_call"]
        assert called(message) == [PARIS]
        assert message.usage_metadata == llm.invoke("hi").usage_metadata
        assert message.response_metadata["finish_reason"] == "tool_calls"


@pytest.mark.filterwarnings(BETA)
def test_events_of_the_third_version_fail_as_calls_do() -> None:
    llm = chat("Hello.", of={"fail_after": 2})
    with pytest.raises(BackendError):
        _ = llm.stream_events("hi", version="v3").output


# -- step events -----------------------------------------------------------------------------

STEPS = ["step_started", "step_done"] * 3


def turns(heard: Heard) -> list[str]:
    return [kind for kind in heard.steps if kind.startswith("step_")]


@pytest.mark.parametrize("way", ["invoke", "stream"])
@pytest.mark.parametrize("make", [chat, text_model])
def test_steps_are_reported_inside_chains(make: Any, way: str) -> None:
    heard = Heard()
    chain = ChatPromptTemplate.from_template("{q}") | make("Hi.", step_events=True)
    chain = chain | StrOutputParser()
    config: Any = {"callbacks": [heard]}
    given = {"q": "hi"}
    said = chain.invoke(given, config) if way == "invoke" else "".join(chain.stream(given, config))
    assert said == "Hi."
    assert turns(heard) == STEPS
    assert heard.steps[-1] == "finished"


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "astream"])
async def test_steps_are_reported_inside_agents(way: str) -> None:
    agents = pytest.importorskip("langchain.agents")
    backend = Turns(of_own_accord(CALL), ["It is sunny."], name="both")
    llm = ChatGlimpRouter(small=backend, large=backend, temperature=0, step_events=True)
    agent = agents.create_agent(llm, [get_weather, clock])
    heard = Heard()
    config: Any = {"callbacks": [heard]}
    given = {"messages": [("user", "hi")]}
    if way == "invoke":
        agent.invoke(given, config)
    elif way == "ainvoke":
        await agent.ainvoke(given, config)
    else:
        assert [part async for part in agent.astream(given, config, stream_mode="messages")]
    assert heard.steps.count("finished") == 2, "both turns of the model"
    assert turns(heard)[-6:] == STEPS
    assert "tool_call_delta" in heard.steps


# -- what is known of the model --------------------------------------------------------------


def test_the_profile_tells_what_the_model_can() -> None:
    profile = chat("x", max_tokens=99).profile
    assert profile is not None
    assert (profile["name"], profile["max_output_tokens"]) == ("tiny+big", 99)
    can = {name for name, value in profile.items() if value is True}
    assert can == {
        "text_inputs",
        "text_outputs",
        "reasoning_output",
        "tool_calling",
        "tool_choice",
        "tool_call_streaming",
        "structured_output",
        "temperature",
    }
    cannot = {name for name, value in profile.items() if value is False}
    assert {"image_inputs", "pdf_inputs", "audio_inputs", "video_inputs", "image_outputs"} < cannot
    assert "max_input_tokens" not in profile, "nobody knows it"


@pytest.mark.parametrize(
    ("small", "large", "expected"), [(4096, 8192, 4096), (8192, 4096, 4096), (None, 512, 512)]
)
def test_the_smaller_window_counts(small: int | None, large: int | None, expected: int) -> None:
    backends = pair("x")
    backends["small"].context_window, backends["large"].context_window = small, large
    profile = ChatGlimpRouter(**backends).profile
    assert profile is not None
    assert profile["max_input_tokens"] == expected


def test_the_profile_asks_no_server() -> None:
    backend = OpenAIBackend("m", base_url="http://127.0.0.1:9/v1")
    profile = ChatGlimpRouter(small=backend, large=backend).profile
    assert profile is not None and profile["name"] == "m+m"


# -- counting tokens -------------------------------------------------------------------------


class Counting(Listening):
    """Its tokens are words."""

    counts_prompts = True

    async def tokenize(self, text: str) -> list[int] | None:
        return [len(word) for word in text.split()]

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        rendered = await super().render(messages, tools)
        words = len(rendered.text.split()) if self.counts_prompts else None
        return Rendered(rendered.text, tokens=words)


class Uncounted(Counting):
    """Counts texts, but not the prompts its template makes."""

    counts_prompts = False


class Orderly(Counting):
    """Its chat template refuses conversations that the user does not begin."""

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        spoken = [m["role"] for m in messages if m["role"] != "system"]
        if spoken[:1] != ["user"] or any(a == b for a, b in pairwise(spoken)):
            raise ConfigError("the chat template refuses this conversation: roles must alternate")
        return await super().render(messages, tools)


def counting(kind: Any = Counting, **options: Any) -> ChatGlimpRouter:
    return chat("Hello.", of={"kind": kind, **options})


def test_tokens_are_counted_by_the_large_model() -> None:
    models = {"small": model("x"), "large": model("x", kind=Counting)}
    for llm in (ChatGlimpRouter(**models), GlimpRouterLLM(**models)):
        assert llm.get_num_tokens("one two three") == 3
        assert llm.get_token_ids("a bb") == [1, 2]
    assert models["large"].requests == [], "nothing is generated for it"


async def test_tokens_are_counted_inside_a_running_loop() -> None:
    assert counting().get_num_tokens("one two three") == 3


def test_a_conversation_is_counted_as_the_template_writes_it() -> None:
    llm = counting()
    messages = [SystemMessage("Be brief."), HumanMessage("one two")]
    # "<system>Be brief." "<user>one two" "<assistant>" "<think>"
    assert llm.get_num_tokens_from_messages(messages) == 2 + 2 + 2
    with_tools = llm.get_num_tokens_from_messages(messages, tools=[get_weather])
    assert with_tools > 10
    assert llm.large.conversations[0][0]["content"] == "Be brief."


def test_where_nobody_counts_prompts_the_texts_are_counted() -> None:
    llm = counting(Uncounted)
    text = llm.get_num_tokens_from_messages([HumanMessage("one two")])
    assert text == 2
    blocks = [{"type": "text", "text": "one two"}]
    assert llm.get_num_tokens_from_messages([HumanMessage(blocks)]) == text
    call = {"name": "get_weather", "args": {"city": "Rio de Janeiro"}, "id": "1"}
    asked = [HumanMessage("one two"), AIMessage("", tool_calls=[call])]
    assert llm.get_num_tokens_from_messages(asked) > text, "a call is text as well"


@pytest.mark.parametrize("make", [chat, text_model])
def test_a_backend_that_cannot_count_says_what_to_do(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"big does not count tokens: pass custom_get_token_ids"):
        make("x").get_num_tokens("one two")


@pytest.mark.parametrize("make", [chat, text_model])
def test_the_user_may_count_the_tokens(make: Any) -> None:
    def count(text: str) -> list[int]:
        return [7] * len(text.split())

    llm = make("x", custom_get_token_ids=count)
    assert llm.get_token_ids("one two") == [7, 7]
    assert llm.get_num_tokens("one two") == 2


def history(rounds: int = 6) -> list[Any]:
    result: list[Any] = [SystemMessage("Be brief.")]
    for number in range(rounds):
        result += [HumanMessage(f"question {number} " + "word " * 8), AIMessage("word " * 8)]
    return [*result, HumanMessage("the last question")]


def trimmed(llm: ChatGlimpRouter, messages: list[Any], **options: Any) -> list[Any]:
    options = {"max_tokens": 40, "strategy": "last", "include_system": True, **options}
    if options["strategy"] == "first":
        del options["include_system"]
    return trim_messages(messages, token_counter=llm, **options)


def test_messages_are_trimmed_by_the_model_s_own_count() -> None:
    llm = counting()
    kept = trimmed(llm, history(), start_on="human")
    assert kept[0].content == "Be brief."
    assert kept[1].type == "human"
    assert kept[-1].content == "the last question"
    assert 2 < len(kept) < len(history())
    assert llm.get_num_tokens_from_messages(kept) <= 40
    first = trimmed(llm, history(), strategy="first")
    assert 1 < len(first) < len(history())


def test_a_conversation_that_is_too_long_can_be_counted_and_trimmed() -> None:
    llm = counting(context_window=50)
    assert llm.get_num_tokens_from_messages(history()) > 50
    kept = trimmed(llm, history())
    assert kept[-1].content == "the last question"
    assert llm.get_num_tokens_from_messages(kept) <= 40


def test_nothing_at_all_is_counted_while_a_message_is_cut() -> None:
    llm = counting()
    assert llm.get_num_tokens_from_messages([]) <= 2, "at most what the template adds"
    only = [HumanMessage([{"type": "text", "text": "one "}, {"type": "text", "text": "two " * 50}])]
    (kept,) = trimmed(llm, only, strategy="first", allow_partial=True, max_tokens=8)
    assert kept.content == [{"type": "text", "text": "one "}]
    lines = [HumanMessage("one\n" + "two " * 50)]
    kept_lines = trimmed(llm, lines, strategy="first", allow_partial=True, max_tokens=8)
    assert [m.content.strip() for m in kept_lines] == ["one"]


def test_parts_of_a_conversation_that_the_template_refuses_are_counted() -> None:
    # trim_messages counts parts, and with strategy="last" the messages in reverse.
    llm = counting(Orderly)
    kept = trimmed(llm, history(), start_on="human")
    assert kept[-1].content == "the last question"
    assert 2 < len(kept) < len(history())


def test_results_of_tools_are_counted() -> None:
    llm = counting()
    call = {"name": "get_weather", "args": {"city": "Paris"}, "id": "1"}
    asked = [HumanMessage("hi"), AIMessage("", tool_calls=[call])]
    answered = [*asked, ToolMessage("sunny and warm", tool_call_id="1")]
    more = llm.get_num_tokens_from_messages(answered) - llm.get_num_tokens_from_messages(asked)
    assert more == 3


# -- costs and usage -------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_prices_make_costs(way: str) -> None:
    prices = Prices(small=Price(input=1, output=10), large=Price(input=100, output=1000))
    message = await ask(way, chat("Hello.", prices=prices))
    told = message.response_metadata["glimprouter"]
    small, large = told["usage"]["small"], told["usage"]["large"]
    expected = (
        small["input_tokens"]
        + 10 * small["output_tokens"]
        + 100 * large["input_tokens"]
        + 1000 * large["output_tokens"]
    ) / 1e6
    assert told["cost"] == pytest.approx(expected)
    assert told["large_alone_cost"] > 0
    assert message.usage_metadata["input_tokens"] == small["input_tokens"] + large["input_tokens"]


def test_prices_may_be_given_as_data_and_per_call() -> None:
    prices = {"small": {"input": 1, "output": 1}, "large": {"input": 1, "output": 1}}
    llm = chat("Hello.")
    assert llm.invoke("hi").response_metadata["glimprouter"]["cost"] is None
    message = llm.invoke("hi", prices=prices)
    expected = message.usage_metadata["total_tokens"] / 1e6
    assert message.response_metadata["glimprouter"]["cost"] == pytest.approx(expected)


@pytest.mark.parametrize("way", WAYS)
async def test_usage_tells_the_tokens_of_the_reasoning(way: str) -> None:
    message = await ask(way, chat("Hel", "lo."))
    details = message.usage_metadata["output_token_details"]
    assert details["reasoning"] == 5, "First | . | Then | . | </think>"
    assert message.usage_metadata["output_tokens"] >= 5 + 2
    assert message.usage_metadata["input_token_details"] == {"cache_read": 0}


def test_without_tags_all_but_the_last_step_is_reasoning() -> None:
    message = chat("Hel", "lo.", tags=False).invoke("hi")
    assert message.additional_kwargs["reasoning_content"] == SPOKEN_TEXT
    assert message.usage_metadata["output_token_details"]["reasoning"] == 4


# -- failures --------------------------------------------------------------------------------


def failing(times: int = 1_000, **options: Any) -> ChatGlimpRouter:
    backend = {"fail_after": 1, "failures": times}
    return chat("Hello.", of=backend, max_retries=0, **options)


@pytest.mark.parametrize("way", WAYS)
async def test_another_model_takes_over(way: str) -> None:
    llm = failing().with_fallbacks([chat("I take over.")])
    if way in ("stream", "astream"):
        # A stream that has begun is not taken back.
        llm = chat("x", of={"fail_after": 0}, max_retries=0).with_fallbacks([chat("I take over.")])
    assert (await ask(way, llm)).content == "I take over."


def test_only_the_named_exceptions_are_taken_over() -> None:
    llm = chat("x").with_fallbacks([chat("other")], exceptions_to_handle=(BackendError,))
    with pytest.raises(ConfigError, match="'tempreature'"):
        llm.invoke("hi", tempreature=1)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_failed_call_may_be_repeated(asynchronous: bool) -> None:
    llm = failing(times=1)  # each of the two models
    again = llm.with_retry(
        retry_if_exception_type=(BackendError,), stop_after_attempt=3, wait_exponential_jitter=False
    )
    message = await again.ainvoke("hi") if asynchronous else again.invoke("hi")
    assert message.content == "Hello."
    with pytest.raises(BackendError):
        failing().with_retry(
            retry_if_exception_type=(BackendError,),
            stop_after_attempt=2,
            wait_exponential_jitter=False,
        ).invoke("hi")


def test_a_failure_of_a_batch_can_be_returned() -> None:
    llm = failing()
    result = llm.batch(["a", "b"], return_exceptions=True)
    assert [type(item) for item in result] == [BackendError, BackendError]


def test_callbacks_hear_of_a_failure() -> None:
    class Seen(BaseCallbackHandler):
        errors: list[Any]

        def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
            self.errors.append(error)

    seen = Seen()
    seen.errors = []
    for make in (failing, lambda: text_model("x", of={"fail_after": 1}, max_retries=0)):
        with pytest.raises(BackendError):
            make().invoke("hi", config={"callbacks": [seen]})
    assert [type(error) for error in seen.errors] == [BackendError, BackendError]


async def test_many_calls_at_once_keep_apart() -> None:
    backend = Turns(of_own_accord(CALL), ["It is sunny."], name="both")
    llm = ChatGlimpRouter(small=backend, large=backend, **ROUTED).bind_tools([WEATHER])
    messages = await asyncio.gather(*(llm.ainvoke(f"q{n}") for n in range(8)))
    assert [called(message) for message in messages] == [[PARIS]] * 8
    assert len({message.tool_calls[0]["id"] for message in messages}) == 8


def test_chunks_are_ai_chunks_with_one_id() -> None:
    chunks = list(chat("Hello", " there.").stream("hi"))
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
