"""Tokens are drawn as ``generate`` draws them, and H is what a pencil would say."""

from __future__ import annotations

import asyncio
import copy
import math
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import (
    END,
    PROMPT,
    Answer,
    agenerate,
    bare,
    encoded,
    generate,
    model,
    on_loop,
    shared,
    spelled,
    tokenizer,
)

from examples.policies.margin import Margin
from glimp_integrations import BackendError, GlimpRouter
from glimp_integrations.backends import HuggingFaceBackend
from glimp_integrations.backends.hf import sampling
from glimp_integrations.backends.hf.sampling import entropy_of
from glimp_integrations.method.entropy import estimate

COUNT = 30


def prompt_ids() -> list[int]:
    return encoded(PROMPT)


def configured(**fields: Any) -> Any:
    """A model whose own ``generation_config`` says this."""
    made = model()
    made.generation_config.update(**fields)
    return made


class TestGreedy:
    def test_it_is_what_generate_writes(self, make):
        expected = bare(shared(), tokenizer(), prompt_ids(), COUNT)
        assert generate(make(), PROMPT, COUNT).text == expected

    def test_every_time(self, make):
        backend = make()
        assert (
            generate(backend, PROMPT, COUNT).text == generate(backend, PROMPT, COUNT, seed=7).text
        )

    def test_a_model_that_likes_to_sample_is_asked_greedily(self, make):
        backend = make(configured(do_sample=True, temperature=2.0, top_p=0.5, top_k=3))
        assert generate(backend, PROMPT, COUNT).text == generate(make(), PROMPT, COUNT).text

    @pytest.mark.parametrize("where", ["generation_config", "generation"])
    def test_a_repetition_penalty_holds_for_prompt_and_text(self, make, where):
        penalty = {"repetition_penalty": 1.8}
        own = where == "generation_config"
        backend = make(configured(**penalty)) if own else make(generation=penalty)
        text = generate(backend, PROMPT, COUNT).text
        assert text == bare(shared(), tokenizer(), prompt_ids(), COUNT, **penalty)
        assert text != generate(make(), PROMPT, COUNT).text

    def test_what_the_caller_gives_goes_before_the_models_own(self, make):
        backend = make(configured(repetition_penalty=1.8), generation={"repetition_penalty": 1.0})
        assert generate(backend, PROMPT, COUNT).text == generate(make(), PROMPT, COUNT).text

    def test_forbidden_tokens_are_not_written(self, make):
        plain = generate(make(), PROMPT, COUNT).text
        letter = tokenizer().encode(plain)[2]
        backend = make(generation={"suppress_tokens": [letter]})
        text = generate(backend, PROMPT, COUNT).text
        assert text == bare(shared(), tokenizer(), prompt_ids(), COUNT, suppress_tokens=[letter])
        assert text != plain


