"""Agents with tools: does a pair answer as well as its large model alone, and does it end?

    python benchmarks/agents.py                     # 32 questions, four arms
    python benchmarks/agents.py --arm large --arm "when it pays" --learn 10
    python benchmarks/agents.py --n 9 --arm routed --threshold 0.5 --show
    python benchmarks/agents.py --json FILE         # one line per question and arm

The agent is LangChain's ``create_agent`` with the tools and the system prompt of
``examples/langchain/agent.py``, the models are the bundled ones, greedy, everything else is a
default. A third of the questions needs no tool, two need two calls. An answer is right if its last
message holds what was asked for. The arms answer each question in turn, each on models of its own:
nobody finds another's prompt in a cache. The arm ``when it pays`` leaves routing where it does
not, and learns from its first calls where that is; ``--learn`` leaves them out of the times.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import statistics
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import wrap_tool_call
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.errors import GraphRecursionError
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.example_programs import load_example
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.weights import LARGE, SMALL, ensure
from langchain_glimp import ChatGlimpRouter

ARMS: dict[str, dict[str, Any]] = {
    "small": {"threshold": math.inf, "answer_by": "small"},
    "large": {"threshold": -1.0},
    "routed": {"route": "always"},
    "when it pays": {"route": "when_it_pays"},
}
RECURSION_LIMIT = 10
"""Steps of the graph, half of them the model's: an agent that needs more goes in circles."""
MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Question:
    """A question, a pattern of the right answer, and how many calls it takes."""

    text: str
    right: str
    calls: int


