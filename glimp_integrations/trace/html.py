"""A trace as HTML: a page of its own, or a fragment for notebooks. No scripts, nothing fetched.

The texts of models and users are never read as HTML: Jinja2 escapes them, control characters are
shown as pictures, and each step has its own reading direction. In addition, the page's content
policy forbids scripts and requests.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import regex

from glimp_integrations.strict_json import well_formed
from glimp_integrations.trace.html_steps import (
    ShownStep,
    chart_bars,
    counted,
    shown_seconds,
    step_items,
)
from glimp_integrations.trace.records import InvalidToolCall, StepRecord, ToolCall, TraceData
from glimp_integrations.trace.step_lines import EMPTY_STEPS, answer_steps, deciding_steps, visible
from glimp_integrations.trace.terminal import proposed_calls, remarks, saving

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["answer_fragment", "fragment", "page"]

_LONG = 1200
"""Characters; texts longer than this, or of more than ``_LINES`` lines, are folded."""
_LINES = 16
_HEAD = 600
"""Characters of a folded text that stay visible, at most half of ``_LINES`` lines."""
_ROOM = 1.15
"""Height of the chart, as a multiple of its highest value: above the highest bar is a gap."""
_REASONS = {
    "think_start": "begin of thinking",
    "think_end": "end of thinking",
    "eos": "end of the text",
    "context_full": "full context",
    "call_proposed": "a tool call, for the large model to decide on",
}
# Usual ends of a step, which are not shown.
_USUAL = {"delimiter", "eos", "think_start", "think_end", "stop"}


def page(trace: TraceData, title: str = "GlimpRouter trace") -> str:
    """A whole HTML document.

    Args:
        trace: The trace.
        title: Heading and title of the page.
    """
    return _render("page.html.j2", trace, title=visible(title), page=True)


def fragment(trace: TraceData) -> str:
    """An HTML fragment whose style applies to itself only; a page may contain several."""
    return _render("fragment.html.j2", trace)


def answer_fragment(
    trace: TraceData,
    answer: str,
    *,
    calls: Sequence[ToolCall] = (),
    invalid_calls: Sequence[InvalidToolCall] = (),
) -> str:
    """An HTML fragment: an answer with its tool calls, and below it, folded, its trace.

    Args:
        trace: How the answer was written.
        answer: Its text.
        calls: Its tool calls.
        invalid_calls: Texts that were meant as tool calls.
    """
    reply = {"answer": answer, "calls": calls, "invalid_calls": invalid_calls}
    return _render("fragment.html.j2", trace, reply=reply)


def _render(template: str, trace: TraceData, **more: Any) -> str:
    top = _top(trace.steps)
    answers, deciding = answer_steps(trace), deciding_steps(trace)
    steps = [
        _step(
            record,
            top,
            is_answer=record.index in answers,
            decides_call=record.index in deciding,
        )
        for record in trace.steps
    ]
    glimpsed = [step for step in steps if step.height is not None]
    marks = sorted({step.threshold for step in glimpsed})
    for_page = bool(more.get("page"))
    view: dict[str, Any] = {
        "page": False,
        "reply": None,
        **more,
        "trace": trace,
        "steps": len(steps),
        "bars": chart_bars(steps, page=for_page),
        "items": step_items(steps, page=for_page),
        "wrote": Counter(record.author for record in trace.steps),
        "kept": {author: trace.tokens(author) for author in ("small", "large")},
        "glimpses": len(glimpsed),
        "highest": max((step.record.entropy or 0.0 for step in glimpsed), default=0.0),
        "to_large": sum(step.record.author == "large" for step in glimpsed),
        "thresholds": marks,
        "estimators": sorted({step.record.estimator for step in glimpsed}),
        "mark": glimpsed[0].mark if len(marks) == 1 else None,
        "top": top,
        "tokens": sum(record.tokens for record in trace.steps),
        "saving": saving(trace),
        "proposed_calls": proposed_calls(trace),
        "remarks": [visible(sentence) for sentence in remarks(trace)],
    }
    return well_formed(_environment().get_template(template).render(view))


def _top(records: Sequence[StepRecord]) -> float:
    """The chart's upper end in nats: all bars and thresholds are on one scale."""
    values = [_finite(r.entropy) for r in records]
    values += [_finite(r.level) for r in records if r.entropy is not None]
    return _ROOM * max((value for value in values if value is not None), default=0.0)


def _step(record: StepRecord, top: float, *, is_answer: bool, decides_call: bool) -> ShownStep:
    text = visible(record.text).rstrip("\n")
    head, rest = _folded(text)
    threshold = record.level
    return ShownStep(
        record=record,
        name="answer" if is_answer else f"step {record.index + 1}",
        head=head,
        rest=rest,
        empty=EMPTY_STEPS.get(record.end or "", "(nothing)"),
        threshold=threshold,
        height=_percent(_finite(record.entropy), top),
        decides_call=decides_call,
        mark=_percent(_finite(threshold), top),
        end="" if record.end is None or record.end in _USUAL else _reason(record.end),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _percent(value: float | None, top: float) -> float | None:
    if value is None:
        return None
    return round(min(100.0, max(0.0, 100 * value / top)), 2) if top > 0 else 0.0


def _folded(text: str) -> tuple[str, str]:
    """The part of a text that is always visible, and the part that is folded."""
    if len(text) <= _LONG and text.count("\n") < _LINES:
        return text, ""
    # Whole characters as readers see them: a flag or a family is several code points.
    head = "\n".join(text[:_HEAD].split("\n")[: _LINES // 2])
    if len(head) < len(text) and text[len(head)] != "\n":
        cut = max(head.rfind(" "), head.rfind("\n"))
        # At the end of a word, unless the last one is long (languages without blanks).
        head = head[: cut + 1] if cut > len(head) - 80 else "".join(_characters(head)[:-1])
    return head, text[len(head) :]


def _characters(text: str) -> list[str]:
    matches: Iterator[Any] = regex.finditer(r"\X", text)
    return [match.group() for match in matches]


def _reason(name: str) -> str:
    return _REASONS.get(name, _words(name))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _json(value: Any) -> str:
    import json

    return visible(json.dumps(value, ensure_ascii=False, indent=1))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("glimp_integrations.trace"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        visible=visible,
        data=_json,
        nats=lambda value: f"{value:.2f}",
        threshold=lambda value: f"{value:g}",
        percent=lambda share: f"{share:.0%}",
        seconds=shown_seconds,
        money=lambda value: f"{value:.6f}",
        words=_words,
        reason=_reason,
        s=counted,
    )
    return environment
