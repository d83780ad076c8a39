"""Regular expressions for the parts of a tool call, as model families write them. Pure.

All are matched with ``partial=True`` or are bounded (see ``tool_formats.GAP``), so that a text
which may still become a match is never longer than a few hundred characters.
"""

from __future__ import annotations

import regex

from glimp_integrations.output.tool_formats import GAP, TAG_CLOSERS

__all__ = [
    "AFTER_CALL",
    "BARE_CALL",
    "CLOSERS",
    "CLOSING_TAG",
    "END_OF_CALL",
    "FENCE",
    "HEAD",
    "XML_HEAD",
]

FENCE = "```"
CLOSERS = (*TAG_CLOSERS, "</tools>")
"""Tags that end a call, and the one that ends the prompt's list of tools: models mix them up."""

_FUNCTION_NAME = r"[\w.\-]{1,64}"
_TYPE = rf'(?:"type"{GAP}:{GAP}"function"{GAP},{GAP})?'

HEAD = regex.compile(
    # {"name": "NAME", "arguments":
    rf"{GAP}(?:\[{GAP})?\{{{{1,2}}{GAP}{_TYPE}"
    rf'"name"{GAP}:{GAP}"(?P<name>[^"\\]{{1,256}}+)"{GAP},{GAP}'
    rf'"(?:arguments|parameters)"{GAP}:{GAP}(?=\S)'
    # DeepSeek's first format: function<｜tool▁sep｜>NAME ```json {
    rf"|{GAP}(?:<｜tool▁call▁begin｜>{GAP})?function{GAP}<｜tool▁sep｜>"
    rf"(?P<name>{_FUNCTION_NAME}){GAP}```json{GAP}(?=\{{)"
    # DeepSeek's second format: NAME<｜tool▁sep｜>{
    rf"|{GAP}(?:<｜tool▁call▁begin｜>{GAP})?(?P<name>{_FUNCTION_NAME})<｜tool▁sep｜>{GAP}(?=\{{)"
    # Mistral's newer format: NAME[CALL_ID]ID[ARGS]{
    rf"|{GAP}(?P<name>{_FUNCTION_NAME})(?:\[CALL_ID\]\w{{0,64}}+)?(?:\[ARGS\])?{GAP}(?=\{{)"
)
"""What stands in front of a call's arguments, its name included."""

XML_HEAD = regex.compile(rf"{GAP}<function=(?P<name>{_FUNCTION_NAME})>")
"""The beginning of a call in Qwen's XML, after the call's tag."""

BARE_CALL = regex.compile(
    rf'(?:\[{GAP})?\{{{{1,2}}{GAP}{_TYPE}"name"{GAP}:{GAP}"[^"\\]{{1,256}}+"{GAP}'
    rf'(?:\}}|,{GAP}")'
)
"""A call without a tag: after the name, the object ends or has another key."""

AFTER_CALL = regex.compile(r"(?:\s|[}\],;]|" + "|".join(map(regex.escape, CLOSERS)) + ")*+")
"""What may stand between a call and the next call or text."""

CLOSING_TAG = regex.compile("|".join(map(regex.escape, TAG_CLOSERS)))
END_OF_CALL = regex.compile("|".join(map(regex.escape, (*CLOSERS, FENCE))))
"""A closing tag or the end of a fence."""
