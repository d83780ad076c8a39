"""Qwen3's and DeepSeek-R1's own templates and vocabularies: who opens and closes the thinking."""

from __future__ import annotations

from typing import Any

import pytest

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.conversation.messages import check_messages
from glimp_integrations.conversation.prompt import Prompt, build
from glimp_integrations.output.spec import OutputSpec
from random_weights.conversations import WEATHER, tool_turn
from random_weights.pairs import PAIRS, Models
from random_weights.vocabularies import QWEN3, tokenizer

pytestmark = pytest.mark.bundled  # the vocabulary is read out of a bundled model's file

QUESTION: dict[str, Any] = {"role": "user", "content": "What is 17 * 23?"}


@pytest.fixture(params=["llamacpp", "transformers"])
def models(request: pytest.FixtureRequest) -> Models:
    made: Models = request.getfixturevalue(request.param)
    return made


def prompt(
    models: Models, pair: str, *messages: Any, thinks: bool = True, **options: Any
) -> Prompt:
    backend, _ = models.pair(pair, thinks=thinks)
    return io_loop.call(lambda: build(backend, check_messages(messages), **options))


def test_the_vocabulary_reads_tags_as_one_token() -> None:
    made = tokenizer(QWEN3)
    ids = {"<think>": 151667, "</think>": 151668, "<tool_call>": 151657, "<|im_end|>": 151645}
    assert {text: made.encode(text) for text in ids} == {text: [i] for text, i in ids.items()}
    assert made.encode(".\n\n") == [382]


@pytest.mark.parametrize("pair", PAIRS)
def test_the_block_is_open_once_whoever_opened_it(models: Models, pair: str) -> None:
    made = prompt(models, pair, QUESTION)
    assert made.tags == ("<think>", "</think>")
    assert made.opened == (pair == "r1")
    assert made.prefix(made.tags).count("<think>") == 1
    assert made.prefix(made.tags).endswith("<think>\n")


def test_thinking_that_is_switched_off_is_not_opened(models: Models) -> None:
    made = prompt(models, "qwen3", QUESTION, thinks=False)
    assert made.tags is None
    assert made.text.endswith("<think>\n\n</think>\n\n")
    result = GlimpRouter(*models.pair("qwen3", thinks=False), temperature=0, max_tokens=24).run(
        "hi", untagged_answer="whole"
    )
    assert result.answer and not result.reasoning


def test_a_word_that_asks_for_no_thinking_leaves_the_block_to_the_model(models: Models) -> None:
    asked = {**QUESTION, "content": "Hi /no_think"}
    assert prompt(models, "qwen3", asked).tags == ("<think>", "</think>")


def test_a_loop_of_tools_keeps_its_thoughts_until_the_next_question(models: Models) -> None:
    loop = [QUESTION, *tool_turn(0), *tool_turn(1)]
    output = OutputSpec([WEATHER])
    text = prompt(models, "qwen3", *loop, output=output).text
    for turn in range(2):
        assert f"<think>\nThought {turn}: ask the tool.\n</think>\n\n<tool_call>\n" in text
    text = prompt(models, "qwen3", *loop, QUESTION, output=output).text
    assert "Thought" not in text and text.count("<tool_call>\n{") >= 2


def test_a_spent_budget_closes_the_thinking(models: Models) -> None:
    result = GlimpRouter(*models.pair("both"), temperature=0).run(
        "hi", max_thinking_tokens=5, max_tokens=12, max_step_tokens=3
    )
    assert result.trace.stop_reason == "budget"
    assert 5 <= result.usage.reasoning_tokens < 9
    assert result.answer and "think>" not in result.reasoning + result.answer


def test_models_hand_over_inside_the_thinking(models: Models) -> None:
    trace = (
        GlimpRouter(*models.pair("both"), temperature=0)
        .run("hi", threshold=0.3, max_thinking_tokens=60, max_step_tokens=6, max_tokens=4)
        .trace
    )
    thought = [step for step in trace.steps if step.kind == "reasoning"]
    assert {step.author for step in thought} == {"small", "large"}


def test_a_forced_call_comes_after_the_thinking(transformers: Models) -> None:
    # llama.cpp's grammar takes blank lines without end, which are what these models like best.
    result = GlimpRouter(*transformers.pair("qwen3"), temperature=0).run(
        "hi", OutputSpec([WEATHER], "any"), max_thinking_tokens=6, max_tokens=200
    )
    (call,) = result.tool_calls
    assert call.name == "get_weather" and set(call.arguments) == {"city", "days"}
    assert result.reasoning and not result.answer.strip()


@pytest.mark.parametrize(
    "sampling", [{"top_k": 1}, {"presence_penalty": 2.0, "repetition_penalty": 3.0, "top_k": 1}]
)
def test_sampling_reaches_both_models_and_leaves_h_alone(
    models: Models, sampling: dict[str, Any]
) -> None:
    router = GlimpRouter(*models.pair("both"), strategy="two_request", route="always", seed=1)
    limits = {"max_thinking_tokens": 24, "max_step_tokens": 8, "max_tokens": 8}
    hot = {**limits, "temperature": 2.0, "top_p": 1.0}
    plain, greedy = router.run("hi", **hot), router.run("hi", **limits, temperature=0)
    chosen = router.run("hi", **hot, **sampling)
    assert chosen.trace.steps[0].entropy == pytest.approx(plain.trace.steps[0].entropy, abs=1e-3)
    assert (chosen.reasoning == greedy.reasoning) == (len(sampling) == 1)
    assert chosen.reasoning != plain.reasoning
