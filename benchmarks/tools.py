"""Tool calls, overhead of the adapters, time to the first token.

    python benchmarks/tools.py forced      # 50 prompts, a call is demanded: do the calls parse?
    python benchmarks/tools.py auto        # 50 prompts that need a tool: pair, large alone
    python benchmarks/tools.py overhead    # seconds per streamed token, adapters against core
    python benchmarks/tools.py first       # time to first token: pair against small alone
    python benchmarks/tools.py all --json FILE

``forced`` and ``auto`` ask the bundled models, greedy. ``overhead`` streams a scripted reply, so
that nothing but the adapters take time. ``first`` asks the bundled models and the small model
alone in turn, question by question, and gives medians of ratios.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import reasoning_gym
from langchain_core.messages import AIMessage
from llama_index.core.llms import ChatMessage as LlamaIndexMessage
from rich.console import Console
from rich.progress import track
from rich.table import Table

from glimp_integrations import GlimpRouter, TextDelta
from glimp_integrations.backends import LlamaCppBackend, ScriptedBackend
from glimp_integrations.weights import LARGE, SMALL, ensure
from langchain_glimp import ChatGlimpRouter
from llamaindex_glimp import GlimpRouterLLM as LlamaIndexRouter

console = Console(width=110)


# -- tools and prompts -----------------------------------------------------------------------


def get_weather(city: str, unit: str = "C") -> str:
    """Get the current weather of a city.

    Args:
        city: Name of the city.
        unit: C or F.
    """
    return f"{city}: 20 {unit}"


def multiply(a: float, b: float) -> float:
    """Multiply two numbers.

    Args:
        a: First factor.
        b: Second factor.
    """
    return a * b


def convert_currency(amount: float, source: str, target: str) -> str:
    """Convert an amount of money from one currency to another.

    Args:
        amount: How much.
        source: ISO code of the currency it is in.
        target: ISO code of the currency it should be in.
    """
    return f"{amount} {source} in {target}"


def send_email(to: str, subject: str, body: str) -> str:
    """Send an e-mail.

    Args:
        to: Address of the recipient.
        subject: Subject line.
        body: Text of the mail.
    """
    return "sent"


def search_flights(origin: str, destination: str, date: str) -> str:
    """Search flights between two cities.

    Args:
        origin: City of departure.
        destination: City of arrival.
        date: Day of departure, YYYY-MM-DD.
    """
    return "none"


TOOLS = [get_weather, multiply, convert_currency, send_email, search_flights]
CITIES = ["Graz", "Paris", "Nairobi", "Lima", "Osaka", "Oslo", "Quito", "Perth", "Tunis", "Riga"]
NAMES = ["anna", "ben", "carla", "dan", "eva", "finn", "gina", "hugo", "iris", "jan"]
MONEY = ["EUR", "USD", "JPY", "GBP", "CHF", "SEK", "NOK", "CAD", "AUD", "INR"]


def prompts() -> list[tuple[str, str, dict[str, Any]]]:
    """50 prompts: text, the tool it needs, arguments that it states."""
    rows: list[tuple[str, str, dict[str, Any]]] = []
    for i in range(10):
        other = CITIES[(i + 3) % 10]
        rows += [
            (
                f"What's the weather like in {CITIES[i]} right now?",
                "get_weather",
                {"city": CITIES[i]},
            ),
            (
                f"Use the tool to work out {317 + 91 * i} times {48 + 7 * i}.",
                "multiply",
                {"a": 317 + 91 * i, "b": 48 + 7 * i},
            ),
            (
                f"How much is {150 + 25 * i} {MONEY[i]} in {MONEY[(i + 1) % 10]} today?",
                "convert_currency",
                {"amount": 150 + 25 * i, "source": MONEY[i], "target": MONEY[(i + 1) % 10]},
            ),
            (
                f"Send an e-mail to {NAMES[i]}@example.org with the subject Lunch and ask whether "
                f"we meet at {11 + i % 3}:30.",
                "send_email",
                {"to": f"{NAMES[i]}@example.org"},
            ),
            (
                f"Find me a flight from {CITIES[i]} to {other} on 2027-03-{10 + i}.",
                "search_flights",
                {"origin": CITIES[i], "destination": other, "date": f"2027-03-{10 + i}"},
            ),
        ]
    return rows


# -- parts -----------------------------------------------------------------------------------


def forced(options: argparse.Namespace) -> dict[str, Any]:
    """A call is demanded for every prompt, every other time of a named tool."""
    llm = ChatGlimpRouter(temperature=0, route="always", max_tokens=256, max_thinking_tokens=256)
    parsed = right = broken = 0
    cases = prompts()[: options.n]
    for number, (text, name, _) in enumerate(track(cases, "forced", console=console)):
        choice = name if number % 2 else "any"
        message = llm.bind_tools(TOOLS, tool_choice=choice).invoke(text)
        parsed += len(message.tool_calls) == 1 and not message.invalid_tool_calls
        broken += bool(message.invalid_tool_calls)
        right += bool(message.tool_calls) and message.tool_calls[0]["name"] == name
    return {"prompts": len(cases), "calls parsed": parsed, "broken": broken, "right tool": right}


def auto(options: argparse.Namespace) -> dict[str, Any]:
    """The model may call or answer; each prompt needs a tool."""
    arms: dict[str, dict[str, Any]] = {
        "pair": {"threshold": options.threshold},
        "large alone": {"threshold": -1.0},
    }
    if options.free:
        arms |= {f"{name}, calls not bound": {**arm, "strict": False} for name, arm in arms.items()}
    cases = prompts()[: options.n]
    figures: dict[str, Any] = {}
    for name, arm in arms.items():
        strict = arm.pop("strict", None)
        llm = ChatGlimpRouter(
            temperature=0, route="always", max_tokens=256, max_thinking_tokens=256, **arm
        )
        bound = llm.bind_tools(TOOLS, strict=strict)
        started, counts, large = time.perf_counter(), [0, 0, 0, 0], []
        for text, tool, arguments in track(cases, name, console=console):
            message = bound.invoke(text)
            counts = [a + b for a, b in zip(counts, judged(message, tool, arguments), strict=True)]
            steps = message.response_metadata["glimprouter"]["steps"]
            reasoning = [s["author"] for s in steps if s["kind"] == "reasoning"]
            large.append(reasoning.count("large") / len(reasoning) if reasoning else 1.0)
        figures[name] = {
            "prompts": len(cases),
            "called": counts[0],
            "right tool": counts[1],
            "right arguments": counts[2],
            "broken": counts[3],
            "reasoning steps by large": round(statistics.mean(large), 2),
            "seconds": round(time.perf_counter() - started, 1),
        }
    return figures


def judged(message: AIMessage, tool: str, arguments: dict[str, Any]) -> list[int]:
    """Whether the message calls, calls the right tool, with the stated arguments, brokenly."""
    call = next(iter(message.tool_calls), None)
    named = call is not None and call["name"] == tool
    stated = named and all(same(call["args"].get(k), v) for k, v in arguments.items())
    return [call is not None, named, stated, bool(message.invalid_tool_calls)]


def same(given: Any, stated: Any) -> bool:
    """Equal as numbers, or one text within the other (``Paris, France``)."""
    if isinstance(stated, str):
        return stated.lower() in str(given).lower()
    try:
        return math.isclose(float(given), stated)
    except (TypeError, ValueError):
        return False


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Streams of one long scripted answer, in turn through the core and the adapters."""
    script = [(f"w{i} ".encode(), 0.1) for i in range(2000)] + [(b"", 0.0)]

    def model() -> ScriptedBackend:
        return ScriptedBackend(script, top_logprobs=20)

    settings: dict[str, Any] = {
        "untagged_answer": "whole",
        "route": "always",
        "max_step_tokens": 4000,
        "max_tokens": 4000,
    }
    pair: dict[str, Any] = {"small": model(), "large": model(), **settings}
    router = GlimpRouter(**pair)
    chat, llm = ChatGlimpRouter(**pair), LlamaIndexRouter(**pair)
    messages = [LlamaIndexMessage("hi")]
    streams: dict[str, Callable[[], Iterator[Any]]] = {
        "core": lambda: (e for e in router.stream("hi") if isinstance(e, TextDelta)),
        "LangChain": lambda: (c for c in chat.stream("hi") if c.content),
        "LlamaIndex": lambda: (r for r in llm.stream_chat(messages) if r.delta),
    }
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(options.repeat + 1):
        for name, stream in streams.items():
            seconds[name].append(spent(stream()))
    rows = {}
    for name, spans in seconds.items():
        # The first round warms imports and caches.
        extra = [span - core for span, core in zip(spans[1:], seconds["core"][1:], strict=True)]
        rows[name] = {
            "ms per token": round(statistics.median(spans[1:]) / 2, 4),
            "more than the core": round(statistics.median(extra) / 2, 4),
        }
    return rows


