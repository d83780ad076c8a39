"""What a pair's speed decides, and the ideal time of a trace."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, replace

import pytest
from helpers import model, router

from glimp_integrations import BackendError, ConfigError, Trace
from glimp_integrations.backends.base import Capabilities
from glimp_integrations.runtime.speed import ModelSpeed, PairSpeed, _line, _Timing, measure, median
from glimp_integrations.runtime.strategy import choose

CAN = Capabilities(top_logprobs=20, streamed_logprobs=True)


def speed(
    *, request: float = 0.005, release: float = 0.0, logprobs: float = 0.0, slowdown: float = 2.0
) -> PairSpeed:
    return PairSpeed(
        small=ModelSpeed(request, token=0.010, prefill=0.001, release=release),
        large=ModelSpeed(request, token=0.030, prefill=0.002, release=release),
        logprobs=logprobs,
        slowdown=slowdown,
    )


def chosen(found: PairSpeed, small: Capabilities = CAN) -> tuple[str, str]:
    return choose("auto", model(), model(), small, Capabilities(), found)


def test_measured_separate_devices_overlap() -> None:
    name, reason = chosen(speed(slowdown=1.05))
    assert name == "overlap"
    assert "1.05 times" in reason and "separate devices" in reason and "ms a step" in reason
    assert "one device" in chosen(speed(slowdown=1.6))[1]


def test_cheap_logprobs_are_streamed_and_dear_ones_are_not() -> None:
    # A step saves one request and one token (15 ms and more) and pays for 40 tokens.
    assert chosen(speed(logprobs=0.0002))[0] == "fused"
    assert chosen(speed(logprobs=0.0086))[0] == "two_request"
    # The farther the servers, the more a saved request is worth.
    assert chosen(speed(logprobs=0.0086, request=0.5))[0] == "fused"


def test_a_known_device_is_believed_before_a_measurement() -> None:
    small = Capabilities(top_logprobs=20, streamed_logprobs=True, device="cuda:0")
    large = Capabilities(device="cuda:0")
    name, _ = choose("auto", model(), model(), small, large, speed(slowdown=1.0))
    assert name == "fused"


@pytest.mark.parametrize(
    ("devices", "stops", "name"),
    [
        (("cpu", "cpu"), (True, True), "two_request"),
        (("cpu", "cpu"), (True, False), "fused"),
        (("cpu", "cpu"), (False, False), "fused"),
        ((None, None), (True, True), "fused"),
        (("cpu", "gpu"), (True, True), "overlap"),
    ],
)
def test_on_one_device_steps_that_end_themselves_are_cheaper_than_streams(
    devices: tuple[str | None, str | None], stops: tuple[bool, bool], name: str
) -> None:
    small = replace(CAN, device=devices[0], supports_stop=stops[0])
    large = Capabilities(device=devices[1], supports_stop=stops[1])
    assert choose("auto", model(), model(), small, large)[0] == name


def test_a_server_that_ends_steps_itself_makes_nobody_wait() -> None:
    closed = speed(request=0.004, release=0.1, logprobs=0.001)
    ended = replace(closed, stops=(True, True))
    assert closed.overhead("two_request") - ended.overhead("two_request") == pytest.approx(0.1)
    # Fused still closes the small model's stream at a hard step, and not the large one's.
    assert closed.overhead("fused") - ended.overhead("fused") == pytest.approx(0.25 * 0.1)
    assert (chosen(closed)[0], chosen(ended)[0]) == ("fused", "two_request")


def test_measured_speed_cannot_stream_what_a_server_does_not() -> None:
    assert chosen(speed(), Capabilities(top_logprobs=20))[0] == "two_request"


def test_overlap_on_one_measured_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="one device"):
        choose("overlap", model(), model(), CAN, Capabilities(), speed(slowdown=2.0))


def test_the_ideal_counts_what_is_written_and_what_is_read() -> None:
    result = router().run("?")
    assert [s.author for s in result.trace.steps] == ["small", "large", "small", "large"]
    assert [s.tokens for s in result.trace.steps] == [2, 3, 3, 2]
    prompt = result.trace.prompt_tokens
    assert prompt
    reads = 0.001 * (prompt + 3) + 0.002 * (prompt + 2 + 3)
    writes = 0.010 * (2 + 3) + 0.030 * (3 + 2)
    assert speed().ideal(result.trace) == pytest.approx(reads + writes)
    # Tokens take longer behind more text.
    growing = speed()
    growing = replace(growing, large=replace(growing.large, growth=0.001))
    more = 0.001 * (3 * (prompt + 2 + 1.5) + 2 * (prompt + 8 + 1))
    assert growing.ideal(result.trace) == pytest.approx(reads + writes + more)
    empty = Trace(small_model="s", large_model="l", strategy="fused", strategy_reason="")
    assert speed().ideal(empty) == 0.0


def test_the_ideal_does_not_read_what_was_in_a_cache() -> None:
    trace = router().run("?").trace
    prompt = trace.prompt_tokens
    assert prompt

    def beginning(**told: object) -> Trace:
        first = trace.steps[0].model_copy(update=told)
        return trace.model_copy(update={"steps": [first, *trace.steps[1:]]})

    whole = speed().ideal(trace)
    # Glimpsed and gone on with: the second request read one token again.
    gone_on = speed().ideal(beginning(requests=2, prefilled_tokens=prompt - 6 + 1))
    assert gone_on == pytest.approx(whole - 6 * (0.001 + 0.002))
    # Handed over: each model read the prompt.
    handed = {"author": "large", "entropy": 2.0, "requests": 2}
    all_read = speed().ideal(beginning(**handed, prefilled_tokens=2 * prompt))
    some = speed().ideal(beginning(**handed, prefilled_tokens=2 * (prompt - 6)))
    assert some == pytest.approx(all_read - 6 * (0.001 + 0.002))
    assert speed().ideal(beginning(prefilled_tokens=None)) == pytest.approx(whole)


def test_a_measured_router_says_so_in_its_traces() -> None:
    def goes_on(_: bytes) -> tuple[bytes, float]:
        return b"word ", 0.1

    fast = model(goes_on, delay=0.002, generation_prompt="<assistant>\n")
    slow = model(goes_on, delay=0.01, generation_prompt="<assistant>\n")
    with router(fast, slow, max_tokens=4) as both:
        assert "measured" not in both.run("?").trace.strategy_reason
        found = both.measure()
        assert 0.002 <= found.small.token < found.large.token >= 0.01
        assert both.speed is found
        trace = both.run("?").trace
    assert 0 < found.small.client < found.small.token
    # The machine may be busy: what was found decides, whatever it was.
    expected = choose("auto", fast, slow, CAN, CAN, found)
    assert (trace.strategy, trace.strategy_reason) == expected
    assert trace.strategy_reason.startswith("measured")


def test_work_of_this_process_for_a_token_is_measured() -> None:
    def busy(_: bytes) -> tuple[bytes, float]:
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        return b"word ", 0.1

    def idle(_: bytes) -> tuple[bytes, float]:
        return b"word ", 0.1

    found = asyncio.run(measure(model(busy, delay=0.002), model(idle, delay=0.002)))
    assert found.small.client >= 0.005 > found.large.client


def test_tokens_that_take_longer_behind_more_text_are_noticed() -> None:
    near = [_Timing(0.020, 40), _Timing(0.022, 40), _Timing(0.019, 40)]
    token, growth = _line(near, [_Timing(t, 540) for t in (0.030, 0.040, 0.029)])
    assert (token, growth) == (pytest.approx(0.0192), pytest.approx(0.00002))
    # Less than can be measured, or a server that does not count.
    assert _line(near, [_Timing(0.0203, 540)]) == (0.020, 0.0)
    assert _line(near, [_Timing(0.030, None)]) == (0.020, 0.0)
    # Load that came while the second text was written: no token takes no time, or less.
    assert _line(near, [_Timing(3.0, 60)]) == (0.020, 0.0)


def test_the_median_of_measurements_and_a_stored_one() -> None:
    found = [speed(request=x, slowdown=1 + x) for x in (0.001, 0.009, 0.005)]
    assert median(found) == speed(request=0.005, slowdown=1.005)
    assert PairSpeed.of(json.loads(json.dumps(asdict(found[0])))) == found[0]


def test_a_model_without_words_cannot_be_measured() -> None:
    mute = model(lambda _: (b"", 0.1))
    with pytest.raises(BackendError, match="cannot be measured"):
        router(mute, mute).measure()
