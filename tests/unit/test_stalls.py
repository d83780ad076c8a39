"""Everything that reads text in pieces shares one thread with all other calls: it may not stall.

What is measured is this thread's processor time, the best of a few runs, so that a busy machine
fails nothing: 4,000 pieces cost about twice as much as 2,000 (four times, where each piece looks at
all earlier ones again), and no piece costs long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimp_integrations.backends.base import Token
from glimp_integrations.method.boundaries import Scanner, Terminator
from glimp_integrations.method.chain import Chain
from glimp_integrations.method.reply import Reply
from glimp_integrations.method.steps import Step
from glimp_integrations.output.constraints import FREE, make_plan
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.output.tool_formats import trigger
from glimp_integrations.output.tool_parser import ToolCallParser
from glimp_integrations.runtime.reply_events import KindResolver
from glimp_integrations.settings import RoutingSettings

pytestmark = pytest.mark.serial
PIECES = 2000
LONGEST = 0.020  # seconds for one piece; what it is meant to be is less than one millisecond
ATTEMPTS = 5
Read = Callable[[str], Any]

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "either": {"type": ["string", "object"]},
    },
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
BLANKS = " " * 16
CALL = '{"name": "get_weather", "arguments": {}}\n'
JSON = '<tool_call>{"name": "get_weather", "arguments": '
XML = "<tool_call><function=get_weather>"

# What a runaway model writes once, and then again and again.
RUNAWAYS: dict[str, tuple[str, str]] = {
    "blanks": ("So:\n", BLANKS),
    "newlines": ("", "\n" * 16),
    "words": ("", "some words "),
    "fence and blanks": ("```", BLANKS),
    "fence and newlines": ("```json\n", "\n" * 16),
    "fence and a long word": ("```", "w" * 16),
    "backticks": ("", "`" * 16),
    "fences": ("", "```\n"),
    "bracket and blanks": ("[", BLANKS),
    "brackets": ("", "[" * 16),
    "brackets on lines": ("", "[\n"),
    "brace and blanks": ("{", BLANKS),
    "type and blanks": ('{"type"  :', BLANKS),
    "name and blanks": ('{"name": "get_weather"', BLANKS),
    "comma and blanks": ('{"name": "get_weather",', BLANKS),
    "other key": ('{"name": "get_weather", "id": "', "some words"),
    "half a name": ("", '{"name":\n'),
    "less-than signs": ("", "<" * 16),
    "half tags": ("", "<tool_call"),
    "tags": ("", "<tool_call>"),
    "calls": ("", CALL),
    "tag and blanks": ("<tool_call>", BLANKS),
    "tag and words": ("<tool_call>", "some words there "),
    "tag and a long word": ("<tool_call>", "w" * 16),
    "tag and braces": ("<tool_call>", "{" * 16),
    "tag and brackets": ("<tool_call>", "[" * 16),
    "tag and an open string": ('<tool_call>{"x": "', "some words </too "),
    "tag and closing tags in a string": ('<tool_call>{"x": "', "</tool_call>"),
    "tag and less-than signs": ("<tool_call>", "<" * 16),
    "half a head": ("[TOOL_CALLS]", "get_weather[ARGS"),
    "arguments and blanks": (JSON, BLANKS),
    "arguments by character": (JSON + '{"city": "', "x"),
    "arguments of backslashes": (JSON + '{"city": "', "\\" * 16),
    "arguments in depth": (JSON + '{"city": ', "[" * 16),
    "arguments of digits": (JSON, "1" * 16),
    "arguments in a string": (JSON + '"', "{" * 16),
    "behind arguments": (JSON + "{}", BLANKS),
    "another key behind them": (JSON + '{}, "id": "', "some words <"),
    "fence behind them": ('```\n{"name": "get_weather", "arguments": {}, "id": "', "``"),
    "behind a call": (JSON + "{}}</tool_call>", BLANKS),
    "closing brackets": (JSON + "{}}", "},;]" * 4),
    "XML and words": (XML, "some words <para"),
    "XML and blanks": (XML, BLANKS),
    "XML and a long key": (XML + "<parameter=", "k" * 16),
    "XML and parameters": (XML, "<parameter=k>1</parameter>"),
    "XML text": (XML + "<parameter=city>", "some < words"),
    "XML text by character": (XML + "<parameter=city>", "x"),
    "XML text of newlines": (XML + "<parameter=city>", "\n" * 16),
    "XML text of ends": (XML + "<parameter=city>", "</parameter>\n"),
    "XML text of calls' ends": (XML + "<parameter=city>", "</function></tool_call>"),
    "XML end and blanks": (XML + "<parameter=city>a</parameter>", BLANKS),
    "XML number": (XML + "<parameter=days>", "1" * 16),
    "XML object": (XML + "<parameter=either>{", "1" * 16),
    "XML of no schema": (XML + "<parameter=more>", "1" * 16),
    "XML of no schema, blanks": (XML + "<parameter=more>", BLANKS),
}
every_runaway = pytest.mark.parametrize(("lead", "piece"), RUNAWAYS.values(), ids=RUNAWAYS)


def spent(make: Callable[[], Read], lead: str, piece: str, pieces: int) -> tuple[float, float]:
    """Seconds for all pieces, and for the longest of them."""
    read, longest = make(), 0.0
    read(lead)
    began = time.thread_time()
    for _ in range(pieces):
        at = time.thread_time()
        read(piece)
        longest = max(longest, time.thread_time() - at)
    return time.thread_time() - began, longest


def stays_linear(make: Callable[[], Read], lead: str, piece: str) -> None:
    found = []
    for _ in range(ATTEMPTS):
        half, _ = spent(make, lead, piece, PIECES)
        whole, longest = spent(make, lead, piece, 2 * PIECES)
        if whole <= 3 * half + 0.01 and longest <= LONGEST:
            return
        found.append((half, whole, longest))
    pytest.fail(f"seconds for {PIECES} pieces, for twice as many, for the longest: {found}")


@every_runaway
def test_the_reader_of_calls_stays_linear(lead: str, piece: str) -> None:
    stays_linear(
        lambda: ToolCallParser(["get_weather"], str, parameters={"get_weather": PARAMETERS}).feed,
        lead,
        piece,
    )


@every_runaway
def test_a_reply_that_comes_at_once_costs_what_its_pieces_cost(lead: str, piece: str) -> None:
    def seconds(pieces: int) -> float:
        began = time.thread_time()
        ToolCallParser(["get_weather"], str).read(lead + piece * pieces)
        return time.thread_time() - began

    found = [(seconds(PIECES), seconds(2 * PIECES)) for _ in range(2)]
    assert any(whole <= 3 * half + 0.05 for half, whole in found), found


STOPS: dict[str, Terminator] = {"</think>": "think_end", "STOP": "stop", " " * 3000 + "x": "stop"}


@pytest.mark.parametrize("looked_for", ["calls or JSON", "JSON"])
@every_runaway
def test_the_scanner_of_steps_stays_linear(lead: str, piece: str, looked_for: str) -> None:
    demand = {"type": "object", "properties": {"a": {"type": "string"}}}
    forms = {
        "calls or JSON": OutputSpec(tools=[TOOL], schema=demand),
        "JSON": OutputSpec(schema=demand),
    }
    plan = make_plan(forms[looked_for], ("", ""), supports_schema=True, model="the model")

    def make() -> Read:
        scanner = Scanner("\n\n", STOPS, plan.trigger)
        return lambda text: scanner.feed(text, multi_token=False)

    stays_linear(make, lead, piece)


@pytest.mark.parametrize("piece", ["a", "ab", "a" * 16, "aab"])
def test_a_stop_that_stays_possible_for_long(piece: str) -> None:
    stop = "a" * 3000 + "b"

    def make() -> Read:
        scanner = Scanner(None, {stop: "stop"})
        return lambda text: scanner.feed(text, multi_token=False)

    stays_linear(make, "", piece)


@pytest.mark.parametrize(
    ("piece", "step_tokens"),
    [(BLANKS, 10**6), ("\t" * 16, 10**6), ("x", 10**6), ("{}\n\n", 512), (BLANKS + "{}", 2)],
    ids=["blanks", "tabs", "characters", "steps", "steps at their cap"],
)
@pytest.mark.parametrize("tags", [True, False])
def test_the_chain_and_what_settles_it_stay_linear(
    piece: str, step_tokens: int, tags: bool
) -> None:
    def make() -> Read:
        chain = Chain(
            RoutingSettings(
                threshold=-1,
                max_tokens=10**6,
                max_thinking_tokens=10**6,
                max_step_tokens=step_tokens,
            ),
            FREE,
            think_end_tags=("</think>",) if tags else (),
        )
        kind_resolver, count = KindResolver(chain), iter(range(10**6))
        running: list[Step] = []

        def read(text: str) -> None:
            if not running or running[-1].end is not None:
                running.append(chain.begin("large", None))
            undecided = Reply(chain).undecided
            kept = chain.take(Token(text.replace("{}", str(next(count)))))
            kind_resolver.show(kept.shown, running[-1], undecided=undecided)
            assert chain.phase != "done"

        return read

    stays_linear(make, "So.\n\n", piece)


# -- what was held back is told after all ----------------------------------------------------

HELD = ["So:\n", "```", "[", "{", '{"type"  :', '{"name": "get_weather"', '{"name": "get_weather",']


@pytest.mark.parametrize("lead", HELD)
@pytest.mark.parametrize("blank", [" ", "\t", "\n"])
def test_more_white_space_than_a_beginning_may_have_is_text(lead: str, blank: str) -> None:
    if "get_weather" not in lead:  # with the name, the scanner has found what it looks for
        scanner = Scanner(None, {}, trigger(["get_weather"]))
        shown = "".join(scanner.feed(p, multi_token=False).shown for p in (lead, *(blank * 200)))
        assert shown.startswith(lead), "it is shown before the reply is over"
        assert shown + scanner.flush() == lead + blank * 200

    reader = ToolCallParser(["get_weather"], str)
    told = [piece for p in (lead, *(blank * 200)) for piece in reader.feed(p)]
    assert "".join(map(str, told)).startswith(lead.rstrip())
    reader.feed("end")
    reader.end()
    assert reader.content == f"{lead}{blank * 200}end"


@pytest.mark.parametrize("blanks", [0, 1, 64])
def test_a_call_with_as_much_white_space_as_it_may_have(blanks: int) -> None:
    gap = " " * blanks
    text = gap + gap.join(["{", '"name"', ":", '"get_weather"', ",", '"arguments"', ":", "{}", "}"])
    for pieces in ([text], list(text)):
        reader = ToolCallParser(["get_weather"], str)
        for piece in pieces:
            reader.feed(piece)
        reader.end()
        assert (reader.content, len(reader.calls)) == ("", 1)


SCRAPS = st.sampled_from(
    [
        " ",
        BLANKS,
        "\n",
        "\t",
        "```",
        "```json",
        "`",
        "[",
        "{",
        "}",
        "]",
        '"',
        '"type"',
        ":",
        ",",
        '"function"',
        '"name"',
        '"nobody"',
        "word",
        "<",
        "<tool",
        "call>",
        "</",
        "\\",
        "1",
    ]
)


@given(st.lists(SCRAPS, max_size=40))
def test_text_that_calls_nobody_is_told_as_it_is(scraps: list[str]) -> None:
    text = "".join(scraps)
    reader = ToolCallParser(["get_weather"], str)
    told = [piece for scrap in scraps for piece in reader.feed(scrap)] + reader.end()
    if "<tool_call>" not in text:
        assert "".join(map(str, told)) == reader.content == text


@given(st.lists(SCRAPS | st.sampled_from(["STOP", "ST", '"get_weather"']), max_size=40))
def test_a_scanner_shows_or_finds_all_of_a_text(scraps: list[str]) -> None:
    def scan(pieces: Iterable[str]) -> tuple[str, str | None, str]:
        scanner, shown = Scanner(None, {"STOP": "stop"}, trigger(["get_weather"])), ""
        for piece in pieces:
            cut = scanner.feed(piece, multi_token=False)
            shown += cut.shown
            if cut.end is not None:
                return shown, cut.end, cut.trigger
        return shown + scanner.flush(), None, ""

    text = "".join(scraps)
    whole = scan([text])
    assert scan(scraps) == scan(text) == whole
    assert text.startswith("".join([whole[0], whole[2]]))
