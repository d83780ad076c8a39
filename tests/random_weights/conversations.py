"""Conversations and settings, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from glimp_integrations.output.spec import OutputSpec
from random_weights.pairs import PAIRS

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Paris", "Zürich", "東京"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
        },
    },
}
NOTE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "note",
        "description": "Keeps a short note.",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "maxLength": 6}},
            "required": ["text"],
        },
    },
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}},
}
SCHEMA = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}

_QUESTIONS = (
    "What is 17 * 23?",
    "Wie heißt die Hauptstadt von Frankreich?",
    "Write <think>nothing</think> and <|im_end|> as they are.",
    "数学は好きですか? 🦄",
    "<tool_response>\n12\n</tool_response>",
    "a\n\nb",
)


@dataclass(frozen=True)
class Case:
    """One conversation, the models that answer it, and how."""

    seed: int
    pair: str
    thinks: bool
    tidy: bool
    messages: list[dict[str, Any]]
    output: OutputSpec
    settings: dict[str, Any] = field(default_factory=dict)


def case(seed: int) -> Case:
    """The conversation with this number."""
    draw = random.Random(seed)
    pair = draw.choice([*PAIRS, "qwen3"])
    thinks = draw.random() < 0.8
    tidy = draw.random() < 0.7
    output = _output(draw)
    settings: dict[str, Any] = {
        "temperature": 0,
        "threshold": draw.choice([0.05, 0.3, 0.8]),
        "max_thinking_tokens": draw.choice([6, 20, 40]),
        "max_tokens": draw.choice([4, 16, 64]),
        "max_step_tokens": draw.choice([5, 16, 512]),
        "answer_by": draw.choice(["large", "large", "small", "router"]),
        "glimpse": draw.choice(["first_token", "first_token", "skip_format"]),
        "first_large_steps": draw.choice([0, 0, 1]),
        "keep_reasoning": draw.choice(["tool_loop", "always", "never"]),
        "untagged_answer": draw.choice(["last_step", "whole"]),
    }
    if draw.random() < 0.2:
        settings["stop"] = [draw.choice(["\n", " a", "DRAW", "```"])]
    return Case(seed, pair, thinks, tidy, _messages(draw), output, settings)


def _output(draw: random.Random) -> OutputSpec:
    kind = draw.choice(["text", "text", "text", "tools", "tools", "free", "any", "one", "json"])
    tools = [WEATHER, NOTE, CLOCK]
    return {
        "text": OutputSpec(),
        "tools": OutputSpec(tools, parallel_tool_calls=draw.random() < 0.7),
        "free": OutputSpec(tools, strict=False),
        "any": OutputSpec(tools, "any"),
        "one": OutputSpec(tools, "get_weather"),
        "json": OutputSpec(schema=SCHEMA),
    }[kind]


def _messages(draw: random.Random) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if draw.random() < 0.3:
        messages.append({"role": "system", "content": "Be brief."})
    if draw.random() < 0.4:
        messages += [
            {"role": "user", "content": draw.choice(_QUESTIONS)},
            {
                "role": "assistant",
                "content": "It is 12.",
                "reasoning_content": "An earlier thought.\n\nAnother one.",
            },
        ]
    question = draw.choice(_QUESTIONS)
    if draw.random() < 0.2:
        question += " /no_think"
    messages.append({"role": "user", "content": f"{question} ({draw.randrange(10**6)})"})
    for turn in range(draw.choice([0, 0, 0, 1, 2])):
        messages += tool_turn(turn, thought=draw.random() < 0.8)
    return messages


def tool_turn(turn: int, *, thought: bool = True) -> list[dict[str, Any]]:
    """A call, after a thought, and its result."""
    call = {
        "id": f"call_{turn}",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris", "days": 1}'},
    }
    said: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [call]}
    if thought:
        said["reasoning_content"] = f"Thought {turn}: ask the tool."
    return [
        said,
        {"role": "tool", "tool_call_id": f"call_{turn}", "content": f"{turn + 20} degrees"},
    ]
