"""One script, three callers: the core, LangChain's class and LlamaIndex's tell the same story."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock, ToolCallBlock
from scripts import CALL, NOON, OPENED, ROUTED, demanded, of_own_accord, pair, tokens

from glimp_integrations import ConfigError, GlimpRouter, io_loop
from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.output.spec import OutputSpec
from langchain_glimp import ChatGlimpRouter
from langchain_glimp import GlimpRouterLLM as LangChainText
from llamaindex_glimp import GlimpRouterLLM

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}},
}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


# -- which models they have -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GlimpRouter, ChatGlimpRouter, LangChainText, GlimpRouterLLM])
def test_each_takes_a_pair_by_its_name(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def names(**given: Any) -> tuple[str, str]:
        router = kind(**given)
        router = getattr(router, "router", router)
        return router.small.name, router.large.name

    qwen, r1 = "qwen3-0.6b+8b", "r1-1.5b+7b"
    assert names(pair=qwen) == ("Qwen3-0.6B-Q8_0", "Qwen3-8B-Q4_K_M")
    monkeypatch.setenv("GLIMP_PAIR", r1)
    assert names()[0] == "DeepSeek-R1-Distill-Qwen-1.5B-Q4_K_M"
    assert names(pair=qwen) == ("Qwen3-0.6B-Q8_0", "Qwen3-8B-Q4_K_M")
    own = [ScriptedBackend([]) for _ in range(2)]
    assert names(small=own[0], large=own[1]) == (own[0].name, own[1].name)
    monkeypatch.setenv("GLIMP_SMALL", "openai:S@http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError, match="names models twice"):
        names()
    assert names(pair=qwen) == ("Qwen3-0.6B-Q8_0", "Qwen3-8B-Q4_K_M")
    with pytest.raises(ConfigError, match="names both models"):
        names(pair=qwen, small=own[0])


@pytest.mark.parametrize("kind", [ChatGlimpRouter, LangChainText, GlimpRouterLLM])
def test_a_pair_that_is_assigned_is_used_from_then_on(kind: Any) -> None:
    llm = kind(pair="qwen3-0.6b+8b")
    assert llm.router is llm.router
    llm.pair = "r1-1.5b+7b"
    assert llm.router.large.name == "DeepSeek-R1-Distill-Qwen-7B-Q4_K_M"
    assert llm.router is llm.router


# -- what each of them says ------------------------------------------------------------------


def untimed(told: dict[str, Any]) -> dict[str, Any]:
    """A trace's data without seconds."""
    steps = [
        {key: value for key, value in step.items() if "seconds" not in key}
        for step in told["steps"]
    ]
    rest = {key: value for key, value in told.items() if key not in ("seconds", "usage")}
    return {**rest, "steps": steps}


def by_core(models: dict[str, Any], form: dict[str, Any], options: dict[str, Any]) -> Any:
    result = GlimpRouter(**models, **options).run("hi", _output_spec(form))
    return {
        "reasoning": result.reasoning,
        "answer": result.answer,
        "calls": [(call.name, call.arguments) for call in result.tool_calls],
        "broken": [(call.name, call.text, call.error) for call in result.invalid_tool_calls],
        "input": result.usage.input_tokens,
        "output": result.usage.output_tokens,
        "thought": result.usage.reasoning_tokens,
        "trace": untimed(result.trace.model_dump(mode="json")),
        "usage": result.usage.model_dump(mode="json"),
    }


def _output_spec(form: dict[str, Any]) -> OutputSpec:
    options = dict(form)
    wanted = options.pop("response_format", None)
    return OutputSpec(**options, **({"schema": wanted["json_schema"]["schema"]} if wanted else {}))


def of_langchain(message: AIMessage) -> dict[str, Any]:
    told = message.response_metadata["glimprouter"]
    usage = message.usage_metadata
    assert usage is not None
    return {
        "reasoning": message.additional_kwargs.get("reasoning_content", ""),
        "answer": message.content,
        "calls": [(call["name"], call["args"]) for call in message.tool_calls],
        "broken": [(c["name"], c["args"], c["error"]) for c in message.invalid_tool_calls],
        "input": usage["input_tokens"],
        "output": usage["output_tokens"],
        "thought": usage["output_token_details"]["reasoning"],
        "trace": untimed(told),
        "usage": told["usage"],
    }


