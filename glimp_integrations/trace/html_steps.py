"""The steps of a trace as HTML.

What is written once for every step is written here and not by the templates, which take ten times
as long: a page of 100,000 steps is seconds. Numbers need no escaping; every text gets it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from glimp_integrations.trace.records import StepRecord
from glimp_integrations.trace.step_lines import remark, visible

__all__ = ["ShownStep", "chart_bars", "counted", "shown_seconds", "step_items"]


@dataclass(frozen=True, slots=True)
class ShownStep:
    """What a page shows of a step.

    Attributes:
        record: The step's record.
        name: Its heading, such as ``"step 3"``.
        head: The part of the text that is always visible.
        rest: The part that is folded; empty for short texts.
        empty: What is shown in place of an empty text.
        threshold: The step's threshold in nats; may be infinite.
        height: H on the scale of the chart, 0 to 100; ``None`` without a glimpse.
        decides_call: Whether it was written to decide on a tool call that the small model began.
        mark: The threshold on the scale of the chart; ``None`` where it is not on it.
        end: Why the step ended; empty for usual ends.
    """

    record: StepRecord
    name: str
    head: str
    rest: str
    empty: str
    threshold: float
    height: float | None
    decides_call: bool
    mark: float | None
    end: str

    @property
    def glimpse(self) -> str:
        """H against the threshold in HTML, such as ``"H 0.50 ≤ 1"``; empty without a glimpse."""
        if self.height is None or self.record.entropy is None:
            return ""
        if math.isnan(self.threshold):
            return f"H {self.record.entropy:.2f}"  # it is not H that decides
        sign = "&gt;" if self.record.entropy > self.threshold else "≤"
        return f"H {self.record.entropy:.2f} {sign} {self.threshold:.4g}"


def chart_bars(steps: Sequence[ShownStep], *, page: bool) -> str:
    """The bars of the chart, as parts of an SVG that is one wide for every step.

    Args:
        steps: The steps.
        page: Whether they are links to the items of :func:`step_items`.
    """
    return "\n".join([_bar(x, step, page=page) for x, step in enumerate(steps)])


def step_items(steps: Sequence[ShownStep], *, page: bool) -> str:
    """The steps with their texts, as items of a list.

    Args:
        steps: The steps.
        page: Whether they have ids, which only one fragment of a document may have.
    """
    return "\n".join([_item(n, step, page=page) for n, step in enumerate(steps, 1)])


def counted(number: int, word: str) -> str:
    """A number of things, such as ``"1,200 tokens"``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def shown_seconds(value: float) -> str:
    """Seconds, with a digit after the point where it matters."""
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def _bar(x: int, step: ShownStep, *, page: bool) -> str:
    author, glimpse = step.record.author, step.glimpse
    title = f"{step.name}, {author} model{', ' * bool(glimpse)}{glimpse}"
    bar = ""
    if step.height is not None:
        y, height = 88 * (1 - step.height / 100), 88 * step.height / 100 + 0.6
        bar = f'<rect x="{x + 0.1}" y="{y:.2f}" width=".8" height="{height:.2f}"/>\n'
    y, height = (92, 8) if author == "large" else (95, 2)
    begin, end = (f'<a href="#step-{x + 1}" tabindex="-1">', "</a>") if page else ("", "")
    return (
        f'{begin}<g class="glimp-{author}">'
        f"<title>{title}, {counted(step.record.tokens, 'token')}</title>\n"
        f'<rect class="glimp-catch" x="{x}" y="0" width="1" height="100"/>\n'
        f'{bar}<rect x="{x}" y="{y}" width="1" height="{height}"/></g>{end}'
    )


def _item(number: int, step: ShownStep, *, page: bool) -> str:
    author = step.record.author
    place = f' id="step-{number}"' if page else ""
    return (
        f'<li class="glimp-step glimp-{author}"{place}>\n'
        f'<div class="glimp-head"><strong class="glimp-name">{step.name}</strong> '
        f'<span class="glimp-badge">{author}</span>\n'
        f"{_entropy(step)}"
        f'<span class="glimp-cost">{_cost(step)}</span></div>\n'
        f"{_text(step)}"
        "</li>"
    )


def _entropy(step: ShownStep) -> str:
    decides = '<span class="glimp-dim">decides on the tool call</span>' * step.decides_call
    if step.height is None:
        return decides
    mark = "" if step.mark is None else f'<b style="left:{step.mark}%"></b>'
    return (
        f'<span class="glimp-bar" aria-hidden="true"><i style="width:{step.height}%"></i>{mark}'
        f'</span>\n<span class="glimp-h">{step.glimpse} nats</span>\n{decides}'
    )


def _cost(step: ShownStep) -> str:
    record = step.record
    away = (
        f' <span class="glimp-away">+{record.discarded_tokens:,} thrown away</span>'
        if record.discarded_tokens
        else ""
    )
    end = f" · ended by {escape(visible(step.end))}" if step.end else ""
    end += f" · {escape(reason)}" if (reason := remark(record)) else ""
    return f"{counted(record.tokens, 'token')}{away} · {shown_seconds(record.seconds)}{end}"


def _text(step: ShownStep) -> str:
    if step.rest:
        return (
            f'<details><summary><span class="glimp-text" dir="auto">{escape(step.head)}</span>'
            '<span class="glimp-more"></span></summary>\n'
            f'<div class="glimp-text" dir="auto">{escape(step.rest)}</div></details>\n'
        )
    if step.head:
        return f'<div class="glimp-text" dir="auto">{escape(step.head)}</div>\n'
    return f'<div class="glimp-text glimp-dim">{step.empty}</div>\n'
