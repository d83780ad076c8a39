"""A trace as coloured text: who wrote what, and how uncertain the small model was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glimp_integrations.method.policy import Author
from glimp_integrations.trace.records import TraceData
from glimp_integrations.trace.step_lines import (
    COLOURS,
    BriefSteps,
    FullSteps,
    header_pieces,
    visible,
)

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.text import Text

__all__ = [
    "plain",
    "print_trace",
    "proposed_calls",
    "rich_trace",
    "saving",
    "step_header",
    "totals",
]


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

    pieces = header_pieces(
        index, author, entropy, threshold, is_answer=is_answer, decides_call=decides_call
    )
    return Text.assemble(*pieces)


def rich_trace(trace: TraceData, *, brief: bool = False) -> Group:
    """The whole trace for a rich console.

    Args:
        trace: The trace.
        brief: Show one line for each step, with the beginning of its text.
    """
    from rich.console import Group
    from rich.text import Text

    if brief:
        return Group(BriefSteps(trace), Text(""), totals(trace))
    return Group(FullSteps(trace), totals(trace))


def print_trace(trace: TraceData, console: Console, *, brief: bool = False) -> None:
    """Print a trace. rich's cropping, which takes half of the time, is left out: no line needs it.

    Args:
        trace: The trace.
        console: Where it is printed.
        brief: Show one line for each step, with the beginning of its text.
    """
    console.print(rich_trace(trace, brief=brief), crop=False)


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
    for sentence in remarks(trace):
        line.append(f"\n{visible(sentence)}", style="dim")
    for error in trace.errors:
        line.append(f"\n{visible(error)}", style="yellow")
    return line


def remarks(trace: TraceData) -> list[str]:
    """Sentences on what changed the call as a whole: routing that was left, budgets."""
    sentences = [f"budget: {limit}" for limit in trace.limits]
    if trace.route == "large_alone":
        sentences.insert(0, f"the large model alone: {trace.route_reason}")
    return sentences


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
        print_trace(trace, console)
    return text.get()
