"""Traces as text: what is shown is what was written, whatever it looks like."""

from __future__ import annotations

import io
import re
import time

import pytest
from helpers import model, router, script
from rich.console import Console
from rich.live import Live

from glimp_integrations import Finished, Price, Prices, StepStarted, TextDelta
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.trace.live import LivePrinter
from glimp_integrations.trace.step_lines import entropy_bar
from glimp_integrations.trace.terminal import plain, remarks, rich_trace, step_header

HOSTILE = ["[red]text[/red]", "[/]", r"\[bold]", "[link=a]b", ":smile:", "[1, 2] 3.14 'x'"]


def console(**options: object) -> Console:
    return Console(file=io.StringIO(), width=40, highlight=False, **options)


def answer_of(*texts: str):
    """A result whose text is exactly this, written by the small model."""
    tokens = script(*texts, "")
    return router(ScriptedBackend(tokens), ScriptedBackend(tokens)).run("?")


def live(*texts: str, **options: object) -> str:
    """What a LivePrinter prints for text deltas alone."""
    out = console(**options)
    printer = LivePrinter(1.0, out)
    for text in texts:
        printer(TextDelta(text, 0, "small", None))
    return out.file.getvalue()


class TestPlain:
    def test_steps_with_authors_and_entropies_in_order(self):
        lines = plain(router().run("?").trace).splitlines()
        headers = [line for line in lines if " model" in line]
        assert [line.split("  ")[:2] for line in headers] == [
            ["step 1", "small model"],
            ["step 2", "large model"],
            ["step 3", "small model"],
            ["answer", "large model"],
        ]
        assert "H 0.20" in headers[0] and "≤ 1 nats" in headers[0]
        assert "H 2.00" in headers[1] and "> 1 nats" in headers[1]
        assert "H " not in headers[3]
        for text in ("Let me think", "2 + 2 = 4.", "Done.", "The answer is 4."):
            assert text in lines

    def test_totals_say_what_was_not_as_usual(self):
        trace = router().run("?").trace
        assert remarks(trace) == []
        alone = trace.model_copy(update={"route": "large_alone", "route_reason": "to learn"})
        limited = alone.model_copy(update={"limits": ["deadline=9 s: 5.0 s have passed"]})
        said = ["the large model alone: to learn", "budget: deadline=9 s: 5.0 s have passed"]
        assert remarks(limited) == said
        assert all(sentence in plain(limited).splitlines() for sentence in said)

    def test_totals(self):
        text = plain(router().run("?").trace)
        assert "small S: 5 tokens in 2 steps" in text
        assert "large L: 5 tokens in 2 steps" in text
        assert "large share 50% of tokens · 4 requests (fused)" in text
        assert "ended by think_end" in text
        assert "cost" not in text

    def test_costs(self):
        prices = Prices(small=Price(input=1, output=1), large=Price(input=1, output=1))
        assert "large model alone about 0.0000" in plain(router(prices=prices).run("?").trace)

    def test_failures_are_shown(self):
        result = router(large=model(fail_after=2), on_backend_error="small").run("?")
        assert "large model: the script says: fail here" in plain(result.trace)

    def test_a_trace_prints_itself(self):
        trace = router().run("?").trace
        assert str(trace) == plain(trace)

    @pytest.mark.parametrize("threshold", [float("inf"), -float("inf")])
    def test_infinite_thresholds(self, threshold):
        assert "The answer is 4." in plain(router(threshold=threshold).run("?").trace)

    @pytest.mark.parametrize("text", HOSTILE)
    def test_markup_is_printed_literally(self, text):
        assert text in plain(answer_of(text).trace)

    @pytest.mark.parametrize("text", HOSTILE)
    def test_markup_is_printed_literally_in_colour(self, text):
        out = console(force_terminal=True, color_system="standard")
        out.print(rich_trace(answer_of(text).trace))
        assert text in out.file.getvalue()

    def test_an_escape_sequence_cannot_reach_the_terminal(self):
        assert "\x1b" not in plain(answer_of("a\x1b[2Jb").trace)

    def test_an_empty_step_is_visible(self):
        assert "(nothing)" in plain(answer_of().trace)


class TestHeader:
    @pytest.mark.parametrize(
        ("entropy", "threshold", "filled"),
        [
            (0.0, 1.0, 0),
            (1.0, 1.0, 5),
            (2.0, 1.0, 10),
            (9.0, 1.0, 10),
            (0.5, 0.0, 5),
            (0.2, 2.0, 0),
        ],
    )
    def test_the_middle_of_the_bar_is_the_threshold(self, entropy, threshold, filled):
        assert entropy_bar(entropy, threshold) == "█" * filled + "░" * (10 - filled)

    def test_without_a_glimpse_there_is_no_bar(self):
        assert step_header(4, "large", None, 1.0, is_answer=False).plain == "step 5  large model"
        assert step_header(4, "small", None, 1.0, is_answer=True).plain == "answer  small model"

    def test_equal_to_the_threshold_is_not_above(self):
        assert "≤ 1 nats" in step_header(0, "small", 1.0, 1.0, is_answer=False).plain