class TestSampled:
    def test_a_seed_draws_the_same_text_every_time(self, make):
        backend = make()
        first = generate(backend, PROMPT, COUNT, temperature=0.9, seed=3).text
        generate(backend, PROMPT, 5, temperature=0.9, seed=99)
        assert generate(backend, PROMPT, COUNT, temperature=0.9, seed=3).text == first

    def test_other_seeds_draw_other_texts(self, make):
        backend = make()
        texts = {generate(backend, PROMPT, COUNT, temperature=1.0, seed=s).text for s in range(5)}
        assert len(texts) == 5

    def test_without_a_seed_every_time_is_another(self, make):
        backend = make()
        texts = {generate(backend, PROMPT, COUNT, temperature=1.0).text for _ in range(5)}
        assert len(texts) == 5

    def test_the_programs_own_random_numbers_are_left_alone(self, make):
        backend = make()
        torch.manual_seed(1)
        expected = torch.rand(3).tolist()
        torch.manual_seed(1)
        generate(backend, PROMPT, 5, temperature=1.0, seed=2)
        generate(backend, PROMPT, 5, temperature=1.0)
        assert torch.rand(3).tolist() == expected

    @pytest.mark.parametrize(
        "options",
        [
            {"temperature": 0.7, "top_p": 1.0},
            {"temperature": 1.5, "top_p": 1.0},
            {"temperature": 1.0, "top_p": 0.6},
            {"temperature": 1.3, "top_p": 0.9, "top_k": 4},
            {"temperature": 1.3, "top_p": 1.0, "repetition_penalty": 2.0},
            {"temperature": 1.3, "top_p": 1.0, "min_p": 0.2},
        ],
        ids=lambda o: ", ".join(f"{k}={v}" for k, v in o.items()),
    )
    def test_it_is_what_generate_draws_with_these_numbers(self, make, options):
        more = {k: v for k, v in options.items() if k not in ("temperature", "top_p")}
        request = {"temperature": options["temperature"], "top_p": options["top_p"], "seed": 5}
        text = generate(make(generation=more), PROMPT, COUNT, **request).text
        state = torch.random.get_rng_state()
        torch.manual_seed(5)
        expected = bare(shared(), tokenizer(), prompt_ids(), COUNT, do_sample=True, **options)
        torch.random.set_rng_state(state)
        assert text == expected

    def test_the_models_own_fields_hold_too(self, make):
        one = make(configured(top_k=1))
        assert generate(one, PROMPT, COUNT, temperature=1.0, seed=1).text == (
            generate(make(), PROMPT, COUNT).text
        )

    def test_the_requests_temperature_goes_before_the_models(self, make):
        hot = make(configured(do_sample=True, temperature=50.0, top_p=1.0))
        same = {"temperature": 0.8, "top_p": 0.9, "seed": 4}
        assert (
            generate(hot, PROMPT, COUNT, **same).text
            == generate(make(), PROMPT, COUNT, **same).text
        )

    def test_the_likeliest_of_one_is_greedy(self, make):
        greedy = generate(make(), PROMPT, COUNT).text
        for narrow in ({"generation": {"top_k": 1}}, {}):
            nucleus = 1.0 if narrow else 1e-6
            answer = generate(make(**narrow), PROMPT, COUNT, temperature=1.0, top_p=nucleus, seed=8)
            assert answer.text == greedy

    def test_temperature_spreads(self, make):
        backend = make()

        def distinct(temperature: float) -> int:
            return len(
                {
                    generate(backend, PROMPT, 1, temperature=temperature, seed=s).text
                    for s in range(30)
                }
            )

        assert distinct(0.05) < distinct(1.0) < distinct(20.0)

    def test_requests_side_by_side_do_not_draw_each_others_numbers(self, make):
        backend = make()
        alone = [generate(backend, PROMPT, COUNT, temperature=1.0, seed=s).text for s in range(3)]

        async def together() -> list[Answer]:
            return await asyncio.gather(
                *(agenerate(backend, PROMPT, COUNT, temperature=1.0, seed=s) for s in range(3)),
                agenerate(backend, PROMPT, COUNT, temperature=1.0),
                agenerate(backend, PROMPT, COUNT),
            )

        texts = [answer.text for answer in on_loop(together)]
        assert texts[:3] == alone
        assert texts[4] == generate(backend, PROMPT, COUNT).text

    def test_other_settings_side_by_side_stay_apart(self, make):
        backend = make()
        options = [
            {"temperature": 0.0},
            {"temperature": 0.5, "seed": 1},
            {"temperature": 2.0, "seed": 1},
            {"temperature": 2.0, "top_p": 0.3, "seed": 1},
        ]
        alone = [generate(backend, PROMPT, COUNT, **o).text for o in options]

        async def together() -> list[Answer]:
            return await asyncio.gather(*(agenerate(backend, PROMPT, COUNT, **o) for o in options))

        assert [answer.text for answer in on_loop(together)] == alone


class TestTheEnd:
    def ending(self, make: Any, where: str, ends: Any) -> HuggingFaceBackend:
        if where == "generation":
            return make(generation={"eos_token_id": ends})
        if where == "generation_config":
            return make(configured(eos_token_id=ends))
        made = configured(eos_token_id=None)
        tokens = copy.deepcopy(tokenizer())
        tokens.eos_token = tokens.convert_ids_to_tokens(ends)
        return make(made, tokens)

    @pytest.mark.parametrize(
        ("where", "several"),
        [
            ("generation_config", True),
            ("generation_config", False),
            ("generation", True),
            ("generation", False),
            ("tokenizer", False),
        ],
    )
    def test_any_of_its_ids_ends_the_text(self, make, where, several):
        written = generate(make(), PROMPT, COUNT).tokens
        [last] = tokenizer().encode(written[6].text)[-1:]
        before = [t.text for t in written].index(written[6].text)
        backend = self.ending(make, where, [END, last] if several else last)
        answer = generate(backend, PROMPT, COUNT, logprobs=5)
        assert [t.text for t in answer.tokens] == [t.text for t in written[:before]] + [""]
        assert answer.report.ended == "eos"
        assert answer.report.completion_tokens == before + 1

    def test_the_end_has_a_distribution_too(self, make):
        backend = make(model(ends=100.0))
        answer = generate(backend, PROMPT, 5, logprobs=5)
        assert [t.text for t in answer.tokens] == [""]
        assert 0 <= on_loop(lambda: answer.tokens[0].entropy_fn("full", 5)) < 1e-6

    def test_the_limit_is_another_reason(self, make):
        answer = generate(make(), PROMPT, 4)
        assert (answer.report.ended, len(answer.tokens)) == ("length", 4)
        assert answer.report.completion_tokens == 4


