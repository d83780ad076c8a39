"""Real weights, from their GGUF files: two tokenizers, one chain of thought."""

import functools
import itertools
import statistics
from collections.abc import Iterator
from contextlib import aclosing, closing

import gguf
import pytest

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends import (
    Backend,
    HuggingFaceBackend,
    LlamaCppBackend,
    Report,
    Request,
)
from glimp_integrations.method.entropy import Estimator, estimate
from glimp_integrations.weights import SMALL, TINY, WeightFile, ensure

SLOW = pytest.mark.slow  # loading the 0.5B alone takes most of a minute
QUESTION = (
    "A farmer has 12 cows, buys 5 more and then sells 3. How many cows are left? "
    "Think step by step."
)


@pytest.fixture(scope="module", autouse=True)
def each_file_is_parsed_once() -> Iterator[None]:
    """transformers parses it for the configuration, the tokenizer and the weights: seconds each."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
        yield


@pytest.fixture(scope="module")
def smol() -> Iterator[HuggingFaceBackend]:
    backend = HuggingFaceBackend(ensure(TINY))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def qwen() -> Iterator[HuggingFaceBackend]:
    file = ensure(SMALL)
    backend = HuggingFaceBackend(str(file.parent), gguf_file=file.name, dtype="bfloat16")
    yield backend
    backend.close()


def count_tokens(backend: HuggingFaceBackend) -> list[int]:
    """Counts ids on their way into the model itself, beside the backend's own book-keeping."""
    seen: list[int] = []
    io_loop.call(backend.capabilities)
    assert backend._engine is not None
    backend._engine.runner.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return seen


@SLOW
def test_two_tokenizers_write_one_chain_and_no_token_is_computed_twice(
    smol: HuggingFaceBackend, qwen: HuggingFaceBackend
) -> None:
    seen = {"small": count_tokens(smol), "large": count_tokens(qwen)}
    router = GlimpRouter(smol, qwen, temperature=0, threshold=2.2, max_tokens=200)
    answer = router.run(QUESTION)
    trace, usage = answer.trace, answer.usage
    authors = [step.author for step in trace.steps]
    assert trace.strategy == "in_process"
    assert {"small", "large"} <= set(authors)
    assert "".join(step.text for step in trace.steps) == answer.reasoning + answer.answer
    assert all(step.estimator == "full" for step in trace.steps)
    hand_overs = sum(a != b for a, b in itertools.pairwise(authors)) + 1
    for role in ("small", "large"):
        spent = getattr(usage, role)
        # What a model computed: what it had not read when it was asked, and what it then wrote,
        # but for the last token of a request, which nobody needs to read.
        read = spent.input_tokens - spent.cached_tokens
        assert sum(seen[role]) == read + spent.output_tokens - spent.requests
        # What it had to know: the longest text it was asked to continue, and what it wrote.
        backend = getattr(router, role)
        whole = length(backend, answer.reasoning + answer.answer)
        assert sum(seen[role]) <= whole + hand_overs, role


def length(backend: HuggingFaceBackend, reply: str) -> int:
    """Tokens of the question and a reply, as the model itself would encode them."""
    prompt = io_loop.call(lambda: backend.render([{"role": "user", "content": QUESTION}])).text
    assert backend._engine is not None
    return len(backend._engine.vocabulary.encode(prompt + reply))


@pytest.mark.parametrize("local", ["small", "large"])
def test_local_model_and_server_route_together(smol: HuggingFaceBackend, local: str) -> None:
    with closing(LlamaCppBackend(ensure(TINY), context_window=4096)) as served:
        pair = (smol, served) if local == "small" else (served, smol)
        router = GlimpRouter(*pair, temperature=0, threshold=2.2, max_tokens=100)
        trace = router.run(QUESTION).trace
    assert {step.author for step in trace.steps} == {"small", "large"}
    if local == "small":
        assert trace.strategy == "in_process"
        assert {step.estimator for step in trace.steps} == {"full"}
    else:
        assert trace.strategy == "fused"
        assert {step.estimator for step in trace.steps} == {"topk_renorm@20"}


@SLOW
def test_short_form_serves_langchain() -> None:
    from langchain_glimp import ChatGlimpRouter

    form = f"hf:{ensure(TINY)}"
    llm = ChatGlimpRouter(small=form, large=form, temperature=0, threshold=0.5, max_tokens=40)
    assert llm.router.small is llm.router.large
    reply = llm.invoke("Name three colours.")
    trace = reply.response_metadata["glimprouter"]
    assert trace["strategy"] == "in_process"
    assert sum(step["tokens"] for step in trace["steps"]) <= 40
    assert "".join(step["text"] for step in trace["steps"]).endswith(reply.text)
    llm.router.close()