class TestLivePrinter:
    @pytest.mark.parametrize(
        "text",
        [*HOSTILE, "x" * 200, "a  b   ", "one\ntwo\n\n", "\n\n", "def f():\n\treturn 1\n", "é🦄"],
    )
    def test_text_is_exact(self, text):
        assert live(text) == text

    def test_pieces_are_joined_without_additions(self):
        assert live("[re", "d] ", "a", "\n", "\n", "b") == "[red] a\n\nb"

    def test_an_escape_sequence_cannot_reach_the_terminal(self):
        assert "\x1b[2J" not in live("a\x1b[2Jb")

    def test_a_whole_call(self):
        out = console(color_system=None)
        printer = LivePrinter(1.0, out)
        events = list(router().stream("?"))
        for event in events:
            printer(event)
        text = out.file.getvalue()
        position = 0
        for part in (
            "step 1  small model",
            "Let me think",
            "step 2  large model",
            "2 + 2 = 4.",
            "step 3  small model",
            "Done.",
            "answer  large model",
            "The answer is 4.",
            "large share 50%",
        ):
            position = text.index(part, position)
        assert isinstance(events[-1], Finished)
        assert printer.result is events[-1].result
        assert "\n\n\n" not in text

    def test_a_blank_line_in_front_of_every_step(self):
        out = console()
        printer = LivePrinter(1.0, out)
        for index, text in enumerate(["a\n\n", "b\n", "c"]):
            printer(StepStarted(index, "small", None, False))
            printer(TextDelta(text, index, "small", None))
        assert out.file.getvalue() == (
            "step 1  small model\na\n\nstep 2  small model\nb\n\nstep 3  small model\nc"
        )

    def test_authors_have_different_colours(self):
        out = console(force_terminal=True, color_system="standard")
        printer = LivePrinter(1.0, out)
        printer(TextDelta("s", 0, "small", None))
        printer(TextDelta("l", 1, "large", None))
        assert out.file.getvalue() == "\x1b[36ms\x1b[0m\x1b[35ml\x1b[0m"


class TestConsoles:
    """Everything goes through the console, whatever becomes of it there."""

    @staticmethod
    def print_answer(out: Console) -> None:
        printer = LivePrinter(1.0, out)
        for event in router().stream("?"):
            printer(event)

    @pytest.mark.parametrize("colours", [None, "standard", "truecolor"])
    def test_colours_change_no_text(self, colours):
        out = console(color_system=colours, force_terminal=colours is not None)
        self.print_answer(out)
        printed = out.file.getvalue()
        assert ("\x1b" in printed) == (colours is not None)
        text = re.sub(r"\x1b\[[\d;]*m", "", printed)
        assert "large model\nThe answer is 4.\n\nsmall S: " in text

    def test_text_is_shown_before_its_line_ends(self, monkeypatch):
        out = console()
        flushed = []
        monkeypatch.setattr(out.file, "flush", lambda: flushed.append(out.file.getvalue()))
        LivePrinter(1.0, out)(TextDelta("half a line", 0, "small", None))
        assert flushed[-1] == "half a line"

    def test_a_console_that_is_captured_captures_everything(self):
        out = console()
        with out.capture() as captured:
            self.print_answer(out)
        assert out.file.getvalue() == ""
        assert captured.get().index("Let me think") < captured.get().index("large share")

    def test_a_console_that_records_has_everything(self):
        out = console(record=True)
        self.print_answer(out)
        assert "2 + 2 = 4." in out.export_text()

    def test_a_console_that_is_quiet_stays_quiet(self):
        out = console(quiet=True)
        self.print_answer(out)
        assert out.file.getvalue() == ""

    def test_a_status_line_stays_below_the_text(self):
        out = console(force_terminal=True, color_system="standard")
        printer = LivePrinter(1.0, out)
        printer(TextDelta("before", 0, "small", None))
        with Live("working", console=out, auto_refresh=False):
            before = len(out.file.getvalue())
            printer(TextDelta("text\n", 0, "small", None))
            after = out.file.getvalue()[before:]
        assert after.index("text") < after.index("working")


@pytest.mark.serial
def test_watching_costs_little():
    # A generous bound for a busy machine: 5 % of the time between two of 30 tokens a second.
    printer = LivePrinter(1.0, console(force_terminal=True, color_system="standard"))
    deltas = [TextDelta(f" word{n}", 0, "small", "reasoning") for n in range(500)]
    started = time.perf_counter()
    for delta in deltas:
        printer(delta)
    assert (time.perf_counter() - started) / len(deltas) < 0.05 / 30


def test_a_trace_shows_itself_in_its_authors_colours():
    trace = router().run("?").trace
    console = Console(force_terminal=True, width=100, color_system="standard")
    with console.capture() as captured:
        trace.show(console)
    lines = captured.get().splitlines()
    assert any("\x1b[36m" in line and "Let me think" in line for line in lines)  # cyan: small
    assert any("\x1b[35m" in line and "2 + 2 = 4." in line for line in lines)  # magenta: large


@pytest.mark.parametrize(("end", "shown"), [("tool_call", "began a tool call"), ("eos", "nothing")])
def test_a_step_without_text_says_what_it_was(end: str, shown: str) -> None:
    step = router().run("hi").trace.steps[0]
    trace = router().run("hi").trace
    empty = step.model_copy(update={"text": "", "end": end})
    assert f"({shown})" in str(trace.model_copy(update={"steps": [empty]}))


def test_a_step_that_another_number_decided_says_so_instead_of_a_threshold():
    out = Console(file=io.StringIO(), width=100, highlight=False)
    printer = LivePrinter(1.0, out)
    printer(StepStarted(0, "large", 0.5, False, reason="margin 0.10"))
    printer(StepStarted(1, "small", 0.5, False, threshold=0.7, reason="H 0.50 <= 0.70"))
    first, second = [line for line in out.file.getvalue().splitlines() if line.startswith("step")]
    assert first.endswith(" nats  margin 0.10") and "≤" not in first
    assert second.endswith("≤ 0.7 nats")
