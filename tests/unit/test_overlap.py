"""Which models overlap, and what that saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import OPENED

from glimp_integrations import ConfigError, GlimpRouter, RoutedAnswer
from glimp_integrations.backends.base import Capabilities
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.runtime.strategy import choose

HARD = [(b"a", 2.0), (b".\n\n", 0.0)]
CHAIN = [
    *HARD,
    (b"b", 2.0),
    (b".\n\n", 0.0),
    (b"c", 0.1),
    (b".\n\n", 0.0),
    (b"</think>", 0.1),
    (b"\n\n", 0.0),
    (b"x", 0.0),
]
CAN = Capabilities(top_logprobs=20, streamed_logprobs=True)


def backend(url: str | None = None) -> ScriptedBackend:
    made = ScriptedBackend(CHAIN, generation_prompt=OPENED)
    made.url = url
    return made


def chosen(wanted: str, one: str | None, other: str | None, **devices: str | None) -> str:
    small = Capabilities(top_logprobs=20, streamed_logprobs=True, device=devices.get("small"))
    large = Capabilities(top_logprobs=20, streamed_logprobs=True, device=devices.get("large"))
    return choose(wanted, backend(one), backend(other), small, large)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "devices", "strategy"),
    [
        ("http://gpu1:8000", "http://gpu2:8000", {}, "overlap"),
        ("http://gpu1:8000", "http://gpu1:8001", {}, "fused"),
        ("http://gpu1:8000", None, {}, "fused"),
        (None, None, {}, "fused"),
        ("http://a:1", "http://a:2", {"small": "cuda:0", "large": "cuda:1"}, "overlap"),
        ("http://a:1", "http://b:2", {"small": "cpu", "large": "cpu"}, "fused"),
        ("http://a:1", "http://a:2", {"small": "cuda:0"}, "fused"),
    ],
)
def test_auto_overlaps_models_that_are_known_to_be_apart(
    one: str | None, other: str | None, devices: dict[str, str], strategy: str
) -> None:
    assert chosen("auto", one, other, **devices) == strategy


def test_models_on_one_device_do_not_overlap() -> None:
    with pytest.raises(ConfigError, match="both compute on the device 'cpu'"):
        chosen("overlap", None, None, small="cpu", large="cpu")


def test_a_large_model_of_this_process_has_nothing_to_overlap() -> None:
    large = Capabilities(in_process=True)
    with pytest.raises(ConfigError, match="the large model runs in this process"):
        choose("overlap", backend(), backend(), CAN, large)


def test_a_small_model_that_streams_no_logprobs_cannot_overlap() -> None:
    small = Capabilities(top_logprobs=20)
    with pytest.raises(ConfigError, match="'overlap' needs log-probabilities"):
        choose("overlap", backend(), backend(), small, CAN)


def test_the_large_model_reads_along_where_it_is_kept_warm() -> None:
    easy = [
        (b"a", 0.1),
        (b".\n\n", 0.0),
        (b"b", 0.1),
        (b".\n\n", 0.0),
        (b"</think>", 0.1),
        (b"\n\n", 0.0),
        (b"x", 0.0),
    ]

    def ask(**options: object) -> tuple[ScriptedBackend, RoutedAnswer]:
        large = ScriptedBackend(easy, generation_prompt=OPENED)
        small = ScriptedBackend(easy, generation_prompt=OPENED, delay=0.001)
        return large, GlimpRouter(small, large, temperature=0, **options).run("?")

    cold, plain = ask()
    warm, kept = ask(warm_prefix_cache=True)
    assert kept.reasoning == plain.reasoning == "a.\n\nb.\n\n" and kept.answer == plain.answer
    assert [r.max_tokens for r in warm.requests[:-1]] == [1, 1]
    assert [r.prompt.rpartition(OPENED)[2] for r in warm.requests] == [
        "a.\n\n",
        "a.\n\nb.\n\n",
        cold.requests[0].prompt.rpartition(OPENED)[2],
    ]
    assert kept.trace.requests == plain.trace.requests + 2
    assert kept.usage.large.output_tokens == plain.usage.large.output_tokens + 2
    assert kept.trace.discarded_tokens == plain.trace.discarded_tokens + 2


def test_a_reading_that_fails_or_lasts_does_not_disturb() -> None:
    small = ScriptedBackend(CHAIN, generation_prompt=OPENED, delay=0.001)
    reader = ScriptedBackend(CHAIN, generation_prompt=OPENED, fail_after=0, failures=1)
    easy = {"threshold": 2.5, "temperature": 0.0, "warm_prefix_cache": True}
    assert GlimpRouter(small, reader, **easy).run("?").answer == "x"
    slow = ScriptedBackend(CHAIN, generation_prompt=OPENED, delay=0.2)
    result = GlimpRouter(small, slow, **easy, answer_by="small").run("?")
    # One reading is under way at a time, and the last one is given up at the end.
    assert result.answer == "x" and len(slow.requests) == 1 and slow.closed_early == 1
    assert result.usage.large.requests == 1


def test_models_on_one_device_are_not_kept_warm() -> None:
    class Named(ScriptedBackend):
        async def capabilities(self) -> Capabilities:
            return replace(await super().capabilities(), device="cpu")

    both = Named(CHAIN, generation_prompt=OPENED)
    with pytest.raises(ConfigError, match="warm_prefix_cache"):
        GlimpRouter(both, both, warm_prefix_cache=True).run("?")


def test_two_hard_steps_are_one_request_of_the_large_model() -> None:
    small, large = backend(), backend()
    result = GlimpRouter(small, large, strategy="overlap", temperature=0).run("?")
    assert [s.author for s in result.trace.steps] == ["large", "large", "small", "small", "large"]
    # One stream for both hard steps, cancelled at the easy one; one for the answer.
    assert len(large.requests) == 2 and large.closed_early == 1
    fused = backend()
    GlimpRouter(backend(), fused, strategy="fused", temperature=0).run("?")
    assert len(fused.requests) == 3
