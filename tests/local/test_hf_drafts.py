"""Speculative decoding: fewer passes of the large model, and the same greedy text."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import (
    PROMPT,
    WINDOW,
    Watched,
    agenerate,
    backend,
    bare,
    encoded,
    generate,
    model,
    on_loop,
    passes,
    settled,
    shared,
    tokenizer,
)

from glimp_integrations import ConfigError, GlimpRouter
from glimp_integrations.backends.scripted import ScriptedBackend

COUNT = 40
LARGE = [
    ("llama", "plain"),
    ("qwen2", "other"),
    ("gemma2", "plain"),
    ("gemma3", "plain"),
]
# A text that repeats itself, so that there is something to look up.
REPEATED = "let me see. the fox sleeps, and the dog sleeps. let me see. the fox "


def drafter(make: Any, kind: str) -> Any:
    """Who drafts: a small model with the plain tokenizer, the text itself, or nobody."""
    if kind in ("prompt_lookup", "none"):
        return None if kind == "none" else kind
    return make(kind, seed=5)


@functools.cache
def undrafted(large: tuple[str, str], prompt: str) -> str:
    """What transformers' own ``generate`` writes."""
    return bare(shared(*large), tokenizer(large[1]), encoded(prompt, large[1]), COUNT)


@pytest.mark.parametrize("large", LARGE, ids=[kind for kind, _ in LARGE])
class TestGreedyTextIsTheSame:
    @pytest.mark.parametrize("draft", ["prompt_lookup", "llama", "gemma2"])
    @pytest.mark.parametrize(
        "prompt", [pytest.param("so", marks=pytest.mark.slow), PROMPT, REPEATED]
    )
    def test_with_every_drafter(self, make, large, draft, prompt):
        answer = generate(make(*large), prompt, COUNT, draft=drafter(make, draft))
        assert answer.text == undrafted(large, prompt)
        assert answer.report.completion_tokens == COUNT

    @pytest.mark.parametrize("draft", ["prompt_lookup", "llama"])
    def test_with_a_repetition_penalty(self, make, large, draft):
        penalty = {"repetition_penalty": 1.3}
        expected = generate(make(*large, generation=penalty), REPEATED, COUNT).text
        answer = generate(
            make(*large, generation=penalty), REPEATED, COUNT, draft=drafter(make, draft)
        )
        assert answer.text == expected

    @pytest.mark.parametrize("draft", ["prompt_lookup", "llama"])
    def test_up_to_the_end_of_sequence(self, make, large, draft):
        ending = model(large[0], tokenizer(large[1]), ends=3.5)
        expected = generate(make(ending, large[1]), PROMPT, 200)
        answer = generate(make(ending, large[1]), PROMPT, 200, draft=drafter(make, draft))
        assert (answer.text, answer.report.ended) == (expected.text, expected.report.ended)
        assert answer.report.completion_tokens == expected.report.completion_tokens

    @pytest.mark.parametrize("draft", ["prompt_lookup", "llama"])
    def test_when_it_is_continued_with_and_without_drafts(self, make, large, draft):
        backend, helper = make(*large), drafter(make, draft)
        plain = make(*large, cache_bytes=0)
        text, notes, own = REPEATED, {}, {}
        for turn, count in enumerate([9, 5, 30, 2, 7, 30]):
            helping = helper if turn % 2 == 0 else None
            answer = generate(backend, text, count, draft=helping, notes=notes)
            assert answer.text == generate(plain, text, count, notes=own).text
            text += answer.text


