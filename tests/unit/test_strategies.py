"""The strategies change how requests are made, never what is decided or written."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from helpers import OPENED, TAGS, result_of, shown, steps, told
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from glimp_integrations import GlimpRouter, RoutedAnswer
from glimp_integrations.backends.scripted import ScriptedBackend, ScriptedToken

PLAIN = "<assistant>\n"
CHARACTERS = [char.encode() for char in "é🦄"]
ALPHABET = [
    b"a",
    b"b",
    b" ",
    b".",
    b"a",
    b"\n",
    b"\n",
    b"\n\n",
    b"\n\n",
    b".\n\n",
    b"\n\n\n",
    b"a\n\n\n",
    b"\n\nFoo",
    b"Foo",
    b"\na",
    b"</think>",
    b"</th",
    b"ink>",
    b"a</think>",
    b".\n\n</think>",
    b"</think>\n\na",
    b"Answer:",
    b"Ans",
    b"wer:",
    b"",
    "é".encode(),
    "🦄".encode(),
    b"- ",
    b"1",
    b". ",
    b"**",
    b"\\[",
    b"\xc3",
    b"\xf0\x9f",
    b"\xf0",
    b"a\xf0\x9f\xa6",
    b".\xc3",
    b"\n\n\xc3",
]
ENTROPIES = [0.0, 0.5, 0.999, 1.0, 1.001, 1.5, 2.9]


def unfinished(text: bytes) -> bytes:
    """The bytes of a character that has begun and is not complete."""
    return text[len(text.decode(errors="ignore").encode()) :]


class RandomModel:
    """A pure function from text to the next token: chosen by a hash of the text's end."""

    def __init__(self, seed: int, alphabet: list[bytes], memory: int) -> None:
        self._seed, self._alphabet, self._memory = seed, alphabet, memory

    def __repr__(self) -> str:
        return f"RandomModel({self._seed}, {self._alphabet}, {self._memory})"

    def __call__(self, text: bytes) -> ScriptedToken:
        begun = unfinished(text)
        options = self._ends(begun) if begun else self._alphabet
        key = f"{self._seed}:".encode() + text[-self._memory :]
        digest = hashlib.blake2b(key, digest_size=4).digest()
        entropy = ENTROPIES[digest[3] % len(ENTROPIES)]
        return options[int.from_bytes(digest[:3], "big") % len(options)], entropy

    @staticmethod
    def _ends(begun: bytes) -> list[bytes]:
        rest = next(c[len(begun) :] for c in CHARACTERS if c.startswith(begun))
        return [rest, rest[:1], rest + b"a", rest + b"\n\n"]


models = st.builds(
    RandomModel,
    seed=st.integers(0, 2**32),
    alphabet=st.lists(st.sampled_from(ALPHABET), min_size=4, max_size=30),
    memory=st.sampled_from([60, 60, 12, 4, 1]),
)
options = st.fixed_dictionaries(
    {
        "threshold": st.sampled_from([1.0, 1.0, 1.0, 0.0, -1.0, math.inf]),
        "entropy_estimator": st.sampled_from(["topk_renorm", "topk_other"]),
        "glimpse": st.sampled_from(["first_token", "skip_format"]),
        "random_share": st.sampled_from([None, None, 0.5]),
        "max_step_tokens": st.integers(1, 12),
        "max_thinking_tokens": st.integers(1, 60),
        "max_tokens": st.integers(1, 30),
        "answer_by": st.sampled_from(["large", "small", "router"]),
        "answer_marker": st.sampled_from([None, "Answer:", "a\n\nb"]),
        "untagged_answer": st.sampled_from(["last_step", "whole"]),
        "stop": st.sampled_from([None, ["\n\nFoo"], ["aa"], ["\n\n"], ["é"], ["a\n\nb", "b."]]),
    }
)


def run(
    strategy: str,
    small: RandomModel,
    large: RandomModel,
    prompt: str,
    chunk_sizes: list[int],
    options: dict[str, Any],
) -> tuple[list[object], RoutedAnswer]:
    if not 0 <= options["threshold"] < math.inf:
        options = options | {"random_share": None}
    router = GlimpRouter(
        ScriptedBackend(small, name="S", generation_prompt=prompt),
        ScriptedBackend(large, name="L", generation_prompt=prompt, chunk_sizes=chunk_sizes),
        strategy=strategy,
        temperature=0.0,
        **options,
    )
    events = list(router.stream("question"))
    return events, result_of(events)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    small=models,
    large=models,
    thinking=st.sampled_from(["template opens", "router opens", "no tags"]),
    chunk_sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    options=options,
)
def test_strategies_agree_and_events_add_up(small, large, thinking, chunk_sizes, options):
    prompt = OPENED if thinking == "template opens" else PLAIN
    options["think_tags"] = TAGS if thinking == "router opens" else None
    two_events, two = run("two_request", small, large, prompt, chunk_sizes, options)
    fused_events, fused = run("fused", small, large, prompt, chunk_sizes, options)
    event(f"{thinking}: {two.trace.stop_reason}")

    _same(fused, two)
    assert fused.trace.requests <= two.trace.requests
    # Where a server sends several tokens at once, counts and caps are kept to the piece, and in a
    # stream that runs on behind a step the pieces begin elsewhere.
    exact_events, exact = run("two_request", small, large, prompt, [1], options)
    over_events, over = run("overlap", small, large, prompt, [1], options)
    _same(over, exact)
    assert over.trace.requests <= exact.trace.requests
    grouped_events, grouped = run("overlap", small, large, prompt, chunk_sizes, options)

    for events, result in (
        (two_events, two),
        (fused_events, fused),
        (exact_events, exact),
        (over_events, over),
        (grouped_events, grouped),
    ):
        assert shown(events) == result.reasoning + result.answer
        assert told(events, "reasoning") == result.reasoning
        assert told(events, "answer") == result.answer


def _same(one: RoutedAnswer, other: RoutedAnswer) -> None:
    names = ("author", "entropy", "text", "tokens", "end")
    assert steps(one, *names) == steps(other, *names)
    assert one.trace.stop_reason == other.trace.stop_reason
    assert one.trace.answer_stop == other.trace.answer_stop
    assert (one.reasoning, one.answer) == (other.reasoning, other.answer)