# -- H ---------------------------------------------------------------------------------------


def by_hand(logits: list[float], estimator: str, k: int) -> float:
    """H in nats, from the definition."""
    highest = max(logits)
    weights = sorted((math.exp(value - highest) for value in logits), reverse=True)
    total = math.fsum(weights)
    probabilities = [weight / total for weight in weights]
    if estimator != "full":
        probabilities, rest = probabilities[:k], math.fsum(probabilities[k:])
        if estimator == "topk_renorm":
            probabilities = [p / math.fsum(probabilities) for p in probabilities]
        else:
            probabilities.append(rest)
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0)


vectors = st.lists(st.floats(-20, 20), min_size=1, max_size=30)


class TestEntropy:
    @settings(deadline=None)
    @given(
        vectors,
        st.sampled_from(["full", "topk_renorm", "topk_other"]),
        st.integers(1, 40),
        st.booleans(),
    )
    def test_it_is_what_the_definition_says(self, logits, estimator, k, masked):
        if masked:
            logits = [*logits, -math.inf, -math.inf]
        entropy = entropy_of(torch.tensor(logits), estimator, k)
        assert entropy == pytest.approx(by_hand(logits, estimator, k), abs=1e-4)
        assert 0 <= entropy <= math.log(len(logits)) + 1e-6

    @pytest.mark.parametrize("estimator", ["full", "topk_renorm", "topk_other"])
    def test_sure_is_zero(self, estimator):
        sure = torch.tensor([-math.inf, 3.0, -math.inf, -math.inf])
        assert entropy_of(sure, estimator, 3) == 0.0
        assert 0.0 <= entropy_of(torch.tensor([0.0, 500.0, 0.0]), estimator, 3) < 1e-9

    def test_equally_likely_is_the_logarithm(self):
        assert entropy_of(torch.zeros(50), "full", 5) == pytest.approx(math.log(50), abs=1e-5)
        assert entropy_of(torch.zeros(50), "topk_renorm", 5) == pytest.approx(math.log(5))

    def test_adding_to_all_logits_changes_nothing(self):
        logits = torch.randn(40)
        shifted = entropy_of(logits + 30, "full", 5)
        assert shifted == pytest.approx(entropy_of(logits, "full", 5), abs=1e-4)

    def test_half_precision_is_computed_in_single(self):
        logits = torch.randn(2000, generator=torch.Generator().manual_seed(0)).bfloat16()
        expected = by_hand(logits.float().tolist(), "full", 5)
        assert entropy_of(logits, "full", 5) == pytest.approx(expected, abs=1e-3)

    def test_it_is_of_the_models_own_distribution_not_of_the_drawn_one(self, make):
        backend = make(generation={"top_k": 2, "repetition_penalty": 2.0})
        answer = generate(backend, PROMPT, 5, temperature=0.3, seed=1, logprobs=20)
        plain = generate(make(), PROMPT, 1, logprobs=20)

        async def first(answer: Answer) -> float:
            return await answer.tokens[0].entropy_fn("full", 20)

        assert on_loop(lambda: first(answer)) == on_loop(lambda: first(plain))

    @pytest.mark.parametrize("kind", ["llama", "gemma2", "mamba"])
    def test_it_can_be_asked_for_after_the_text_went_on(self, make, kind):
        backend = make(kind)
        answer = generate(backend, PROMPT, 10, logprobs=20)
        generate(backend, PROMPT + "so", 5)

        async def measured(estimator: Any) -> list[float]:
            return [await token.entropy_fn(estimator, 7) for token in answer.tokens]

        ids = prompt_ids()
        tail = bare(shared(kind), tokenizer(), ids, 10)
        assert tail == answer.text
        written = shared(kind).generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)).long(),
            do_sample=False,
            max_new_tokens=10,
        )
        logits = shared(kind)(written).logits[0, len(ids) - 1 : -1].float()
        for estimator in ("full", "topk_renorm", "topk_other"):
            expected = [by_hand(row.tolist(), estimator, 7) for row in logits]
            assert on_loop(lambda e=estimator: measured(e)) == pytest.approx(expected, abs=1e-4)

    def test_there_is_none_where_none_was_asked_for(self, make):
        for token in generate(make(), PROMPT, 3).tokens:
            assert token.entropy_fn is token.logprobs_fn is token.sure is None


