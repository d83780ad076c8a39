"""The routing loop over scripted models: text, requests, usage, trace, failures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from helpers import (
    ANSWER,
    CHAIN,
    OPENED,
    REASONING,
    TAGS,
    model,
    result_of,
    router,
    script,
    shown,
    steps,
    told,
)

from glimp_integrations import (
    Finished,
    GlimpRouter,
    KindResolved,
    StepDone,
    StepStarted,
    UnsuitableEndpointError,
)
from glimp_integrations.backends.base import Capabilities
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.trace.events import TextDelta

AUTHORS = ["small", "large", "small", "large"]
STRATEGIES = ["two_request", "fused", "overlap"]


def behind_open_tag(tokens):
    """The same chain where the text behind the generation prompt begins with the open tag."""
    (first, entropy), *rest = tokens
    return [(b"<think>\n", 0.0), (first, entropy), *rest]


class TestText:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_reasoning_and_answer(self, strategy):
        result = router(strategy=strategy).run("2 + 2?")
        assert (result.reasoning, result.answer) == (REASONING, ANSWER)
        assert str(result) == ANSWER

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_who_opens_the_think_block_makes_no_difference(self, strategy):
        def opened_by_router(name):
            return model(behind_open_tag(CHAIN), name=name, generation_prompt="<assistant>\n")

        small, large = opened_by_router("S"), opened_by_router("L")
        result = router(small, large, strategy=strategy, think_tags=TAGS).run("2 + 2?")
        opened_by_template = router(strategy=strategy).run("2 + 2?")
        assert small.requests[0].prompt.endswith("<assistant>\n<think>\n")
        assert (result.reasoning, result.answer) == (REASONING, ANSWER)
        names = ("author", "text", "tokens", "end", "kind")
        assert steps(result, *names) == steps(opened_by_template, *names)

    def test_think_tags_of_the_large_models_prompt_count_for_both(self):
        small = model(behind_open_tag(CHAIN), generation_prompt="<assistant>\n")
        result = router(small, model()).run("2 + 2?")
        assert result.reasoning == REASONING

    def test_without_tags_the_last_step_is_the_answer(self):
        tokens = script(("One.\n\n", 0.5), ("Two.\n\n", 2.0), ("42", 0.5), "")
        small, large = (ScriptedBackend(tokens) for _ in "SL")
        result = router(small, large).run("?")
        assert (result.reasoning, result.answer) == ("One.\n\nTwo.\n\n", "42")
        assert steps(result, "author", "kind") == [
            ("small", "reasoning"),
            ("large", "reasoning"),
            ("small", "answer"),
        ]

    def test_tags_can_be_switched_off(self):
        result = router(think_tags=False, untagged_answer="whole").run("?")
        assert result.reasoning == ""
        assert result.answer.startswith(REASONING + "</think>")

    def test_behind_the_answer_marker_the_large_model_writes(self):
        tokens = script(("One.\n\n", 0.5), ("Ans", 0.5), "wer:", " 42", "")
        small, large = ScriptedBackend(tokens), ScriptedBackend(tokens)
        result = router(small, large, answer_marker="Answer:").run("?")
        assert (result.reasoning, result.answer) == ("One.\n\n", "42")
        assert result.trace.steps[-1].author == "large"

    def test_the_chain_is_settled_before_a_marked_answer_begins(self):
        tokens = script(("One.\n\n", 0.5), ("Two. Ans", 0.5), "wer:", " 42", "")
        small, large = ScriptedBackend(tokens), ScriptedBackend(tokens)
        told = [
            (event.text, event.kind)
            for event in router(small, large, answer_marker="Answer:").stream("?")
            if isinstance(event, TextDelta | KindResolved) and event.kind is not None
        ]
        kinds = [kind for _, kind in told]
        assert kinds == sorted(kinds, reverse=True)  # reasoning, then answer
        assert "".join(text for text, kind in told if kind == "reasoning") == "One.\n\nTwo. "
        assert "".join(text for text, kind in told if kind == "answer") == "42"

    @pytest.mark.parametrize("author", ["small", "large"])
    def test_the_answer_model_continues_behind_the_closing_tag(self, author):
        small, large = model(name="S"), model(name="L")
        result = router(small, large, answer_by=author).run("?")
        assert result.answer == ANSWER
        writer = small if author == "small" else large
        assert writer.requests[-1].prompt == f"<user>?\n{OPENED}{REASONING}</think>\n\n"
        assert result.trace.steps[-1].author == author

    def test_each_model_writes_its_own_words(self):
        def small(text: bytes) -> tuple[bytes, float]:
            return (b"s", 2.0) if text.endswith(b"\n\n") else (b"s\n\n", 0.5)

        def large(text: bytes) -> tuple[bytes, float]:
            return (b"</think>" if text.count(b"large") else b"large\n\n", 0.0)

        backends = (ScriptedBackend(f, generation_prompt=OPENED) for f in (small, large))
        result = router(*backends, max_tokens=1).run("?")
        assert steps(result, "author", "text")[:-1] == [
            ("small", "s\n\n"),
            ("large", "large\n\n"),
            ("large", ""),
        ]
        assert result.reasoning == "s\n\nlarge\n\n"

    @pytest.mark.parametrize(
        ("threshold", "thinks"), [(math.inf, "small"), (3.0, "small"), (-1.0, "large")]
    )
    def test_one_model_can_write_all_steps(self, threshold, thinks):
        result = router(threshold=threshold).run("?")
        assert [step.author for step in result.trace.steps] == [thinks] * 3 + ["large"]
        assert (result.reasoning, result.answer) == (REASONING, ANSWER)

    def test_grouped_pieces_of_the_large_model_give_the_same_text(self):
        result = router(large=model(chunk_sizes=(4, 1, 3))).run("?")
        assert (result.reasoning, result.answer) == (REASONING, ANSWER)
        assert steps(result, "author") == [(author,) for author in AUTHORS]

    def test_settings_of_one_call(self):
        r = router()
        assert r.run("?", threshold=-1.0).trace.large_share == 1.0
        assert r.run("?").trace.large_share == 0.5


class TestRequests:
    def test_two_request(self):
        small, large = model(), model()
        result = router(small, large, strategy="two_request").run("?")
        # Glimpse and rest of step 1, glimpse of step 2, glimpse and rest of step 3.
        assert [request.max_tokens == 1 for request in small.requests] == [
            True,
            False,
            True,
            True,
            False,
        ]
        assert [request.logprobs for request in small.requests] == [20, 0, 20, 20, 0]
        assert len(large.requests) == 2
        assert result.trace.requests == 7
        assert steps(result, "requests") == [(2,), (2,), (2,), (1,)]

    def test_fused(self):
        small, large = model(), model()
        result = router(small, large, strategy="fused").run("?")
        # One stream up to the high entropy of step 2, one from step 3 on.
        assert [request.logprobs for request in small.requests] == [20, 20]
        assert len(large.requests) == 2
        assert result.trace.requests == 4
        assert steps(result, "requests") == [(1,), (1,), (1,), (1,)]

    def test_the_large_model_is_never_asked_for_logprobs(self):
        large = model()
        router(large=large).run("?")
        assert [request.logprobs for request in large.requests] == [0, 0]

    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize(("threshold", "thinks"), [(math.inf, "small"), (-1.0, "large")])
    def test_extreme_thresholds_cost_one_request_for_all_steps(self, threshold, thinks, strategy):
        small, large = model(), model()
        result = router(small, large, threshold=threshold, strategy=strategy).run("?")
        requests = small.requests + large.requests
        assert [request.logprobs for request in requests] == [0, 0]
        assert len(small.requests) == (1 if thinks == "small" else 0)
        assert all(step.entropy is None for step in result.trace.steps)

    def test_a_model_without_logprobs_can_be_large_only(self):
        blind = model(top_logprobs=0)
        assert router(large=blind).run("?").answer == ANSWER
        assert router(small=blind, threshold=math.inf).run("?").answer == ANSWER
        with pytest.raises(UnsuitableEndpointError, match="log-probabilities"):
            router(small=blind).run("?")

    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize(("entropy", "author"), [(0.5, "small"), (2.0, "large")])
    def test_a_distribution_that_does_not_come_along_is_asked_for(self, strategy, entropy, author):
        class Merging(ScriptedBackend):
            """Shows the log-probabilities of this character's first token only if asked to."""

            async def generate(self, request, report):
                async for token in super().generate(request, report):
                    hidden = token.text == "é" and not request.distribution_only
                    yield replace(token, logprobs=None, count=2) if hidden else token

        tokens = script(("One.\n\n", 0.5), ("é", entropy), ".", "")
        small = Merging(tokens)
        result = router(small, ScriptedBackend(tokens), strategy=strategy).run("?")
        assert [(s.author, s.text) for s in result.trace.steps] == [
            ("small", "One.\n\n"),
            (author, "é."),
        ]
        assert result.trace.steps[1].entropy == pytest.approx(entropy, abs=1e-6)
        assert sum(request.distribution_only for request in small.requests) == 1

    def test_sampling_is_passed_on_and_every_request_has_its_own_seed(self):
        small, large = model(), model()
        router(small, large, temperature=0.7, top_p=0.9, seed=5, timeout=3.0).run("?")
        requests = small.requests + large.requests
        assert {(r.temperature, r.top_p, r.timeout) for r in requests} == {(0.7, 0.9, 3.0)}
        assert sorted(r.seed for r in requests) == list(range(5, 5 + len(requests)))

    def test_auto_chooses_fused_where_streams_carry_logprobs(self):
        assert router().run("?").trace.strategy == "fused"

    def test_auto_chooses_two_request_where_streams_carry_none(self):
        class NotStreamed(ScriptedBackend):
            async def capabilities(self) -> Capabilities:
                return Capabilities(top_logprobs=20, streamed_logprobs=False)

        small, large = (NotStreamed(CHAIN, generation_prompt=OPENED) for _ in "SL")
        trace = router(small, large).run("?").trace
        assert trace.strategy == "two_request"
        assert "lack log-probabilities" in trace.strategy_reason


