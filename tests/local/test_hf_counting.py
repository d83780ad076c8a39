"""Nothing is computed twice: counted at the model's own forward, not where the backend counts."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from tiny import PROMPT, Passes, Watched, generate, passes, settled, shared, tokenizer

from glimp_integrations import GlimpRouter, RoutedAnswer
from glimp_integrations.backends.hf import sampling

QUESTION = (
    "the quick brown fox jumps over the lazy dog, and the dog sleeps. is there a small animal "
    "in a land far away? let me see, what is two and two?"
)
PAIRS = [
    (("llama", "plain"), ("llama", "other")),
    (("qwen2", "other"), ("llama", "plain")),
    (("llama", "plain"), ("gemma2", "plain")),
    (("gemma3", "plain"), ("qwen2", "plain")),
    (("mamba2", "plain"), ("llama", "plain")),
]
FOUND: dict[Any, tuple[int, float]] = {}
"""Seed and threshold with which both models of a pair write."""


class Counted:
    """A router of two tiny models whose passes are counted, one question at a time."""

    def __init__(self, make: Any, small: tuple[str, str], large: tuple[str, str]) -> None:
        self._make, self._kinds = make, {"small": small, "large": large}
        self._threshold = 2.0
        self.before: dict[str, int] = {}
        self.passes: dict[str, Passes] = {}
        self._choose(0)

    def _choose(self, seed: int) -> None:
        self.models = {a: self._make(*k, seed=seed + len(a)) for a, k in self._kinds.items()}
        self._weights = {a: shared(*k, seed + len(a)) for a, k in self._kinds.items()}
        for model in self.models.values():
            generate(model, "so", 1)  # loaded, whatever that reads

    def mixed(self) -> RoutedAnswer:
        """A question to both models without anything kept, of a pair in which both write."""
        kinds = tuple(self._kinds.values())
        tries = itertools.product(range(20), (2.25, 2.75))
        for seed, self._threshold in [FOUND[kinds]] if kinds in FOUND else tries:
            self._choose(seed)
            for model in self.models.values():
                model.drop_caches()
            result = self.run()
            if 0.2 < result.trace.large_step_share < 0.8 and result.trace.requests > 6:
                FOUND[kinds] = (seed, self._threshold)
                return result
        raise AssertionError("one of the models writes everything with all these weights")

    def run(self, question: str = QUESTION, **options: Any) -> RoutedAnswer:
        """Ask; afterwards ``passes`` tells of this question alone."""
        options = {
            "temperature": 0,
            "threshold": self._threshold,
            "max_thinking_tokens": 120,
            "max_step_tokens": 20,
            "max_tokens": 20,
        } | options
        for model in self.models.values():
            model.requests.clear()
            model.reports.clear()
        self.before = {author: model.computed_tokens for author, model in self.models.items()}
        with ExitStack() as stack:
            self.passes = {
                author: stack.enter_context(passes(weights))
                for author, weights in self._weights.items()
            }
            return GlimpRouter(*self.models.values(), **options).run(question)

    def written_by(self, author: str) -> int:
        """Ids the model had to know: all up to the last token of its last request."""
        last = self.models[author].reports[-1]
        return last.prompt_tokens + last.completion_tokens - 1


@pytest.mark.parametrize(("small", "large"), PAIRS)
class TestARoutedAnswer:
    def test_every_id_is_computed_once_and_one_more_at_most_per_hand_over(self, make, small, large):
        counted = Counted(make, small, large)
        counted.mixed()
        for author, model in counted.models.items():
            computed, hand_overs = counted.passes[author].ids, len(model.requests) - 1
            assert hand_overs >= 1
            assert counted.written_by(author) <= computed <= counted.written_by(author) + hand_overs

    def test_the_backend_counts_right(self, make, small, large):
        counted = Counted(make, small, large)
        counted.mixed()
        for author, model in counted.models.items():
            assert model.computed_tokens - counted.before[author] == counted.passes[author].ids

    def test_so_do_reports_and_trace(self, make, small, large):
        counted = Counted(make, small, large)
        result = counted.mixed()
        for author, model in counted.models.items():
            usage = getattr(result.usage, author)
            assert usage.output_tokens == sum(r.completion_tokens for r in model.reports)
            read = sum(r.prompt_tokens - r.cached_tokens for r in model.reports)
            # The last token of every request is written and not read.
            written = sum(r.completion_tokens - 1 for r in model.reports)
            assert read + written == counted.passes[author].ids
            assert usage.input_tokens - usage.cached_tokens == read
        prefilled = sum(s.prefilled_tokens or 0 for s in result.trace.steps)
        assert prefilled == sum(
            r.prompt_tokens - r.cached_tokens for m in counted.models.values() for r in m.reports
        )


@pytest.mark.parametrize(("small", "large"), PAIRS[:2])
def test_the_same_question_again_is_not_read_again(make, small, large):
    counted = Counted(make, small, large)
    first = counted.mixed()
    cold = {author: seen.ids for author, seen in counted.passes.items()}
    again = counted.run()
    assert (again.reasoning, again.answer) == (first.reasoning, first.answer)
    for author, model in counted.models.items():
        read = [r.prompt_tokens - r.cached_tokens for r in model.reports]
        assert read[0] == 1
        assert counted.passes[author].ids < cold[author]


def test_the_same_request_again_reads_one_id(make):
    model = make()
    first = generate(model, PROMPT, 20)
    with passes(shared()) as seen:
        again = generate(model, PROMPT, 20)
    assert again.text == first.text
    assert again.report.cached_tokens == again.report.prompt_tokens - 1
    assert seen.sizes == [1] * 20


def test_a_prompt_is_read_in_one_pass_and_tokens_one_by_one(make):
    model = make()
    generate(model, "so", 1)
    with passes(shared()) as seen:
        answer = generate(model, PROMPT, 20)
    assert seen.sizes == [answer.report.prompt_tokens] + [1] * 19


def test_a_long_prompt_is_read_in_pieces(make):
    model = make()
    generate(model, "so", 1)
    long = PROMPT * 50
    with passes(shared()) as seen:
        answer = generate(model, long, 2)
    assert answer.report.prompt_tokens > 1024
    assert seen.ids == answer.report.prompt_tokens + 1
    assert max(seen.sizes) <= 512


def test_without_memory_everything_is_read_again(make):
    model = make(cache_bytes=0)
    generate(model, PROMPT, 5)
    with passes(shared()) as seen:
        again = generate(model, PROMPT, 5)
    assert again.report.cached_tokens == 0
    assert settled(model).kept_bytes == 0
    assert seen.sizes == [again.report.prompt_tokens] + [1] * 4


def test_dropped_caches_are_read_again(make):
    model = make()
    generate(model, PROMPT, 5)
    assert settled(model).kept_bytes > 0
    model.drop_caches()
    assert model.kept_bytes == 0
    assert generate(model, PROMPT, 5).report.cached_tokens == 0


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "gemma2", "llama"])
def test_what_a_report_calls_cached_was_not_computed(make, kind):
    model = make(kind)
    notes: dict[str, Any] = {}
    text = PROMPT + generate(model, PROMPT, 5, notes=notes).text + " so the fox sleeps"
    with passes(shared(kind)) as seen:
        answer = generate(model, text, 3, notes=notes)
    read = answer.report.prompt_tokens - answer.report.cached_tokens
    assert seen.ids == read + 2


class TestEntropy:
    @pytest.fixture
    def measured(self, monkeypatch):
        """Every computation of H."""
        calls: list[torch.Size] = []
        compute = sampling.entropy_of

        def entropy_of(logits: torch.Tensor, *args: Any) -> float:
            calls.append(logits.shape)
            return compute(logits, *args)

        monkeypatch.setattr(sampling, "entropy_of", entropy_of)
        return calls

    @pytest.mark.parametrize("strategy", ["in_process", "fused", "two_request"])
    def test_it_is_computed_where_steps_begin_and_nowhere_else(self, make, measured, strategy):
        counted = Counted(make, *PAIRS[0])
        counted.mixed()
        measured.clear()
        result = counted.run(strategy=strategy)
        glimpses = [step for step in result.trace.steps if step.entropy is not None]
        assert len(glimpses) > 3
        assert len(measured) == len(glimpses)
        assert set(measured) == {(len(tokenizer("plain")),)}

    @pytest.mark.parametrize("threshold", [-1.0, float("inf")])
    def test_never_where_one_model_writes_all(self, make, measured, threshold):
        Counted(make, *PAIRS[0]).run(threshold=threshold)
        assert measured == []


def transfers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of everything that leaves the device from now on."""
    sizes: list[int] = []
    for name in ("tolist", "item", "numpy", "cpu", "__float__", "__int__", "__bool__"):
        real = getattr(torch.Tensor, name)

        def count(self: torch.Tensor, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
            sizes.append(self.numel())
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, count)
    return sizes


