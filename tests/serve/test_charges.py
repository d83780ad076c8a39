"""What a conversation that its client leaves takes from the tokens of a key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
import pytest
from scripts import Listening, of_own_accord, pair

from glimp_integrations import GlimpRouter
from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.serve.conversations import Asked
from glimp_integrations.serve.keys import Client, Keys
from glimp_integrations.trace.events import Finished, TextDelta
from serve.conftest import ANSWER, QUESTION, Serve
from serve.held import held_pair, until

WORDS = [f"{number} " for number in range(40)]
CALL = of_own_accord(['{"name": "f", "arguments": {"a": "', *WORDS, '"}}'])
PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("behind", [WORDS, CALL], ids=["text", "call"])
def test_a_client_that_goes_is_charged_for_what_was_written(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, behind: list[str], stream: bool
) -> None:
    charged: list[int] = []
    monkeypatch.setattr(Client, "charge", lambda _, tokens: charged.append(tokens))
    tools = {"tools": TOOLS} if behind is CALL else {}
    body = {"model": "glimp", "messages": QUESTION, "stream": stream, **tools}

    def go(after: int) -> int:
        models = held_pair(*behind, after=after)
        address = f"{serve(models).url}/chat/completions"
        if stream:
            with httpx.stream("POST", address, json=body):
                until(lambda: models["large"].waiting)
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(address, json=body, timeout=1)
            until(lambda: models["large"].cancelled)
        until(lambda: charged)
        return charged.pop()

    few = go(10)
    assert few > 10, "with the thinking"
    assert go(35) - few == 25


class Caching(Listening):
    """Has read half of every prompt before."""

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        report.cached_tokens = len(request.prompt) // 2
        async with aclosing(super().generate(request, report)) as tokens:  # type: ignore[type-var]
            async for token in tokens:
                yield token


async def test_finished_steps_count_as_in_a_finished_reply() -> None:
    asked = Asked(Keys().client(None), QUESTION, OutputSpec(), {})
    router = GlimpRouter(**pair(*ANSWER, kind=Caching), temperature=0, route="always")
    async with aclosing(router.astream(QUESTION)) as events:
        async for event in events:
            asked.note(event)
            if isinstance(event, TextDelta):
                assert asked.writing > 0
            if isinstance(event, Finished):
                assert asked.spent == event.result.usage.total_tokens > 150
    assert asked.writing == 0
