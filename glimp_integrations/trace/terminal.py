"""A routed answer as coloured text: who wrote what, and how unsure the small model was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glimp_integrations.trace.trace import Author, StepRecord, Trace

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "BEGAN",
    "COLOURS",
    "decides_call",
    "entropy_bar",
    "is_answer",
    "plain",
    "proposed_calls",
    "rich_trace",
    "saving",
    "step_header",
    "totals",
    "visible",
]

COLOURS: dict[Author, str] = {"small": "cyan", "large": "magenta"}
# What a model wrote must not steer the terminal: control characters are shown as pictures.
_VISIBLE = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    **dict.fromkeys(range(0x7F, 0xA0), 0xFFFD),
}
# What a step without text began is written anew, by the answer's author.
BEGAN = {
    "tool_call": "(began a tool call)",
    "call_proposed": "(began a tool call)",
    "json": "(began the JSON)",
}
_BAR = 10  # characters for twice the threshold


def step_header(
    index: int,
    author: Author,
    entropy: float | None,
    threshold: float,
    *,
    is_answer: bool,
    decides_call: bool = False,
) -> Text:
    """One line above a step: number, author, H in nats against the threshold."""
    from rich.text import Text

    colour = COLOURS[author]
    line = Text()
    line.append("answer" if is_answer else f"step {index + 1}", style="bold")
    line.append(f"  {author} model", style=f"bold {colour}")
    if entropy is not None:
        line.append(f"  H {entropy:.2f} ", style="dim")
        line.append(entropy_bar(entropy, threshold), style=colour)
        sign = ">" if entropy > threshold else "≤"
        line.append(f" {sign} {threshold:g} nats", style="dim")
    if decides_call:
        line.append("  decides on the tool call", style="dim")
    return line


def visible(text: str) -> str:
    """The text with control characters, but for tabs and newlines, as visible ones."""
    return text.translate(_VISIBLE)


def entropy_bar(entropy: float, threshold: float) -> str:
    """H as a bar whose middle is the threshold."""
    scale = 2 * threshold if threshold > 0 else 1.0
    filled = max(0, min(_BAR, round(_BAR * entropy / scale)))
    return "█" * filled + "░" * (_BAR - filled)


def rich_trace(trace: Trace, *, brief: bool = False) -> Group:
    """The whole trace for a rich console.

    Args:
        trace: The trace.
        brief: One line a step, with the beginning of its text.
    """
    from rich.console import Group
    from rich.text import Text

    if brief:
        return Group(_table(trace), Text(""), totals(trace))
    parts: list[Any] = []
    for step in trace.steps:
        # Text objects, never markup: what a model or a user wrote is not formatting.
        header = step_header(
            step.index,
            step.author,
            step.entropy,
            float(step.threshold),
            is_answer=is_answer(trace, step),
            decides_call=decides_call(trace, step),
        )
        header.append(f"  {_spent(step)}", style="dim")
        parts.append(header)
        shown = visible(step.text).rstrip("\n") or BEGAN.get(step.end or "", "(nothing)")
        parts.append(Text(shown, style=COLOURS[step.author]))
        parts.append(Text(""))
    parts.append(totals(trace))
    return Group(*parts)


def _spent(step: StepRecord) -> str:
    return f"{step.tokens} token{'s' * (step.tokens != 1)} · {step.seconds:.1f} s"


def _table(trace: Trace) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="dim")
    for heading in ("step", "author", "H", "", "tokens", "time"):
        table.add_column(heading, justify="left" if heading in ("author", "") else "right")
    table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    for step in trace.steps:
        colour, known = COLOURS[step.author], step.entropy is not None
        text = " ".join(visible(step.text).split()) or BEGAN.get(step.end or "", "(nothing)")
        table.add_row(
            "answer" if is_answer(trace, step) else str(step.index + 1),
            Text(step.author, colour),
            f"{step.entropy:.2f}" if known else "",
            Text(entropy_bar(step.entropy or 0.0, float(step.threshold)) if known else "", colour),
            Text(str(step.tokens), "dim"),
            Text(f"{step.seconds:.1f} s", "dim"),
            # No terminal is wider; what is cut here need not be measured.
            Text(text[:400], colour),
        )
    return table


def totals(trace: Trace) -> Text:
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


def proposed_calls(trace: Trace) -> str:
    """What became of calls that one model began and the other decided on; empty: none."""
    handed = [p for p in trace.call_proposals if p.decided_by != p.proposed_by]
    if not handed:
        return ""
    called = sum(p.called for p in handed)
    return (
        f"the small model began {len(handed)} tool call{'s' * (len(handed) != 1)}, "
        f"the large model made {called or 'none'} of them"
    )


def saving(trace: Trace) -> str:
    """What routing saved against the large model alone, in words; empty without prices."""
    if trace.cost is None or not trace.large_alone_cost:
        return ""
    saved = 1 - trace.cost / trace.large_alone_cost
    return f"{abs(saved):.0%} {'saved' if saved >= 0 else 'more'}"


def plain(trace: Trace) -> str:
    """The trace without colours."""
    from rich.console import Console

    console = Console(no_color=True, width=100, force_terminal=False, record=True, quiet=True)
    with console.capture() as text:
        console.quiet = False
        console.print(rich_trace(trace))
    return text.get()


def decides_call(trace: Trace, step: StepRecord) -> bool:
    """Whether a step was written to decide on a call that the other model began."""
    return any(p.step < p.decided_in == step.index for p in trace.call_proposals)


def is_answer(trace: Trace, step: StepRecord) -> bool:
    """Whether a step is an answer of its own, not the last of a chain without tags."""
    return step.kind == "answer" and any(other.kind == "reasoning" for other in trace.steps)