@settings(
    deadline=None,
    max_examples=settings.default.max_examples // 10,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    large=st.sampled_from(LARGE),
    small=st.sampled_from([("llama", "plain"), ("gemma3", "other"), ("qwen2", "plain")]),
    turns=st.lists(
        st.tuples(
            st.sampled_from(["small", "prompt_lookup", "none"]),
            st.integers(1, 25),
            st.integers(0, 8),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_any_mixture_of_drafts_and_hand_overs_writes_the_same(large, small, turns):
    drafting, plain = backend(*large), backend(*large, cache_bytes=0)
    helper = backend(*small, seed=5)
    helpers = {"small": helper, "prompt_lookup": "prompt_lookup", "none": None}

    async def both() -> None:
        text, notes, own = REPEATED, {}, {}
        for kind, count, dropped in turns:
            written = (
                await agenerate(drafting, text, count, draft=helpers[kind], notes=notes)
            ).text
            assert written == (await agenerate(plain, text, count, notes=own)).text
            text += written[: len(written) - min(dropped, len(written))]
            # And the small model writes a little, too, with the cache it drafted with.
            text += (await agenerate(helper, text, 3)).text

    try:
        on_loop(both)
    finally:
        for each in (drafting, plain, helper):
            each.close()


class TestRouting:
    @pytest.mark.parametrize("draft", ["small", "prompt_lookup"])
    @pytest.mark.parametrize("large", LARGE, ids=[kind for kind, _ in LARGE])
    @pytest.mark.parametrize("threshold", [pytest.param(2.0, marks=pytest.mark.slow), 2.6])
    def test_decisions_and_text_are_the_same(self, make, large, draft, threshold):
        def run(draft: str | None) -> Any:
            small, big = make("llama", seed=3), make(*large, seed=7)
            return GlimpRouter(
                small,
                big,
                temperature=0,
                threshold=threshold,
                draft=draft,
                max_tokens=25,
                max_thinking_tokens=60,
                max_step_tokens=12,
            ).run("is it? let me see.")

        plain, drafted = run(None), run(draft)
        names = ("author", "text", "tokens", "end")
        assert [[getattr(s, n) for n in names] for s in drafted.trace.steps] == [
            [getattr(s, n) for n in names] for s in plain.trace.steps
        ]
        for one, other in zip(drafted.trace.steps, plain.trace.steps, strict=True):
            assert one.entropy == pytest.approx(other.entropy, abs=1e-5)
        assert (drafted.reasoning, drafted.answer) == (plain.reasoning, plain.answer)
        assert any(step.author == "large" for step in plain.trace.steps)

    def test_only_the_large_model_is_helped(self, make):
        small, large = make("llama", seed=3), make("qwen2", seed=7)
        GlimpRouter(
            small,
            large,
            temperature=0,
            threshold=2.0,
            draft="small",
            max_thinking_tokens=40,
            max_tokens=5,
        ).run("is it?")
        assert {request.draft for request in large.requests} == {small}
        assert {request.draft for request in small.requests} == {None}


class TestPasses:
    @pytest.mark.parametrize("kind", ["llama", "gemma2"])
    def test_a_drafter_that_thinks_alike_saves_most_of_them(self, make, kind):
        sure, alike = model(kind), model(kind)
        alike.generation_config.assistant_confidence_threshold = 0.0
        large, small = make(sure), make(alike, name="small")
        generate(large, "so", 1)
        expected = bare(sure, tokenizer(), encoded(PROMPT), COUNT)
        with passes(sure) as seen:
            answer = generate(large, PROMPT, COUNT, draft=small)
        assert answer.text == expected
        assert len(seen) < COUNT / 3
        # Nothing was refused: little more was computed than would have been without drafts.
        assert seen.ids < len(encoded(PROMPT)) + 1.6 * COUNT

    def test_a_text_that_repeats_itself_saves_some(self, make):
        # Taught to repeat: after every token the one that followed it before is likely.
        large = make()
        loop = generate(large, PROMPT, 120).text
        with passes(shared()) as plain:
            generate(make(), PROMPT + loop, COUNT)
        with passes(shared()) as drafted:
            generate(make(), PROMPT + loop, COUNT, draft="prompt_lookup")
        assert len(drafted) < len(plain)

    def test_refused_drafts_cost_no_passes(self, make):
        # A drafter that is always wrong: one pass a token and one for the prompt, as without.
        large, small = make(), make(model(seed=9, steps=30.0), name="wrong")
        generate(large, "so", 1)
        with passes(shared()) as seen:
            generate(large, PROMPT, COUNT, draft=small)
        assert len(seen) <= COUNT + 1

    def test_the_small_models_cache_serves_drafting_and_writing(self, make):
        large, small = make("qwen2"), make("llama", seed=5)
        generate(small, PROMPT, 1)
        generate(large, "so", 1)
        with passes(shared("llama", seed=5)) as seen:
            drafted = generate(large, PROMPT, 20, draft=small)
        assert max(seen.sizes) < 8  # it did not read the prompt again
        with passes(shared("llama", seed=5)) as seen:
            generate(small, PROMPT + drafted.text, 1)
        assert seen.ids < 15
        assert settled(small).kept_bytes > 0


class TestSampled:
    @pytest.mark.parametrize("draft", ["llama", "prompt_lookup"])
    @pytest.mark.parametrize("large", LARGE[:3], ids=[kind for kind, _ in LARGE[:3]])
    def test_a_seed_draws_the_same_text_and_it_ends(self, make, large, draft):
        texts = []
        for _ in range(2):
            answer = generate(
                make(*large), REPEATED, COUNT, draft=drafter(make, draft), temperature=0.8, seed=3
            )
            assert answer.report.ended == "length"
            assert answer.report.completion_tokens == COUNT
            texts.append(answer.text)
        assert texts[0] == texts[1]

    def test_other_seeds_draw_other_texts(self, make):
        large, small = make(), make(seed=5)
        texts = {
            generate(large, PROMPT, COUNT, draft=small, temperature=1.0, seed=s).text
            for s in range(4)
        }
        assert len(texts) == 4

    def test_drafts_do_not_change_what_is_likely(self, make):
        # The likeliest first tokens, drawn many times with and without a draft.
        large, small = make(), make(seed=5)

        def share(draft: Any) -> dict[str, float]:
            drawn = [
                generate(large, PROMPT, 3, draft=draft, temperature=1.0, seed=s).tokens[2].text
                for s in range(120)
            ]
            return {text: drawn.count(text) / len(drawn) for text in set(drawn)}

        plain, drafted = share(None), share(small)
        likely = sorted(plain, key=plain.__getitem__)[-3:]
        for text in likely:  # more than three standard deviations of a difference of shares
            assert drafted.get(text, 0.0) == pytest.approx(plain[text], abs=0.2)

    def test_entropies_are_those_of_the_same_places(self, make):
        large, small = make(), make(seed=5)
        drafted = generate(large, PROMPT, COUNT, draft=small, logprobs=20)
        plain = generate(make(), PROMPT, COUNT, logprobs=20)

        async def measured(tokens: list[Any]) -> list[float]:
            return [await token.entropy_fn("full", 20) for token in tokens]

        assert on_loop(lambda: measured(drafted.tokens)) == pytest.approx(
            on_loop(lambda: measured(plain.tokens)), abs=1e-5
        )


@pytest.mark.parametrize("draft", ["llama", "prompt_lookup"])
@pytest.mark.parametrize("kind", ["lfm2", "gpt"])
def test_other_architectures_write_the_same(make, kind, draft):
    large, notes = make(kind), {}
    text, helper = REPEATED, drafter(make, draft)
    for helping in (helper, None, helper):
        text += generate(large, text, 14, draft=helping, notes=notes).text
    assert text == REPEATED + bare(shared(kind), tokenizer(), encoded(REPEATED), 42)


class TestWhoCannot:
    @pytest.mark.parametrize("kind", ["mamba", "mamba2"])
    @pytest.mark.parametrize("draft", ["llama", "prompt_lookup"])
    def test_a_recurrent_model_writes_without_and_says_so(self, make, kind, draft, caplog):
        large = make(kind)
        with caplog.at_level(logging.WARNING, "glimp_integrations"):
            answer = generate(large, PROMPT, COUNT, draft=drafter(make, draft))
        assert answer.text == bare(shared(kind), tokenizer(), encoded(PROMPT), COUNT)
        [message] = [r.getMessage() for r in caplog.records if "draft" in r.getMessage()]
        assert f"tiny-{kind} cannot take tokens back" in message

    @pytest.mark.parametrize("kind", ["mamba", "mamba2"])
    def test_a_recurrent_model_goes_on_as_before(self, make, kind):
        large, text, notes = make(kind), PROMPT, {}
        for draft in ("prompt_lookup", None, "prompt_lookup", None):
            text += generate(large, text, 6, draft=draft, notes=notes).text
        assert PROMPT + bare(shared(kind), tokenizer(), encoded(PROMPT), 24) == text

    @pytest.mark.parametrize("count", [2, COUNT])
    @pytest.mark.parametrize("kind", ["mamba", "mamba2"])
    def test_with_a_recurrent_drafter_the_text_is_right_or_the_error_is_clear(
        self, make, own_thread, caplog, kind, count
    ):
        large, small = make(), make(kind, seed=5)
        try:
            answer = generate(large, PROMPT, count, draft=small)
        except ConfigError as error:
            assert f"tiny-{kind}" in str(error)  # noqa: PT017 - either way is fine
        else:
            assert answer.text == bare(shared(), tokenizer(), encoded(PROMPT), count)
        # The device's thread has survived it.
        on_loop(lambda: asyncio.wait_for(agenerate(large, "so", 2), 5))
        assert not [r for r in caplog.records if r.levelno >= logging.ERROR]

    @pytest.mark.parametrize("role", ["small", "large"])
    @pytest.mark.parametrize("draft", ["small", "prompt_lookup"])
    def test_a_model_elsewhere_is_named_with_its_role(self, make, role, draft):
        away = ScriptedBackend(["a", "b"], name="far-away")
        models: dict[str, Any] = {"small": make(), "large": make()} | {role: away}
        router = GlimpRouter(**models, temperature=0, draft=draft, max_tokens=3)
        if draft == "prompt_lookup" and role == "small":
            assert router.run("is it?", max_thinking_tokens=5).trace.steps
            return
        with pytest.raises(ConfigError, match=rf"draft='{draft}' needs a {role} .*far-away"):
            router.run("is it?")
        assert away.requests == []

    def test_a_backend_refuses_a_drafter_elsewhere_itself(self, make):
        away = ScriptedBackend(["a", "b"], name="far-away")
        with pytest.raises(ConfigError, match="far-away cannot draft for tiny-llama"):
            generate(make(), PROMPT, 5, draft=away)

    @pytest.mark.parametrize("lossy", ["small", "large"])
    def test_vocabularies_without_a_translation_are_refused(self, make, lossy):
        tokens = {"small": "bytes", "large": "bytes"} | {lossy: "lossy"}
        large = make("llama", tokens["large"], name="big-one")
        small = make("llama", tokens["small"], name="little-one", seed=5)
        with pytest.raises(ConfigError, match="vocabularies of big-one and little-one differ"):
            generate(large, PROMPT, 5, draft=small)

    def test_the_refusal_shows_what_is_lost_and_what_to_do(self, make):
        router = GlimpRouter(
            make("llama", "bytes"),
            make("llama", "lossy"),
            temperature=0,
            draft="small",
            threshold=-1,
        )
        with pytest.raises(ConfigError, match=r"reads 'So 3 .* use draft='prompt_lookup'"):
            router.run("is it?")

    def test_nothing_is_translated_where_nothing_differs(self, make, monkeypatch):
        from glimp_integrations.backends.hf import speculative

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("translated")

        monkeypatch.setattr(speculative, "AssistedCandidateGeneratorDifferentTokenizers", refuse)
        assert generate(make("qwen2"), PROMPT, 5, draft=make("llama")).text

    def test_an_unknown_way_to_draft_is_refused(self, make):
        with pytest.raises(ConfigError, match="draft"):
            GlimpRouter(make(), make(), draft="large")


class TestSideBySide:
    def test_drafted_and_plain_requests_at_once(self, make):
        large, small = make(), make(seed=5)
        asks: list[dict[str, Any]] = [
            {"draft": small},
            {"draft": "prompt_lookup"},
            {},
            {"draft": small},
            {},
        ]

        async def together() -> list[Any]:
            return await asyncio.gather(
                *(agenerate(large, PROMPT, 30, **options) for options in asks),
                agenerate(small, PROMPT, 30),
            )

        *answers, own = on_loop(together)
        expected = bare(shared(), tokenizer(), encoded(PROMPT), 30)
        assert [answer.text for answer in answers] == [expected] * len(asks)
        assert own.text == bare(shared(seed=5), tokenizer(), encoded(PROMPT), 30)


def sliding(make: Any) -> Watched:
    """A model whose windows slide within a few tokens, on a text that has slid already."""
    assert len(encoded(REPEATED)) > WINDOW
    return make("gemma2")


def test_a_window_that_recorded_drafts_is_as_good_as_new(make):
    # The lookup often finds nothing, and then nothing cuts the recorded window back.
    large = sliding(make)
    first = generate(large, REPEATED, 2, notes=(notes := {}))
    second = generate(large, REPEATED + first.text, 6, draft="prompt_lookup", notes=notes)
    third = generate(large, REPEATED + first.text + second.text, 12, notes=notes)
    whole = bare(shared("gemma2"), tokenizer(), encoded(REPEATED), 20)
    assert first.text + second.text + third.text == whole
