"""A trace as coloured text: who wrote what, and how uncertain the small model was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glimp_integrations.method.policy import Author
from glimp_integrations.trace.records import StepRecord, TraceData

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderResult
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "COLOURS",
    "EMPTY_STEPS",
    "answer_steps",
    "deciding_steps",
    "entropy_bar",
    "plain",
    "proposed_calls",
    "rich_trace",
    "saving",
    "step_header",
    "totals",
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
_BAR = 10
"""Length of the bars in characters; a full bar is twice the threshold."""


def step_header(
    index: int,
    author: Author,
    entropy: float | None,
    threshold: float,
    *,
    is_answer: bool,
    decides_call: bool = False,
) -> Text:
    """The line above a step: number, author, H against the threshold.

    Args:
        index: Number of the step, from 0.
        author: The model that writes it.
        entropy: H in nats; ``None``: no glimpse was made.
        threshold: Nats; may be infinite.
        is_answer: Whether the step is a separate answer.
        decides_call: Whether it was written to decide on a tool call that the small model began.
    """
    from rich.text import Text

    pieces = _header(
        index, author, entropy, threshold, is_answer=is_answer, decides_call=decides_call
    )
    return Text.assemble(*pieces)


def _header(
    index: int,
    author: Author,
    entropy: float | None,
    threshold: float,
    *,
    is_answer: bool,
    decides_call: bool,
) -> list[tuple[str, str]]:
    """The parts of a step's header, each with its style."""
    colour = COLOURS[author]
    pieces = [
        ("answer" if is_answer else f"step {index + 1}", "bold"),
        (f"  {author} model", f"bold {colour}"),
    ]
    if entropy is not None:
        sign = ">" if entropy > threshold else "≤"
        pieces += [
            (f"  H {entropy:.2f} ", "dim"),
            (entropy_bar(entropy, threshold), colour),
            (f" {sign} {threshold:g} nats", "dim"),
        ]
    if decides_call:
        pieces.append(("  decides on the tool call", "dim"))
    return pieces


def visible(text: str) -> str:
    """The text with visible pictures in place of control characters other than tab and newline.

    Half surrogate pairs, which no terminal and no file can have, become U+FFFD.
    """
    return text.translate(_VISIBLE)


def entropy_bar(entropy: float, threshold: float) -> str:
    """H as a bar whose middle is the threshold; both in nats."""
    scale = 2 * threshold if threshold > 0 else 1.0
    filled = max(0, min(_BAR, round(_BAR * entropy / scale)))
    return "█" * filled + "░" * (_BAR - filled)


def rich_trace(trace: TraceData, *, brief: bool = False) -> Group:
    """The whole trace for a rich console.

    Args:
        trace: The trace.
        brief: Show one line for each step, with the beginning of its text.
    """
    from rich.console import Group
    from rich.text import Text

    if brief:
        return Group(_table(trace), Text(""), totals(trace))
    parts: list[Any] = []
    answers, deciding = answer_steps(trace), deciding_steps(trace)
    for step in trace.steps:
        # Never markup: rich must not read a model's or a user's text as formatting.
        header = _header(
            step.index,
            step.author,
            step.entropy,
            step.level,
            is_answer=step.index in answers,
            decides_call=step.index in deciding,
        )
        parts.append(_OneLine([*header, (f"  {_size(step)}", "dim")]))
        text = visible(step.text).rstrip("\n") or EMPTY_STEPS.get(step.end or "", "(nothing)")
        parts.append(_StepText(text, COLOURS[step.author]))
    parts.append(totals(trace))
    return Group(*parts)


class _OneLine:
    """Styled parts in one line; wrapped by rich where they do not fit."""

    def __init__(self, pieces: list[tuple[str, str]]) -> None:
        self.pieces = pieces

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment
        from rich.text import Text

        # Every character of a header is one column wide.
        if sum(len(text) for text, _ in self.pieces) > options.max_width:
            yield Text.assemble(*self.pieces)
            return
        for text, style in self.pieces:
            yield Segment(text, console.get_style(style))
        yield Segment.line()


class _StepText:
    """A step's text and a blank line, wrapped at words.

    rich takes a millisecond for a text. Most texts are lines of ASCII, which need nothing of what
    it does in that time; they are wrapped here, in the same way.
    """

    def __init__(self, text: str, style: str) -> None:
        self.text, self.style = text, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment
        from rich.text import Text

        lines = _wrapped(self.text, options.max_width)
        if lines is None:
            yield Text(self.text, style=self.style)
        else:
            style = console.get_style(self.style)
            for line in lines:
                yield Segment(line, style)
                yield Segment.line()
        yield Segment.line()