class TestEvents:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_order_and_text(self, strategy):
        events = list(router(strategy=strategy).stream("?"))
        result = result_of(events)
        assert [type(e) for e in events if isinstance(e, StepStarted | StepDone)] == [
            StepStarted,
            StepDone,
        ] * 4
        assert sum(isinstance(e, Finished) for e in events) == 1
        assert shown(events) == REASONING + ANSWER
        assert (told(events, "reasoning"), told(events, "answer")) == (REASONING, ANSWER)
        assert [e.author for e in events if isinstance(e, StepStarted)] == AUTHORS
        records = [e.record for e in events if isinstance(e, StepDone)]
        assert records == list(result.trace.steps)

    def test_without_tags_the_reader_learns_later(self):
        tokens = script(("One.\n\n", 0.5), ("Two.\n\n", 0.5), ("42", 0.5), "")
        events = list(router(ScriptedBackend(tokens), ScriptedBackend(tokens)).stream("?"))
        assert [(e.text, e.kind) for e in events if isinstance(e, KindResolved)] == [
            ("One.\n\n", "reasoning"),
            ("Two.\n\n", "reasoning"),
            ("42", "answer"),
        ]
        assert shown(events) == "One.\n\nTwo.\n\n42"

    def test_held_back_text_is_settled_with_its_own_step(self):
        tokens = script(("One.\n\n", 0.5), ("42", 0.5), "")
        small, large = ScriptedBackend(tokens), ScriptedBackend(tokens)
        events = list(router(small, large, stop=["\n\nUser:"]).stream("?"))
        assert result_of(events).answer == "42"
        assert (told(events, "reasoning"), told(events, "answer")) == ("One.\n\n", "42")


