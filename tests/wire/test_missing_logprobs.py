"""Servers that show log-probabilities at the first place alone, or fewer than asked for.

The servers here are fakes. llama.cpp's shape behind a drafted token (an empty list beside a
log-probability of 0) is that of older builds, where ``tools/server/server-context.cpp`` leaves the
``probs`` of accepted tokens unset (ggml-org/llama.cpp, issue 27972).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from typer.testing import CliRunner

from glimp_integrations import GlimpRouter, io_loop
from glimp_integrations.backends.base import Token
from glimp_integrations.backends.http.chunks import (
    correct_count,
    discount_drafted,
    drop_unmeasurable,
    tokens_of,
)
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.cli.app import app
from glimp_integrations.errors import UnsuitableEndpointError
from glimp_integrations.method.entropy import estimate
from wire.fake_server import FakeHandler, FakeServer, Tok
from wire.helpers import ANSWER, CHAIN, GREEDY, MESSAGES, REASONING, chat, collect
from wire.servers.scripted_server import Scripted
from wire.servers.scripted_server import _Handler as _ScriptedHandler

Connect = Callable[..., OpenAIBackend]
Serve = Callable[..., FakeServer]
Tops = list[tuple[bytes, float]]

DRAFTED: dict[str, Callable[[Tops], Tops]] = {
    "empty": lambda tops: [],
    "the written token": lambda tops: [(tops[0][0], 0.0)],
    "five": lambda tops: tops[:5],
    "zeros": lambda tops: [(name, 0.0) for name, _ in tops],
    "probabilities": lambda tops: [(name, math.exp(value)) for name, value in tops],
    "NaN": lambda tops: [(name, math.nan) for name, _ in tops],
}


class _Speculating(FakeHandler):
    def _stream(self, body: dict[str, Any], *args: Any) -> None:
        self.place = 0
        super()._stream(body, *args)

    def _logprobs(self, tokens: list[Tok], text: str, k: int, body: dict[str, Any]) -> Any:
        logprobs = super()._logprobs(tokens, text, k, body)
        for item in logprobs.get("content") or ():
            # llama.cpp's token knows nothing of its probability either.
            item["logprob"] = item["logprob"] if item["top_logprobs"] else 0.0
        return logprobs

    def _top(self, data: bytes, entropy: float, k: int, body: dict[str, Any]) -> Any:
        self.place += 1
        tops = super()._top(data, entropy, k, body)
        change = self.owner.everywhere or (self.owner.drafted if self.place > 1 else None)
        return _Tops(DRAFTED[change](tops)) if change else tops


class _Tops(list[Any]):
    """Nothing at its beginning is a log-probability of 0, as the server has it."""

    def __getitem__(self, at: Any) -> Any:
        return super().__getitem__(at) if len(self) else (b"", 0.0)


class Speculating(FakeServer):
    """A fake whose drafted tokens carry ``drafted`` instead of log-probabilities.

    Args:
        drafted: What stands behind the first token of a response.
        everywhere: What stands at every place.
    """

    def __init__(
        self, drafted: str = "empty", *, everywhere: str | None = None, **options: Any
    ) -> None:
        super().__init__(CHAIN, **options)
        self.handler = _Speculating
        self.drafted, self.everywhere = drafted, everywhere


ENGINES = ["llama.cpp", "generic", "vllm"]
Speak = Callable[..., Speculating]


@pytest.fixture
def speculating() -> Iterator[Speak]:
    """Start such a server; it outlives the clients of the fixtures behind it."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Speculating(*args, **options))


def connected(connect: Connect, server: FakeServer, **options: Any) -> OpenAIBackend:
    if server.engine == "generic":
        options["chat_template"] = lambda messages: chat()
    return connect(server, **options)


@pytest.mark.parametrize("drafted", DRAFTED)
@pytest.mark.parametrize("engine", ENGINES)
def test_only_the_first_token_of_a_response_is_measured(
    speculating: Speak, serve: Serve, connect: Connect, engine: str, drafted: str
) -> None:
    server = speculating(drafted, engine=engine)
    tokens, _ = collect(connected(connect, server, verify="off"), chat(), logprobs=20)
    assert [token.logprobs is not None for token in tokens[:4]] == [True, False, False, False]
    assert "".join(token.text for token in tokens) == REASONING + ANSWER


@pytest.mark.parametrize("strategy", ["auto", "fused", "two_request"])
@pytest.mark.parametrize("drafted", DRAFTED)
@pytest.mark.parametrize("engine", ENGINES)
def test_routing_decides_as_without_speculation(
    speculating: Speak, serve: Serve, connect: Connect, engine: str, drafted: str, strategy: str
) -> None:
    server = speculating(drafted, engine=engine)
    large = serve(CHAIN)
    small = connected(connect, server, verify="lazy" if strategy == "auto" else "off")
    router = GlimpRouter(small, connect(large), strategy=strategy, **GREEDY)
    result = router.run(MESSAGES)
    assert (result.reasoning, result.answer) == (REASONING, ANSWER)
    decisions = [(step.author, step.entropy) for step in result.trace.steps]
    assert [author for author, _ in decisions] == ["small", "large", "small"]
    assert [entropy for _, entropy in decisions] == pytest.approx([0.1, 2.0, 0.1], abs=1e-6)
    if strategy == "auto":
        assert result.trace.strategy == "two_request"