def _wrapped(text: str, width: int) -> list[str] | None:
    """The lines of a text, none longer than ``width``; ``None``: it is not as simple as that."""
    if not text.isascii() or "\t" in text:
        return None
    lines: list[str] = []
    for line in text.split("\n"):
        rest = line
        if len(rest) > width and ("  " in rest or " " in (rest[0], rest[-1])):
            return None
        while len(rest) > width:
            end = rest.rfind(" ", 0, width + 1)
            if end < 0:
                return None
            lines.append(rest[: min(end + 1, width)])  # with its space, where that fits
            rest = rest[end + 1 :]
        lines.append(rest)
    return lines


def _size(step: StepRecord) -> str:
    return f"{step.tokens} token{'s' * (step.tokens != 1)} · {step.seconds:.1f} s"


def _table(trace: TraceData) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim")
    for heading in ("step", "author", "H", "", "tokens", "time"):
        table.add_column(heading, justify="left" if heading in ("author", "") else "right")
    table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    answers = answer_steps(trace)
    for step in trace.steps:
        colour, glimpsed = COLOURS[step.author], step.entropy is not None
        text = " ".join(visible(step.text).split()) or EMPTY_STEPS.get(step.end or "", "(nothing)")
        table.add_row(
            "answer" if step.index in answers else str(step.index + 1),
            Text(step.author, colour),
            f"{step.entropy:.2f}" if glimpsed else "",
            Text(entropy_bar(step.entropy or 0.0, step.level) if glimpsed else "", colour),
            Text(str(step.tokens), "dim"),
            Text(f"{step.seconds:.1f} s", "dim"),
            # No terminal is wider; rich would measure all of a long text.
            Text(text[:400], colour),
        )
    return table


def totals(trace: TraceData) -> Text:
    """Tokens by author, requests, seconds, cost."""
    from rich.text import Text

    line = Text()
    for author in ("small", "large"):
        name = trace.small_model if author == "small" else trace.large_model
        steps = sum(step.author == author for step in trace.steps)
        line.append(f"{author} ", style=f"bold {COLOURS[author]}")
        line.append(
            f"{visible(name)}: {trace.tokens(author)} tokens in {steps} step{'s' * (steps != 1)}\n"
        )
    line.append(
        f"large share {trace.large_share:.0%} of tokens · {trace.requests} requests "
        f"({visible(trace.strategy)}) · {trace.seconds:.1f} s · "
        f"ended by {visible(str(trace.stop_reason))}",
        style="dim",
    )
    if trace.cost is not None and trace.large_alone_cost is not None:
        line.append(
            f"\ncost {trace.cost:.6f}, large model alone about {trace.large_alone_cost:.6f}",
            style="dim",
        )
        line.append(f" ({saving(trace)})" if saving(trace) else "", style="dim")
    if calls := proposed_calls(trace):
        line.append(f"\n{calls}", style="dim")
    for error in trace.errors:
        line.append(f"\n{visible(error)}", style="yellow")
    return line


def proposed_calls(trace: TraceData) -> str:
    """A sentence on the tool calls that one model began and the other decided on.

    Returns:
        The sentence; empty where there were no such calls.
    """
    handed_over = [p for p in trace.call_proposals if p.decided_by != p.proposed_by]
    if not handed_over:
        return ""
    calls = sum(p.called for p in handed_over)
    return (
        f"the small model began {len(handed_over)} tool call{'s' * (len(handed_over) != 1)}, "
        f"the large model made {calls or 'none'} of them"
    )


def saving(trace: TraceData) -> str:
    """How much cheaper than the large model alone the call was, in words.

    Returns:
        Such as ``"40% saved"`` or ``"10% more"``; empty without prices.
    """
    if trace.cost is None or not trace.large_alone_cost:
        return ""
    share = 1 - trace.cost / trace.large_alone_cost
    return f"{abs(share):.0%} {'saved' if share >= 0 else 'more'}"


def plain(trace: TraceData) -> str:
    """The trace without colours."""
    from rich.console import Console

    console = Console(no_color=True, width=100, force_terminal=False, quiet=True)
    with console.capture() as text:
        console.quiet = False
        console.print(rich_trace(trace))
    return text.get()


def deciding_steps(trace: TraceData) -> frozenset[int]:
    """Indices of the steps written to decide on a tool call that the other model began."""
    return frozenset(p.decided_in for p in trace.call_proposals if p.step < p.decided_in)


def answer_steps(trace: TraceData) -> frozenset[int]:
    """Indices of separate answers; the last step of a chain without think tags is none."""
    if all(step.kind == "answer" for step in trace.steps):
        return frozenset()
    return frozenset(step.index for step in trace.steps if step.kind == "answer")