class TestLimits:
    def test_thinking_budget(self):
        tokens = [*script("a", "b", "c"), *script("\n</think>\n\n", "42", "")]
        result = router(model(tokens), model(tokens), max_thinking_tokens=3).run("?")
        assert (result.reasoning, result.answer) == ("abc", "42")
        assert result.trace.stop_reason == "budget"

    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("cap", [2, 3])
    def test_the_step_cap_does_not_tear_a_character(self, strategy, cap):
        tokens = [(b"a", 0.5), (b"b", 0.5), (b"\xc3", 0.5), (b"\xa9", 0.5), (b"c", 0.5), (b"", 0)]
        small, large = ScriptedBackend(tokens), ScriptedBackend(tokens)
        result = router(small, large, strategy=strategy, max_step_tokens=cap).run("?")
        assert result.reasoning + result.answer == "abéc"
        assert steps(result, "text")[0] == ("ab" if cap == 2 else "abé",)

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_an_end_of_sequence_at_the_step_cap_is_one(self, strategy):
        small, large = (ScriptedBackend(script("a", "b", "")) for _ in "SL")
        result = router(small, large, strategy=strategy, max_step_tokens=3).run("?")
        assert result.trace.stop_reason == "eos"
        assert steps(result, "text", "end") == [("ab", "eos")]

    def test_a_full_context_ends_the_chain(self):
        endless = ScriptedBackend(lambda text: (b"word ", 0.5), context_window=120)
        result = router(endless, ScriptedBackend([])).run("?")
        assert result.trace.stop_reason == "context_full"
        assert result.answer.startswith("word word")


class TestControlTokens:
    def test_text_of_messages_is_never_a_control_token(self):
        small, large = model(), model()
        text = "<|im_end|> </think> [INST] a <b> c"
        router(small, large).run([{"role": "user", "content": text}])
        for request in small.requests + large.requests:
            said = request.prompt.split("<assistant>")[0]
            assert "<|im_end|>" not in said
            assert "</think>" not in said
            assert "[INST]" not in said
            assert "<b>" in said  # ordinary text stays as it is
            assert said.replace("\u2060", "") == f"<user>{text}\n"

    def test_the_backend_is_asked_what_its_control_tokens_are(self):
        class Own(ScriptedBackend):
            async def is_control(self, literal: str) -> bool:
                return literal == "<mine>"

        small = Own(CHAIN, generation_prompt=OPENED)
        router(small).run("<mine> <|im_end|>")
        assert small.requests[0].prompt.startswith("<user><\u2060mine> <|im_end|>\n")


def test_each_model_thinks_in_its_own_tags():
    """The shared text holds no tag; each model reads, and may write, only its own."""
    writes = {b"a\n\n": b"b", b"a\n\nb": b"\n</thinking>", b"a\n\nb\n</thinking>\n\n": b"done"}
    small = ScriptedBackend(
        [(b"a", 0.1), (b"\n\n", 0.0), (b"b", 2.0)], generation_prompt="<assistant>\n<think>\n"
    )
    large = ScriptedBackend(
        lambda text: (writes.get(text, b""), 0.0), generation_prompt="<assistant>\n<thinking>\n"
    )
    result = GlimpRouter(small, large).run("hi")
    assert (result.reasoning, result.answer) == ("a\n\nb\n", "done")
    assert "<think>" not in large.requests[-1].prompt
    assert large.requests[-1].prompt.endswith("<thinking>\na\n\nb\n</thinking>\n\n")
