"""What a conversation that its client leaves takes: of its key, in the log, and in the metrics."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripts import of_own_accord, pair

from glimp_integrations import GlimpRouter
from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.serve.keys import Client
from serve.conftest import QUESTION, Serve, Served
from serve.held import Held, until
from serve.test_operators import PRICES, metrics

WORDS = [f"{number} " for number in range(40)]
CALL = of_own_accord(['{"name": "f", "arguments": {"a": "', *WORDS, '"}}'])
PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]
NEVER = 1000

# Where the client goes: tokens of a stream after which each model waits, and who waits then.
PLACES = {
    "before the first token": (0, NEVER, "small"),
    "before the large model's first": (NEVER, 0, "large"),
    "in the thinking": (NEVER, 2, "large"),
    "in the answer": (NEVER, 20, "large"),
    "while both write": (NEVER, 20, "large"),
}


@pytest.fixture
def charged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What keys were charged for."""
    found: list[int] = []
    monkeypatch.setattr(Client, "charge", lambda _, tokens: found.append(tokens))
    return found


def held(*behind: str, small: int = NEVER, large: int, kind: Any = Held) -> dict[str, Any]:
    return {
        "small": pair(*behind, kind=kind, after=small)["small"],
        "large": pair(*behind, kind=kind, after=large)["large"],
    }


def leave(served: Served, waits: Held, stream: bool, **fields: Any) -> None:
    """Ask, go as soon as a model waits, and see that it was stopped."""
    body = {"model": "glimp", "messages": QUESTION, "stream": stream, **fields}
    address = f"{served.url}/chat/completions"
    if stream:
        with suppress(httpx.ReadTimeout), httpx.stream("POST", address, json=body, timeout=1):
            until(lambda: waits.waiting)
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(address, json=body, timeout=1)
    until(lambda: waits.cancelled)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_what_the_models_reported_is_charged_logged_and_counted(
    serve: Serve, charged: list[int], tmp_path: Path, place: str, stream: bool
) -> None:
    small, large, waits = PLACES[place]
    models = held(*WORDS, small=small, large=large)
    models[waits].stopping_seconds = 0.1
    routing: dict[str, Any] = {"prices": PRICES}
    if place == "while both write":
        routing["strategy"] = "overlap"
    path = tmp_path / "log.jsonl"
    served = serve(models, access_log=str(path), routing=routing)
    leave(served, models[waits], stream)
    until(lambda: charged and path.read_text())
    line, seen = json.loads(path.read_text()), metrics(served.root)
    cost, total = 0.0, 0
    for role, model in models.items():
        read = sum(report.prompt_tokens or 0 for report in model.reports)
        wrote = sum(report.completion_tokens or 0 for report in model.reports)
        assert (line[f"{role}_input"], line[f"{role}_output"]) == (read, wrote)
        assert seen["glimp_tokens_total", "input", role] == read
        assert seen["glimp_tokens_total", "output", role] == wrote
        assert seen["glimp_kept_tokens_total", role] == line[f"{role}_tokens"]
        total += read + wrote
        cost += (read * PRICES[role]["input"] + wrote * PRICES[role]["output"]) / 1e6
    assert charged == [total] and total > len(QUESTION[0]["content"])
    assert line["cost"] == pytest.approx(cost) == seen[("glimp_cost_total",)]
    assert (line["status"], seen["glimp_errors_total", "client_gone"]) == (499, 1)
    assert ("glimp_large_share_count",) not in seen or seen[("glimp_large_share_count",)] == 0


@pytest.mark.parametrize("behind", [WORDS, CALL], ids=["text", "call"])
def test_each_token_is_charged_for(serve: Serve, charged: list[int], behind: list[str]) -> None:
    def go(after: int) -> int:
        models = held(*behind, large=after)
        leave(serve(models), models["large"], True, **({"tools": TOOLS} if behind is CALL else {}))
        until(lambda: charged)
        return charged.pop()

    few = go(10)
    assert go(35) - few == 25


class Secretive(Held):
    """Tells the tokens of a prompt at the end of its stream only, as most servers do."""

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        async with aclosing(super().generate(request, report)) as tokens:  # type: ignore[type-var]
            async for token in tokens:
                read, report.prompt_tokens = report.prompt_tokens, None
                yield token
                report.prompt_tokens = read

    async def _wait(self) -> None:
        self.reports[-1].prompt_tokens = None
        await super()._wait()


@pytest.mark.parametrize("place", ["before the first token", "in the answer"])
def test_a_prompt_of_unknown_length_is_as_long_as_the_text(
    serve: Serve, charged: list[int], place: str
) -> None:
    small, large, waits = PLACES[place]
    models = held(*WORDS, small=small, large=large, kind=Secretive)
    leave(serve(models), models[waits], True)
    until(lambda: charged)
    both = [*models["small"].reports, *models["large"].reports]
    known = sum((r.prompt_tokens or 0) + (r.completion_tokens or 0) for r in both)
    unknown = models[waits].requests[-1].prompt
    assert models[waits].reports[-1].prompt_tokens is None
    # The script counts a character of a prompt as a token, and of the text a word as one.
    text = unknown.rpartition("<think>\n")[2]
    assert len(unknown) - len(text) <= charged[0] - known <= len(unknown)


class Nested(Held):
    """Asks another router before it writes."""

    inner: GlimpRouter

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        await self.inner.arun("What is 1 + 1?")
        async with aclosing(super().generate(request, report)) as tokens:  # type: ignore[type-var]
            async for token in tokens:
                yield token


def test_a_call_within_a_conversation_is_not_the_conversation(
    serve: Serve, charged: list[int]
) -> None:
    models = held("It", large=NEVER, kind=Nested)
    Nested.inner = GlimpRouter(**pair("It"), temperature=0)
    reply = serve(models).ask()
    assert charged == [reply.usage.total_tokens]


def test_a_failed_conversation_counts_too(serve: Serve, charged: list[int]) -> None:
    models = held(*WORDS, large=NEVER)
    models["large"] = pair(*WORDS, kind=Held, after=NEVER, fail_after=20)["large"]
    served = serve(models)
    with suppress(Exception):
        served.ask()
    until(lambda: charged)
    both = [*models["small"].reports, *models["large"].reports]
    told = sum((r.prompt_tokens or 0) + (r.completion_tokens or 0) for r in both)
    assert charged == [told]
    assert metrics(served.root)["glimp_tokens_total", "output", "large"] == 20
