"""What LlamaIndex plans with: windows, room for the reply, and whether tools are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from llama_index.core.indices.prompt_helper import PromptHelper
from scripted_llms import LARGE, SMALL, scripted
from scripts import HERMES, OPENED, Listening

from glimp_integrations import BackendError
from glimp_integrations.backends.base import Capabilities, Message, Rendered
from llamaindex_glimp import GlimpRouterLLM

TAGGED = "{{ tools }}<think></think>"
PLAIN = "{{ messages }}"


class Counting(Listening):
    """Counts how often it is asked what it can do."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__([], *args, **options)
        self.asked = 0

    async def capabilities(self) -> Capabilities:
        self.asked += 1
        return await super().capabilities()


class Silent(Counting):
    """Must not be asked."""

    async def capabilities(self) -> Capabilities:
        raise AssertionError("a model was asked")


class Private(Counting):
    """Keeps its template to itself; shows tools, or does not, or refuses them."""

    shows = True

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        return await super().render(messages, tools if self.shows else ())


class Blind(Private):
    shows = False


def llm_of(small: Any = None, large: Any = None, **options: Any) -> GlimpRouterLLM:
    backends = {"small": small or Counting(), "large": large or Counting()}
    return GlimpRouterLLM(**backends, **options)


def test_observers_ask_no_model() -> None:
    llm = llm_of(Silent(name="a"), Silent(name="b"))
    payload = llm.to_payload()
    assert payload["model_name"] == "a+b"
    assert (payload["small"], payload["threshold"]) == ("a", 1.0)
    assert payload["class_name"] == "glimprouter_llm"
    assert payload["is_chat_model"] is True
    with pytest.raises(BackendError, match="AssertionError") as caught:
        _ = llm.metadata
    assert "a model was asked" in str(caught.value.__cause__)


def test_observers_see_what_is_known() -> None:
    llm = llm_of(Counting(context_window=5000), Counting(context_window=6000, template=TAGGED))
    before = llm.to_payload()
    assert (before["context_window"], before["is_function_calling_model"]) == (3900, False)
    told = llm.metadata.model_dump()
    assert told.items() <= llm.to_payload().items()
    assert (told["context_window"], told["is_function_calling_model"]) == (5000, True)


def test_models_are_asked_once() -> None:
    llm = llm_of()
    first = llm.metadata
    asked = llm.small.asked, llm.large.asked
    assert min(asked) > 0
    llm.max_tokens = 100
    assert (llm.metadata.num_output, first.num_output) == (100, 1950), "settings stay alive"
    assert llm.metadata.model_name == first.model_name
    assert (llm.small.asked, llm.large.asked) == asked


def test_a_model_that_is_described_is_not_asked() -> None:
    described = {"context_window": 8000, "is_function_calling_model": True, "think_tags": False}
    llm = llm_of(Silent(), Silent(), **described)
    metadata = llm.metadata
    assert (metadata.context_window, metadata.is_function_calling_model) == (8000, True)
    assert metadata.is_chat_model


def test_a_model_that_cannot_be_reached_is_named() -> None:
    llm = GlimpRouterLLM(small=SMALL, large=LARGE, max_retries=0)
    with pytest.raises(BackendError, match=r"S at http://127\.0\.0\.1:9/v1 cannot be reached"):
        _ = llm.metadata
    # Nothing was learnt: the next one asks again.
    assert llm.router.known_info is None


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [(4096, 8192, 4096), (8192, 4096, 4096), (None, 512, 512), (None, None, 3900)],
)
def test_the_smaller_window_counts(small: Any, large: Any, expected: int) -> None:
    backends = Counting(context_window=small), Counting(context_window=large)
    assert llm_of(*backends).metadata.context_window == expected
    assert llm_of(*backends, context_window=777).metadata.context_window == 777


@pytest.mark.parametrize(
    ("templates", "options", "expected"),
    [
        ((PLAIN, PLAIN), {}, 2048),
        ((TAGGED, PLAIN), {}, 10240),
        ((PLAIN, TAGGED), {}, 10240),
        ((TAGGED, TAGGED), {"think_tags": False}, 2048),
        ((PLAIN, PLAIN), {"think_tags": ("<a>", "</a>")}, 10240),
        ((TAGGED, TAGGED), {"max_tokens": 100, "max_thinking_tokens": 1000}, 1100),
        ((TAGGED, TAGGED), {"max_thinking_tokens": 100_000}, 16384),
        ((TAGGED, TAGGED), {"max_tokens": 100, "max_completion_tokens": 500}, 500),
        ((TAGGED, TAGGED), {"context_window": 1000}, 500),
    ],
)
def test_prompts_leave_room_for_the_reply(templates: Any, options: Any, expected: int) -> None:
    small, large = (Counting(template=t, context_window=32768) for t in templates)
    llm = llm_of(small, large, **options)
    assert llm.metadata.num_output == expected
    assert PromptHelper.from_llm_metadata(llm.metadata).num_output == expected


def test_a_generation_prompt_that_opens_the_tags_is_one_of_a_thinking_model() -> None:
    small = Counting(generation_prompt=OPENED, context_window=32768)
    assert llm_of(small, Counting(context_window=32768)).metadata.num_output == 10240


def test_overrides_do_not_take_the_room_of_the_thoughts() -> None:
    models = [Counting(template=TAGGED, context_window=32768) for _ in range(2)]
    plain = llm_of(*models).metadata
    described = llm_of(*models, context_window=32768, is_function_calling_model=True)
    described.router.pair_info()
    assert described.metadata.num_output == plain.num_output


@pytest.mark.parametrize(
    ("answer_by", "small", "large", "expected"),
    [
        ("large", PLAIN, HERMES, True),
        ("large", HERMES, PLAIN, False),
        ("small", PLAIN, HERMES, False),
        ("small", HERMES, PLAIN, True),
        ("router", HERMES, PLAIN, False),
        ("router", PLAIN, HERMES, False),
        ("router", HERMES, HERMES, True),
    ],
)
def test_whoever_answers_has_to_see_tools(
    answer_by: Any, small: str, large: str, expected: bool
) -> None:
    llm = llm_of(Counting(template=small), Counting(template=large), answer_by=answer_by)
    assert llm.metadata.is_function_calling_model is expected
    llm.is_function_calling_model = not expected
    assert llm.metadata.is_function_calling_model is not expected


@pytest.mark.parametrize(("kind", "expected"), [(Private, True), (Blind, False)])
def test_where_no_template_is_shown_two_renderings_tell_once(kind: Any, expected: bool) -> None:
    small, large = kind(), kind()
    llm = llm_of(small, large)
    assert llm.metadata.is_function_calling_model is expected
    asked = len(large.conversations)
    assert len([tools for tools in large.tools if tools]) == (1 if expected else 0)
    for again in (llm, llm.model_copy(), GlimpRouterLLM(small=small, large=large)):
        assert again.metadata.is_function_calling_model is expected
    # A new router renders one greeting to look for tags; the question for tools is not repeated.
    assert len(large.conversations) == asked + 2


def test_metadata_is_there_inside_a_running_loop() -> None:
    import asyncio

    async def inside() -> int:
        return scripted("x").metadata.context_window

    assert asyncio.run(inside()) == 3900