class TestWhatLeavesTheDevice:
    def tokens_alone(self, model: Watched, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
        generate(model, PROMPT, 2, **options)
        with monkeypatch.context() as patched:
            sizes = transfers(patched)
            generate(model, PROMPT, 2, **options)
            few = len(sizes)
            sizes.clear()
            generate(model, PROMPT, 22, **options)
            return few, sizes

    @pytest.mark.parametrize(
        "options",
        [{}, {"logprobs": 20}, {"temperature": 0.7, "seed": 1, "logprobs": 20}],
        ids=["greedy", "glimpses possible", "sampled"],
    )
    def test_an_id_and_a_flag_a_token(self, make, monkeypatch, options):
        few, sizes = self.tokens_alone(make(), monkeypatch, **options)
        assert max(sizes) <= 2
        assert len(sizes) - few == 20  # one copy for each of the further tokens

    def test_two_numbers_a_row(self, make, monkeypatch):
        rows = 3
        model = shared()
        samplers = [
            sampling.Sampler(model, [7, 8, 9], 5, sampling.SamplingOptions(0.0, 1.0, None, {}))
            for _ in range(rows)
        ]
        sizes = transfers(monkeypatch)
        assert sampling.pick(torch.eye(rows, 50), samplers) == [0, 1, 2]
        assert sizes == [2 * rows]
