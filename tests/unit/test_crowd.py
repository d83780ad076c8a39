"""Parts of the crowd's benchmark that could tell wrong figures, or take a wrong text for right."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from benchmarks.lab import crowd_measure, crowd_plot, descriptors
from benchmarks.lab.crowd_arms import ARMS
from benchmarks.lab.crowd_cells import Cell, Reply, Work, against_aiohttp
from benchmarks.lab.crowd_floor import prompt_of, steps_of, tokens_of
from benchmarks.lab.script import made_up
from benchmarks.lab.serving import text_of

SCRIPT = made_up(1, steps=2, step_tokens=4, large_share=0.5, answer_tokens=2)
REASONING, _, ANSWER = SCRIPT.text.partition("</think>\n\n")
WORK = Work("serve", 1, "", "", "auto", [SCRIPT, SCRIPT])


def a_cell(arm: str, at_once: int, cpu: float, seconds: float) -> Cell:
    return Cell(arm, at_once, 1000, seconds, 1.0, 1.0, cpu, (0.0, 0.0), (1, 1), (1, 1), 0)


def body(*deltas: dict[str, Any], end: str = "data: [DONE]\n\n") -> bytes:
    chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
    return ("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end).encode()


def test_ratios_are_to_the_bare_client_at_the_same_number() -> None:
    cells = [
        a_cell("aiohttp", 16, 0.1, 2.0),
        a_cell("aiohttp", 64, 0.4, 1.0),
        a_cell("core", 64, 0.8, 4.0),
        a_cell("core", 1, 0.8, 4.0),
    ]
    found = {(one["arm"], one["at_once"]): one for one in against_aiohttp(cells)}
    assert found["core", 64]["cpu"] == pytest.approx(2.0)
    assert found["core", 64]["rate"] == pytest.approx(0.25)
    assert ("core", 1) not in found


def test_the_text_of_a_stream() -> None:
    told = body({"role": "assistant", "content": ""}, {"reasoning_content": "a"}, {"content": "b"})
    assert text_of(b": the models are at work\n\n" + told) == "ab"


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        body({"content": "a"}, end=""),
        body({"content": "a"}) + b"data: {",
        b'data: {"error": {"message": "it fell over"}}\n\ndata: [DONE]\n\n',
    ],
)
def test_a_stream_without_its_end_is_no_text(broken: bytes) -> None:
    with pytest.raises(ValueError, match="the stream ends with"):
        text_of(broken)


def test_right_replies_pass() -> None:
    told = body({"reasoning_content": REASONING}, {"content": ANSWER.lstrip()})
    for text in (told, REASONING + ANSWER, crowd_measure.count(SCRIPT)):
        crowd_measure._check(WORK, [Reply(1.0, text)])


@pytest.mark.parametrize("text", [body({"content": "x"}), "x", 3])
def test_another_text_fails_the_run(text: str | int | bytes) -> None:
    with pytest.raises(RuntimeError, match="conversation 1 came to"):
        crowd_measure._check(WORK, [Reply(1.0, text)])


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_machine_with_too_few_descriptors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    limits = [(64, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limits.append(given))
    descriptors.enough(256)
    assert limits[-1][0] > 256 * 4
    limits.append((64, 1024))
    with pytest.raises(SystemExit, match="this machine allows 1024"):
        descriptors.enough(256)


def test_every_arm_can_be_drawn_and_told_from_the_others() -> None:
    assert crowd_plot._LOOKS.keys() == ARMS.keys()
    assert len({looks[1:] for looks in crowd_plot._LOOKS.values()}) == len(ARMS)


async def test_what_routes_nothing_sends_what_routing_sends() -> None:
    """A stream for each time that a model comes to write, from the text that there is by then."""
    script = made_up(5, steps=4, step_tokens=4, large_share=0.5, answer_tokens=2)
    turns, opened = list(steps_of(script)), []
    assert {author for author, _ in turns} == {"small", "large"}

    async def opener(url: str, body: dict[str, Any], until: AsyncExitStack) -> Any:
        opened.append((url, body["prompt"]))
        written = len(body["prompt"]) - len(prompt_of(1))
        places = itertools.accumulate(map(len, script.tokens), initial=0)
        rest = script.tokens[list(places).index(written) :]

        async def lines() -> AsyncGenerator[bytes, None]:
            for token in rest:
                yield b"data: " + json.dumps({"choices": [{"text": token}]}).encode() + b"\n\n"
            yield b"data: [DONE]\n\n"

        return lines()

    came = [token async for token in tokens_of(opener, "small", "large", 1, turns)]
    assert "".join(came) == script.text
    changes = sum(one[0] != other[0] for one, other in itertools.pairwise(turns))
    assert len(opened) > changes
    assert all(prompt.startswith(prompt_of(1)) for _, prompt in opened)
