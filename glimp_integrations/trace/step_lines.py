"""The steps of a trace as lines of a terminal.

rich's own texts and tables take about a millisecond each, which is minutes for a long trace. Nearly
all texts are lines of characters that are one column wide, and need nothing of what rich does in
that time. They become segments here, in the same places; the few others are left to rich.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from glimp_integrations.method.policy import Author
from glimp_integrations.trace.records import StepRecord, TraceData

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = [
    "COLOURS",
    "EMPTY_STEPS",
    "BriefSteps",
    "FullSteps",
    "StepText",
    "answer_steps",
    "deciding_steps",
    "entropy_bar",
    "header_pieces",
    "visible",
]

COLOURS: dict[Author, str] = {"small": "cyan", "large": "magenta"}
# A model's text must not control the terminal: control characters are shown as pictures.
_VISIBLE = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    **dict.fromkeys(range(0x7F, 0xA0), 0xFFFD),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),  # half surrogate pairs: no encoding has them
}
# Shown in place of a step without text, by how the step ended: what it began was dropped, and the
# author of the answer writes it again.
EMPTY_STEPS = {
    "tool_call": "(began a tool call)",
    "call_proposed": "(began a tool call)",
    "json": "(began the JSON)",
}
_OTHER_REASONS = ("first_large_steps", "max_large_tokens", "max_cost", "deadline")
_BAR = 10
"""Length of the bars in characters; a full bar is twice the threshold."""
_LONGEST_ROW = 400
"""Characters; no terminal is wider, and measuring all of a long text takes long."""
_SHORTEST_TEXT = 10
"""Columns for the beginning of a text, however narrow the terminal is."""


class FullSteps:
    """Every step of a trace, for a rich console: a header, its whole text, a blank line."""

    def __init__(self, trace: TraceData) -> None:
        self._trace = trace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment
        from rich.text import Text

        trace, width = self._trace, options.max_width
        answers, deciding = answer_steps(trace), deciding_steps(trace)
        styles = {name: console.get_style(name) for name in ("bold", "dim", *COLOURS.values())}
        styles |= {f"bold {name}": console.get_style(f"bold {name}") for name in COLOURS.values()}
        newline = Segment("\n")
        for step in trace.steps:
            # Never markup: rich must not read a model's or a user's text as formatting.
            header = header_pieces(
                step.index,
                step.author,
                step.entropy,
                step.level,
                is_answer=step.index in answers,
                decides_call=step.index in deciding,
            )
            if reason := remark(step):
                header.append((f"  {reason}", "dim"))
            header.append(
                (f"  {step.tokens} token{'s' * (step.tokens != 1)} · {step.seconds:.1f} s", "dim")
            )
            # Every character of a header is one column wide.
            if sum([len(text) for text, _ in header]) > width:
                yield Text.assemble(*header)
            else:
                for text, style in header:
                    yield Segment(text, styles[style])
                yield newline
            text = visible(step.text).rstrip("\n") or _empty(step)
            yield from _text(text, COLOURS[step.author], console, width)
            yield newline


class StepText:
    """A text and a blank line, wrapped at words as rich wraps them."""

    def __init__(self, text: str, style: str) -> None:
        self._text, self._style = text, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        yield from _text(self._text, self._style, console, options.max_width)
        yield Segment.line()


class BriefSteps:
    """Every step of a trace as one row, for a rich console."""

    def __init__(self, trace: TraceData) -> None:
        self._trace = trace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        answers = answer_steps(self._trace)
        rows = [_Row(step, is_answer=step.index in answers) for step in self._trace.steps]
        number = _width("step", (row.name for row in rows))
        author = _width("author", (row.step.author for row in rows))
        entropy = _width("H", (row.entropy for row in rows))
        bar = _BAR * any(row.entropy for row in rows)
        tokens = _width("tokens", (row.tokens for row in rows))
        seconds = _width("time", (row.seconds for row in rows))
        before = number + author + entropy + bar + tokens + seconds + 6
        # rich's tables end with a blank.
        room = min(max(options.max_width - before - 1, _SHORTEST_TEXT), _LONGEST_ROW)

        dim, newline = console.get_style("dim"), Segment("\n")
        colours = {name: console.get_style(colour) for name, colour in COLOURS.items()}
        yield Segment(
            f"{'step':>{number}} {'author':<{author}} {'H':>{entropy}} {'':{bar}} "
            f"{'tokens':>{tokens}} {'time':>{seconds}} text",
            dim,
        )
        yield newline
        for row in rows:
            step = row.step
            colour = colours[step.author]
            drawn = "" if step.entropy is None else entropy_bar(step.entropy, step.level)
            text = " ".join(visible(step.text).split()) or _empty(step)
            yield Segment(f"{row.name:>{number}} ")
            yield Segment(f"{step.author:<{author}} ", colour)
            yield Segment(f"{row.entropy:>{entropy}} ")
            yield Segment(f"{drawn:{bar}} ", colour)
            yield Segment(f"{row.tokens:>{tokens}} {row.seconds:>{seconds}} ", dim)
            yield Segment(_cut(text, room), colour)
            yield newline


class _Row:
    """The cells of a step's row."""

    __slots__ = ("entropy", "name", "seconds", "step", "tokens")

    def __init__(self, step: StepRecord, *, is_answer: bool) -> None:
        self.step = step
        self.name = "answer" if is_answer else str(step.index + 1)
        self.entropy = "" if step.entropy is None else f"{step.entropy:.2f}"
        self.tokens = str(step.tokens)
        self.seconds = f"{step.seconds:.1f} s"


