"""How model families write a tool call.

Sources: the families' own chat templates. Reading is generous (``calls.py`` takes any of these
from any model); this table says how a call is *begun* that somebody else's choice asks for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import regex

__all__ = [
    "BLANKS",
    "GAP",
    "PLAIN",
    "TAGS",
    "TAG_CLOSERS",
    "ToolFormat",
    "tool_format_of",
    "trigger",
]

# White space inside of a call's beginning: what has more of it in a row is text. A beginning has
# to be held back until it is known, and so has an end; without a bound, a model that writes blanks
# for ever makes every reader hold, and search again and again, all of them. Possessive (``+``), as
# nothing that follows begins with white space.
BLANKS = r"[ \t]{0,64}+"
GAP = r"\s{0,64}+"
# A name, up to where the arguments begin: together these keys are a call's, not some data's.
_UNKNOWN = rf'[^"\\\n]{{1,64}}+"{GAP},{GAP}"(?:arguments|parameters)"{GAP}:'


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way to write a call.

    Attributes:
        name: The family.
        marks: Texts that give it away, in a chat template or a rendered prompt; one is enough.
        prefix: In front of the call's JSON.
        suffix: Behind it.
        keys: What it calls name and arguments.
        prefix_of_one: In front of the arguments' JSON, where the name stands outside of it.
        tag: What begins a call and is followed by JSON such as the table describes; the model
            may be bound from there on. ``None``: a call of its own accord is written freely.
    """

    name: str
    marks: tuple[str, ...]
    prefix: str = ""
    suffix: str = ""
    keys: tuple[str, str] = ("name", "arguments")
    prefix_of_one: str | None = None
    tag: str | None = None


PLAIN = ToolFormat("plain", (), prefix="```json\n", suffix="\n```")

# In this order: a template may mention more than one. Newer Qwen templates write XML inside
# Hermes' tags, newer Mistral ones the name in front of [ARGS].
DIALECTS = (
    ToolFormat("xml", ("<function=",), prefix="<tool_call>\n", suffix="\n</tool_call>"),
    ToolFormat(
        "hermes",
        ("<tool_call>",),
        prefix="<tool_call>\n",
        suffix="\n</tool_call>",
        tag="<tool_call>",
    ),
    ToolFormat(
        "mistral-args",
        ("[ARGS]",),
        prefix="```json\n",
        suffix="\n```",
        prefix_of_one="[TOOL_CALLS]{name}[ARGS]",
    ),
    ToolFormat(
        "mistral", ("[TOOL_CALLS]", "[AVAILABLE_TOOLS]"), prefix="[TOOL_CALLS][", suffix="]"
    ),
    ToolFormat(
        "deepseek",
        ("<｜tool▁calls▁begin｜>", "<｜tool▁outputs▁begin｜>"),
        prefix="```json\n",
        suffix="\n```",
        prefix_of_one="<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",
    ),
    ToolFormat("llama", ("<|python_tag|>", "Environment: ipython"), keys=("name", "parameters")),
)

# What a call may begin with, whatever the family.
TAGS = (
    "<tool_call>",
    "<function_call>",
    "[TOOL_CALLS]",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<|python_tag|>",
)
TAG_CLOSERS = (
    "</tool_call>",
    "</function_call>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "[/TOOL_CALLS]",
)


def tool_format_of(*texts: str | None) -> ToolFormat:
    """The dialect given away by the first text there is.

    Args:
        texts: A chat template, then a rendered prompt: the latter holds what users say, too.
    """
    text = next((text for text in texts if text is not None), "")
    return next((d for d in DIALECTS if any(mark in text for mark in d.marks)), PLAIN)


def trigger(names: Iterable[str], *, unknown: bool = False) -> regex.Pattern[str]:
    """What begins a call to one of these tools.

    A tag always does. JSON without a tag does at the beginning of a line, bare or in a fence,
    once it names one of the tools: other JSON is text like any other. Groups: ``tag`` or
    ``json``; searched with ``partial=True``, so that a beginning is seen before it is whole. No
    beginning is longer than a few hundred characters and the longest name.

    Args:
        names: The tools.
        unknown: JSON that has a call's keys begins one, too, whatever tool it names.
    """
    known = "|".join([*(regex.escape(name) + '"' for name in names), *([_UNKNOWN] * unknown)])
    tags = "|".join(regex.escape(tag) for tag in TAGS)
    return regex.compile(
        rf"(?P<tag>{tags})|(?m:^){BLANKS}(?P<fence>```{BLANKS}\w{{0,64}}+{BLANKS}\n{GAP})?"
        # Two braces: some templates teach them, by an escape too many.
        rf'(?P<json>(?:\[{GAP})?\{{{{1,2}}{GAP}(?:"type"{GAP}:{GAP}"function"{GAP},{GAP})?'
        rf'"name"{GAP}:{GAP}"(?:{known}))'
    )