@pytest.mark.parametrize("everywhere", DRAFTED)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("verify", ["lazy", "off"])
def test_a_server_that_never_shows_them_is_no_small_model(
    speculating: Speak, serve: Serve, connect: Connect, engine: str, everywhere: str, verify: str
) -> None:
    server = speculating(everywhere=everywhere, engine=engine)
    large = serve(CHAIN)
    small = connected(connect, server, verify=verify)
    with pytest.raises(UnsuitableEndpointError, match="log-probabilities") as caught:
        GlimpRouter(small, connect(large), **GREEDY).run(MESSAGES)
    assert caught.value.probe == "P2 logprobs"
    assert "top_logprobs=1 " not in str(caught.value)


def test_one_entry_is_no_advice_to_ask_for_one(speculating: Speak, connect: Connect) -> None:
    server = speculating(everywhere="the written token", engine="generic")
    rows = io_loop.call(connected(connect, server).check).results
    (row,) = [row for row in rows if row.probe == "P2 logprobs"]
    assert row.verdict == "fail" and "1 of 20" in row.detail
    assert "large model only" in row.remedy and "top_logprobs" not in row.remedy


def test_figures_that_are_none_are_shown_by_check(speculating: Speak, connect: Connect) -> None:
    server = speculating(everywhere="probabilities", engine="generic")
    rows = io_loop.call(connected(connect, server).check).results
    (row,) = [row for row in rows if row.probe == "P2 logprobs"]
    assert row.verdict == "fail" and "not log-probabilities (0." in row.detail


@pytest.mark.parametrize(
    ("drafted", "entries"), [("empty", "0 of 20"), ("the written token", "1 of 20")]
)
@pytest.mark.parametrize("engine", ENGINES)
def test_check_says_what_came(
    speculating: Speak, connect: Connect, engine: str, drafted: str, entries: str
) -> None:
    server = speculating(drafted, engine=engine)
    backend = connected(connect, server)
    report = io_loop.call(backend.check)
    (row,) = [row for row in report.results if row.probe == "P4 stream"]
    assert row.verdict == "warn"
    assert row.detail.startswith(
        "only the first token of a stream carries log-probabilities "
        f"({entries} entries at token 2): speculation"
    )
    assert "two_request" in row.remedy and "speculation" in row.remedy
    assert report.usable_as_small  # a glimpse is one token
    capabilities = io_loop.call(backend.capabilities)
    assert (capabilities.top_logprobs, capabilities.streamed_logprobs) == (20, False)


def test_first_use_is_still_one_request(speculating: Speak, connect: Connect) -> None:
    server = speculating()
    io_loop.call(connect(server).capabilities)
    assert len(server.seen("/v1/completions")) == 1


def test_drafted_tokens_are_counted_once() -> None:
    """Totals as an old llama.cpp sends them: 1, then 4 with each of three accepted tokens."""
    totals, before, ahead, counts = [1, 4, 4, 4, 5, 8, 8, 8], 0, 0, []
    for total in totals:
        tokens = correct_count([Token("x")], before, total)
        (token,), ahead = discount_drafted(tokens, ahead, same=total == before)
        before = total
        counts.append(token.count)
    assert counts == [1, 3, 0, 0, 1, 3, 0, 0]


@pytest.mark.parametrize("totals", [[1, 2, 3], [1, 4, 5], [0, 0, 0], [1, 1, 1]])
def test_other_totals_are_taken_as_before(totals: list[int]) -> None:
    before, ahead = 0, 0
    for total in totals:
        tokens = correct_count([Token("x")], before, total)
        discounted, ahead = discount_drafted(tokens, ahead, same=total == before)
        assert discounted == tokens
        before = total


# -- other shapes ----------------------------------------------------------------------------


class _Drafting(_ScriptedHandler):
    """Cuts the lists of everything behind the first chunk to one entry."""

    def send_piece(self, data: bytes) -> None:
        head, brace, rest = data.partition(b"{")
        if brace:
            chunk = json.loads(brace + rest)
            for item in chunk.get("logprobs") or ():
                item["top_logprobs"] = item["top_logprobs"][: 1 if self.begun else None]
                if self.begun:
                    item["top_logprobs"][0]["logprob"] = 0.0
            if self.begun and chunk.get("top_tokens"):
                chunk["top_tokens"] = [{"id": 0, "logprob": 0.0}]
            self.begun = self.begun or "logprobs" in chunk or "top_tokens" in chunk
            data = head + json.dumps(chunk).encode() + b"\n" * (2 if head else 1)
        super().send_piece(data)

    def begin_stream(self, *args: Any) -> None:
        self.begun = False
        super().begin_stream(*args)


