"""Models of this process keep to a schema, whatever their weights would rather say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from tiny import END, PROMPT, Answer, Watched, agenerate, generate, on_loop, shared, tokenizer

from glimp_integrations import ConfigError, GlimpRouter
from glimp_integrations.backends.hf.grammar import GrammarMatcher, make_tokenizer
from glimp_integrations.output import json_schema
from glimp_integrations.output.spec import OutputSpec

Make = Callable[..., Watched]
COUNT = 300
CALL_LIMITS = 60.0
CITY = json_schema.checked(
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "days": {"type": "integer", "minimum": 1, "maximum": 99},
            "near": {"type": "array", "items": {"enum": ["sea", "wood"]}, "maxItems": 3},
        },
        "required": ["city", "days", "near"],
    },
    what="the answer's schema",
)
CHOICE = json_schema.checked({"enum": ["yes", "no", 7, None]}, what="a choice")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}},
            "required": ["city"],
        },
    },
}


def is_city(text: str) -> bool:
    """Whether a text is JSON of the schema and nothing else."""
    city = json.loads(text)
    assert list(city) == ["city", "days", "near"]
    assert isinstance(city["city"], str) and len(city["city"]) <= 12
    assert isinstance(city["days"], int) and 1 <= city["days"] <= 99
    assert len(city["near"]) <= 3 and set(city["near"]) <= {"sea", "wood"}
    return True


def constrained(backend: Watched, schema: Any = CITY, **options: Any) -> Answer:
    return generate(backend, PROMPT, COUNT, schema=schema, **options)


# -- texts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mamba"])
def test_a_greedy_text_is_json_of_the_schema_and_ends_after_it(make: Make, kind: str) -> None:
    answer = constrained(make(kind, "bytes"))
    assert is_city(answer.text)
    assert answer.report.ended == "eos"
    assert answer.tokens[-1].text == ""
    assert answer.report.completion_tokens == len(answer.tokens) < COUNT
    assert answer.text not in generate(make(kind, "bytes"), PROMPT, COUNT).text


@pytest.mark.parametrize("tokens", ["bytes", "always", "first", "newlines"])
def test_sampled_texts_are_json_of_the_schema_and_differ(make: Make, tokens: str) -> None:
    backend = make("llama", tokens)
    answers = [constrained(backend, temperature=1.5, seed=seed) for seed in range(5)]
    assert all(is_city(answer.text) for answer in answers)
    assert {answer.report.ended for answer in answers} == {"eos"}
    assert len({answer.text for answer in answers}) > 2


def test_the_same_seed_draws_the_same_json(make: Make) -> None:
    backend = make("llama", "bytes")
    first = constrained(backend, temperature=1.0, seed=3).text
    assert constrained(backend, temperature=1.0, seed=3).text == first


def test_the_models_own_sampling_fields_hold_within_the_schema(make: Make) -> None:
    backend = make("llama", "bytes", generation={"top_k": 3, "repetition_penalty": 1.5})
    answers = [constrained(backend, temperature=1.0, seed=seed) for seed in range(4)]
    assert all(is_city(answer.text) for answer in answers)


def test_a_choice_of_values(make: Make) -> None:
    backend = make("llama", "bytes")
    values = {
        json.loads(constrained(backend, CHOICE, temperature=20.0, seed=seed).text)
        for seed in range(30)
    }
    assert len(values) > 1
    assert values <= {"yes", "no", 7, None}


def test_the_text_is_the_likeliest_that_the_schema_allows(make: Make) -> None:
    text = constrained(make("llama", "bytes"), CHOICE).text
    tokens, values = tokenizer("bytes"), ('"yes"', '"no"', "7", "null")
    allowed = {
        number: begin
        for number in range(len(tokens))
        if (begin := tokens.decode([number])) and any(v.startswith(begin) for v in values)
    }
    ids = torch.tensor([tiny.encoded(PROMPT, "bytes")])
    logits = shared("llama", "bytes")(ids).logits[0, -1]
    likeliest = max(allowed, key=lambda number: float(logits[number]))
    assert len(allowed) > 2
    assert text.startswith(allowed[likeliest])


def test_it_goes_on_from_the_middle_of_a_text(make: Make) -> None:
    backend = make("llama", "bytes")
    prompt = f"{PROMPT}\n```json\n"
    assert is_city(generate(backend, prompt, COUNT, schema=CITY).text)


def test_the_budget_cuts_json_too(make: Make) -> None:
    answer = generate(make("llama", "bytes"), PROMPT, 3, schema=CITY)
    assert (answer.report.ended, len(answer.tokens)) == ("length", 3)
    assert answer.text[0] == "{" and "}" not in answer.text


# -- side by side ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bound_and_free_requests_side_by_side_are_what_each_is_alone(
    make: Make, kind: str, temperature: float
) -> None:
    other = "we add seven to nine and "
    requests: list[tuple[str, int, dict[str, Any]]] = [
        (PROMPT, COUNT, {"schema": CITY, "seed": 1}),
        (PROMPT, 60, {"seed": 2}),
        (other, COUNT, {"schema": CHOICE, "seed": 3}),
        (other, COUNT, {"schema": CITY, "seed": 4}),
    ]
    alone = [
        generate(make(kind, "bytes"), prompt, count, temperature=temperature, **more).text
        for prompt, count, more in requests
    ]
    backend = make(kind, "bytes")

    async def together() -> list[Answer]:
        work = asyncio.gather(
            *(
                agenerate(backend, prompt, count, temperature=temperature, **more)
                for prompt, count, more in requests
            )
        )
        return await asyncio.wait_for(work, CALL_LIMITS)

    with tiny.passes(shared(kind, "bytes")) as seen:
        answers = on_loop(together)
    assert [answer.text for answer in answers] == alone
    assert max(seen.rows) > 1, "they shared passes"
    assert is_city(answers[0].text) and is_city(answers[3].text)
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(answers[1].text)


def test_a_constrained_request_changes_no_later_one(make: Make) -> None:
    backend = make("llama", "bytes")
    free = generate(backend, PROMPT, 40).text
    constrained(backend)
    constrained(backend, CHOICE)
    assert generate(backend, PROMPT, 40).text == free
    assert generate(make("llama", "bytes"), PROMPT, 40).text == free


def test_h_is_of_the_models_own_distribution(make: Make) -> None:
    backend = make("llama", "bytes")
    free = generate(backend, PROMPT, 1, logprobs=20)
    kept = constrained(backend, logprobs=20)

    async def first(answer: Answer) -> float:
        return await answer.tokens[0].entropy_fn("full", 20)  # type: ignore[misc]

    assert on_loop(lambda: first(kept)) == on_loop(lambda: first(free)) > 0


# -- the mask --------------------------------------------------------------------------------


def test_ids_without_a_token_are_never_drawn() -> None:
    tokens = tokenizer("bytes")
    guide = make_tokenizer(tokens, len(tokens), [END], "tiny")
    for width in (len(tokens), len(tokens) + 13):  # logits are often padded
        masked = GrammarMatcher(guide, CITY).mask(torch.zeros(1, width))
        open_ids = {i for i, t in enumerate(masked[0].tolist()) if t == 0.0}
        assert open_ids
        assert all('{"city": "'.startswith(tokens.decode([i])) for i in open_ids)
    assert masked.shape == (1, width)


def test_after_the_json_only_the_end_may_come() -> None:
    tokens = tokenizer("bytes")
    matcher = GrammarMatcher(make_tokenizer(tokens, len(tokens), [END], "tiny"), CHOICE)
    for token in tokens.encode('"yes"'):
        assert matcher.mask(torch.zeros(1, len(tokens)))[0, token] == 0.0
        matcher.append(token)
    masked = matcher.mask(torch.zeros(1, len(tokens)))[0]
    assert [i for i, value in enumerate(masked.tolist()) if value == 0.0] == [END]


def test_scores_stay_what_they_were_where_they_may() -> None:
    tokens = tokenizer("bytes")
    scores = torch.randn(1, len(tokens), dtype=torch.float64)
    before = scores.clone()
    masked = GrammarMatcher(make_tokenizer(tokens, len(tokens), [END], "tiny"), CITY).mask(scores)
    kept = ~torch.isneginf(masked)
    assert torch.equal(masked[kept], scores[kept])
    assert torch.equal(scores, before), "the model's own logits are left alone"


# -- mistakes --------------------------------------------------------------------------------


class Slow:
    """A tokenizer whose rules are Python, as far as anybody can tell."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)


