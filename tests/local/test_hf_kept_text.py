"""Keeping caches changes what is computed, never what is written."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tiny import PROMPT, Watched, agenerate, backend, bare, on_loop, shared, tokenizer

from glimp_integrations import GlimpRouter, RoutedAnswer
from glimp_integrations.backends.hf.token_text import TokenHistory, Vocabulary

KINDS = ["llama", "qwen2", "gemma2", "gemma3", "mamba", "mamba2", "lfm2", "bamba", "gpt"]


def scaled(examples: int) -> settings:
    """So many examples in ``make test``, and fifteen times as many in ``make test-slow``."""
    return settings(
        deadline=None,
        max_examples=examples * settings.default.max_examples // 100,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@functools.cache
def keeper(kind: str, tokens: str = "plain", seed: int = 0) -> Watched:
    """A backend that keeps all caches, shared by the examples."""
    return backend(kind, tokens, seed=seed)


@functools.cache
def forgetter(kind: str, tokens: str = "plain", seed: int = 0) -> Watched:
    """The same model without memory for caches."""
    return backend(kind, tokens, seed=seed, cache_bytes=0)


@dataclass(frozen=True)
class Turn:
    """One request of a conversation: who writes how much, and how much of it is dropped."""

    author: str
    tokens: int
    dropped: int


turns = st.lists(
    st.builds(Turn, st.sampled_from(["small", "large"]), st.integers(1, 12), st.integers(0, 6)),
    min_size=2,
    max_size=6,
)


def known_ids(notes: dict[str, Any], prompt: str, model: Watched) -> list[int]:
    """The ids a model will read, of what its notes tell already."""
    [history] = copy.deepcopy([*notes.values()]) or [TokenHistory()]
    return history.ids(prompt, Vocabulary(model._tokenizer))


@dataclass
class Conversation:
    """Two models hand a text over to each other, as two streams do."""

    models: dict[str, Watched]
    begin: str
    notes: dict[str, dict[str, Any]] = field(default_factory=lambda: {"small": {}, "large": {}})
    requests: list[tuple[str, list[int], int, str]] = field(default_factory=list)
    cached: int = 0

    async def run(self, turns: list[Turn], *, keep: bool) -> str:
        """The text at the end."""
        for model in self.models.values():
            await model.adrop_caches()
        text = ""
        for turn in turns:
            model, notes = self.models[turn.author], self.notes[turn.author]
            if not keep:
                for each in self.models.values():
                    await each.adrop_caches()
            # Templates differ, too.
            prompt = f"{turn.author}: {self.begin}{text}"
            ids = self.ids(turn.author, prompt)
            answer = await agenerate(model, prompt, turn.tokens, notes=notes)
            assert answer.report.prompt_tokens == len(ids)
            self.requests.append((turn.author, ids, turn.tokens, answer.text))
            self.cached += answer.report.cached_tokens or 0
            text += answer.text
            text = text[: len(text) - min(turn.dropped, len(answer.text))]
        return text

    def ids(self, author: str, prompt: str) -> list[int]:
        """What the model will read."""
        return known_ids(self.notes[author], prompt, self.models[author])


def check(kind: str, partner: tuple[str, str], begin: str, turns: list[Turn]) -> None:
    models = {"small": keeper(kind), "large": keeper(*partner, seed=7)}
    kept, dropped = Conversation(models, begin), Conversation(models, begin)
    text = on_loop(lambda: kept.run(turns, keep=True))
    assert on_loop(lambda: dropped.run(turns, keep=False)) == text
    assert dropped.cached == 0
    event(f"cached: {kept.cached > 0}")
    for author, ids, count, text in kept.requests:
        own = (kind, "plain", 0) if author == "small" else (*partner, 7)
        assert text == bare(shared(*own), tokenizer(own[1]), ids, count)


beginnings = st.sampled_from(["so ", PROMPT, PROMPT * 2])
partners = st.sampled_from([("llama", "other"), ("qwen2", "plain"), ("gemma2", "other")])


@pytest.mark.parametrize("kind", KINDS)
@scaled(4)
@given(partner=partners, begin=beginnings, turns=turns)
def test_kept_caches_never_change_a_conversation(kind, partner, begin, turns):
    check(kind, partner, begin, turns)


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "mamba", "mamba2"])
@scaled(4)
@given(begin=beginnings, turns=turns)
def test_nor_between_two_models_of_a_kind(kind, begin, turns):
    check(kind, (kind, "other"), begin, turns)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mamba"])
def test_a_continued_text_is_the_text_written_at_once(kind):
    model = keeper(kind)

    async def both() -> tuple[str, str, int | None]:
        await model.adrop_caches()
        whole = (await agenerate(model, PROMPT, 30)).text
        await model.adrop_caches()
        notes: dict[str, Any] = {}
        first = (await agenerate(model, PROMPT, 12, notes=notes)).text
        second = await agenerate(model, PROMPT + first, 18, notes=notes)
        return whole, first + second.text, second.report.cached_tokens

    whole, parts, cached = on_loop(both)
    assert parts == whole
    assert cached == len(tokenizer().encode(PROMPT)) + 12 - 1  # the last one was not read yet


@pytest.mark.parametrize("kind", KINDS)
def test_h_after_text_of_another_model_is_that_of_the_whole_text(kind):
    """Finer than text: a state that was lost shows in H before it turns a choice."""
    model = keeper(kind)

    async def both() -> list[tuple[float, float]]:
        await model.adrop_caches()
        places = []
        notes: dict[str, Any] = {}
        text = "so the quick brown fox "
        for foreign in ("", "jumps over ", "the lazy dog, and the dog sleeps. ", "x"):
            text += foreign
            ids = known_ids(notes, text, model)
            answer = await agenerate(model, text, 5, notes=notes, logprobs=20)
            kept = await answer.tokens[0].entropy_fn("full", 20)
            logits = shared(kind)(torch.tensor([ids])).logits[0, -1]
            places.append((kept, torch.distributions.Categorical(logits=logits).entropy().item()))
            text += answer.text
        return places

    for kept, whole in on_loop(both):
        assert kept == pytest.approx(whole, abs=1e-5)


QUESTIONS = [
    "what is two and two?",
    "the quick brown fox jumps over the lazy dog. how far is it, and what is a dog?",
]
limits = st.fixed_dictionaries(
    {
        # H of these models lies between 0.3 and 3.7, mostly between 2 and 3.
        "threshold": st.floats(2.0, 3.0) | st.floats(0.5, 3.5),
        "max_step_tokens": st.integers(3, 20),
        "max_thinking_tokens": st.integers(20, 60),
        "max_tokens": st.integers(1, 12),
        "answer_by": st.sampled_from(["large", "small", "router"]),
        "entropy_estimator": st.sampled_from(["full", "topk_renorm", "topk_other"]),
    }
)
pairs = st.sampled_from(
    [
        (("llama", "plain"), ("qwen2", "other")),
        (("llama", "plain"), ("llama", "plain")),
        (("gemma2", "plain"), ("llama", "other")),
        (("gemma3", "other"), ("gemma2", "plain")),
        (("mamba", "plain"), ("llama", "plain")),
        (("qwen2", "plain"), ("mamba2", "plain")),
    ]
)


def run(small: Watched, large: Watched, question: str, strategy: str, **limits: Any) -> Any:
    router = GlimpRouter(small, large, temperature=0, strategy=strategy, **limits)
    return router.run(question)


def decisions(result: RoutedAnswer) -> Any:
    """Decisions and text. H is compared to the last digits that reading in pieces can change."""
    return (
        [
            (s.author, s.entropy and round(s.entropy, 5), s.text, s.tokens, s.end)
            for s in result.trace.steps
        ],
        result.reasoning,
        result.answer,
        result.trace.stop_reason,
        result.trace.answer_stop,
    )


@scaled(12)
@given(pair=pairs, question=st.sampled_from(QUESTIONS), limits=limits)
def test_a_routed_answer_is_the_same_without_memory_and_with_two_requests(pair, question, limits):
    small, large = pair
    keepers = keeper(*small), keeper(*large, seed=7)
    for each in keepers:
        each.drop_caches()
    kept = run(*keepers, question, "in_process", **limits)
    authors = {step.author for step in kept.trace.steps if step.entropy is not None}
    event(f"authors: {sorted(authors)}")
    again = run(*keepers, question, "in_process", **limits)
    without = run(forgetter(*small), forgetter(*large, seed=7), question, "in_process", **limits)
    two = run(*keepers, question, "two_request", **limits)
    assert decisions(again) == decisions(kept)
    assert decisions(without) == decisions(kept)
    assert decisions(two) == decisions(kept)


def test_both_models_write_in_these_runs():
    small, large = keeper("llama"), keeper("qwen2", "other", seed=7)
    result = run(small, large, QUESTIONS[0], "auto", threshold=2.5, max_thinking_tokens=100)
    assert result.trace.strategy == "in_process"
    assert {step.author for step in result.trace.steps} == {"small", "large"}
    assert 0 < result.trace.large_step_share < 1
    assert len(result.trace.steps) > 4