class TestProbabilities:
    def test_the_likeliest_are_those_that_h_is_computed_from(self, make):
        answer = generate(make(), PROMPT, 5, logprobs=7, sure=True)

        async def both(token: Any) -> tuple[Any, float]:
            return await token.logprobs_fn(7), await token.entropy_fn("topk_other", 7)

        for token in answer.tokens:
            logprobs, h = on_loop(lambda t=token: both(t))
            assert len(logprobs) == 7 and list(logprobs) == sorted(logprobs, reverse=True)
            assert estimate(logprobs, "topk_other") == pytest.approx(h, abs=1e-6)
            assert token.sure == (logprobs[0] > math.log(0.95))

    def test_a_row_is_sure_above_95_percent(self):
        logits = torch.log(torch.tensor([[0.96, 0.04, 0.0], [0.94, 0.03, 0.03], [1.0, 0.0, 0.0]]))
        assert sampling.sure_rows(logits + 7) == [True, False, True]

    def test_the_end_is_sure_too(self, make):
        (end,) = generate(make(model(ends=100.0)), PROMPT, 5, logprobs=5, sure=True).tokens
        assert end.sure is True

    @pytest.mark.parametrize("strategy", ["in_process", "fused"])
    def test_policies_get_them(self, make, strategy):
        router = GlimpRouter(
            make(),
            make(),
            policy=Margin(0.2),
            strategy=strategy,
            temperature=0,
            think_tags=False,
            max_tokens=60,
            max_step_tokens=8,
        )
        trace = router.run("say").trace
        assert {step.author for step in trace.steps} == {"small", "large"}
        assert all((s.signal < 0.2) == (s.author == "large") for s in trace.steps)


class TestPicking:
    def samplers(self, temperature: float, count: int) -> list[sampling.Sampler]:
        how = sampling.SamplingOptions(temperature, 1.0, 1, {})
        return [sampling.Sampler(shared(), prompt_ids(), 5, how) for _ in range(count)]

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_row_of_nan_is_reported_and_spoils_no_other(self, temperature, bad):
        logits = torch.full((3, 50), -100.0)
        logits[:, 7] = 100.0
        logits[1, 30] = bad
        assert sampling.pick(logits, self.samplers(temperature, 3)) == [7, None, 7]

    def test_a_row_where_nothing_is_possible_is_no_numbers(self):
        logits = torch.full((1, 50), -math.inf)
        assert sampling.pick(logits, self.samplers(0.0, 1)) == [None]

    def test_forbidden_tokens_alone_are_fine(self):
        logits = torch.full((1, 50), -math.inf)
        logits[0, 9] = 0.0
        assert sampling.pick(logits, self.samplers(0.0, 1)) == [9]


def test_measuring_a_closed_model_fails_and_does_not_hang(make, own_thread):
    backend = make()
    token = generate(backend, PROMPT, 1, logprobs=5).tokens[0]
    thread = backend._engine.runner.thread._thread
    backend.close()
    thread.join(2)

    async def measured() -> float:
        return await asyncio.wait_for(token.entropy_fn("full", 5), 2)

    # The logits are still there: either answer will do, but it must be one.
    with suppress(BackendError):
        assert on_loop(measured) >= 0