@pytest.mark.parametrize(
    ("draft", "drafter"), [("prompt_lookup", "smol"), pytest.param("small", "qwen", marks=SLOW)]
)
def test_drafts_do_not_change_the_text(
    smol: HuggingFaceBackend, draft: str, drafter: str, request: pytest.FixtureRequest
) -> None:
    # In float32 a pass over several places rounds as one over a single place does, nearly
    # always; bfloat16 does not, which is why the larger model drafts here.
    small = request.getfixturevalue(drafter)
    router = GlimpRouter(small, smol, temperature=0, threshold=-1.0, max_tokens=48)
    question = "Repeat this three times: the quick brown fox jumps over the lazy dog."
    plain = router.run(question)
    before = smol.computed_tokens
    drafted = router.run(question, draft=draft)
    assert drafted.answer == plain.answer
    assert smol.computed_tokens > before


def test_text_is_split_into_the_tokens_of_llama_cpp(smol: HuggingFaceBackend) -> None:
    io_loop.call(smol.capabilities)
    assert smol._engine is not None
    encode = smol._engine.vocabulary.encode
    with closing(LlamaCppBackend(ensure(TINY), parallel=1, context_window=512)) as served:
        for text in (
            "So:\n\n1. It has 12 cows.\n\n2. It isn't 345.\n\nThus 9",
            "x = 1234.5 + 2e10  # \u00bd \u2163 \u00b2x",
            "a \n \n  9\tb\n\n\nc",
        ):
            assert encode(text) == io_loop.call(lambda t=text: served.tokenize(t)), text


@SLOW
def test_entropy_of_the_same_weights_agrees_with_llama_cpp(smol: HuggingFaceBackend) -> None:
    # So unsure a model puts much of its mass behind the 20 likeliest tokens. What must agree is
    # the same estimator; H of the whole vocabulary must not be below it. A blank line at the end
    # of a text is one token of SmolLM2's or two, depending on what is to follow, and the engines
    # choose differently there. After a step's first words both read the same tokens.
    below, _, same = compare_entropies(TINY, smol, boundaries=30, after_words=2)
    assert below >= -0.05
    assert same > 0.98


@SLOW
def test_entropies_of_half_a_billion_weights_agree_with_llama_cpp() -> None:
    local = HuggingFaceBackend(ensure(SMALL))
    below, whole, same = compare_entropies(SMALL, local, boundaries=200)
    local.close()
    assert below >= -0.05
    assert whole > 0.98
    assert same > 0.98


def compare_entropies(
    file: WeightFile, local: HuggingFaceBackend, boundaries: int, after_words: int = 0
) -> tuple[float, float, float]:
    """H at the boundaries of chains that llama.cpp writes: full here, of the top 20 there.

    Args:
        file: The weights of both.
        local: What transformers computes with.
        boundaries: How many places are compared.
        after_words: Compare after so many words of a step instead of before it.

    Returns:
        The smallest difference in nats, the correlation of full with top 20, and that of the
        top 20 of both.
    """
    import reasoning_gym

    problems = reasoning_gym.create_dataset("gsm_symbolic", size=100, seed=7)
    pairs: list[tuple[float, float]] = []
    restricted: list[float] = []
    with closing(LlamaCppBackend(ensure(file), parallel=1)) as served:
        writer = GlimpRouter(
            served, served, temperature=0, threshold=3.1, max_tokens=400, answer_by="small"
        )
        for problem in problems:
            question = problem["question"] + " Think step by step."
            trace = writer.run(question).trace
            messages = [{"role": "user", "content": question}]
            text = io_loop.call(lambda m=messages: local.render(m)).text
            notes: dict[str, object] = {}
            for step in trace.steps:
                if step.entropy is not None:
                    there, served_h = text, step.entropy
                    if after_words:
                        there += " ".join(step.text.split(" ")[:after_words]).rstrip()
                        served_h, notes = look(served, there, {}, "topk_renorm"), {}
                    pairs.append((look(local, there, notes, "full"), served_h))
                    restricted.append(look(local, there, notes, "topk_renorm"))
                text += step.text
            if len(pairs) >= boundaries:
                break
    pairs, restricted = pairs[:boundaries], restricted[:boundaries]
    assert len(pairs) == boundaries
    differences = [full - served_h for full, served_h in pairs]
    same = [abs(h - served_h) for h, (_, served_h) in zip(restricted, pairs, strict=True)]
    whole_r = statistics.correlation(*zip(*pairs, strict=True))
    same_r = statistics.correlation(restricted, [served_h for _, served_h in pairs])
    print(
        f"\n{file.model}, {boundaries} boundaries: full - topk_renorm@20 from "
        f"{min(differences):+.3f} to {max(differences):+.3f}, median "
        f"{statistics.median(differences):+.3f} nats, r {whole_r:.4f}; topk_renorm@20 in both: "
        f"median |dH| {statistics.median(same):.4f}, max {max(same):.3f}, r {same_r:.4f}"
    )
    return min(differences), whole_r, same_r


def look(backend: Backend, text: str, notes: dict[str, object], estimator: Estimator) -> float:
    async def first() -> float:
        request = Request(text, 1, logprobs=20, notes=notes)
        async with aclosing(backend.generate(request, Report())) as tokens:  # type: ignore[type-var]
            async for token in tokens:
                if token.entropy_fn is None:
                    return estimate(token.logprobs or (), estimator)
                return await token.entropy_fn(estimator, 20)
        raise AssertionError("no token")

    return io_loop.call(first)
