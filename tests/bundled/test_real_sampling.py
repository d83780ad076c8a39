"""top_k, min_p and the penalties on the real llama.cpp: they act, and H does not see them."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.method.entropy import estimate

COUNTED = "one two three one two three one two three one two"


def generate(backend: LlamaCppBackend, prompt: str, count: int, **fields: Any) -> list[Token]:
    async def read() -> list[Token]:
        request = Request(prompt, count, **fields)
        async with aclosing(backend.generate(request, Report())) as tokens:
            return [token async for token in tokens]

    return io_loop.call(read)


def text_of(backend: LlamaCppBackend, count: int = 12, **fields: Any) -> str:
    return "".join(token.text for token in generate(backend, COUNTED, count, **fields))


@pytest.mark.parametrize("chosen", [{"top_k": 1}, {"min_p": 1.0}])
def test_the_likeliest_of_one_is_greedy(small: LlamaCppBackend, chosen: dict[str, Any]) -> None:
    hot = {"temperature": 2.0, "top_p": 1.0, "seed": 3}
    assert text_of(small, **hot, **chosen) == text_of(small)
    assert text_of(small, **hot) != text_of(small)


@pytest.mark.parametrize(
    "penalty", [{"presence_penalty": 2.0, "repetition_penalty": 3.0}, {"repetition_penalty": 3.0}]
)
def test_a_penalty_counts_the_prompt_too(small: LlamaCppBackend, penalty: dict[str, Any]) -> None:
    assert text_of(small).startswith(" three one two")
    assert " three" not in text_of(small, **penalty)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_h_is_that_of_the_model_whatever_the_sampling(
    small: LlamaCppBackend, temperature: float
) -> None:
    def entropy(**fields: Any) -> float:
        (token,) = generate(small, COUNTED, 1, logprobs=20, temperature=temperature, **fields)
        assert token.logprobs is not None
        return estimate(token.logprobs, "topk_renorm")

    more = {"top_k": 2, "min_p": 0.5, "presence_penalty": 2.0, "repetition_penalty": 3.0}
    assert entropy(seed=1, **more) == pytest.approx(entropy(seed=1), abs=1e-3)


def test_a_routed_call_follows_them(router: GlimpRouter) -> None:
    question = "What is 3 + 4? Think step by step."
    plain = router.run(question, max_tokens=48)
    changed = router.run(question, max_tokens=48, repetition_penalty=1.6)
    assert changed.answer != plain.answer
    assert changed.trace.steps[0].entropy == pytest.approx(plain.trace.steps[0].entropy, abs=0.05)
