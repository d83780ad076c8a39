"""ChatGlimpRouter and GlimpRouterLLM on a scripted backend."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField
from rich.console import Console

from glimp_integrations import BackendError, ConfigError, Trace, __version__
from glimp_integrations.backends import ScriptedBackend
from langchain_glimp import ChatGlimpRouter, GlimpRouterLLM, StepPrinter

STEPS = [
    (b"One", 0.1),
    (b".\n\n", 0.0),
    (b"Two", 2.0),
    (b" then", 0.0),
    (b".\n\n", 0.0),
    (b"So", 0.5),
    (b" three", 0.2),
    (b"", 0.1),
]
THINKING = [
    (b"First", 0.1),
    (b".\n\n", 0.0),
    (b"Then", 2.0),
    (b".\n", 0.0),
    (b"</think>", 0.0),
    (b"\n\n", 0.0),
    (b"Three", 0.1),
    (b".", 0.1),
    (b"", 0.1),
]


def models(script: Any = STEPS, **options: Any) -> dict[str, ScriptedBackend]:
    return {
        "small": ScriptedBackend(script, name="tiny", **options),
        "large": ScriptedBackend(script, name="big", **options),
    }


def thinking_models() -> dict[str, ScriptedBackend]:
    return models([*THINKING], generation_prompt="<assistant>\n<think>\n")


def chat(**options: Any) -> ChatGlimpRouter:
    return ChatGlimpRouter(**{**models(), "route": "always", **options})


def test_reasoning_and_answer_have_their_places() -> None:
    message = chat().invoke("hi")
    assert message.content == "So three"
    assert message.additional_kwargs["reasoning_content"] == "One.\n\nTwo then.\n\n"
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text"]


def test_a_thinking_model_s_tags_never_show() -> None:
    llm = ChatGlimpRouter(**thinking_models())
    message = llm.invoke("hi")
    assert message.additional_kwargs["reasoning_content"] == "First.\n\nThen.\n"
    assert message.content == "Three."


def test_the_trace_is_in_the_metadata_and_loads_back() -> None:
    metadata = chat().invoke("hi").response_metadata
    assert metadata["model_name"] == "tiny+big"
    assert metadata["finish_reason"] == "stop"
    trace = Trace.model_validate(metadata["glimprouter"])
    assert [step.author for step in trace.steps] == ["small", "large", "small"]
    assert metadata["glimprouter"]["usage"]["large"]["requests"] == 1


def test_a_budget_is_a_length_stop() -> None:
    assert chat(max_tokens=3).invoke("hi").response_metadata["finish_reason"] == "length"


def test_streamed_chunks_add_up_to_the_invoked_message() -> None:
    whole = chat(strategy="two_request").invoke("hi")
    total: AIMessageChunk | None = None
    with_usage = 0
    for chunk in chat(strategy="two_request").stream("hi"):
        assert isinstance(chunk, AIMessageChunk)
        with_usage += chunk.usage_metadata is not None
        total = chunk if total is None else total + chunk
    assert total is not None
    assert total.content == whole.content
    assert total.additional_kwargs == whole.additional_kwargs
    assert total.usage_metadata == whole.usage_metadata
    assert total.response_metadata.keys() == whole.response_metadata.keys()
    assert with_usage == 1


def test_answers_of_thinking_models_stream_token_by_token() -> None:
    llm = ChatGlimpRouter(**thinking_models())
    texts = [chunk.content for chunk in llm.stream("hi") if chunk.content]
    assert texts == ["Three", "."]


def test_usage_counts_every_request_of_both_models() -> None:
    usage = chat(strategy="two_request").invoke("hi").usage_metadata
    assert usage is not None
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    # kept: 2 + 3 + 3 tokens; glimpsed and dropped: 1
    assert usage["output_tokens"] == 9
    assert usage["output_token_details"]["reasoning"] == 5


async def test_async_twins_agree() -> None:
    message = await chat().ainvoke("hi")
    chunks = [chunk async for chunk in chat().astream("hi")]
    batch = await chat().abatch(["hi", "ho", "hu"])
    assert message.content == "So three"
    assert "".join(str(chunk.content) for chunk in chunks) == message.content
    assert [m.content for m in batch] == [message.content] * 3


def test_batch_runs_many_threads_on_one_pair() -> None:
    llm = chat()
    assert {m.content for m in llm.batch([f"q{n}" for n in range(20)])} == {"So three"}


def test_stop_ends_the_reply_in_front_of_it() -> None:
    assert chat(untagged_answer="whole").invoke("hi", stop=["Two"]).content == "One.\n\n"
    assert chat(untagged_answer="whole", stop=["then"]).invoke("hi").content == "One.\n\nTwo "


def test_stop_does_not_touch_the_reasoning_of_thinking_models() -> None:
    message = ChatGlimpRouter(**thinking_models()).invoke("hi", stop=["First", "ree"])
    assert message.additional_kwargs["reasoning_content"] == "First.\n\nThen.\n"
    assert message.content == "Th"


def test_settings_change_per_call_and_by_bind() -> None:
    llm = chat()
    alone = llm.invoke("hi", threshold=math.inf)
    bound = llm.bind(threshold=-1).invoke("hi")
    authors = [
        {step["author"] for step in m.response_metadata["glimprouter"]["steps"]}
        for m in (alone, bound)
    ]
    assert authors == [{"small"}, {"large"}]


def test_configurable_models_stream_as_others_do() -> None:
    llm = chat()
    field = ConfigurableField(id="threshold")
    chunks = list(llm.configurable_fields(threshold=field).stream("hi"))
    assert len(chunks) == len(list(llm.stream("hi"))) > 2


@pytest.mark.parametrize("kind", [ChatGlimpRouter, GlimpRouterLLM])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("untagged_answer", "whole"),
        ("stop", ["three"]),
        ("answer_marker", "Two"),
        ("max_step_tokens", 1),
        ("step_delimiter", "."),
        ("threshold", -1.0),
    ],
)
def test_a_cache_keeps_models_that_answer_differently_apart(
    kind: Any, name: str, value: Any
) -> None:
    cache = InMemoryCache()
    plain = kind(**models(), cache=cache)
    other = kind(**models(), cache=cache, **{name: value})
    before = plain.invoke("hi")
    assert len(cache._cache) == 1
    other.invoke("hi")
    assert len(cache._cache) == 2
    small = plain.small.requests
    asked = len(small)
    assert plain.invoke("hi") is not None
    assert len(small) == asked
    assert text_of(plain.invoke("hi")) == text_of(before)


def text_of(reply: Any) -> str:
    return reply if isinstance(reply, str) else str(reply.content)


def test_copies_and_configurable_fields_have_their_own_settings() -> None:
    def authors(model: Any) -> set[str]:
        steps = model.invoke("hi").response_metadata["glimprouter"]["steps"]
        return {step["author"] for step in steps}

    llm = chat()
    copy = llm.model_copy(update={"threshold": -1.0})
    field = ConfigurableField(id="threshold")
    configurable = llm.configurable_fields(threshold=field)
    assert authors(copy) == {"large"}
    assert authors(configurable.with_config(configurable={"threshold": -1})) == {"large"}
    assert authors(llm) == {"small", "large"}
    llm.threshold = math.inf
    assert authors(llm) == {"small"}


def test_models_of_one_model_string_share_their_backend() -> None:
    model_string = "openai:shared@http://127.0.0.1:9/v1"
    one, two = (ChatGlimpRouter(small=model_string, large=model_string) for _ in range(2))
    assert one.router.small is two.router.small
    other = ChatGlimpRouter(small=model_string, large=model_string, api_key="another")
    assert other.router.small is not one.router.small


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(ConfigError, match="'tempreature'"):
        chat().invoke("hi", tempreature=1)
    with pytest.raises(ConfigError, match="'treshold'"):
        ChatGlimpRouter(treshold=1)


def test_mistakes_of_construction_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="got 'high'"):
        ChatGlimpRouter(threshold="high")
    with pytest.raises(ConfigError, match="'gpt-4'"):
        ChatGlimpRouter(small="gpt-4", large="gpt-4")


def test_the_key_is_a_secret() -> None:
    llm = ChatGlimpRouter(
        small="openai:a@http://127.0.0.1:9/v1",
        large="openai:b@http://127.0.0.1:9/v1",
        api_key="hush-hush",
    )
    shown = f"{llm!r} {llm} {llm.router.small!r} {llm._identifying_params} {vars(llm.router.small)}"
    assert "hush-hush" not in shown


def test_messages_reach_the_models_with_their_roles() -> None:
    parts = models()
    ChatGlimpRouter(**parts).invoke(
        [
            SystemMessage("Be brief."),
            HumanMessage([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]),
            AIMessage("ok", additional_kwargs={"reasoning_content": "secret thoughts"}),
            HumanMessage("go"),
        ]
    )
    prompt = parts["small"].requests[0].prompt
    assert prompt.startswith("<system>Be brief.\n<user>one\ntwo\n<assistant>ok\n<user>go\n")
    assert "secret thoughts" not in prompt


def test_an_earlier_answer_does_not_bring_its_reasoning_back() -> None:
    parts = models()
    llm = ChatGlimpRouter(**parts, output_version="v1")
    first = llm.invoke("hi")
    assert isinstance(first.content, list)
    llm.invoke([HumanMessage("hi"), first, HumanMessage("and now?")])
    prompt = parts["small"].requests[-1].prompt
    assert "<assistant>So three\n" in prompt
    assert "Two then" not in prompt.partition("<user>and now?")[0]


def test_an_image_is_refused_by_name() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(ConfigError, match="image_url"):
        chat().invoke([HumanMessage([{"type": "text", "text": "what is this?"}, image])])


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        chat().invoke([])


def test_a_failure_in_mid_answer_keeps_the_text() -> None:
    llm = ChatGlimpRouter(**models(fail_after=4))
    with pytest.raises(BackendError) as caught:
        llm.invoke("hi")
    assert caught.value.partial is not None
    text = caught.value.partial.reasoning + caught.value.partial.answer
    assert text.startswith("One.\n\n")


def test_step_events_reach_callbacks_and_the_printer(capsys: pytest.CaptureFixture[str]) -> None:
    class Seen(BaseCallbackHandler):
        def __init__(self) -> None:
            self.kinds: list[str] = []

        def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
            assert name == "glimprouter"
            self.kinds.append(data["type"])

    seen = Seen()
    printer = StepPrinter(console=Console(width=80, no_color=True))
    chain = ChatPromptTemplate.from_template("{q}") | chat(step_events=True) | StrOutputParser()
    assert chain.invoke({"q": "hi"}, config={"callbacks": [seen, printer]}) == "So three"
    assert seen.kinds[0] == "step_started" and seen.kinds[-1] == "finished"
    assert seen.kinds.count("step_done") == 3
    printed = capsys.readouterr().out
    assert "large model  H 2.00" in printed and "Two then." in printed
    assert printer.result is not None and printer.result.answer == "So three"


async def test_step_events_appear_in_astream_events() -> None:
    chain = ChatPromptTemplate.from_template("{q}") | chat(step_events=True)
    kinds = [
        event["data"]["type"]
        async for event in chain.astream_events({"q": "hi"}, version="v2")
        if event["event"] == "on_custom_event"
    ]
    assert kinds.count("step_started") == 3


def test_without_the_flag_no_custom_event_is_sent() -> None:
    class Refuse(BaseCallbackHandler):
        raise_error = True

        def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
            raise AssertionError("unasked event")

    chat().invoke("hi", config={"callbacks": [Refuse()]})


def test_closing_a_stream_stops_the_models() -> None:
    parts = models([(b"word ", 0.1)] * 500, delay=0.002)
    llm = ChatGlimpRouter(**parts, untagged_answer="whole")
    stream = llm.stream("hi")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert parts["small"].closed_early == 1


async def test_cancelling_a_task_stops_the_models() -> None:
    parts = models([(b"word ", 0.1)] * 500, delay=0.002)
    task = asyncio.create_task(ChatGlimpRouter(**parts).ainvoke("hi"))
    await asyncio.sleep(0.2)
    assert parts["small"].requests
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert parts["small"].closed_early == 1


def test_the_text_class_returns_the_answer() -> None:
    llm = GlimpRouterLLM(**models(), route="always")
    assert llm.invoke("hi") == "So three"
    assert "".join(llm.stream("hi")) == "So three"
    assert llm.batch(["a", "b"]) == ["So three", "So three"]


async def test_the_text_class_is_natively_async() -> None:
    llm = GlimpRouterLLM(**models(), route="always")
    assert await llm.ainvoke("hi") == "So three"
    assert "".join([text async for text in llm.astream("hi")]) == "So three"
    assert await llm.abatch(["a", "b"]) == ["So three", "So three"]


def test_the_text_class_reports_reasoning_usage_and_trace() -> None:
    result = GlimpRouterLLM(**models()).generate(["hi", "ho"])
    info = result.generations[0][0].generation_info
    assert info is not None
    assert info["reasoning_content"] == "One.\n\nTwo then.\n\n"
    assert info["glimprouter"]["steps"][1]["author"] == "large"
    assert result.llm_output is not None
    usage = result.llm_output["token_usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == 2 * info["token_usage"]["completion_tokens"]


@pytest.mark.parametrize(("kind", "type_"), [(ChatGlimpRouter, "chat"), (GlimpRouterLLM, "llm")])
def test_tracers_learn_what_ran(kind: Any, type_: str) -> None:
    llm = kind(**models(), temperature=0.3, max_tokens=7, stop=["x"])
    params = llm._get_ls_params(temperature=0.5)
    assert params["ls_provider"] == "glimprouter"
    assert params["ls_model_name"] == "tiny+big"
    assert params["ls_model_type"] == type_
    assert (params["ls_temperature"], params["ls_max_tokens"], params["ls_stop"]) == (0.5, 7, ["x"])
    assert llm.metadata["lc_versions"]["glimp-integrations"] == __version__


def test_models_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    model_string = "openai:{}@http://127.0.0.1:9/v1"
    monkeypatch.setenv("GLIMP_SMALL", model_string.format("S"))
    with pytest.raises(ConfigError, match="only one model is named: give large"):
        GlimpRouterLLM()
    monkeypatch.setenv("GLIMP_LARGE", model_string.format("L"))
    monkeypatch.setenv("GLIMP_API_KEY", "sk-secret")
    llm = GlimpRouterLLM()
    assert llm.pair_name == "S+L"
    assert "sk-secret" not in f"{llm!r} {llm} {llm._identifying_params}"
    assert GlimpRouterLLM(**models()).pair_name == "tiny+big"