def test_a_slow_tokenizer_is_an_error_that_names_model_and_remedy(make: Make) -> None:
    backend = make(shared("llama", "bytes"), Slow(tokenizer("bytes")), name="slowpoke")
    free = generate(backend, PROMPT, 10).text
    with pytest.raises(ConfigError, match=r"slowpoke has a tokenizer .*fast tokenizer"):
        constrained(backend)
    assert generate(backend, PROMPT, 10).text == free, "it goes on without schemas"


# -- the router ------------------------------------------------------------------------------


def pair(make: Make, **options: Any) -> GlimpRouter:
    small, large = make("llama", "bytes", seed=1), make("llama", "bytes", seed=2)
    limits = {"max_thinking_tokens": 40, "max_tokens": COUNT, "temperature": 0.0}
    return GlimpRouter(small, large, **{**limits, **options})


@pytest.mark.parametrize("author", ["small", "large"])
def test_an_answer_follows_its_schema_after_free_reasoning(make: Make, author: str) -> None:
    router = pair(make, answer_by=author)
    result = router.run("Where to?", OutputSpec(schema=CITY))
    assert is_city(result.answer)
    assert result.reasoning and result.trace.answer_stop == "eos"
    requests = {"small": router.small.requests, "large": router.large.requests}
    assert [r.schema for r in requests[author]][-1] == CITY
    others = [r for role, sent in requests.items() for r in sent if role != author]
    assert all(request.schema is None for request in others)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_demanded_call_parses_whatever_the_model_is_like(make: Make, temperature: float) -> None:
    router = pair(make, temperature=temperature, seed=3)
    result = router.run("Where to?", OutputSpec(tools=[WEATHER], tool_choice="any"))
    (call,) = result.tool_calls
    assert call.name == "get_weather"
    assert list(call.arguments) == ["city"] and len(call.arguments["city"]) <= 8
    assert (result.answer, result.invalid_tool_calls) == ("", [])


def test_drafts_are_left_out_of_a_bound_answer(make: Make) -> None:
    plain = pair(make).run("Where to?", OutputSpec(schema=CITY))
    drafted = pair(make, draft="prompt_lookup").run("Where to?", OutputSpec(schema=CITY))
    assert drafted.answer == plain.answer
    assert is_city(drafted.answer)