def of_llamaindex(response: Any) -> dict[str, Any]:
    blocks, usage = response.message.blocks, response.raw["usage"]
    broken = response.message.additional_kwargs.get("invalid_tool_calls", ())
    return {
        "reasoning": "".join(b.content or "" for b in blocks if isinstance(b, ThinkingBlock)),
        "answer": response.message.content,
        "calls": [(b.tool_name, b.tool_kwargs) for b in blocks if isinstance(b, ToolCallBlock)],
        "broken": [(call["name"], call["text"], call["error"]) for call in broken],
        "input": usage["prompt_tokens"],
        "output": usage["completion_tokens"],
        "thought": usage["reasoning_tokens"],
        "trace": untimed(response.raw["glimprouter"]),
        "usage": response.raw["glimprouter"]["usage"],
    }


async def everybody(make: Any, form: Any = None, options: Any = None) -> dict[str, Any]:
    """The story of one script, by every way to ask; ``make`` gives fresh backends."""
    form = form or {}
    # One order of requests, whatever the machine is busy with.
    options = {**ROUTED, "strategy": "two_request", **(options or {})}
    chain = ChatGlimpRouter(**make(), **options).bind(**form)
    llm = GlimpRouterLLM(**make(), **options)
    ask, hi = [HumanMessage("hi")], [ChatMessage("hi")]
    total = None
    for chunk in chain.stream(ask):
        total = chunk if total is None else total + chunk
    atotal = None
    async for chunk in chain.astream(ask):
        atotal = chunk if atotal is None else atotal + chunk
    return {
        "core": by_core(make(), form, options),
        "invoke": of_langchain(chain.invoke(ask)),
        "ainvoke": of_langchain(await chain.ainvoke(ask)),
        "stream": of_langchain(total),
        "astream": of_langchain(atotal),
        "chat": of_llamaindex(llm.chat(hi, **form)),
        "achat": of_llamaindex(await llm.achat(hi, **form)),
        "stream_chat": of_llamaindex([*llm.stream_chat(hi, **form)][-1]),
        "astream_chat": of_llamaindex([r async for r in await llm.astream_chat(hi, **form)][-1]),
    }


def assert_equal(stories: dict[str, Any], but: Any = ()) -> None:
    core = stories.pop("core")
    for way, story in stories.items():
        for name, value in core.items():
            if name not in but:
                assert story[name] == value, f"{name} of {way}"


# -- scripts ---------------------------------------------------------------------------------

WORD = st.sampled_from(["one", " two", "Σ", " 😀", "<b>", "}", "\n", "So", "."])
ENTROPY = st.sampled_from([0.0, 0.3, 0.99, 1.0, 1.01, 2.5])
STEP = st.tuples(WORD, ENTROPY, st.lists(WORD, max_size=3))


@st.composite
def stories(draw: Any) -> tuple[list[Any], bool]:
    """A script, and whether it thinks in tags."""
    tags = draw(st.booleans())
    script: list[Any] = []
    for first, entropy, rest in draw(st.lists(STEP, max_size=4)):
        script += [(first, entropy), *rest, "\n\n"]
    script += [(draw(WORD), draw(ENTROPY)), *draw(st.lists(WORD, max_size=3))]
    if tags:
        script += ["\n", "</think>", "\n\n", *draw(st.lists(WORD, max_size=4))]
    return script, tags


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "threshold": st.sampled_from([-1.0, 0.5, float("inf")]),
        "answer_by": st.sampled_from(["small", "large", "router"]),
        "max_tokens": st.integers(1, 6),
        "max_thinking_tokens": st.integers(1, 8),
        "max_step_tokens": st.integers(1, 4),
        "untagged_answer": st.sampled_from(["last_step", "whole"]),
        "stop": st.sampled_from([["two"], ["Σ", "."]]),
        "answer_marker": st.just("So"),
    },
)


@settings(max_examples=60, deadline=None)
@given(story=stories(), options=OPTIONS)
def test_any_script_is_told_alike(story: Any, options: Any) -> None:
    script, tags = story

    def make() -> dict[str, ScriptedBackend]:
        prompt = OPENED if tags else "<assistant>\n"
        written = tokens(*script, "")
        return {
            "small": ScriptedBackend(written, name="tiny", generation_prompt=prompt),
            "large": ScriptedBackend(written, name="big", generation_prompt=prompt),
        }

    assert_equal(asyncio.run(everybody(make, options=options)))


BROKEN = ["<tool_call>", '\n{"name": "get_weather", "arguments": {"city": Paris', "\n</tool_call>"]
MODEL_STRING_SERVERS = {
    "an answer": (["No ", "tool."], {}),
    "a call": (of_own_accord(CALL), {}),
    "text and calls": (["Look.", *of_own_accord(CALL), *of_own_accord(NOON)], {}),
    "one of two": ([*of_own_accord(CALL), *of_own_accord(NOON)], {"parallel_tool_calls": False}),
    "a demanded call": (demanded(CALL), {"tool_choice": "required"}),
    "a demanded name": (demanded(CALL), {"tool_choice": "get_weather"}),
    "none": (["No."], {"tool_choice": "none"}),
}


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("name", MODEL_STRING_SERVERS)
async def test_calls_are_told_alike(name: str, tags: bool) -> None:
    script, form = MODEL_STRING_SERVERS[name]
    form = {"tools": [WEATHER, CLOCK], **form}
    found = await everybody(lambda: pair(*script, tags=tags), form)
    assert bool(found["core"]["calls"]) == (name not in ("an answer", "none"))
    assert_equal(found)


