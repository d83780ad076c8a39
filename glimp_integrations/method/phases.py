"""The phases of a reply: what ends each one, and what comes next.

::

    thinking ──think end tag, end of sequence, budget, repetition──> answer ──> done
    chain (models without tags) ──end of sequence, budget, repetition, stop──> done
                                ──answer marker, a call begins──> answer ──> done
                                ──any of these, where the answer is constrained──> answer ──> done
    chain ──the small model begins a call, and the large one answers──> chain, the large
            model's step: it calls, or says something else
    answer ──a call begins──> answer, constrained to the call ──> answer ──> done
"""

from __future__ import annotations

from glimp_integrations.method.answer_plan import Constraint
from glimp_integrations.method.boundaries import Scanner, Terminator
from glimp_integrations.method.chain_state import ChainState
from glimp_integrations.method.repetition import in_circles
from glimp_integrations.method.steps import Phase, Step, StepEnd, StopReason

__all__ = ["end_reasoning", "end_step", "enter", "terminators", "think_tags"]


def enter(chain: ChainState, phase: Phase) -> None:
    """A phase begins, or another part of the answer."""
    chain.limits.enter(phase, answer_follows=chain.plan.forced is not None)
    chain.phase = phase
    chain.parts += 1
    chain.separated = chain.separated or phase == "answer"
    free = phase == "answer" and chain.constraint is None and chain.plan.watches_answer
    chain.scanner = Scanner(
        chain.settings.step_delimiter if chain.in_steps else None,
        terminators(chain),
        chain.plan.trigger if phase == "chain" or free else None,
    )


def terminators(chain: ChainState) -> dict[str, Terminator]:
    """Texts that end the running phase, and are not part of it."""
    phase, constraint = chain.phase, chain.constraint
    if phase == "thinking":
        return think_tags(chain)
    if constraint is not None and constraint.schema is not None:
        return {}  # the grammar ends it; a stop string inside would break it
    ends: dict[str, Terminator] = {}
    if phase == "answer" and constraint is None and not chain.tags_are_text:
        # A model whose thinking was closed for it may go on thinking, and close it itself.
        ends.update(think_tags(chain))
    # Where a constrained answer comes later, the chain is not the visible reply.
    if phase == "answer" or chain.plan.forced is None:
        ends.update(dict.fromkeys(chain.settings.stop or (), "stop"))
    if constraint is not None and constraint.stop is not None:
        ends[constraint.stop] = "stop"
    if phase == "chain" and chain.settings.answer_marker is not None:
        ends[chain.settings.answer_marker] = "think_end"
    return ends


def end_step(chain: ChainState, end: StepEnd, trigger: str = "") -> str:
    """End the running step, and with most ends only that; some end the phase, too.

    Args:
        chain: Whose step it is.
        end: Why it ends.
        trigger: What began the call, or the JSON, that it ends at; or the think start tag.

    Returns:
        Text to show now: what the scanner held back, because it could have become a terminator,
        belongs to the reply after all where the phase ends; and a constraint's suffix.
    """
    step = chain.steps[-1]
    step.end = end
    chain.closed_by_model |= end == "think_end" and chain.phase != "chain"
    if end == "think_start":
        chain.text.add(trigger)  # whoever wrote it goes on behind it
    chain.scanner.end_step()
    reason = _reason_to_stop(chain, end)
    if reason is None:
        return ""
    held_back = chain.scanner.flush()
    if chain.phase == "answer":
        return held_back + _end_answer(chain, step, reason, trigger)
    chain.stop_reason = reason
    if chain.phase == "thinking":
        end_reasoning(chain, by_model=end == "think_end")
    elif end == "think_end":
        chain.text.add(chain.settings.answer_marker or "")
        _enter_answer(chain, chain.plan.forced)
    elif end in ("tool_call", "json"):
        _enter_answer(chain, chain.plan.constraint_after(trigger))
    elif chain.can_close:
        end_reasoning(chain, by_model=False)
    else:
        enter(chain, "done")
    return held_back


def end_reasoning(chain: ChainState, *, by_model: bool) -> None:
    """The thinking, or a chain before a constrained answer, is over: the answer begins.

    Args:
        chain: Which one.
        by_model: A model closed its think block.
    """
    if chain.phase == "thinking":
        chain.text.end_thinking(by_model=by_model)
    else:
        chain.text.end_chain()
    _enter_answer(chain, chain.plan.forced)


def _reason_to_stop(chain: ChainState, end: StepEnd) -> StopReason | None:
    """Why the phase ends with the last step; ``None``: it goes on."""
    if end in ("think_end", "eos", "stop", "context_full", "tool_call", "json"):
        return end
    if chain.room <= 0:
        return "budget" if chain.limits.budget_is_spent else "context_full"
    return "repeated_step" if in_circles(chain.steps) else None


def _end_answer(chain: ChainState, step: Step, reason: StopReason, trigger: str) -> str:
    """The answer, or a constrained part of it, is over; returns the part's suffix."""
    constraint = chain.constraint
    if reason in ("tool_call", "json"):
        _enter_answer(chain, chain.plan.constraint_after(trigger))
        return ""
    if reason == "think_end":
        stop = _reason_to_stop(chain, "length")
        if stop is None:
            chain.text.end_thinking(by_model=True)
            _enter_answer(chain, None)
            return ""
        reason = stop
    suffix = ""
    if constraint is not None and constraint.schema is not None and reason == "eos":
        # The grammar ended the text: it is complete, and gets its suffix. Unless it has to be
        # the last part, free text or another call may follow, but not the same call again,
        # which small models make without end.
        if constraint.visible:
            suffix = constraint.suffix
            step.text += suffix
        if not constraint.last and any(s.text == step.text for s in chain.steps[:-1]):
            reason = "repeated_step"
        elif not constraint.last:
            _enter_answer(chain, None)
            return suffix
    chain.answer_stop = reason
    chain.constraint = None
    enter(chain, "done")
    return suffix


def _enter_answer(chain: ChainState, constraint: Constraint | None) -> None:
    chain.constraint = constraint
    if constraint is not None and not constraint.visible:
        chain.text.add(constraint.prefix)
    enter(chain, "answer")


def think_tags(chain: ChainState) -> dict[str, Terminator]:
    """All think tags, and what they mean where the block may be open."""
    return {
        **dict.fromkeys(chain.think_start_tags, "think_start"),
        **dict.fromkeys(chain.think_end_tags, "think_end"),
    }