QUESTIONS = [
    Question("What is the capital of France?", r"\bParis\b", 0),
    Question("How many days are there between 2024-01-15 and 2024-03-01?", r"\b46\b", 1),
    Question("What is 3.7 * 418?", r"\b1,?546\.6", 1),
    Question("Which planet is closest to the sun?", r"\bMercury\b", 0),
    Question(
        'How many words are in "the quick brown fox jumps over the lazy dog"?', r"\b(?:9|nine)\b", 1
    ),
    Question("Compute (1234 + 5678) * 9.", r"\b62,?208\b", 1),
    Question("Translate 'good morning' into Spanish.", r"(?i)\bbuenos d[ií]as\b", 0),
    Question("How many days lie between 2023-12-24 and 2024-02-29?", r"\b67\b", 1),
    Question("A ticket costs 17.5 euros. What do 23 tickets cost?", r"\b402\.5", 1),
    Question("Name the opposite of 'hot'.", r"(?i)\bcold\b", 0),
    Question("What is 98765 / 5?", r"\b19,?753\b", 1),
    Question(
        "Multiply 12 by 34, then multiply 56 by 78. Tell me both products.",
        r"(?s)\b408\b.*\b4,?368\b",
        2,
    ),
    Question("Who wrote 'Romeo and Juliet'?", r"\bShakespeare\b", 0),
    Question("My rent is 845 euros a month. What is that in a year?", r"\b10,?140\b", 1),
    Question("How many days are there from 2025-01-01 to 2025-12-25?", r"\b358\b", 1),
    Question(
        'Count the words of this sentence: "to be or not to be that is the question"',
        r"\b(?:10|ten)\b",
        1,
    ),
    Question("What colour do you get when you mix blue and yellow?", r"(?i)\bgreen\b", 0),
    Question("What is 2024 - 1789?", r"\b235\b", 1),
    Question(
        "A tank holds 1250 litres and loses 37 litres a day. How much is in it after 12 days?",
        r"\b806\b",
        1,
    ),
    Question("Is water wet or dry? Answer in one word.", r"(?i)\bwet\b", 0),
    Question("How many days are there between 2020-02-01 and 2020-03-01?", r"\b29\b", 1),
    Question("What is 15 * 15 * 15?", r"\b3,?375\b", 1),
    Question(
        "Hello! How are you today?", r"(?i)\b(?:hello|hi|fine|well|good|great|help|assist)", 0
    ),
    Question("What is the chemical symbol of gold?", r"\bAu\b", 0),
    Question("Add 4567, 8901 and 2345.", r"\b15,?813\b", 1),
    Question("How many days are there from 2024-06-15 to 2024-09-01?", r"\b78\b", 1),
    Question(
        "First count the days between 2024-02-10 and 2024-02-20, then the days between "
        "2024-05-01 and 2024-05-31. Tell me both numbers.",
        r"(?s)\b10\b.*\b30\b",
        2,
    ),
    Question("What is 7 / 8 as a decimal number?", r"\b0?\.875\b", 1),
    Question("Which animal says 'moo'?", r"(?i)\bcow\b", 0),
    Question('How many words has the title "One Hundred Years of Solitude"?', r"\b(?:5|five)\b", 1),
    Question("What is 45 % of 1280? Use 1280 * 0.45.", r"\b576\b", 1),
    Question("Write the word 'apple' in capital letters.", r"\bAPPLE\b", 0),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an arm fared with a question.

    Attributes:
        turns: Replies of the model.
        alone: Those that the large model wrote alone, because routing does not pay.
        ended: ``False``: the recursion limit was reached.
        small_tokens: Generated, discarded ones included; likewise ``large_tokens``.
        proposed: Calls that the small model began and the large one decided on.
        declined: Of these, how many the large model did not make.
    """

    arm: str
    question: str
    needed: int
    answer: str
    right: bool
    calls: int
    turns: int
    alone: int
    ended: bool
    seconds: float
    small_tokens: int
    large_tokens: int
    proposed: int
    declined: int


@wrap_tool_call
def report_errors(request: Any, handler: Any) -> Any:
    """Give the error of a tool to the model, as agents in production do; it may try again."""
    try:
        return handler(request)
    except Exception as error:
        call = request.tool_call
        return ToolMessage(f"Error: {error}", tool_call_id=call["id"], status="error")


def agent_of(**settings: Any) -> Any:
    """The example's agent on models of its own."""
    program = load_example("langchain", "agent")
    return create_agent(
        ChatGlimpRouter(
            small=LlamaCppBackend(ensure(SMALL), parallel=1),
            large=LlamaCppBackend(ensure(LARGE), parallel=1),
            temperature=0,
            max_tokens=MAX_TOKENS,
            **settings,
        ),
        [program.calculator, program.days_between, program.count_words],
        system_prompt=program.INSTRUCTION,
        middleware=[report_errors],
    )


def ask(agent: Any, arm: str, question: Question) -> tuple[Outcome, list[Any]]:
    """One question to one agent."""
    messages: list[Any] = []
    ended, begun = True, time.perf_counter()
    try:
        for state in agent.stream(
            {"messages": [HumanMessage(question.text)]},
            {"recursion_limit": RECURSION_LIMIT},
            stream_mode="values",
        ):
            messages = state["messages"]
    except GraphRecursionError:
        ended = False
    seconds = time.perf_counter() - begun
    replies = [m for m in messages if isinstance(m, AIMessage)]
    records = [m.response_metadata["glimprouter"] for m in replies]
    proposals = [
        p
        for record in records
        for p in record["call_proposals"]
        if p["proposed_by"] != p["decided_by"]
    ]
    answer = str(replies[-1].text) if ended and replies else ""
    return Outcome(
        arm=arm,
        question=question.text,
        needed=question.calls,
        answer=answer,
        right=bool(re.search(question.right, answer)),
        calls=sum(len(m.tool_calls) for m in replies),
        turns=len(replies),
        alone=sum(record["route"] == "large_alone" for record in records),
        ended=ended,
        seconds=seconds,
        small_tokens=sum(r["usage"]["small"]["output_tokens"] for r in records),
        large_tokens=sum(r["usage"]["large"]["output_tokens"] for r in records),
        proposed=len(proposals),
        declined=sum(not p["called"] for p in proposals),
    ), messages


def table(outcomes: list[Outcome], learn: int = 0) -> Table:
    """Totals of every arm; times without the first ``learn`` questions.

    ``no tool``, ``one call`` and ``two calls``: right answers by what a question needs. ``turns``:
    replies of the models. ``alone``: those that the large model wrote alone. ``limit``: questions
    that ran into the recursion limit. ``over large``: time as a share of the large model's alone.
    ``proposed, made``: calls the small model began, and how many of them the large one made.
    """
    shown = Table(title="Agents", header_style="bold")
    for heading in (
        "arm",
        "right",
        "no tool",
        "one call",
        "two calls",
        "calls",
        "turns",
        "alone",
        "limit",
        "empty",
        "s each",
        "over large",
        "small tokens",
        "large tokens",
        "proposed, made",
    ):
        shown.add_column(heading, justify="left" if heading == "arm" else "right")
    arms = list(dict.fromkeys(o.arm for o in outcomes))
    times = {arm: [o.seconds for o in outcomes if o.arm == arm][learn:] for arm in arms}
    for arm in arms:
        own = [o for o in outcomes if o.arm == arm]
        ratio = f"{sum(times[arm]) / sum(times['large']):.2f}" if times.get("large") else ""
        shown.add_row(
            arm,
            f"{sum(o.right for o in own)} of {len(own)}",
            *(
                f"{sum(o.right for o in own if o.needed == n)} of {sum(o.needed == n for o in own)}"
                for n in (0, 1, 2)
            ),
            str(sum(o.calls for o in own)),
            str(sum(o.turns for o in own)),
            str(sum(o.alone for o in own)),
            str(sum(not o.ended for o in own)),
            str(sum(o.ended and not o.answer.strip() for o in own)),
            f"{statistics.fmean(times[arm]):.1f}" if times[arm] else "",
            ratio,
            f"{sum(o.small_tokens for o in own):,}",
            f"{sum(o.large_tokens for o in own):,}",
            f"{sum(o.proposed for o in own)}, {sum(o.proposed - o.declined for o in own)}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=len(QUESTIONS), help="questions")
    parser.add_argument("--arm", choices=list(ARMS), action="append", help="default: all")
    parser.add_argument("--learn", type=int, default=0, help="questions left out of the times")
    parser.add_argument("--threshold", type=float, help="nats, of the routed arms; default: 1.0")
    parser.add_argument("--show", action="store_true", help="print every message")
    parser.add_argument("--json", type=Path, help="write one line per question and arm")
    options = parser.parse_args()
    console = Console(width=150)
    if options.threshold is not None:
        for arm in ("routed", "when it pays"):
            ARMS[arm]["threshold"] = options.threshold
    agents = {arm: agent_of(**ARMS[arm]) for arm in options.arm or ARMS}
    outcomes: list[Outcome] = []
    with suppress(KeyboardInterrupt):  # Ctrl-C: the figures of the questions so far
        for question in track(QUESTIONS[: options.n], "questions", console=console):
            of_all = []
            for arm, agent in agents.items():
                outcome, messages = ask(agent, arm, question)
                of_all.append(outcome)
                if options.show:
                    console.rule(f"{arm}: {question.text}")
                    for message in messages[1:]:
                        console.print(message.pretty_repr(), markup=False, highlight=False)
                    console.print(f"right: {outcome.right}, calls: {outcome.calls}", style="bold")
            outcomes += of_all
    console.print(table(outcomes, options.learn))
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"bundled models, greedy, max_tokens={MAX_TOKENS}"
    )
    if options.json:
        lines = (json.dumps(asdict(o), ensure_ascii=False) for o in outcomes)
        options.json.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