class TestSettingsOfTheRequest:
    """``top_k``, ``min_p`` and the penalties, as settings and not as the backend's options."""

    @pytest.mark.parametrize(
        "fields",
        [
            {"top_k": 3},
            {"min_p": 0.3},
            {"repetition_penalty": 1.7},
            {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.2},
        ],
        ids=str,
    )
    def test_it_is_what_generate_draws_with_these_numbers(self, make, fields):
        request = {"temperature": 1.3, "top_p": 1.0, "seed": 5}
        text = generate(make(), PROMPT, COUNT, **request, **fields).text
        state = torch.random.get_rng_state()
        torch.manual_seed(5)
        options = {"do_sample": True, "temperature": 1.3, "top_p": 1.0, **fields}
        expected = bare(shared(), tokenizer(), prompt_ids(), COUNT, **options)
        torch.random.set_rng_state(state)
        assert text == expected
        assert text != generate(make(), PROMPT, COUNT, **request).text

    def test_they_go_before_the_backends_and_the_models_own(self, make):
        backend = make(configured(top_k=1), generation={"repetition_penalty": 1.8})
        request = {"temperature": 1.0, "seed": 2}
        own = generate(backend, PROMPT, COUNT, top_k=50, repetition_penalty=1.0, **request).text
        assert own == generate(make(), PROMPT, COUNT, **request).text

    def test_greedy_text_knows_no_top_k_and_min_p(self, make):
        text = generate(make(), PROMPT, COUNT, top_k=3, min_p=0.9).text
        assert text == generate(make(), PROMPT, COUNT).text

    def test_a_repetition_penalty_changes_greedy_text(self, make):
        text = generate(make(), PROMPT, COUNT, repetition_penalty=1.8).text
        assert text == bare(shared(), tokenizer(), prompt_ids(), COUNT, repetition_penalty=1.8)

    def test_a_presence_penalty_is_taken_off_what_was_written(self, make):
        # By hand: greedy, with 2 off every token that was generated.
        ids, written = prompt_ids(), []
        for _ in range(COUNT):
            logits = shared()(torch.tensor([[*ids, *written]])).logits[0, -1].clone()
            logits[sorted(set(written))] -= 2.0
            written.append(int(logits.argmax()))
        answer = generate(make(), PROMPT, COUNT, presence_penalty=2.0)
        assert answer.text == spelled(tokenizer(), ids, written[: len(answer.tokens)])
        assert answer.text != generate(make(), PROMPT, COUNT).text

    def test_the_prompt_does_not_count_for_presence(self, make):
        one = generate(make(), PROMPT, 1, presence_penalty=2.0)
        assert one.text == generate(make(), PROMPT, 1).text

    def test_shares_of_the_first_token_are_those_of_the_likeliest_five(self, make):
        logits = shared()(torch.tensor([prompt_ids()])).logits[0, -1].double()
        kept = logits.softmax(-1).topk(5)
        backend = make()
        drawn = [
            generate(backend, PROMPT, 1, temperature=1.0, top_k=5, seed=s).text for s in range(300)
        ]
        shares = {
            spelled(tokenizer(), prompt_ids(), [int(token)]): float(p / kept.values.sum())
            for token, p in zip(kept.indices, kept.values, strict=True)
        }
        assert set(drawn) <= set(shares)
        for text, share in shares.items():
            spread = 4.5 * math.sqrt(share * (1 - share) / len(drawn))
            assert abs(drawn.count(text) / len(drawn) - share) <= spread + 1e-9

    def test_h_is_of_the_models_own_distribution(self, make):
        more = {"top_k": 2, "min_p": 0.5, "presence_penalty": 2.0, "repetition_penalty": 1.9}

        async def entropies(**fields: Any) -> list[float]:
            answer = await agenerate(
                make(), PROMPT, 1, logprobs=20, temperature=0.5, seed=1, **fields
            )
            return [await token.entropy_fn("full", 20) for token in answer.tokens]

        assert on_loop(lambda: entropies(**more)) == on_loop(entropies)

    @pytest.mark.parametrize("draft", ["prompt_lookup", "llama"])
    @pytest.mark.parametrize("chosen", [{}, {"temperature": 1.2, "top_k": 1, "min_p": 0.1}])
    def test_drafts_change_nothing(self, make, draft, chosen):
        # Of one token, the drawn one is certain: then sampled texts can be compared, too.
        fields = {"presence_penalty": 1.5, "repetition_penalty": 1.1, "seed": 3, **chosen}
        helper = draft if draft == "prompt_lookup" else make(draft, seed=5)
        plain = generate(make(), PROMPT, COUNT, **fields).text
        assert generate(make(), PROMPT, COUNT, draft=helper, **fields).text == plain
        assert plain != generate(make(), PROMPT, COUNT).text

    @pytest.mark.parametrize("draft", ["prompt_lookup", "llama"])
    def test_drafted_tokens_are_drawn_as_often(self, make, draft):
        fields = {"temperature": 1.2, "top_k": 4, "presence_penalty": 1.0}
        helper = draft if draft == "prompt_lookup" else make(draft, seed=5)
        shares = []
        for helping in (None, helper):
            backend = make()
            drawn = [
                generate(backend, PROMPT, 4, seed=s, draft=helping, **fields).tokens[-1].text
                for s in range(250)
            ]
            shares.append({text: drawn.count(text) / len(drawn) for text in set(drawn)})
        for text in shares[0] | shares[1]:
            one, other = (share.get(text, 0.0) for share in shares)
            mean = (one + other) / 2
            assert abs(one - other) <= 4.5 * math.sqrt(2 * mean * (1 - mean) / 250) + 1e-9