def _width(heading: str, cells: Iterable[str]) -> int:
    return max(len(heading), max(map(len, cells), default=0))


def header_pieces(
    index: int,
    author: Author,
    entropy: float | None,
    threshold: float,
    *,
    is_answer: bool,
    decides_call: bool,
) -> list[tuple[str, str]]:
    """The parts of a step's header, each with its style; see ``terminal.step_header``."""
    colour = COLOURS[author]
    pieces = [
        ("answer" if is_answer else f"step {index + 1}", "bold"),
        (f"  {author} model", f"bold {colour}"),
    ]
    if entropy is not None:
        pieces += [(f"  H {entropy:.2f} ", "dim"), (entropy_bar(entropy, threshold), colour)]
        sign = ">" if entropy > threshold else "≤"
        # Without a threshold it is not H that decides.
        pieces.append(
            (" nats" if math.isnan(threshold) else f" {sign} {threshold:.4g} nats", "dim")
        )
    if decides_call:
        pieces.append(("  decides on the tool call", "dim"))
    return pieces


def remark(step: StepRecord) -> str:
    """Why a step's author wrote it, where neither H nor its place tells."""
    if step.policy is None:
        return visible(step.reason) if step.reason.startswith(_OTHER_REASONS) else ""
    return visible(step.reason) if step.threshold is None else ""


def visible(text: str) -> str:
    """The text with visible pictures in place of control characters other than tab and newline.

    Half surrogate pairs, which no terminal and no file can have, become U+FFFD.
    """
    return text.translate(_VISIBLE)


def entropy_bar(entropy: float, threshold: float) -> str:
    """H as a bar whose middle is the threshold; both in nats. Of what is no number it is empty."""
    scale = 2 * threshold if threshold > 0 else 1.0
    length = _BAR * entropy / scale
    filled = 0 if math.isnan(length) else round(max(0.0, min(_BAR, length)))
    return "█" * filled + "░" * (_BAR - filled)


def deciding_steps(trace: TraceData) -> frozenset[int]:
    """Indices of the steps written to decide on a tool call that the other model began."""
    return frozenset(p.decided_in for p in trace.call_proposals if p.step < p.decided_in)


def answer_steps(trace: TraceData) -> frozenset[int]:
    """Indices of separate answers; the last step of a chain without think tags is none."""
    if all(step.kind == "answer" for step in trace.steps):
        return frozenset()
    return frozenset(step.index for step in trace.steps if step.kind == "answer")


def _empty(step: StepRecord) -> str:
    return EMPTY_STEPS.get(step.end or "", "(nothing)")


def _text(text: str, style: str, console: Console, width: int) -> RenderResult:
    """A text, wrapped, with a newline at its end."""
    from rich.segment import Segment
    from rich.text import Text

    lines = _wrapped(text, width)
    if lines is None:
        yield Text(text, style=style)
        return
    colour, newline = console.get_style(style), Segment("\n")
    for line in lines:
        yield Segment(line, colour)
        yield newline


def _wrapped(text: str, width: int) -> list[str] | None:
    """The lines of a text, none wider than ``width``; ``None``: it is not as simple as that."""
    if "\t" in text or not _is_simple(text):
        return None
    if len(text) <= width and "\n" not in text:
        return [text]
    lines: list[str] = []
    for line in text.split("\n"):
        rest = line
        if len(rest) > width and rest.split() != rest.split(" "):
            return None  # white space that rich keeps or drops by rules of its own
        while len(rest) > width:
            end = rest.rfind(" ", 0, width + 1)
            if end < 0:
                return None
            lines.append(rest[: min(end + 1, width)])  # with its space, where that fits
            rest = rest[end + 1 :]
        lines.append(rest)
    return lines


def _is_simple(text: str) -> bool:
    """Whether every character is one column wide, whatever stands beside it."""
    return text.isascii() or all(map(_is_one_wide, set(text)))


@functools.lru_cache(maxsize=4096)
def _is_one_wide(character: str) -> bool:
    from rich.cells import get_character_cell_size

    return character == "\n" or get_character_cell_size(character) == 1


def _cut(text: str, width: int) -> str:
    """The beginning of a text of one line, not wider than this."""
    text = text[: _LONGEST_ROW + 1]
    if _is_simple(text):
        return text if len(text) <= width else f"{text[: width - 1]}…"
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"
