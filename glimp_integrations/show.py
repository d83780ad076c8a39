"""A routed answer as coloured text: who wrote what, and how unsure the small model was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glimp_integrations.trace import Author, StepRecord, Trace

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

__all__ = ["COLOURS", "entropy_bar", "plain", "rich_trace", "step_header", "totals"]

COLOURS: dict[Author, str] = {"small": "cyan", "large": "magenta"}
# What a model wrote must not steer the terminal: control characters are shown as pictures.
_VISIBLE = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    **dict.fromkeys(range(0x7F, 0xA0), 0xFFFD),
}
# What a step without text began is written anew, by the answer's author.
_BEGAN = {"tool_call": "(began a tool call)", "json": "(began the JSON)"}
_BAR = 10  # characters for twice the threshold


def step_header(
    index: int, author: Author, entropy: float | None, threshold: float, *, is_answer: bool
) -> Text:
    """One line above a step: number, author, H against the threshold."""
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
    return line


def visible(text: str) -> str:
    """The text with control characters, but for tabs and newlines, as visible ones."""
    return text.translate(_VISIBLE)


def entropy_bar(entropy: float, threshold: float) -> str:
    """H as a bar whose middle is the threshold."""
    scale = 2 * threshold if threshold > 0 else 1.0
    filled = max(0, min(_BAR, round(_BAR * entropy / scale)))
    return "█" * filled + "░" * (_BAR - filled)


def rich_trace(trace: Trace) -> Group:
    """The whole trace for a rich console."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for step in trace.steps:
        # Text objects, never markup: what a model or a user wrote is not formatting.
        parts.append(
            step_header(
                step.index,
                step.author,
                step.entropy,
                float(step.threshold),
                is_answer=_is_answer(trace, step),
            )
        )
        shown = visible(step.text).rstrip("\n") or _BEGAN.get(step.end or "", "(nothing)")
        parts.append(Text(shown, style=COLOURS[step.author]))
        parts.append(Text(""))
    parts.append(totals(trace))
    return Group(*parts)


def totals(trace: Trace) -> Text:
    """Tokens by author, requests, seconds, cost."""
    from rich.text import Text

    line = Text()
    for author in ("small", "large"):
        name = trace.small_model if author == "small" else trace.large_model
        steps = sum(step.author == author for step in trace.steps)
        line.append(f"{author} ", style=f"bold {COLOURS[author]}")
        line.append(f"{name}: {trace.tokens(author)} tokens in {steps} step{'s' * (steps != 1)}\n")
    line.append(
        f"large share {trace.large_share:.0%} of tokens · {trace.requests} requests "
        f"({trace.strategy}) · {trace.seconds:.1f} s · ended by {trace.stop_reason}",
        style="dim",
    )
    if trace.cost is not None and trace.large_alone_cost is not None:
        line.append(
            f"\ncost {trace.cost:.6f}, large model alone about {trace.large_alone_cost:.6f}",
            style="dim",
        )
    for error in trace.errors:
        line.append(f"\n{error}", style="yellow")
    return line


def plain(trace: Trace) -> str:
    """The trace without colours."""
    from rich.console import Console

    console = Console(no_color=True, width=100, force_terminal=False, record=True, quiet=True)
    with console.capture() as text:
        console.quiet = False
        console.print(rich_trace(trace))
    return text.get()


def _is_answer(trace: Trace, step: StepRecord) -> bool:
    return step.kind == "answer" and any(other.kind == "reasoning" for other in trace.steps)