@pytest.mark.parametrize(("wire", "k"), [("ollama", 20), ("tgi", 5)])
def test_ollama_and_tgi(wire: Any, k: int) -> None:
    server = Scripted(CHAIN, wire)
    server.handler = _Drafting
    with server:
        backend = OpenAIBackend(base_url=server.base, server=wire, verify="off")
        try:
            tokens, _ = collect(backend, chat(), logprobs=k)
        finally:
            backend.close()
    assert [len(token.logprobs or ()) for token in tokens[:3]] == [k, 0, 0]


def legacy(tops: dict[str, Any]) -> dict[str, Any]:
    return {"text": "a", "logprobs": {"tokens": ["a"], "top_logprobs": [tops]}}


def listed(tops: list[dict[str, Any]]) -> dict[str, Any]:
    entry = {"token": "a", "bytes": [97], "logprob": -0.5, "top_logprobs": tops}
    return {"text": "a", "logprobs": {"content": [entry]}}


def first_logprobs(
    choice: dict[str, Any], k: int, *, by_text: bool = True
) -> tuple[float, ...] | None:
    tokens = tokens_of(choice, k=k, token_per_chunk=False, by_text=by_text)
    (token,) = drop_unmeasurable(tokens, k)
    return token.logprobs


HALVES = {"\ufffd": -1.0, "a": -1.5, "b": -2.0}


def test_halves_of_characters_that_fell_together_leave_a_hole() -> None:
    assert first_logprobs(legacy(HALVES), 4) == (-1.0, -1.5, -2.0, -math.inf)
    assert first_logprobs(legacy({"": -1.0, "a": -1.5, "b": -2.0}), 4) == (
        -1.0,
        -1.5,
        -2.0,
        -math.inf,
    )


def test_where_ids_can_be_asked_for_a_hole_is_none() -> None:
    assert first_logprobs(legacy(HALVES), 4, by_text=False) is None


def test_a_hole_without_a_half_of_a_character_is_none() -> None:
    assert first_logprobs(legacy({"c": -1.0, "a": -1.5, "b": -2.0}), 4) is None


@pytest.mark.parametrize("tops", [{"\ufffd": 0.0}, {"\ufffd": -1.0, "a": -1.5}])
def test_half_of_them_or_less_is_none_whatever_they_are_called(tops: dict[str, float]) -> None:
    assert first_logprobs(legacy(tops), 4) is None


@pytest.mark.parametrize("ids", [True, False])
def test_the_sampled_token_may_be_listed_again(ids: bool) -> None:
    tops = [{"token": "a", "bytes": [97], "logprob": -0.5}, {"token": "b", "logprob": -1.5}]
    tops = [{**top, "id": n} if ids else top for n, top in enumerate(tops)]
    assert first_logprobs(listed([*tops, tops[0]]), 2) == (-0.5, -1.5)
    assert first_logprobs(listed([tops[0], tops[0]]), 2) == (None if ids else (-0.5, -0.5))


def test_the_sampled_token_may_stand_beside_the_likeliest() -> None:
    tops = [{"id": n, "token": str(n), "logprob": -float(n + 1)} for n in range(3)]
    assert first_logprobs(listed(tops), 2) == (-1.0, -2.0)


def test_two_tokens_of_one_text_are_two() -> None:
    tops = [{"token": "a", "logprob": -1.0}, {"token": "a", "logprob": -1.0}]
    assert first_logprobs(listed(tops), 2) == (-1.0, -1.0)


@pytest.mark.parametrize("value", ["-0.5", True, {}, [], math.nan, None])
def test_what_is_no_number_is_not_counted(value: Any) -> None:
    assert first_logprobs(legacy({"a": -0.5, "b": value}), 2) is None


@pytest.mark.parametrize("tops", ["many", 3, [1.0], [[0.5]]])
def test_shapes_nobody_knows_are_none(tops: Any) -> None:
    choice = {"text": "a", "logprobs": {"tokens": ["a"], "top_logprobs": [tops]}}
    assert first_logprobs(choice, 2) is None


def test_minus_infinity_is_an_entry() -> None:
    values = first_logprobs(legacy({"a": 0.0, "b": -math.inf}), 2)
    assert values == (0.0, -math.inf) and estimate(values, "topk_renorm") == 0.0


def test_command_warns_of_speculation(speculating: Speak) -> None:
    server = speculating()
    result = CliRunner().invoke(
        app, ["check", "small", server.model_string], env={"COLUMNS": "400"}
    )
    assert "speculation" in result.output and "two_request" in result.output
