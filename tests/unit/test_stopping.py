"""Putting the exact end of a text together from what a server shows and keeps back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from glimp_integrations import io_loop
from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.backends.http import stop_strings
from glimp_integrations.errors import UnsuitableEndpointError

VOCABULARY = {
    1: "a",
    2: ".\n\n",
    3: "\n",
    4: "\n\n",
    5: "\n\n\n",
    6: "\n\nFoo",
    8: "b\n",
    9: "\ufffd",
}
HALVES = {10: b"\xc3", 11: b"\xa9"}  # of an e with an accent
UNTIL = ("\n\n", "</t>")


class ScriptedServer:
    """Shows what llama.cpp does: text up to the stop string, and the id of every token."""

    def __init__(self, *chunks: tuple[str, int], ended: str = "stop_string", hidden: bool = False):
        self._chunks, self._ended, self._hidden = chunks, ended, hidden
        self._tokens = {"🦄": 3}
        self.asked: list[list[int]] = []

    async def completion(self, request: Request, report: Report, *, take: Any = None) -> Any:
        for text, number in self._chunks:
            report.completion_tokens = (report.completion_tokens or 0) + self._tokens.get(text, 1)
            choice = {"text": text, "ids": [number], "stop_string": ""}
            if take is None or not take(choice):
                yield choice
        last = {
            "text": "",
            "ids": [],
            "stop_string": "\n\n" if self._ended == "stop_string" else "",
        }
        if take is None or not take(last):
            yield last
        report.ended = self._ended  # type: ignore[assignment]

    async def text_of(self, ids: list[int]) -> str:
        self.asked.append(ids)
        if self._hidden:
            raise UnsuitableEndpointError(probe="P", server="s", detail="hidden", remedy="r")
        known = [HALVES.get(number) or VOCABULARY[number].encode() for number in ids]
        return b"".join(known).decode(errors="replace")


def said(
    server: ScriptedServer, most: int = 30, takes: Callable[[Token], bool] | None = None
) -> list[tuple[str, int]]:
    """The texts and counts of the tokens, those that were taken included."""
    came: list[tuple[str, int]] = []

    def take(token: Token) -> bool:
        if takes is None or not takes(token):
            return False
        came.append((token.text, token.count))
        return True

    async def go() -> None:
        request = Request("p", most, stop=UNTIL, take=None if takes is None else take)
        async for token in stop_strings.generate(server, request, Report()):
            came.append((token.text, token.count))

    io_loop.call(go)
    return came


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([("a", 1), (".", 2)], [("a", 1), (".", 1), ("\n\n", 0)]),
        ([("a", 1), ("", 4)], [("a", 1), ("\n\n", 1)]),
        ([("a", 1), ("", 5)], [("a", 1), ("\n\n\n", 1)]),
        ([("a", 1), ("", 3), ("", 3)], [("a", 1), ("\n", 1), ("\n", 1)]),
        ([("a", 1), ("", 3), ("", 5)], [("a", 1), ("\n", 1), ("\n\n\n", 1)]),
        ([("", 8), ("b", 3)], [("b", 2), ("\n\n", 0)]),
        ([("", 6)], [("\n\nFoo", 1)]),
    ],
)
@pytest.mark.parametrize("takes", [None, lambda _: True, lambda token: token.text == "a"])
def test_the_end_is_exact(chunks, expected, takes):
    assert said(ScriptedServer(*chunks), takes=takes) == expected


def test_a_character_of_several_tokens_counts_as_many():
    assert said(ScriptedServer(("🦄", 9), ("", 4))) == [("🦄", 3), ("\n\n", 1)]


def test_another_end_asks_nothing():
    server = ScriptedServer(("a", 1), ended="eos")
    assert said(server) == [("a", 1)]
    assert server.asked == []


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([("a", 1), ("", 3)], [("a", 1), ("\n", 1)]),
        ([("a", 1), ("", 8)], [("a", 1), ("b\n", 1)]),
        ([("", 8)], [("b\n", 1)]),
        ([("a", 1), ("", 8), ("", 3)], [("a", 1), ("b\n", 1), ("\n", 1)]),
        ([("a", 1), ("", 10)], [("a", 1)]),  # half a character, which stays unsaid
    ],
)
@pytest.mark.parametrize("takes", [None, lambda _: True, lambda token: token.text == "a"])
@pytest.mark.parametrize("most", [2, 30])
def test_what_was_held_back_at_the_limit_is_told(chunks, expected, most, takes):
    assert said(ScriptedServer(*chunks, ended="length"), most, takes) == expected


def test_a_limit_with_all_shown_asks_nothing():
    server = ScriptedServer(("a", 1), ended="length")
    assert said(server) == [("a", 1)]
    assert server.asked == []


def test_without_the_route_nothing_is_guessed_at_the_limit():
    assert said(ScriptedServer(("a", 1), ("", 8), ended="length", hidden=True)) == [("a", 1)]


def test_without_the_route_the_text_itself_is_the_end():
    assert said(ScriptedServer(("a", 1), ("", 5), hidden=True)) == [("a", 1), ("\n\n", 1)]


def test_a_text_that_does_not_fit_what_was_shown_is_not_guessed():
    assert said(ScriptedServer(("é", 1), ("", 4))) == [("é", 1), ("\n\n", 1)]
