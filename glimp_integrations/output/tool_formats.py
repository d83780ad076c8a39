"""How model families write a tool call.

The table says with which text a call begins that ``tool_choice`` forces, and what ends it. It is
taken from the families' own chat templates. Reading does not depend on it: ``tool_parser.py`` reads
any family's calls from any model.
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
    "TOOL_FORMATS",
    "ToolFormat",
    "tool_format_of",
    "trigger",
]

# White space inside of a call's beginning. A text with more of it in a row is not a call. The
# parser has to hold text back, and search it again with every piece, as long as it may still become
# a call's beginning or end. With no limit here, a model that writes spaces for ever would make it
# hold all of them. The quantifiers are possessive (``+``), because nothing that follows them begins
# with white space.
BLANKS = r"[ \t]{0,64}+"
GAP = r"\s{0,64}+"
# Any name, up to where the arguments begin: an object with both keys is a call, not data.
_UNKNOWN = rf'[^"\\\n]{{1,64}}+"{GAP},{GAP}"(?:arguments|parameters)"{GAP}:'


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way to write a call.

    Attributes:
        name: The family's name.
        marks: Texts by which the family is recognised in a chat template or a rendered prompt. One
            of them is enough.
        prefix: The text in front of the call's JSON.
        suffix: The text after it.
        keys: The JSON's keys for the tool's name and its arguments.
        prefix_of_one: The text in front of the arguments' JSON, with a place for ``{name}``, where
            the family writes the tool's name outside of the JSON; otherwise ``None``.
        tag: The tag with which a model of the family begins a call itself, if JSON with ``keys``
            follows it: from there on the call can be constrained. ``None``: a call that the model
            begins is written freely.
    """

    name: str
    marks: tuple[str, ...]
    prefix: str = ""
    suffix: str = ""
    keys: tuple[str, str] = ("name", "arguments")
    prefix_of_one: str | None = None
    tag: str | None = None


PLAIN = ToolFormat("plain", (), prefix="```json\n", suffix="\n```")
"""JSON in a fence, for models of no known family."""

# The order matters, because a template may mention more than one format. Newer Qwen templates write
# XML inside Hermes' tags, newer Mistral templates the name in front of [ARGS].
TOOL_FORMATS = (
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

# The tags with which a call may begin, in any family.
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
    """The format that the first text that is not ``None`` shows.

    Args:
        *texts: A chat template, then a rendered prompt. The template counts where there is one,
            because the prompt also holds what users say.
    """
    text = next((text for text in texts if text is not None), "")
    return next((f for f in TOOL_FORMATS if any(mark in text for mark in f.marks)), PLAIN)


def trigger(names: Iterable[str], *, unknown: bool = False) -> regex.Pattern[str]:
    """A pattern for the beginning of a call to one of these tools.

    A tag always begins a call. JSON without a tag begins one at the start of a line, bare or in a
    fence, as soon as it names one of the tools; other JSON is text.

    The pattern has the groups ``tag``, ``json`` and ``fence``. Text comes in pieces, and a trigger
    may be split over several tokens: search with ``partial=True``, and hold back the text from a
    partial match on. No match is longer than a few hundred characters plus the longest name.

    Args:
        names: The tools' names.
        unknown: Whether JSON with a call's keys begins a call whatever tool it names.
    """
    beginnings = "|".join([*(regex.escape(name) + '"' for name in names), *([_UNKNOWN] * unknown)])
    tags = "|".join(regex.escape(tag) for tag in TAGS)
    return regex.compile(
        rf"(?P<tag>{tags})|(?m:^){BLANKS}(?P<fence>```{BLANKS}\w{{0,64}}+{BLANKS}\n{GAP})?"
        # Two braces: some templates teach them, by an escape too many.
        rf'(?P<json>(?:\[{GAP})?\{{{{1,2}}{GAP}(?:"type"{GAP}:{GAP}"function"{GAP},{GAP})?'
        rf'"name"{GAP}:{GAP}"(?:{beginnings}))'
    )