def spent(events: Iterator[Any]) -> float:
    """Seconds to read 2000 tokens."""
    started = time.perf_counter()
    assert sum(1 for _ in events) == 2000
    return time.perf_counter() - started


def first(options: argparse.Namespace) -> dict[str, Any]:
    """The first chunk of the adapter's stream, by who wrote the first step."""
    problems = reasoning_gym.create_dataset("gsm_symbolic", size=options.n, seed=7)
    small = LlamaCppBackend(ensure(SMALL), prompt_cache_mib=0, parallel=1)
    large = LlamaCppBackend(ensure(LARGE), prompt_cache_mib=0, parallel=1)
    ratios: dict[str, list[float]] = {"small": [], "large": []}
    seconds: dict[str, list[float]] = {"small": [], "large": [], "alone": []}
    settings: dict[str, Any] = {
        "temperature": 0,
        "route": "always",
        "untagged_answer": "whole",
        "max_tokens": 24,
    }
    pair = ChatGlimpRouter(small=small, large=large, threshold=options.threshold, **settings)
    alone = ChatGlimpRouter(small=small, large=large, threshold=math.inf, **settings)
    for llm in (pair, alone):
        llm.invoke("Hi", threshold=-1.0, max_tokens=1)
        llm.invoke("Hi", threshold=math.inf, max_tokens=1)
    for item in track(list(problems), "first token", console=console):
        times = {}
        for name, llm in (("pair", pair), ("alone", alone)):
            # Another beginning, so that no arm finds the other's prompt in a cache.
            text = f"({name}) {item['question']}"
            started = time.perf_counter()
            stream = llm.stream(text)
            next(stream)
            times[name] = time.perf_counter() - started
            for chunk in stream:
                last = chunk
            if name == "pair":
                author = last.response_metadata["glimprouter"]["steps"][0]["author"]
        ratios[author].append(times["pair"] / times["alone"])
        seconds[author].append(times["pair"])
        seconds["alone"].append(times["alone"])
    small.close()
    large.close()
    every = ratios["small"] + ratios["large"]
    return {
        "questions": len(every),
        "pair / small alone, first step by small": median(ratios["small"]),
        "pair / small alone, first step by large": median(ratios["large"]),
        "pair / small alone, all": median(every),
        "first steps by small": len(ratios["small"]),
        "seconds, small alone": median(seconds["alone"]),
    }


def median(values: list[float]) -> float | None:
    return round(statistics.median(values), 3) if values else None


PARTS = {"forced": forced, "auto": auto, "overhead": overhead, "first": first}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--n", type=int, default=50, help="prompts")
    parser.add_argument("--free", action="store_true", help="auto: also with calls not bound")
    parser.add_argument("--repeat", type=int, default=7, help="rounds of the overhead part")
    parser.add_argument("--threshold", type=float, default=1.0, help="nats")
    parser.add_argument("--json", type=Path, help="write the figures")
    options = parser.parse_args()
    figures = {}
    for part in PARTS if options.part == "all" else [options.part]:
        figures[part] = PARTS[part](options)
        console.print(table(part, figures[part]))
    console.print(
        f"{SMALL.model} / {LARGE.model} Q4_K_M on llama.cpp, greedy, threshold "
        f"{options.threshold} nats; {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def table(title: str, figures: dict[str, Any]) -> Table:
    rows = figures if isinstance(next(iter(figures.values())), dict) else {title: figures}
    shown = Table("", *next(iter(rows.values())), title=title)
    for name, row in rows.items():
        shown.add_row(name, *map(str, row.values()))
    return shown


if __name__ == "__main__":
    main()