@pytest.mark.parametrize("script", [BROKEN, [*BROKEN[:1], "\nwords", BROKEN[2]]])
async def test_broken_calls_are_told_alike(script: list[str]) -> None:
    found = await everybody(
        lambda: pair("Look.", *script, supports_schema=False), {"tools": [WEATHER]}
    )
    (broken,) = found["core"]["broken"]
    assert broken[2]
    # LangChain tells streams' broken calls in words of its own.
    assert_equal(found, but=("broken",))
    assert {len(story["broken"]) for story in found.values()} == {1}
    for way in ("invoke", "ainvoke", "chat", "achat", "stream_chat", "astream_chat"):
        assert found[way]["broken"] == [broken]


@pytest.mark.parametrize("tags", [True, False])
async def test_bound_answers_are_told_alike(tags: bool) -> None:
    script = ["```json\n", '{"age"', ": 34}", ""]
    form = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}
    found = await everybody(lambda: pair(*script, tags=tags), form)
    assert found["core"]["answer"] == '{"age": 34}'
    assert_equal(found)


async def test_texts_are_told_alike() -> None:
    options: Any = {"temperature": 0, "strategy": "two_request"}
    core = GlimpRouter(**pair("Hel", "lo."), **options).run("hi")
    chain = LangChainText(**pair("Hel", "lo."), **options)
    llm = GlimpRouterLLM(**pair("Hel", "lo."), **options)
    info = chain.generate(["hi"]).generations[0][0].generation_info
    whole, streamed = llm.complete("hi"), [*llm.stream_complete("hi")][-1]
    assert info is not None
    for text, told, usage, thought in (
        (chain.invoke("hi"), info["glimprouter"], info["token_usage"], info["reasoning_content"]),
        *(
            (r.text, r.raw["glimprouter"], r.raw["usage"], r.additional_kwargs["reasoning_content"])
            for r in (whole, streamed)
        ),
    ):
        assert (text, thought) == (core.answer, core.reasoning)
        assert untimed(told) == untimed(core.trace.model_dump(mode="json"))
        assert usage["total_tokens"] == core.usage.total_tokens


class TestNobodyLooks:
    """A whole reply does not hand every event from the I/O loop to the caller."""

    @pytest.fixture
    def handed(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The ways in by which events were handed over."""
        used: list[str] = []
        for name in ("iterate", "aiterate"):
            way = getattr(io_loop, name)
            monkeypatch.setattr(
                io_loop, name, lambda make, name=name, way=way: used.append(name) or way(make)
            )
        return used

    def ask(self, **options: Any) -> None:
        models = pair("Yes.")
        said = [ChatMessage(content="hi")]
        ChatGlimpRouter(**models, **options).invoke("hi")
        asyncio.run(ChatGlimpRouter(**models, **options).ainvoke("hi"))
        GlimpRouterLLM(**models, **options).chat(said)
        asyncio.run(GlimpRouterLLM(**models, **options).achat(said))

    def test_events_stay(self, handed: list[str]) -> None:
        self.ask()
        assert handed == []

    def test_where_somebody_looks_they_come(self, handed: list[str]) -> None:
        self.ask(step_events=True)
        assert handed == ["iterate", "aiterate"] * 2


# -- half a character --------------------------------------------------------------------------

HALF = "a \ud83d b"
HALF_TOOL = {"type": "function", "function": {**CLOCK["function"], "description": HALF}}


@pytest.mark.parametrize(
    "ask",
    [
        lambda chat, llm: chat.invoke(HALF),
        lambda chat, llm: chat.invoke([HumanMessage([{"type": "text", "text": HALF}])]),
        lambda chat, llm: chat.invoke("x", stop=[HALF]),
        lambda chat, llm: chat.bind_tools([HALF_TOOL]).invoke("x"),
        lambda chat, llm: llm.complete(HALF),
        lambda chat, llm: llm.chat([ChatMessage(role="user", content=HALF)]),
    ],
)
def test_half_a_character_is_the_callers_mistake(ask):
    models = {name: ScriptedBackend([], generation_prompt=OPENED) for name in ("small", "large")}
    with pytest.raises(ConfigError, match=r"U\+D83D"):
        ask(ChatGlimpRouter(**models), GlimpRouterLLM(**models))
